package proxy

import (
	"encoding/pem"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/limpet-project/limpet/endpoint"
)

// A client that could make the gateway fail before the endpoint saw anything could have every endpoint ejected.
func TestATrailerThatIsNoneIsNotHeldAgainstTheEndpoint(t *testing.T) {
	address := upstreamServer(t, func(w http.ResponseWriter, r *http.Request) {
		io.Copy(io.Discard, r.Body)
		fmt.Fprintf(w, "%d", len(r.Trailer))
	})
	for _, protocol := range []Protocol{ProtocolHTTP1, ProtocolH2C} {
		p := &fakePicker{places: []place{at(address)}}
		s := serve(t, p, withRoute(func(r *Route) { r.Upstream.Protocol = protocol }))
		status, body := exchangeRaw(t, s.address, "POST / HTTP/1.1\r\n"+host+
			"Trailer: bad name, x(y)\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n")
		s.ledger.next(t)
		if got := p.outcomes(); status != 200 || body != "0" || len(got) != 1 || got[0] != endpoint.OutcomeOK {
			t.Errorf("%s: %d %q, outcomes %v, want 200 without trailers and one ok", protocol, status, body, got)
		}
	}
}

func TestClientsCannotSetInATrailerWhatTheyCannotSetInAHeader(t *testing.T) {
	address := upstreamServer(t, func(w http.ResponseWriter, r *http.Request) {
		io.Copy(io.Discard, r.Body)
		fmt.Fprint(w, r.Trailer)
	})
	const trailers = "Limpet-Decision: 1\r\nK-Proxy-Request: activator\r\nKnative-Serving-Revision: demo-00002\r\n" +
		"X-Forwarded-For: 203.0.113.9\r\nX-Checksum: c0ffee\r\n"
	for _, protocol := range []Protocol{ProtocolHTTP1, ProtocolH2C} {
		s := serve(t, &fakePicker{places: []place{at(address)}}, withRoute(func(r *Route) { r.Upstream.Protocol = protocol }))
		for _, announced := range []string{"X-Checksum", "X-Checksum, Limpet-Decision, K-Proxy-Request, Knative-Serving-Revision, X-Forwarded-For"} {
			status, body := exchangeRaw(t, s.address, "POST / HTTP/1.1\r\n"+host+"Trailer: "+announced+
				"\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n"+trailers+"\r\n")
			if status != 200 || body != "map[X-Checksum:[c0ffee]]" {
				t.Errorf("%s, announced %s: %d %s, want 200 map[X-Checksum:[c0ffee]]", protocol, announced, status, body)
			}
		}
	}
}

// Nor may a client have an endpoint ejected by being slow itself.
func TestAClientThatSendsTooSlowlyForTheRequestTimeoutIsNotHeldAgainstTheEndpoint(t *testing.T) {
	t.Parallel()
	address := upstreamServer(t, func(_ http.ResponseWriter, r *http.Request) { io.Copy(io.Discard, r.Body) })
	p := &fakePicker{places: []place{at(address)}}
	s := serve(t, p, withRoute(func(r *Route) {
		r.Upstream.RequestTimeout = enough // the request has to be under way by then
	}))
	status, _ := exchangeRaw(t, s.address, "POST / HTTP/1.1\r\n"+host+"Content-Length: 100\r\n\r\nbegin")
	s.ledger.next(t)
	if got := p.outcomes(); status != 504 || len(got) != 1 || got[0] != endpoint.OutcomeUnknown {
		t.Errorf("status = %d, outcomes %v, want 504 and one unknown", status, got)
	}
}

func TestAHeadThatIsTooLargeForTheEndpointIsTheClientsFault(t *testing.T) {
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	server.Config.MaxHeaderBytes = 4096
	server.Config.Protocols = new(http.Protocols)
	server.Config.Protocols.SetUnencryptedHTTP2(true)
	server.Start()
	t.Cleanup(server.Close)
	p := &fakePicker{places: []place{at(server.Listener.Addr().String())}}
	s := serve(t, p, withRoute(func(r *Route) { r.Upstream.Protocol = ProtocolH2C }))
	s.get(t, "/")
	resp := s.get(t, "/", func(r *http.Request) { r.Header.Set("X-Large", strings.Repeat("x", 16000)) })
	wantOwn(t, resp, 431, "header-too-large")
	s.ledger.next(t)
	s.ledger.next(t)
	if got := p.outcomes(); len(got) != 2 || got[1] != endpoint.OutcomeUnknown {
		t.Errorf("outcomes = %v, want ok and unknown", got)
	}
}

// The name that TLS asks for is the client's Host where neither route nor upstream names one.
func TestHostsThatAnEndpointDoesNotServeLeaveNothingBehind(t *testing.T) {
	server := httptest.NewTLSServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	t.Cleanup(server.Close)
	server.Config.ErrorLog = log.New(io.Discard, "", 0)
	roots := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw})
	s := serve(t, &fakePicker{places: []place{at(server.Listener.Addr().String())}}, withRoute(func(r *Route) {
		r.Upstream = Upstream{Protocol: ProtocolTLS, RootCAs: roots}
	}))
	ask := func(host string, status int) {
		t.Helper()
		if resp := s.get(t, "/", func(r *http.Request) { r.Host = host }); resp.StatusCode != status {
			t.Errorf("%s: status = %d, want %d", host, resp.StatusCode, status)
		}
	}
	ask("example.com", 200) // the certificate's name
	for n := range 50 {
		ask(fmt.Sprintf("tenant-%05d.invalid", n), 503)
	}
	ask("example.com", 200)
	for _, up := range s.gateway.config.Load().upstreams {
		up.mu.RLock()
		if n := len(up.pools); n != 1 {
			t.Errorf("%d pools are kept, want 1", n)
		}
		up.mu.RUnlock()
	}
}

// net/http would answer it by itself, for no route and seen by nobody.
func TestOptionsOfTheWholeServerIsARequestLikeOthers(t *testing.T) {
	address := upstreamServer(t, func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, r.RequestURI) })
	s := serve(t, &fakePicker{places: []place{at(address)}}, withRoute(func(r *Route) { r.Hosts = []string{"demo.example.com"} }))
	if status, _ := exchangeRaw(t, s.address, "OPTIONS * HTTP/1.1\r\nHost: other.example.com\r\n\r\n"); status != 404 {
		t.Errorf("host without a route: status = %d, want 404", status)
	}
	if o := s.ledger.next(t); o.Status != 404 || o.Cause != "no-route" {
		t.Errorf("observed %d %s, want 404 no-route", o.Status, o.Cause)
	}
}
