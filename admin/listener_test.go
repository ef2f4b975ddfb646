package admin

import (
	"context"
	"encoding/json"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"testing"

	"github.com/limpet-project/limpet/affinity"
	"github.com/limpet-project/limpet/endpoint"
	"github.com/limpet-project/limpet/router"
)

func TestListenerIsFoundByWhateverReachesIt(t *testing.T) {
	all := []Listener{
		{Name: "postgres", Protocol: "tcp", Address: "10.0.0.5:5432", Open: "10.0.0.5:5432"},
		{Name: "postgres-6", Protocol: "tcp", Address: "[::1]:5432", Open: "[::1]:5432"},
		{Name: "dns", Protocol: "udp", Address: ":53", Open: "[::]:53"},
		{Name: "dns-tcp", Protocol: "tcp", Address: ":53", Open: "[::]:53"},
		{Name: "syslog", Protocol: "udp", Address: "0.0.0.0:514", Open: "0.0.0.0:514"},
		{Name: "mysql", Protocol: "tcp", Address: "db.example.com:3306", Open: "10.0.0.6:3306"},
		{Name: "game", Protocol: "udp", Address: "127.0.0.1:0", Open: "127.0.0.1:40117"},
	}
	tests := []struct{ name, protocol, where, want string }{
		{"a name", "tcp", "postgres", "postgres"},
		{"a name with a slash behind it", "tcp", "postgres/", "postgres"},
		{"the address as configured", "tcp", "10.0.0.5:5432", "postgres"},
		{"the address as configured, in brackets", "tcp", "[::1]:5432", "postgres-6"},
		{"the address of IPv6 written out", "tcp", "[0:0:0:0:0:0:0:1]:5432", "postgres-6"},
		{"a host's name as configured", "tcp", "DB.example.com:3306", "mysql"},
		{"the address of that host", "tcp", "10.0.0.6:3306", "mysql"},
		{"any host, where the listener takes all", "udp", "10.9.9.9:53", "dns"},
		{"any host of IPv6, where the listener takes all", "udp", "[2001:db8::7]:53", "dns"},
		{"any name of a host, where the listener takes all", "udp", "dns.example.com:53", "dns"},
		{"the same port by TCP", "tcp", "10.9.9.9:53", "dns-tcp"},
		{"the address of all, as configured", "udp", ":53", "dns"},
		{"all addresses of IPv4", "udp", "10.9.9.9:514", "syslog"},
		{"the port alone", "tcp", ":3306", "mysql"},
		{"the port that the system gave", "udp", "127.0.0.1:40117", "game"},
		{"the address of IPv4 as one of IPv6", "tcp", "[::ffff:10.0.0.5]:5432", "postgres"},
		{"an address of IPv6, where the listener takes IPv4", "udp", "[2001:db8::7]:514", ""},
		{"another host", "tcp", "10.0.0.9:5432", ""},
		{"another port", "udp", "10.0.0.5:54", ""},
		{"the other protocol", "udp", "postgres", ""},
		{"a name that there is not", "tcp", "mongo", ""},
		{"a port that two have", "tcp", ":5432", ""},
		{"nothing", "udp", "", ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			l, err := findListener(all, tt.protocol, tt.where)
			if l.Name != tt.want || (err == nil) != (tt.want != "") {
				t.Errorf("findListener(%s, %s) = %q, %v, want %q", tt.protocol, tt.where, l.Name, err, tt.want)
			}
		})
	}
}

