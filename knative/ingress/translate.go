package ingress

import (
	"cmp"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/types"
	"knative.dev/networking/pkg/apis/networking/v1alpha1"
	"knative.dev/networking/pkg/ingress"

	"github.com/limpet-project/limpet/affinity"
	"github.com/limpet-project/limpet/endpoint"
	"github.com/limpet-project/limpet/knative/backend"
	"github.com/limpet-project/limpet/proxy"
)

// connectTimeout bounds the making of a connection to a backend. Knative asks for no time-out; that of a connect is what lets
// another endpoint be tried.
const connectTimeout = 5 * time.Second

// Translate translates one object. lookup says what is known of a backend; for one of which nothing is known the error is a
// [*NotReadyError], and the object should be served as it was before.
//
// A path of an Ingress is a prefix of characters, a path of a route one of whole segments: "/cart" does not match "/carton" here.
// Serving writes no path but "/" and those of ACME challenges, which are whole. Of two rules or paths of one object that match the same
// requests the first counts.
func Translate(o Object, lookup func(backend.Name) (backend.Backend, bool)) (Program, error) {
	object := types.NamespacedName{Namespace: o.Ingress.Namespace, Name: o.Ingress.Name}
	t := translation{
		Object:  o,
		lookup:  lookup,
		program: Program{Object: object, Backends: make(map[backend.Name]endpoint.RevisionName)},
		claimed: make(map[match]bool),
	}
	if err := t.translate(); err != nil {
		return Program{}, fmt.Errorf("translating ingress %s: %w", object, err)
	}
	return t.program, nil
}

// A translation is the making of one Program.
type translation struct {
	Object
	lookup  func(backend.Name) (backend.Backend, bool)
	program Program
	claimed map[match]bool // by the rules before
}

// A match is what one host of a route matches, for one of the gateways.
type match struct {
	local               bool
	host, path, headers string
}

func (t *translation) translate() error {
	hash, err := ingress.ComputeHash(t.Ingress)
	if err != nil {
		return fmt.Errorf("computing the hash of its spec: %w", err)
	}
	for i := range t.Ingress.Spec.Rules {
		if err := t.rule(&t.Ingress.Spec.Rules[i], hex.EncodeToString(hash[:])); err != nil {
			return fmt.Errorf("rule %d: %w", i+1, err)
		}
	}
	for i := range t.Ingress.Spec.TLS {
		if err := t.certificate(&t.Ingress.Spec.TLS[i]); err != nil {
			return fmt.Errorf("tls %d: %w", i+1, err)
		}
	}
	return nil
}

func (t *translation) rule(r *v1alpha1.IngressRule, hash string) error {
	external, err := isExternal(r.Visibility)
	if err != nil {
		return err
	}
	if r.HTTP == nil {
		return errors.New("it has no http block")
	}
	hosts, err := ruleHosts(r)
	if err != nil {
		return err
	}
	for i := range r.HTTP.Paths {
		if err := t.path(&r.HTTP.Paths[i], hosts, external); err != nil {
			return fmt.Errorf("path %d: %w", i+1, err)
		}
	}
	t.program.Probes.add(probesOf(hosts, external, hash))
	return nil
}

// isExternal reports whether a rule is visible outside the cluster, which is the default.
func isExternal(v v1alpha1.IngressVisibility) (bool, error) {
	switch v {
	case "", v1alpha1.IngressVisibilityExternalIP:
		return true, nil
	case v1alpha1.IngressVisibilityClusterLocal:
		return false, nil
	}
	return false, fmt.Errorf("visibility %q: expected %s or %s", v, v1alpha1.IngressVisibilityExternalIP, v1alpha1.IngressVisibilityClusterLocal)
}

func probesOf(hosts []string, external bool, hash string) Probes {
	p := Probes{Local: make(map[string]string, len(hosts))}
	for _, host := range hosts {
		p.Wildcards = p.Wildcards || strings.HasPrefix(host, "*.")
		p.Local[host] = hash
	}
	if external {
		p.External = maps.Clone(p.Local)
	}
	return p
}

// path translates one path of a rule to a route of each gateway that shows the rule, for the hosts that no rule before has with the
// same match.
func (t *translation) path(p *v1alpha1.HTTPIngressPath, hosts []string, external bool) error {
	c, err := newClaim(p)
	if err != nil {
		return err
	}
	var outside []string
	if external {
		outside = t.claim(c, hosts, false)
	}
	inside := t.claim(c, hosts, true)
	if len(outside)+len(inside) == 0 {
		return nil
	}
	route, err := t.route(p, c, hosts)
	if err != nil {
		return err
	}
	if len(inside) > 0 {
		local := route
		local.Hosts = inside
		t.program.Local = append(t.program.Local, local)
	}
	if len(outside) > 0 {
		route.Hosts = outside
		route.RedirectHTTPS = t.Ingress.Spec.HTTPOption == v1alpha1.HTTPOptionRedirected && !c.challenge()
		t.program.External = append(t.program.External, route)
	}
	return nil
}

