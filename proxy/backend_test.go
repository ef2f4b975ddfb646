package proxy

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/limpet-project/limpet/router"
)

// on returns a place on a revision.
func on(revision, address string) place { return place{revision, revision + "-pod-1", address} }

// report answers with the protocol, the Host and the named headers and trailers of a request, one on a line.
func report(names ...string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		io.Copy(io.Discard, r.Body)
		fmt.Fprintf(w, "%s %s\n", r.Proto, r.Host)
		for _, name := range names {
			fmt.Fprintf(w, "%s: %q %q\n", name, r.Header[name], r.Trailer[name])
		}
	}
}

func TestHeadersAreSetInPlaceOfTheClients(t *testing.T) {
	root := newAuthority(t, nil)
	names := []string{"Knative-Serving-Revision", "X-Tenant", "X-Forwarded-For", "User-Agent", "X-Other"}
	plain := upstreamServer(t, report(names...))
	secure := tlsServer(t, root.issue(t, []string{"kn-user-default"}), report(names...))
	for _, c := range []struct {
		upstream Upstream
		address  string
		proto    string
	}{
		{Upstream{}, plain, "HTTP/1.1"},
		{Upstream{Protocol: ProtocolH2C}, plain, "HTTP/2.0"},
		{Upstream{Protocol: ProtocolTLS, RootCAs: root.pem(), ServerNames: []string{"kn-routing", "kn-user-default"}}, secure, "HTTP/2.0"},
	} {
		s := serve(t, &fakePicker{places: []place{on("demo-00002", c.address)}}, withRoute(func(r *Route) {
			r.SetHeaders = map[string]string{"X-Tenant": "acme", "X-Forwarded-For": "198.51.100.1", "User-Agent": ""}
			r.Backends = map[string]Backend{
				"demo-00001": {SetHeaders: map[string]string{"Knative-Serving-Revision": "demo-00001", "X-Other": "1"}},
				"demo-00002": {Upstream: c.upstream, SetHeaders: map[string]string{"knative-serving-revision": "demo-00002"}},
			}
		}))
		// What is set can neither be sent along, nor be taken away as of one connection, nor follow the body.
		_, got := exchangeRaw(t, s.address, "POST / HTTP/1.1\r\nHost: demo.default.example.com\r\nKnative-Serving-Revision: forged\r\n"+
			"X-Tenant: forged\r\nx-tenant: forged too\r\nX-Other: client\r\nConnection: X-Tenant, Knative-Serving-Revision\r\n"+
			"Trailer: X-Tenant, X-Other\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nX-Tenant: forged\r\nX-Other: forged\r\n\r\n")
		want := c.proto + " demo.default.example.com\n" +
			`Knative-Serving-Revision: ["demo-00002"] []` + "\n" + `X-Tenant: ["acme"] []` + "\n" +
			`X-Forwarded-For: ["198.51.100.1"] []` + "\n" + `User-Agent: [] []` + "\n" + `X-Other: ["client"] []` + "\n"
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s: request differs (-want +got):\n%s", c.proto, diff)
		}
	}
}

func TestTheHostThatIsSentUpstream(t *testing.T) {
	root := newAuthority(t, nil)
	address := upstreamServer(t, report("X-Forwarded-Host"))
	secure := tlsServer(t, root.issue(t, []string{"demo.default.svc.cluster.local"}), report("X-Forwarded-Host"))
	for _, c := range []struct {
		name     string
		preserve bool
		rewrite  string
		tls      bool
		want     string
	}{
		{"the client's", true, "", false, "www.example.com:8080"},
		{"the endpoint's", false, "", false, address},
		{"rewritten", true, "demo.default.svc.cluster.local", false, "demo.default.svc.cluster.local"},
		{"rewritten in place of the endpoint's", false, "demo.default.svc.cluster.local:80", false, "demo.default.svc.cluster.local:80"},
		{"rewritten, and asked for by TLS", true, "demo.default.svc.cluster.local:443", true, "demo.default.svc.cluster.local:443"},
	} {
		t.Run(c.name, func(t *testing.T) {
			to := at(address)
			if c.tls {
				to = at(secure)
			}
			s := serve(t, &fakePicker{places: []place{to}}, withRoute(func(r *Route) {
				if r.PreserveHost, r.RewriteHost = c.preserve, c.rewrite; c.tls {
					r.Upstream = Upstream{Protocol: ProtocolTLS, RootCAs: root.pem()}
				}
			}))
			_, got, _ := strings.Cut(text(t, s.get(t, "/", func(r *http.Request) { r.Host = "www.example.com:8080" })), " ")
			if want := c.want + "\n" + `X-Forwarded-Host: ["www.example.com:8080"] []` + "\n"; got != want {
				t.Errorf("endpoint saw %q, want %q", got, want)
			}
		})
	}
}

