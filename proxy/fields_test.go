package proxy

import (
	"cmp"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/limpet-project/limpet/affinity"
)

// messageOf returns a request for host and path with header lines "Name: value" from peer.
func messageOf(t testing.TB, host, path, peer string, lines ...string) *message {
	t.Helper()
	r := httptest.NewRequest(http.MethodGet, path, nil)
	r.Host = host
	for _, line := range lines {
		name, value, _ := strings.Cut(line, ": ")
		r.Header.Add(name, value)
	}
	return newMessage(r, netip.MustParseAddr(peer))
}

func TestRoutesWithHeadersAreTriedBeforeThoseWithFewer(t *testing.T) {
	g := New(&fakePicker{}, nil)
	t.Cleanup(g.Close)
	const host = "demo.default.example.com"
	route := func(name, host, path string, headers ...string) Route {
		r := Route{Hosts: []string{host}, Path: path, Service: affinity.ServiceName{Name: name}, Headers: map[string]string{}}
		for i := 0; i < len(headers); i += 2 {
			r.Headers[headers[i]] = headers[i+1]
		}
		return r
	}
	routes := []Route{
		route("demo", host, "/"),
		route("blue", host, "/", "Knative-Serving-Tag", "blue"),
		route("blue-beta", host, "/", "Knative-Serving-Tag", "blue", "X-Beta", "1"),
		route("beta", host, "/", "x-beta", "1"),
		route("api-2", host, "/api", "X-Version", "2"),
		route("api-eu", host, "/api/eu"),
		route("empty", host, "/empty", "X-Empty", ""),
		route("by-tls", host, "/internal", "X-Forwarded-Proto", "https"),
		route("tenants-beta", "*.default.example.com", "/", "X-Beta", "1"),
		route("any", "*", "/", "X-Any", "1"),
	}
	if err := g.Swap(Config{Routes: routes, TrustedProxies: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}}); err != nil {
		t.Fatal(err)
	}
	const client = "203.0.113.9"
	for _, c := range []struct {
		name, host, path, peer string
		lines                  []string
		want                   string
	}{
		{"no header", host, "/", client, nil, "demo"},
		{"one header", host, "/", client, []string{"Knative-Serving-Tag: blue"}, "blue"},
		{"its name in any case", host, "/", client, []string{"KNATIVE-serving-TAG: blue"}, "blue"},
		{"a route whose name was written in lower case", host, "/", client, []string{"X-Beta: 1"}, "beta"},
		{"both headers", host, "/", client, []string{"X-Beta: 1", "Knative-Serving-Tag: blue"}, "blue-beta"},
		{"another value", host, "/", client, []string{"Knative-Serving-Tag: green"}, "demo"},
		{"a value in another case", host, "/", client, []string{"Knative-Serving-Tag: Blue"}, "demo"},
		{"a value that only begins so", host, "/", client, []string{"Knative-Serving-Tag: blue, green"}, "demo"},
		{"the value in the second line", host, "/", client, []string{"Knative-Serving-Tag: green", "Knative-Serving-Tag: blue"}, "demo"},
		{"the value in the first line", host, "/", client, []string{"Knative-Serving-Tag: blue", "Knative-Serving-Tag: green"}, "blue"},
		{"a name with underscores", host, "/", client, []string{"Knative_Serving_Tag: blue"}, "demo"},
		{"a longer path that lacks its header", host, "/api/items", client, []string{"X-Version: 1"}, "demo"},
		{"a longer path that lacks its header, but not the shorter's", host, "/api/items", client, []string{"X-Beta: 1"}, "beta"},
		{"a longer path with its header", host, "/api/items", client, []string{"X-Version: 2", "X-Beta: 1"}, "api-2"},
		{"the longest path wins over any header", host, "/api/eu", client, []string{"X-Version: 2", "X-Beta: 1"}, "api-eu"},
		{"an empty value is not an absent one", host, "/empty", client, nil, "demo"},
		{"an empty value", host, "/empty", client, []string{"X-Empty: "}, "empty"},
		{"another value than the empty one", host, "/empty", client, []string{"X-Empty: x"}, "demo"},
		{"a forwarding header of a client", host, "/internal", client, []string{"X-Forwarded-Proto: https"}, "demo"},
		{"a forwarding header of a trusted proxy", host, "/internal", "10.0.0.7", []string{"X-Forwarded-Proto: https"}, "by-tls"},
		{"a wildcard that lacks its header", "shop.default.example.com", "/", client, nil, ""},
		{"a wildcard with its header", "shop.default.example.com:8080", "/", client, []string{"X-Beta: 1"}, "tenants-beta"},
		{"a wildcard that lacks its header leaves it to any host", "shop.default.example.com", "/", client, []string{"X-Any: 1"}, "any"},
	} {
		got, ok := g.MatchMessage(messageOf(t, c.host, c.path, c.peer, c.lines...))
		if got.Service.Name != c.want || ok != (c.want != "") {
			t.Errorf("%s: MatchMessage(%s%s %q) = %q, want %q", c.name, c.host, c.path, c.lines, got.Service.Name, c.want)
		}
	}
	if got, _ := g.Match(host, "/api"); got.Service.Name != "demo" {
		t.Errorf("Match(%s, /api) = %q, want the route without headers", host, got.Service.Name)
	}
	m := messageOf(t, host, "/api/items", client, "X-Beta: 1", "Knative-Serving-Tag: blue")
	config := g.config.Load()
	if n := testing.AllocsPerRun(100, func() { config.match(m.Host(), m.Path(), m) }); n != 0 {
		t.Errorf("match allocates %v times, want 0", n)
	}
}