// claim returns the hosts whose requests of that kind are not claimed yet, and claims them.
func (t *translation) claim(c claim, hosts []string, local bool) []string {
	var free []string
	for _, host := range hosts {
		m := match{local: local, host: host, path: c.path, headers: encode(c.headers, "")}
		if !t.claimed[m] {
			t.claimed[m] = true
			free = append(free, host)
		}
	}
	return free
}

// route returns the route of a path, without hosts, and lists its service.
func (t *translation) route(p *v1alpha1.HTTPIngressPath, c claim, hosts []string) (proxy.Route, error) {
	policy := t.Policy
	if c.challenge() || isMapping(t.Ingress) {
		policy = nil // the Route's own Ingress keeps the sessions: both would seal tokens into one cookie
	}
	s, err := t.split(p.Splits)
	if err != nil {
		return proxy.Route{}, err
	}
	headers, err := canonicalHeaders(p.AppendHeaders)
	if err != nil {
		return proxy.Route{}, fmt.Errorf("appending headers: %w", err)
	}
	return proxy.Route{
		Path:         c.path,
		Headers:      c.headers,
		Service:      t.service(c.serviceName(routeName(t.Ingress), t.tag(hosts)), hosts[0], s.revisions, policy),
		Policy:       policy,
		Upstream:     s.upstream,
		Backends:     s.backends,
		SetHeaders:   headers,
		RewriteHost:  p.RewriteHost,
		PreserveHost: p.RewriteHost == "",
	}, nil
}

// tag returns the tag of a rule: that of the first of its hosts that has one.
func (t *translation) tag(hosts []string) string {
	for _, host := range hosts {
		if tag := t.Tags[host]; tag != "" {
			return tag
		}
	}
	return ""
}

// service lists the service of a split and returns its name. Equal splits under one name are one service; one that differs
// gets a name of its own, by its first host.
func (t *translation) service(name, host string, revisions []endpoint.Revision, policy *affinity.Policy) affinity.ServiceName {
	s := endpoint.Service{Name: affinity.ServiceName{Namespace: t.Ingress.Namespace, Name: name}, Revisions: revisions}
	if policy != nil {
		s.Retain = time.Duration(policy.Retain)
	}
	for {
		i := slices.IndexFunc(t.program.Services, func(other endpoint.Service) bool { return other.Name == s.Name })
		if i < 0 {
			t.program.Services = append(t.program.Services, s)
			return s.Name
		}
		if slices.EqualFunc(t.program.Services[i].Revisions, revisions, equalRevisions) {
			return s.Name
		}
		s.Name.Name += "@" + host
	}
}

// equalRevisions compares what a split says of a revision.
func equalRevisions(a, b endpoint.Revision) bool {
	return a.Name == b.Name && a.Weight == b.Weight && a.Relayed == b.Relayed
}

// certificate lists the secret of a part of spec.tls for those of its hosts that the object serves; one without hosts is for all of them.
// A Secret of another namespace is refused: who may write Ingress objects in one may not use the keys of all.
func (t *translation) certificate(s *v1alpha1.IngressTLS) error {
	c := Certificate{Namespace: cmp.Or(s.SecretNamespace, t.Ingress.Namespace), Secret: s.SecretName}
	if c.Namespace != t.Ingress.Namespace {
		return fmt.Errorf("secret %s/%s: expected one of the Ingress' own namespace", c.Namespace, c.Secret)
	}
	own := slices.Sorted(maps.Keys(t.program.Probes.Local))
	c.Hosts = own
	if len(s.Hosts) > 0 {
		c.Hosts = slices.DeleteFunc(own, func(host string) bool { return !covered(host, s.Hosts) })
	}
	if len(c.Hosts) > 0 {
		t.program.Certificates = append(t.program.Certificates, c)
	}
	return nil
}

// covered reports whether a host is among the names of a certificate, of which a wildcard stands for one label.
func covered(host string, names []string) bool {
	_, parent, _ := strings.Cut(host, ".")
	return slices.ContainsFunc(names, func(name string) bool {
		name = canonicalHost(name)
		return name == host || parent != "" && name == "*."+parent
	})
}
