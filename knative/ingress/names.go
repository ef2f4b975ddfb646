package ingress

import (
	"cmp"
	"fmt"
	"net/http"
	"net/url"
	"strings"

	"k8s.io/apimachinery/pkg/util/sets"
	"knative.dev/networking/pkg/apis/networking/v1alpha1"
	"knative.dev/networking/pkg/http/header"
	"knative.dev/networking/pkg/ingress"
	servingapi "knative.dev/serving/pkg/apis/serving"

	"github.com/limpet-project/limpet/knative/policy"
)

// acmeChallenge is where an authority fetches the proof that it wants of a domain's owner (RFC 8555, 8.3): by HTTP, without TLS, and
// from a solver, which is not the Route's workload.
const acmeChallenge = "/.well-known/acme-challenge/"

// routeName returns the name of the Route that the Ingress is of, or else the Ingress' own. A DomainMapping hands on its user's labels:
// they do not make it a Route's.
func routeName(ing *v1alpha1.Ingress) string {
	if isMapping(ing) {
		return ing.Name
	}
	if route := ing.Labels[servingapi.RouteLabelKey]; route != "" {
		return route
	}
	return ing.Name
}

// isMapping reports whether the Ingress is a DomainMapping's. Its requests come back to this ingress under the host of the Route.
func isMapping(ing *v1alpha1.Ingress) bool {
	_, mapping := ing.Labels[servingapi.DomainMappingUIDLabelKey]
	return mapping
}

// A claim is which requests of a rule go to one split.
type claim struct {
	path    string            // "/" or without a slash at the end
	headers map[string]string // by canonical name; nil is any
	tag     string            // that the headers ask for
}

// newClaim reads what a path of a rule matches.
func newClaim(p *v1alpha1.HTTPIngressPath) (claim, error) {
	c := claim{path: cmp.Or(strings.TrimRight(p.Path, "/"), "/")}
	exact := make(map[string]string, len(p.Headers))
	for name, match := range p.Headers {
		exact[name] = match.Exact
	}
	var err error
	c.headers, err = canonicalHeaders(exact)
	c.tag = c.headers[header.RouteTagKey]
	return c, err
}

// challenge reports whether the claim is for the proof of an ACME challenge.
func (c claim) challenge() bool { return strings.HasPrefix(c.path, acmeChallenge) }

// serviceName returns the name of the service for a claim: the Route, the tag after a slash, the path, the header match other than
// the tag's. The slash of the tag stands before a path without a tag too, so that no tag is taken for a path.
func (c claim) serviceName(route, tag string) string {
	if c.tag != "" {
		tag = c.tag
	}
	name := policy.ServiceName("", route, tag).Name
	if c.path != "/" && tag == "" {
		name += "/"
	}
	if c.path != "/" {
		name += c.path
	}
	others := encode(c.headers, header.RouteTagKey)
	if others != "" {
		name += "?" + others
	}
	return name
}

// encode writes a header match as one string, in the order of the names, without the one that is left out.
func encode(headers map[string]string, without string) string {
	values := make(url.Values, len(headers))
	for name, value := range headers {
		if name != without {
			values.Set(name, value)
		}
	}
	return values.Encode()
}

// ruleHosts returns the canonical hosts of a rule, sorted, with the short names of those of the cluster. A rule without hosts is for any.
func ruleHosts(r *v1alpha1.IngressRule) ([]string, error) {
	if len(r.Hosts) == 0 {
		return []string{"*"}, nil
	}
	canonical := sets.New[string]()
	for _, host := range r.Hosts {
		canonical.Insert(canonicalHost(host))
	}
	hosts := sets.List(ingress.ExpandedHosts(canonical))
	if len(hosts) == 0 {
		return nil, fmt.Errorf("hosts %q: expected names, or none for any", r.Hosts)
	}
	for _, host := range hosts {
		if err := checkHost(host); err != nil {
			return nil, err
		}
	}
	return hosts, nil
}

// checkHost refuses what is not a canonical name: hosts are compared as they are written.
func checkHost(host string) error {
	name := strings.TrimPrefix(host, "*.")
	other := func(c rune) bool {
		return (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '-' && c != '_' && c != '.'
	}
	if name == "" || strings.ContainsFunc(name, other) {
		return fmt.Errorf("host %q: expected a name or \"*.name\"", host)
	}
	return nil
}

// canonicalHost returns the form in which hosts are compared: lower case, without port and trailing dots.
func canonicalHost(host string) string {
	host, _, _ = strings.Cut(host, ":")
	return strings.ToLower(strings.TrimRight(host, "."))
}

// canonicalHeaders returns the headers by their canonical names, nil if there are none.
func canonicalHeaders(headers map[string]string) (map[string]string, error) {
	if len(headers) == 0 {
		return nil, nil
	}
	canonical := make(map[string]string, len(headers))
	for name, value := range headers {
		key := http.CanonicalHeaderKey(name)
		if _, twice := canonical[key]; twice {
			return nil, fmt.Errorf("header %s: named twice", key)
		}
		canonical[key] = value
	}
	return canonical, nil
}
