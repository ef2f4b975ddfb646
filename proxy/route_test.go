package proxy

import (
	"context"
	"net/http"
	"strings"
	"testing"

	"github.com/limpet-project/limpet/affinity"
	"github.com/limpet-project/limpet/router"
)

func routesFor(t *testing.T) *Gateway {
	t.Helper()
	g := New(&fakePicker{}, nil)
	t.Cleanup(g.Close)
	route := func(name, path string, hosts ...string) Route {
		return Route{Hosts: hosts, Path: path, Service: affinity.ServiceName{Name: name}}
	}
	err := g.Swap(Config{Routes: []Route{
		route("shop", "", "shop.example.com"),
		route("cart", "/cart", "shop.example.com"),
		route("cart-api", "/cart/api/", "shop.example.com"),
		route("tenants", "/", "*.example.com"),
		route("eu-tenants", "/", "*.eu.example.com"),
		route("blog", "/blog", "blog.example.com"),
		route("six", "/", "[2001:db8::1]"),
		route("status", "/status", "*"),
	}})
	if err != nil {
		t.Fatal(err)
	}
	return g
}

func TestTheMostSpecificRouteServesARequest(t *testing.T) {
	g := routesFor(t)
	for _, c := range []struct{ host, path, want string }{
		{"shop.example.com", "/", "shop"},
		{"shop.example.com", "", "shop"},
		{"SHOP.Example.COM:8080", "/x", "shop"},
		{"shop.example.com.", "/x", "shop"},
		{"shop.example.com.:443", "/x", "shop"},
		{"shop.example.com", "/cart", "cart"},
		{"shop.example.com", "/cart/", "cart"},
		{"shop.example.com", "/cart/api", "cart-api"},
		{"shop.example.com", "/cart/api/v1/items", "cart-api"},
		{"shop.example.com", "/cart/apiary", "cart"},
		{"shop.example.com", "/carton", "shop"},
		{"acme.example.com", "/", "tenants"},
		{"a.b.example.com", "/", "tenants"},
		{"acme.eu.example.com", "/", "eu-tenants"},
		{"eu.example.com", "/", "tenants"},
		{"blog.example.com", "/blog/1", "blog"},
		{"blog.example.com", "/about", "tenants"}, // the exact host has no such path
		{"[2001:db8::1]:8443", "/", "six"},
		{"[2001:0db8:0::1]", "/", "six"},
		{"elsewhere.test", "/status/live", "status"},
		{"elsewhere.test", "/", ""},
		{"example.com", "/", ""},
		{"", "/", ""},
		{strings.Repeat("a.", 30000) + "example.com", "/", ""},
		{"shop.example.com", strings.Repeat("/a", 30000), "shop"},
	} {
		got, _ := g.Match(c.host, c.path)
		if got.Service.Name != c.want {
			t.Errorf("Match(%.40q, %.40q) = %q, want %q", c.host, c.path, got.Service.Name, c.want)
		}
	}
}

func TestMatchingDoesNotAllocate(t *testing.T) {
	g := routesFor(t)
	config := g.config.Load()
	if n := testing.AllocsPerRun(100, func() { config.match("acme.eu.example.com:8080", "/a/b/c", nil) }); n != 0 {
		t.Errorf("match allocates %v times, want 0", n)
	}
}

func TestAWrongConfigurationIsRefusedWholeAndTheOldOneStays(t *testing.T) {
	for name, bad := range map[string]Route{
		"relative path":    {Hosts: []string{"*"}, Path: "cart"},
		"query in path":    {Hosts: []string{"*"}, Path: "/cart?x"},
		"no host":          {Path: "/cart"},
		"inner wildcard":   {Hosts: []string{"a.*.com"}},
		"host with a path": {Hosts: []string{"example.com/cart"}},
		"taken twice":      {Hosts: []string{"shop.example.com"}, Path: "/cart/"},
		"unknown protocol": {Hosts: []string{"new.example.com"}, Upstream: Upstream{Protocol: "spdy"}},
		"no certificate":   {Hosts: []string{"new.example.com"}, Upstream: Upstream{Protocol: ProtocolTLS, RootCAs: []byte("no PEM")}},
	} {
		g := routesFor(t)
		good := Route{Hosts: []string{"shop.example.com"}, Path: "/cart"}
		if err := g.Swap(Config{Routes: []Route{good, bad}}); err == nil {
			t.Errorf("%s: Swap() = nil, want an error", name)
		}
		if r, _ := g.Match("acme.example.com", "/"); r.Service.Name != "tenants" {
			t.Errorf("%s: after a refused Swap, Match(acme.example.com) = %q, want tenants", name, r.Service.Name)
		}
	}
}

func TestARequestMatchedBeforeItsServiceWentIsMatchedAnew(t *testing.T) {
	address := upstreamServer(t, func(w http.ResponseWriter, r *http.Request) {})
	next := affinity.ServiceName{Namespace: "default", Name: "renamed"}
	var s *setup
	picker := &fakePicker{places: []place{at(address)}}
	picker.ask = func(_ context.Context, req *router.Request) error {
		if req.Service == next {
			return nil
		}
		if err := s.gateway.Swap(Config{Routes: []Route{{Hosts: []string{"*"}, Service: next}}}); err != nil {
			t.Error(err)
		}
		return router.ErrUnknownService
	}
	s = serve(t, picker)
	req, _ := http.NewRequest(http.MethodGet, "http://"+s.address+"/", nil)
	if resp := s.do(t, req); resp.StatusCode != http.StatusOK {
		t.Errorf("status = %d, want 200: the new configuration has a route", resp.StatusCode)
	}
}
