package proxy

import (
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/limpet-project/limpet/router"
)

func TestRequestsWithoutTLSAreSentToHTTPSWhereTheRouteSaysSo(t *testing.T) {
	address := upstreamServer(t, func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "demo") })
	for _, c := range []struct {
		name, host, target, forwarded string
		trusted                       bool
		status                        int
		location                      string
	}{
		{"path and query", "demo.default.example.com", "/a%2Fb//c?x=1;y=%zz", "", false, 301, "https://demo.default.example.com/a%2Fb//c?x=1;y=%zz"},
		{"a port goes", "demo.default.example.com:8080", "/", "", false, 301, "https://demo.default.example.com/"},
		{"an address", "192.0.2.1:80", "/", "", false, 301, "https://192.0.2.1/"},
		{"an IPv6 address", "[2001:db8::1]:8080", "/", "", false, 301, "https://[2001:db8::1]/"},
		{"another host in the path", "demo.default.example.com", "//evil.test/x", "", false, 301, "https://demo.default.example.com//evil.test/x"},
		{"a client that claims https", "demo.default.example.com", "/", "https", false, 301, "https://demo.default.example.com/"},
		{"a trusted proxy that says https", "demo.default.example.com", "/", "https", true, 200, ""},
		{"a trusted proxy that says http", "demo.default.example.com", "/", "http", true, 301, "https://demo.default.example.com/"},
		{"a host that is none", "a=b.example.com", "/", "", false, 400, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := &fakePicker{places: []place{at(address)}}
			s := serve(t, p, withRoute(func(r *Route) { r.RedirectHTTPS = true }), withConfig(func(cfg *Config) {
				if c.trusted {
					cfg.TrustedProxies = loopback
				}
			}))
			req, err := http.NewRequest(http.MethodPost, "http://"+s.address+c.target, strings.NewReader("body"))
			if err != nil {
				t.Fatal(err)
			}
			req.Host = c.host
			req.Header.Set("X-Forwarded-Proto", c.forwarded)
			resp := s.do(t, req)
			if got := resp.Header.Get("Location"); resp.StatusCode != c.status || got != c.location {
				t.Errorf("answer = %d %s, want %d %s", resp.StatusCode, got, c.status, c.location)
			}
			o := s.ledger.next(t)
			if o.Picked != (c.status == 200) || (o.Err != nil) != (c.status >= 400) || o.Status != c.status {
				t.Errorf("observed %+v, want a pick and errors only where there are some", o)
			}
			if c.status == 301 {
				wantOwn(t, resp, 301, "redirect")
			}
		})
	}
}

func TestNothingIsPickedForARequestWithoutAHostToRedirectTo(t *testing.T) {
	p := &fakePicker{edit: func(router.Header, router.Header) { t.Error("a pick was made") }}
	s := serve(t, p, withRoute(func(r *Route) { r.RedirectHTTPS = true }))
	if status, _ := exchangeRaw(t, s.address, "GET / HTTP/1.0\r\n\r\n"); status != http.StatusBadRequest {
		t.Errorf("status = %d, want 400", status)
	}
}