// rank is how specific a route is for a request, or nil if it does not match.
func rank(r Route, host string, m *message) []string {
	for name, value := range r.Headers {
		if got := m.Header(http.CanonicalHeaderKey(name)); len(got) == 0 || got[0] != value {
			return nil
		}
	}
	path := strings.TrimSuffix(r.Path, "/")
	if m.Path() != path && !strings.HasPrefix(m.Path(), path+"/") {
		return nil
	}
	specific := "0"
	switch suffix, wildcard := strings.CutPrefix(r.Hosts[0], "*."); {
	case r.Hosts[0] == host:
		specific = "2"
	case wildcard && strings.HasSuffix(host, "."+suffix):
		specific = fmt.Sprintf("1%03d", len(suffix))
	case r.Hosts[0] != "*":
		return nil
	}
	// As many headers in the order of names and values: the later one is less specific.
	order := []string{}
	for _, name := range slices.Sorted(maps.Keys(r.Headers)) {
		order = append(order, name, r.Headers[name])
	}
	return append([]string{specific, fmt.Sprintf("%03d", len(path)), fmt.Sprint(len(r.Headers))}, order...)
}

// moreSpecific compares two ranks.
func moreSpecific(a, b []string) int {
	return cmp.Or(slices.Compare(a[:3], b[:3]), -slices.Compare(a[3:], b[3:]))
}

func TestMatchingIsWhatTheRulesSayInWhateverOrderRoutesCome(t *testing.T) {
	hosts := []string{"demo.default.example.com", "*.default.example.com", "*.example.com", "*"}
	paths := []string{"/", "/api", "/api/eu"}
	rapid.Check(t, func(t *rapid.T) {
		seen := map[string]bool{}
		var routes []Route
		for i := range rapid.IntRange(1, 20).Draw(t, "routes") {
			r := Route{
				Hosts: []string{rapid.SampledFrom(hosts).Draw(t, "host")}, Path: rapid.SampledFrom(paths).Draw(t, "path"),
				Headers: map[string]string{}, Service: affinity.ServiceName{Name: fmt.Sprintf("demo-%05d", i)},
			}
			for _, name := range []string{"X-Beta", "X-Tag"} {
				if v := rapid.SampledFrom([]string{"-", "", "1", "2"}).Draw(t, name); v != "-" {
					r.Headers[name] = v
				}
			}
			if key := fmt.Sprint(r.Hosts, r.Path, r.Headers); !seen[key] {
				seen[key] = true
				routes = append(routes, r)
			}
		}
		compiled, err := compile(Config{Routes: routes}, nil, newEngine())
		if err != nil {
			t.Fatal(err)
		}
		host := rapid.SampledFrom([]string{"demo.default.example.com", "shop.default.example.com", "www.example.com", "other.test"}).Draw(t, "asked")
		r := httptest.NewRequest(http.MethodGet, rapid.SampledFrom([]string{"/", "/api", "/api/eu/1", "/apiary"}).Draw(t, "for"), nil)
		for _, name := range []string{"X-Beta", "X-Tag"} {
			r.Header[name] = rapid.SliceOfN(rapid.SampledFrom([]string{"", "1", "2"}), 0, 2).Draw(t, "sent")
		}
		m := newMessage(r, netip.Addr{})
		want, best := "", []string(nil)
		for _, r := range routes {
			if of := rank(r, host, m); of != nil && (best == nil || moreSpecific(of, best) > 0) {
				want, best = r.Service.Name, of
			}
		}
		got := ""
		if r := compiled.match(host, m.Path(), m); r != nil {
			got = r.Service.Name
		}
		if got != want {
			t.Fatalf("match(%s%s %v) = %q, want %q of %+v", host, m.Path(), r.Header, got, want, routes)
		}
	})
}

