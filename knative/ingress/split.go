package ingress

import (
	"cmp"
	"errors"
	"fmt"
	"slices"

	"knative.dev/networking/pkg/apis/networking/v1alpha1"

	"github.com/limpet-project/limpet/endpoint"
	"github.com/limpet-project/limpet/knative/backend"
	"github.com/limpet-project/limpet/proxy"
)

// A split is the backends among which the requests of a path are divided.
type split struct {
	revisions []endpoint.Revision      // sorted by name
	backends  map[string]proxy.Backend // by revision
	// upstream is how the first backend is spoken to. It serves for a revision that the policy retains after it left the split.
	upstream proxy.Upstream
}

func (t *translation) split(splits []v1alpha1.IngressBackendSplit) (split, error) {
	s := split{backends: make(map[string]proxy.Backend, len(splits))}
	total := 0
	for i := range splits {
		weight := splits[i].Percent
		if len(splits) == 1 && weight == 0 {
			weight = 100
		}
		if weight < 0 {
			return split{}, fmt.Errorf("split %d: %d percent: expected 0 to 100", i+1, weight)
		}
		total += weight
		if err := t.backend(&s, &splits[i], weight); err != nil {
			return split{}, fmt.Errorf("split %d: %w", i+1, err)
		}
	}
	if total == 0 {
		return split{}, errors.New("the splits have no share: expected percents that add up to 100")
	}
	slices.SortFunc(s.revisions, func(a, b endpoint.Revision) int { return cmp.Compare(a.Name, b.Name) })
	return s, nil
}

// backend adds one backend to the split. Several shares of one revision add up, and the headers of the first count.
func (t *translation) backend(s *split, of *v1alpha1.IngressBackendSplit, weight int) error {
	name, b, err := t.known(&of.IngressBackend)
	if err != nil {
		return err
	}
	headers, err := canonicalHeaders(of.AppendHeaders)
	if err != nil {
		return fmt.Errorf("appending headers: %w", err)
	}
	t.program.Backends[name] = endpoint.RevisionName{Namespace: name.Namespace, Name: b.Revision}
	if i := slices.IndexFunc(s.revisions, func(r endpoint.Revision) bool { return r.Name == b.Revision }); i >= 0 {
		s.revisions[i].Weight += weight
		return nil
	}
	spoken := t.upstream(b)
	if len(s.revisions) == 0 {
		s.upstream = spoken
	}
	s.revisions = append(s.revisions, endpoint.Revision{Name: b.Revision, Weight: weight, Relayed: b.Relayed || t.Relayed})
	s.backends[b.Revision] = proxy.Backend{Upstream: spoken, SetHeaders: headers}
	return nil
}

// known looks a backend up. One of another namespace is refused, as Knative's API does it: whoever may write Ingress objects in one
// namespace may not address the Services of all.
func (t *translation) known(of *v1alpha1.IngressBackend) (backend.Name, backend.Backend, error) {
	name := backend.Name{
		Namespace: cmp.Or(of.ServiceNamespace, t.Ingress.Namespace),
		Service:   of.ServiceName,
		Port:      of.ServicePort.String(),
	}
	if name.Namespace != t.Ingress.Namespace {
		return name, backend.Backend{}, fmt.Errorf("backend %s/%s: expected a Service of the Ingress' own namespace", name.Namespace, name.Service)
	}
	b, known := t.lookup(name)
	if !known {
		return name, backend.Backend{}, &NotReadyError{Backend: name}
	}
	return name, b, nil
}

// upstream says how a backend is spoken to. Knative's contract asks for neither time-outs nor retries: the queue-proxy and the
// activator have their own.
func (t *translation) upstream(b backend.Backend) proxy.Upstream {
	u := proxy.Upstream{Protocol: b.Protocol, ConnectTimeout: connectTimeout, IdleTimeout: -1}
	u.NoLocal = b.ExternalName != "" // its owner may let it lead anywhere
	if b.Protocol == proxy.ProtocolTLS {
		u.ServerNames = b.ServerNames
	}
	if b.Protocol == proxy.ProtocolTLS && b.ExternalName == "" {
		u.RootCAs = t.RootCAs // they vouch for what is inside the cluster
	}
	return u
}