// backends are three ways to speak to a revision: each sets a header of its own, and one that all set but demo-00003.
func backends(root *authority) map[string]Backend {
	return map[string]Backend{
		"demo-00001": {SetHeaders: map[string]string{"X-Only-1": "1", "X-Revision": "demo-00001", "X-All": "1"}},
		"demo-00002": {Upstream{Protocol: ProtocolH2C}, map[string]string{"X-Only-2": "2", "X-Revision": "demo-00002"}},
		"demo-00003": {Upstream{Protocol: ProtocolTLS, RootCAs: root.pem(), ServerNames: []string{"kn-routing"}}, nil},
	}
}

func TestAnotherRevisionIsSpokenToInItsOwnWay(t *testing.T) {
	root := newAuthority(t, nil)
	names := []string{"X-Only-1", "X-Only-2", "X-Revision", "X-All", "Traceparent"}
	plain := upstreamServer(t, report(names...))
	secure := tlsServer(t, root.issue(t, []string{"kn-routing"}), report(names...))
	dead := closedPort(t)
	lines := func(proto string, values ...string) string {
		all := proto + " demo.default.example.com\n"
		for i, name := range names {
			all += name + ": " + values[i] + " []\n"
		}
		return all
	}
	trace := `["00-demo-01"]`
	for _, c := range []struct {
		name   string
		places []place
		want   string
	}{
		{
			"HTTP/1.1 to h2c",
			[]place{on("demo-00001", dead), on("demo-00002", plain)},
			lines("HTTP/2.0", `["client"]`, `["2"]`, `["demo-00002"]`, `["route"]`, trace),
		},
		{
			"h2c to HTTP/1.1",
			[]place{on("demo-00002", dead), on("demo-00001", plain)},
			lines("HTTP/1.1", `["1"]`, `["client"]`, `["demo-00001"]`, `["1"]`, trace),
		},
		{
			"HTTP/1.1 to h2c to TLS",
			[]place{on("demo-00001", dead), on("demo-00002", dead), on("demo-00003", secure)},
			lines("HTTP/2.0", `["client"]`, `["client"]`, `["client"]`, `["route"]`, trace),
		},
		{
			"TLS to one that has nothing of its own",
			[]place{on("demo-00003", plain), on("demo-00004", plain)},
			lines("HTTP/1.1", `["client"]`, `["client"]`, `["client"]`, `["route"]`, trace),
		},
		{
			"the same revision again",
			[]place{on("demo-00001", dead), on("demo-00001", plain)},
			lines("HTTP/1.1", `["1"]`, `["client"]`, `["demo-00001"]`, `["1"]`, trace),
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := &fakePicker{places: c.places}
			s := serve(t, p, withRoute(func(r *Route) {
				r.SetHeaders, r.Backends = map[string]string{"X-All": "route"}, backends(root)
			}))
			req, _ := http.NewRequest(http.MethodPost, "http://"+s.address+"/", strings.NewReader("body"))
			req.Host = "demo.default.example.com"
			for _, name := range names[:4] {
				req.Header.Set(name, "client")
			}
			if diff := cmp.Diff(c.want, text(t, s.do(t, req))); diff != "" {
				t.Errorf("request differs (-want +got):\n%s", diff)
			}
			if p.moved != len(c.places)-1 {
				t.Errorf("Another found %d places, want %d", p.moved, len(c.places)-1)
			}
		})
	}
}