func TestHeadersOfRoutesThatCannotBeAreRefused(t *testing.T) {
	on := func(edit func(*Route)) Route {
		r := Route{Hosts: []string{"demo.default.example.com"}}
		edit(&r)
		return r
	}
	set := func(name, value string) Route {
		return on(func(r *Route) { r.SetHeaders = map[string]string{name: value} })
	}
	want := func(name, value string) Route {
		return on(func(r *Route) { r.Headers = map[string]string{name: value} })
	}
	for name, bad := range map[string]Route{
		"matched name":            want("no name", "1"),
		"matched value":           want("X-Tag", "blue\r\nX-Evil: 1"),
		"matched value in spaces": want("X-Tag", " blue"),
		"matched host":            want("host", "demo.default.example.com"),
		"matched internal header": want("knative-serving-revision", "demo-00001"),
		"matched twice":           on(func(r *Route) { r.Headers = map[string]string{"X-Tag": "1", "x-tag": "2"} }),
		"set name":                set("X:Tag", "1"),
		"set value":               set("X-Tag", "1\r\nTransfer-Encoding: chunked"),
		"set host":                set("Host", "other.example.com"),
		"set length":              set("content-length", "0"),
		"set framing":             set("transfer-encoding", "chunked"),
		"set connection":          set("Connection", "close"),
		"set twice":               on(func(r *Route) { r.SetHeaders = map[string]string{"X-Tag": "1", "x-tag": "2"} }),
		"set by a backend": on(func(r *Route) {
			r.Backends = map[string]Backend{"demo-00001": {SetHeaders: map[string]string{"Upgrade": "websocket"}}}
		}),
		"protocol of a backend": on(func(r *Route) {
			r.Backends = map[string]Backend{"demo-00001": {Upstream: Upstream{Protocol: "spdy"}}}
		}),
		"empty server name": on(func(r *Route) { r.Upstream = Upstream{Protocol: ProtocolTLS, ServerNames: []string{""}} }),
		"rewritten host":    on(func(r *Route) { r.RewriteHost = "demo.example.com/x" }),
	} {
		g := New(&fakePicker{}, nil)
		if err := g.Swap(Config{Routes: []Route{bad}}); err == nil {
			t.Errorf("%s: Swap() = nil, want an error", name)
		}
	}
}

func TestTwoRoutesOfOneHostAndPathNeedDifferentHeaders(t *testing.T) {
	route := func(headers map[string]string) Route {
		return Route{Hosts: []string{"demo.default.example.com"}, Path: "/api", Headers: headers}
	}
	for _, c := range []struct {
		name string
		a, b map[string]string
		ok   bool
	}{
		{"none on both", nil, map[string]string{}, false},
		{"the same", map[string]string{"X-Tag": "blue"}, map[string]string{"x-tag": "blue"}, false},
		{"another value", map[string]string{"X-Tag": "blue"}, map[string]string{"X-Tag": "green"}, true},
		{"another name", map[string]string{"X-Tag": "blue"}, map[string]string{"X-Beta": "blue"}, true},
		{"one more", map[string]string{"X-Tag": "blue"}, map[string]string{"X-Tag": "blue", "X-Beta": ""}, true},
	} {
		g := New(&fakePicker{}, nil)
		if err := g.Swap(Config{Routes: []Route{route(c.a), route(c.b)}}); (err == nil) != c.ok {
			t.Errorf("%s: Swap() = %v, want an error %v", c.name, err, !c.ok)
		}
	}
}
