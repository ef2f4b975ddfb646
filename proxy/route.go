package proxy

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"golang.org/x/net/http/httpguts"

	"github.com/limpet-project/limpet/affinity"
)

// compiled is a Config in the form that requests read: immutable, swapped whole.
type compiled struct {
	exact     map[string]*pathTable // by host
	wildcards map[string]*pathTable // by what follows "*."
	any       *pathTable            // nil if no route has the host "*"
	trusted   []netip.Prefix
	debuggers []netip.Prefix
	upstreams map[upstreamKey]*upstream
}

// A compiledRoute is a route with what its requests share.
type compiledRoute struct {
	Route
	headers []field             // that a request must have
	general *backend            // of revisions that have none of their own
	single  map[string]*backend // by revision
	taken   []string            // headers that general or single set
}

// A pathTable finds the longest prefix of whole segments. Prefixes are kept without their trailing slash, so that "" is all paths.
// The routes of one path are in the order in which their headers are tried.
type pathTable struct {
	routes  map[string][]*compiledRoute
	longest int
}

// compile builds the tables of c. Upstreams whose settings are in old are kept, with their connections.
func compile(c Config, old map[upstreamKey]*upstream, e *engine) (*compiled, error) {
	t := &compiled{
		exact:     map[string]*pathTable{},
		wildcards: map[string]*pathTable{},
		trusted:   c.TrustedProxies,
		debuggers: c.Debuggers,
		upstreams: map[upstreamKey]*upstream{},
	}
	for i := range c.Routes {
		if err := t.add(c.Routes[i], old, e); err != nil {
			return nil, fmt.Errorf("route %d (%s): %w", i+1, c.Routes[i].Service, err)
		}
	}
	return t, nil
}

func (t *compiled) add(r Route, old map[upstreamKey]*upstream, e *engine) error {
	path, err := pathPrefix(r.Path)
	if err != nil {
		return err
	}
	if len(r.Hosts) == 0 {
		return fmt.Errorf("no hosts: name at least one, or \"*\" for any")
	}
	if !httpguts.ValidHostHeader(r.RewriteHost) {
		return fmt.Errorf("rewritten host %q: expected a name, with or without a port", r.RewriteHost)
	}
	route := &compiledRoute{Route: r}
	if route.headers, err = fieldsOf(r.Headers, matchable); err != nil {
		return err
	}
	if err := t.addBackends(route, old, e); err != nil {
		return err
	}
	for _, host := range r.Hosts {
		table, err := t.table(host)
		if err != nil {
			return err
		}
		if !table.add(path, route) {
			return fmt.Errorf("host %q, path %q and headers are those of an earlier route", host, r.Path)
		}
	}
	return nil
}

// add puts a route in its place and reports whether that was free.
func (t *pathTable) add(path string, r *compiledRoute) bool {
	routes := t.routes[path]
	i, taken := slices.BinarySearchFunc(routes, r, func(a, b *compiledRoute) int { return compareFields(a.headers, b.headers) })
	if taken {
		return false
	}
	t.routes[path] = slices.Insert(routes, i, r)
	t.longest = max(t.longest, len(path))
	return true
}

// upstream returns the one upstream of t with these settings.
func (t *compiled) upstream(u Upstream, old map[upstreamKey]*upstream, e *engine) (*upstream, error) {
	key := keyOf(u)
	if up := t.upstreams[key]; up != nil {
		return up, nil
	}
	up := old[key]
	if up == nil {
		var err error
		if up, err = newUpstream(key, u, e); err != nil {
			return nil, err
		}
	}
	t.upstreams[key] = up
	return up, nil
}

// table returns the path table of a configured host, and makes it if it is the first of that host.
func (t *compiled) table(host string) (*pathTable, error) {
	if host == "*" {
		if t.any == nil {
			t.any = newPathTable()
		}
		return t.any, nil
	}
	tables := t.exact
	name, wildcard := strings.CutPrefix(host, "*.")
	if wildcard {
		tables = t.wildcards
	}
	name = canonicalHost(name)
	if name == "" || strings.ContainsAny(name, "*/ \t\r\n?#@") {
		return nil, fmt.Errorf("host %q: expected a name, \"*.name\" or \"*\"", host)
	}
	if tables[name] == nil {
		tables[name] = newPathTable()
	}
	return tables[name], nil
}

func newPathTable() *pathTable { return &pathTable{routes: map[string][]*compiledRoute{}} }

// pathPrefix checks a configured path and takes its trailing slash away.
func pathPrefix(path string) (string, error) {
	if path != "" && path[0] != '/' || strings.ContainsAny(path, "?# \t\r\n") {
		return "", fmt.Errorf("path %q: expected a prefix that begins with \"/\", without query", path)
	}
	return strings.TrimSuffix(path, "/"), nil
}

// maxHostBytes is the length of the longest domain name (RFC 1035, 2.3.4). Longer ones are not searched for wildcards, whose cost
// grows with the square of the length.
const maxHostBytes = 255

// match returns the route of a request, or nil. host is what the client sent, path is raw; m has the headers, nil none. A route
// matches if its host, its path and its headers do: an exact host without a fitting path leaves the request to the wildcards.
func (t *compiled) match(host, path string, m affinity.Message) *compiledRoute {
	host = canonicalHost(host)
	if r := t.exact[host].match(path, m, t.trusted); r != nil {
		return r
	}
	if len(t.wildcards) > 0 && len(host) <= maxHostBytes {
		for rest := host; ; {
			_, after, ok := strings.Cut(rest, ".")
			if !ok {
				break
			}
			if r := t.wildcards[after].match(path, m, t.trusted); r != nil {
				return r
			}
			rest = after
		}
	}
	return t.any.match(path, m, t.trusted)
}

// match walks from the longest prefix that could be known up to the root. A nil table matches nothing.
func (t *pathTable) match(path string, m affinity.Message, trusted []netip.Prefix) *compiledRoute {
	if t == nil {
		return nil
	}
	if len(path) > t.longest {
		path = path[:t.longest+cutAt(path[t.longest:])]
	}
	for {
		for _, r := range t.routes[path] {
			if matches(r.headers, m, trusted) {
				return r
			}
		}
		i := strings.LastIndexByte(path, '/')
		if i < 0 {
			return nil
		}
		path = path[:i]
	}
}

// cutAt returns 0 if rest begins a new segment, so that what precedes it is whole segments, and otherwise 1: then the segment
// is longer than any prefix and has to go.
func cutAt(rest string) int {
	if rest[0] == '/' {
		return 0
	}
	return 1
}

// canonicalHost returns the name in a Host header: lower case, without port, brackets and trailing dot. It allocates only for
// hosts with upper-case letters and for IPv6 addresses that are not in their shortest form.
func canonicalHost(host string) string {
	if strings.HasPrefix(host, "[") {
		literal, _, _ := strings.Cut(host[1:], "]")
		return canonicalIPv6(literal)
	}
	if i := strings.IndexByte(host, ':'); i >= 0 {
		if i != strings.LastIndexByte(host, ':') {
			return canonicalIPv6(host)
		}
		host = host[:i]
	}
	return strings.ToLower(strings.TrimSuffix(host, "."))
}

func canonicalIPv6(literal string) string {
	if addr, err := netip.ParseAddr(literal); err == nil {
		return addr.String()
	}
	return strings.ToLower(literal)
}