// forward gives the gateway two listeners without HTTP that lead to demo by the client's /24, and one that leads nowhere yet.
func (g *gateway) forward() {
	g.policy = (&affinity.Policy{Session: &affinity.SessionAffinity{
		From: []affinity.Source{{ClientAddress: &affinity.AddressPrefix{IPv4Prefix: 24}}},
	}}).WithDefaults()
	request := func(client netip.Addr) *router.Request {
		return &router.Request{Service: demo, Policy: g.policy, Message: &message{url: &url.URL{}, peer: client}}
	}
	all := []Listener{
		{Name: "db", Protocol: "tcp", Address: ":5432", Open: "[::]:5432", Service: demo, AcceptsProxy: true, Request: request},
		{Name: "dns", Protocol: "udp", Address: ":53", Open: "[::]:53", Service: demo, Request: request},
		{Name: "early", Protocol: "udp", Address: ":54", Open: "[::]:54", Request: func(netip.Addr) *router.Request { return nil }},
	}
	g.handler = Handler(Options{
		Router: g.router, Endpoints: g.table, Store: g.store, Resolve: g.resolve, Listeners: func() []Listener { return all },
	})
}

// explain asks where a client goes.
func (g *gateway) explain(listener, client string) Answer {
	g.t.Helper()
	question := `{"url": "` + listener + `", "client": "` + client + `"}`
	status, body := g.call(http.MethodPost, "/explain", question)
	var a Answer
	if err := json.Unmarshal([]byte(body), &a); err != nil || status != http.StatusOK {
		g.t.Fatalf("POST /explain %s = %d %s, want 200", question, status, body)
	}
	if strings.Contains(body, client) {
		g.t.Errorf("POST /explain %s tells the client's address: %s", question, body)
	}
	return a
}

// connect binds a client as a connection would, and returns the endpoint.
func (g *gateway) connect(client string) string {
	g.t.Helper()
	m := &message{url: &url.URL{}, peer: netip.MustParseAddr(client)}
	pick, err := g.router.Pick(context.Background(), &router.Request{Service: demo, Policy: g.policy, Message: m})
	if err != nil {
		g.t.Fatalf("Pick() = %v", err)
	}
	defer pick.Done(endpoint.OutcomeOK)
	return pick.Target().Endpoint
}

func TestWrongQuestionsAboutListenersAreRefusedWithWhatWasExpected(t *testing.T) {
	g := newGateway(t)
	g.forward()
	const listed = "there are tcp://db at :5432, udp://dns at :53, udp://early at :54"
	for _, tt := range []struct {
		name, body string
		status     int
		want       string
	}{
		{"no client", `{"url": "tcp://db"}`, 400, "client: missing, expected the client's IP address: tcp has no other id"},
		{"a client that is no address", `{"url": "udp://dns", "client": "home"}`, 400, `client: got "home", expected an IP address`},
		{"a client with a port", `{"url": "udp://dns", "client": "10.0.3.7:53"}`, 400, "expected an IP address"},
		{"a header", `{"url": "tcp://db", "client": "10.0.3.7", "header": {"K-Session": ["alice-4711"]}}`, 400, "expected the client's address alone"},
		{"a method", `{"url": "tcp://db", "client": "10.0.3.7", "method": "GET"}`, 400, "expected the client's address alone"},
		{"an unknown listener", `{"url": "tcp://mongo", "client": "10.0.3.7"}`, 404, "no listener tcp://mongo, " + listed},
		{"the other protocol", `{"url": "tcp://dns", "client": "10.0.3.7"}`, 404, "no listener tcp://dns, " + listed},
		{"no listener", `{"url": "udp://", "client": "10.0.3.7"}`, 404, listed},
		{"a listener without a route", `{"url": "udp://early", "client": "10.0.3.7"}`, 503, "the listener early leads nowhere yet"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if status, body := g.call(http.MethodPost, "/explain", tt.body); status != tt.status || !strings.Contains(body, tt.want) {
				t.Errorf("POST /explain %s = %d %s, want %d and %q", tt.body, status, body, tt.status, tt.want)
			}
		})
	}
	g = newGateway(t)
	status, body := g.call(http.MethodPost, "/explain", `{"url": "tcp://db", "client": "10.0.3.7"}`)
	if status != http.StatusNotFound || !strings.Contains(body, "there is none for TCP or UDP") {
		t.Errorf("POST /explain of a gateway for HTTP = %d %s, want 404 and that there is none", status, body)
	}
}