func TestAnUpgradeIsMadeOverHTTP1HoweverThePickedRevisionIsSpokenTo(t *testing.T) {
	root := newAuthority(t, nil)
	plain := upstreamServer(t, webSocketEcho)
	secure := tlsServer(t, root.issue(t, []string{"kn-routing"}), webSocketEcho)
	dead := closedPort(t)
	for _, places := range [][]place{
		{on("demo-00001", plain)},
		{on("demo-00002", plain)},
		{on("demo-00002", dead), on("demo-00001", plain)},
		{on("demo-00001", dead), on("demo-00002", plain)},
		{on("demo-00002", dead), on("demo-00003", secure)},
	} {
		p := &fakePicker{places: places, edit: sealing("").edit}
		s := serve(t, p, withRoute(func(r *Route) { r.Backends = backends(root) }))
		say(t, dialWebSocket(t, s), "hello")
	}
}

func TestTheTimeoutsOfThePickedRevisionHold(t *testing.T) {
	slow := upstreamServer(t, func(_ http.ResponseWriter, r *http.Request) {
		after := time.After(3 * short)
		if r.URL.Path == "/silent" {
			after = nil
		}
		select {
		case <-after:
		case <-r.Context().Done():
		}
	})
	none := Upstream{IdleTimeout: -1}
	for _, c := range []struct {
		name           string
		route, backend Upstream
		places         []place
		status         int
	}{
		{"the revision's is shorter", none, Upstream{ResponseTimeout: short}, []place{on("demo-00001", slow)}, 504},
		{"the revision has none", Upstream{RequestTimeout: short, IdleTimeout: short}, none, []place{on("demo-00001", slow)}, 200},
		{"another revision", none, Upstream{RequestTimeout: short}, []place{on("demo-00002", slow)}, 200},
		{
			"another revision after the first could not be reached",
			Upstream{ResponseTimeout: short},
			none,
			[]place{on("demo-00001", closedPort(t)), on("demo-00002", slow)},
			504,
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := serve(t, &fakePicker{places: c.places}, withRoute(func(r *Route) {
				r.Upstream, r.Backends = c.route, map[string]Backend{"demo-00001": {Upstream: c.backend}}
			}))
			path := map[int]string{200: "/", 504: "/silent"}[c.status]
			if got := s.get(t, path).StatusCode; got != c.status {
				t.Errorf("status = %d, want %d", got, c.status)
			}
		})
	}
}

func TestARouteMayHaveNoTimeoutOfItsOwn(t *testing.T) {
	config, err := compile(Config{Routes: []Route{{Hosts: []string{"*"}, Upstream: Upstream{IdleTimeout: -1}}}}, nil, newEngine())
	if err != nil {
		t.Fatal(err)
	}
	x := &exchange{r: new(http.Request), limits: &Limits{}, backend: config.match("demo.default.example.com", "/", nil).general}
	if got := x.waits(); got != (waits{}) {
		t.Errorf("waits() = %+v, want none", got)
	}
}

func TestThePickEditsWhatARouteHasSet(t *testing.T) {
	address := upstreamServer(t, report("Cookie"))
	p := &fakePicker{places: []place{at(address)}, edit: func(request, _ router.Header) {
		if request != nil {
			request.Add("Cookie", "from=pick")
		}
	}}
	s := serve(t, p, withRoute(func(r *Route) { r.SetHeaders = map[string]string{"Cookie": "from=route"} }))
	for range 2 { // what is set is shared by all requests
		_, got, _ := strings.Cut(text(t, s.get(t, "/")), "\n")
		if want := `Cookie: ["from=route" "from=pick"] []` + "\n"; got != want {
			t.Errorf("endpoint saw %q, want %q", got, want)
		}
	}
}