func TestServicesNameTheListenersThatLeadToThem(t *testing.T) {
	g := newGateway(t)
	g.forward()
	_, body := g.call(http.MethodGet, "/services", "")
	var services []ServiceView
	if err := json.Unmarshal([]byte(body), &services); err != nil || len(services) != 1 {
		t.Fatalf("GET /services = %s, %v, want one service", body, err)
	}
	got := services[0].Listeners
	want := ListenerView{Name: "db", Protocol: "tcp", Address: ":5432", Open: "[::]:5432", AcceptsProxy: true}
	if len(got) != 2 || got[0] != want || got[1].Name != "dns" {
		t.Errorf("listeners = %+v, want %+v and dns", got, want)
	}
}

// The digest that explain tells is what forget takes, so an address can be forgotten though no id is kept anywhere.
func TestClientAddressIsForgottenByItsDigest(t *testing.T) {
	g := newGateway(t)
	g.forward()
	if a := g.explain("tcp://10.9.9.9:5432", "10.0.3.7"); a.Reason != "new" || a.Session.BoundTo != "" || a.Listener.Name != "db" {
		t.Errorf("explain before = %+v, want new by db", a)
	}
	home := g.connect("10.0.3.7")
	g.connect("10.0.4.7")
	a := g.explain("tcp://db", "10.0.3.99") // of the same /24
	if a.Reason != "bound" || a.Endpoint != home || a.Session.BoundTo != "demo-00001/"+home || a.Session.Prefix != 24 || a.State != "ready" {
		t.Errorf("explain = %+v, want bound to %s by a /24", a, home)
	}
	if !strings.Contains(a.Steps[0], "PROXY header") {
		t.Errorf("steps = %q, want first whose address counts", a.Steps)
	}
	if b := g.explain("udp://dns", "10.0.3.7"); b.Session.Digest != a.Session.Digest || strings.Contains(b.Steps[0], "PROXY") {
		t.Errorf("explain by another listener = %+v, want the same key, and nothing of PROXY headers", b)
	}
	order := `{"service": {"namespace": "shop", "name": "demo"}, "kind": "session", "key": "` + a.Session.Digest + `"}`
	if status, body := g.call(http.MethodDelete, "/bindings", order); status != http.StatusOK {
		t.Fatalf("DELETE /bindings %s = %d %s, want 200", order, status, body)
	}
	if a := g.explain("tcp://db", "10.0.3.7"); a.Reason != "new" || a.Session.BoundTo != "" {
		t.Errorf("explain afterwards = %+v, want new", a)
	}
	if left := g.page("").Bindings; len(left) != 1 || left[0].Key == a.Session.Digest {
		t.Errorf("bindings left = %+v, want that of the other client", left)
	}
}

func TestClientsOfAnEndpointThatDrainsAreExplained(t *testing.T) {
	g := newGateway(t)
	g.forward()
	home := g.connect("10.0.3.7")
	order := `{"service": {"namespace": "shop", "name": "demo"}, "revision": "demo-00001", "endpoint": "` + home + `"}`
	if status, body := g.call(http.MethodPost, "/drain", order); status != http.StatusOK {
		t.Fatalf("POST /drain = %d %s, want 200", status, body)
	}
	a := g.explain("tcp://db", "10.0.3.7")
	if a.Endpoint != home || a.State != "draining" || a.Reason != "bound" || len(a.Next) != 1 || a.Next[0].Endpoint == home {
		t.Errorf("explain = %+v, want %s, draining, and the other one next", a, home)
	}
	if a := g.explain("tcp://db", "10.0.4.7"); a.Endpoint == home || a.Reason != "new" || len(a.Next) != 0 {
		t.Errorf("explain of a new client = %+v, want another endpoint than %s and none next", a, home)
	}
	if left := g.page("").Bindings; len(left) != 1 {
		t.Errorf("bindings left = %+v, want that of the one client that came", left)
	}
}
