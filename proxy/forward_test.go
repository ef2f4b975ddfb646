package proxy

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/textproto"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/limpet-project/limpet/affinity"
	"github.com/limpet-project/limpet/endpoint"
	"github.com/limpet-project/limpet/router"
)

func TestARequestReachesThePickedEndpointAndItsAnswerTheClient(t *testing.T) {
	address := upstreamServer(t, func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		w.Header().Set("X-Counter", "7")
		w.WriteHeader(http.StatusTeapot)
		fmt.Fprintf(w, "%s %s %s %s", r.Method, r.Host, r.RequestURI, body)
	})
	s := serve(t, &fakePicker{places: []place{at(address)}})
	req, _ := http.NewRequest(http.MethodPost, "http://"+s.address+"/cart%2Fitems//x?b=2;a=%zz", strings.NewReader("one apple"))
	req.Host = "shop.example.com"
	resp := s.do(t, req)
	if got, want := text(t, resp), "POST shop.example.com /cart%2Fitems//x?b=2;a=%zz one apple"; got != want {
		t.Errorf("endpoint saw %q, want %q", got, want)
	}
	if resp.StatusCode != http.StatusTeapot || resp.Header.Get("X-Counter") != "7" || resp.Header.Get("Limpet-Reason") != "" {
		t.Errorf("answer = %d %v, want the endpoint's", resp.StatusCode, resp.Header)
	}
	if got := s.picker.outcomes(); !slices.Equal(got, []endpoint.Outcome{endpoint.OutcomeOK}) {
		t.Errorf("Done was called with %v, want [OK]", got)
	}
}

func TestTheRouterSeesTheRequestRaw(t *testing.T) { // defect 43
	address := upstreamServer(t, func(http.ResponseWriter, *http.Request) {})
	var got []string
	p := &fakePicker{places: []place{at(address)}, ask: func(_ context.Context, req *router.Request) error {
		m := req.Message
		got = []string{m.Method(), m.Host(), m.Path(), m.Query(), m.Peer().String(), strings.Join(m.Header("K-Session"), "|"), req.Tag}
		return nil
	}}
	s := serve(t, p, withRoute(func(r *Route) { r.TagHeader = "Knative-Serving-Tag" }))
	s.get(t, "/users/a%2Fb%20c/cart?sid=%41;x", func(r *http.Request) {
		r.Host = "shop.example.com:8080"
		r.Header.Set("Knative-Serving-Tag", "canary")
		r.Header["K-Session"] = []string{"first", "second"}
	})
	want := []string{"GET", "shop.example.com:8080", "/users/a%2Fb%20c/cart", "sid=%41;x", "127.0.0.1", "first|second", "canary"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("Message differs (-want +got):\n%s", diff)
	}
}

func TestThePathIsForwardedByteForByte(t *testing.T) { // defects 17 and 43
	address := upstreamServer(t, func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, r.RequestURI) })
	s := serve(t, &fakePicker{places: []place{at(address)}})
	for _, target := range []string{
		"/", "/a%2fb", "/a%2Fb\"c", "/%61", "/a/../b", "/a/%2e%2e/b", "//double", "/a?", "/a?x=%", "/a;b=c", "/a|b^c", "/%E2%82%AC",
	} {
		if status, got := exchangeRaw(t, s.address, "GET "+target+" HTTP/1.1\r\nHost: demo.example.com\r\nConnection: close\r\n\r\n"); got != target {
			t.Errorf("endpoint saw %q (%d), want %q", got, status, target)
		}
	}
	status, got := exchangeRaw(t, s.address, "GET http://shop.example.com/abs?q=1 HTTP/1.1\r\nHost: demo.example.com\r\nConnection: close\r\n\r\n")
	if got != "/abs?q=1" {
		t.Errorf("absolute form: endpoint saw %q (%d), want /abs?q=1", got, status)
	}
}

// exchangeRaw writes bytes and returns the status and the body of the first answer; status 0 means that the connection was closed.
func exchangeRaw(t testing.TB, address, request string) (int, string) {
	t.Helper()
	c, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := io.WriteString(c, request); err != nil {
		return 0, ""
	}
	resp, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		return 0, ""
	}
	defer resp.Body.Close()
	body, _ := io.ReadAll(resp.Body)
	return resp.StatusCode, string(body)
}

func TestHeadersOfOneConnectionAreNotForwarded(t *testing.T) {
	var got http.Header
	address := upstreamServer(t, func(w http.ResponseWriter, r *http.Request) {
		got = r.Header.Clone()
		w.Header().Set("Connection", "X-Internal-Hop")
		w.Header().Set("X-Internal-Hop", "1")
		w.Header().Set("Keep-Alive", "timeout=5")
		w.Header().Set("X-End-To-End", "1")
	})
	s := serve(t, &fakePicker{places: []place{at(address)}})
	resp := s.get(t, "/", func(r *http.Request) {
		for _, name := range []string{"Keep-Alive", "Proxy-Connection", "Proxy-Authorization", "Trailer", "X-Secret-Hop"} {
			r.Header.Set(name, "1")
		}
		r.Header.Set("Connection", "keep-alive, X-Secret-Hop")
		r.Header.Set("Te", "gzip;q=0.5, trailers")
		r.Header.Set("User-Agent", "")
	})
	for _, name := range []string{"Connection", "Keep-Alive", "Proxy-Connection", "Proxy-Authorization", "Trailer", "X-Secret-Hop", "User-Agent"} {
		if v, ok := got[name]; ok {
			t.Errorf("endpoint got %s: %q, want none", name, v)
		}
	}
	if got.Get("Te") != "trailers" {
		t.Errorf("endpoint got TE %q, want trailers", got.Get("Te"))
	}
	if resp.Header.Get("X-Internal-Hop") != "" || resp.Header.Get("Keep-Alive") != "" || resp.Header.Get("X-End-To-End") != "1" {
		t.Errorf("client got %v, want only what is end to end", resp.Header)
	}
}

func TestClientsCannotSetTheHeadersThatLimpetAndKnativeBelieve(t *testing.T) { // defects 16 to 18
	var got http.Header
	address := upstreamServer(t, func(_ http.ResponseWriter, r *http.Request) { got = r.Header.Clone() })
	s := serve(t, &fakePicker{places: []place{at(address)}})
	s.get(t, "/", func(r *http.Request) {
		for _, name := range []string{
			"Limpet-Debug", "Limpet-Anything", "limpet-lower", "K-Proxy-Request", "Knative-Serving-Revision",
			"Knative-Serving-Namespace",
		} {
			r.Header.Set(name, "forged")
		}
		r.Header.Set("K-Session", "user-42")
	})
	for name, values := range got {
		if slices.Contains(values, "forged") {
			t.Errorf("endpoint got %s: %q, want none", name, values)
		}
	}
	if v := got["K-Session"]; len(v) != 1 || v[0] != "user-42" {
		t.Errorf("endpoint got K-Session %q, want the client's own, once", v)
	}
}

func TestForwardingHeadersAreBelievedOnlyFromTrustedPeers(t *testing.T) {
	var got http.Header
	var secure bool
	address := upstreamServer(t, func(_ http.ResponseWriter, r *http.Request) { got = r.Header.Clone() })
	for _, c := range []struct {
		name    string
		trusted bool
		want    map[string]string
	}{
		{"others' are replaced", false, map[string]string{
			"X-Forwarded-For": "127.0.0.1", "X-Forwarded-Proto": "http", "X-Forwarded-Host": "shop.example.com", "X-Forwarded-Port": "",
			"Forwarded": "for=127.0.0.1;host=shop.example.com;proto=http",
		}},
		{"trusted ones are continued", true, map[string]string{
			"X-Forwarded-For": "192.0.2.1, 127.0.0.1", "X-Forwarded-Proto": "https", "X-Forwarded-Host": "public.example.com",
			"X-Forwarded-Port": "443", "Forwarded": "for=192.0.2.1, for=127.0.0.1;host=shop.example.com;proto=http",
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := &fakePicker{places: []place{at(address)}, ask: func(_ context.Context, r *router.Request) error { secure = r.Secure; return nil }}
			s := serve(t, p, withRoute(func(r *Route) { r.ForwardedHeader = true }), withConfig(func(cfg *Config) {
				if c.trusted {
					cfg.TrustedProxies = loopback
				}
			}))
			s.get(t, "/", func(r *http.Request) {
				r.Host = "shop.example.com"
				r.Header.Set("X-Forwarded-For", "192.0.2.1")
				r.Header.Set("X-Forwarded-Proto", "https")
				r.Header.Set("X-Forwarded-Host", "public.example.com")
				r.Header.Set("X-Forwarded-Port", "443")
				r.Header.Set("Forwarded", "for=192.0.2.1")
			})
			for name, want := range c.want {
				if v := strings.Join(got[name], "|"); v != want {
					t.Errorf("%s = %q, want %q", name, v, want)
				}
			}
			if secure != c.trusted {
				t.Errorf("Secure = %v, want %v", secure, c.trusted)
			}
		})
	}
}

func TestAHostCannotForgeAnElementOfForwarded(t *testing.T) {
	got := forwardedElement(parsePeer("[::ffff:192.0.2.7]:80"), "x;for=10.0.0.1,for=10.0.0.2", "http")
	if want := `for=192.0.2.7;host="x;for=10.0.0.1,for=10.0.0.2";proto=http`; got != want {
		t.Errorf("forwardedElement() = %s, want %s", got, want)
	}
	got = forwardedElement(parsePeer("[2001:db8::7]:80"), "shop.example.com:8080", "https")
	if want := `for="[2001:db8::7]";host="shop.example.com:8080";proto=https`; got != want {
		t.Errorf("forwardedElement() = %s, want %s", got, want)
	}
}

func TestThePickEditsBothHeaders(t *testing.T) {
	var got http.Header
	address := upstreamServer(t, func(w http.ResponseWriter, r *http.Request) {
		got = r.Header.Clone()
		w.Header().Set("Set-Cookie", "cart=1")
	})
	p := &fakePicker{places: []place{at(address)}, edit: func(request, response router.Header) {
		if request != nil {
			request.Set("Cookie", "theme=dark")
			return
		}
		response.Add("Set-Cookie", "limpet=sealed")
	}}
	s := serve(t, p)
	resp := s.get(t, "/", func(r *http.Request) { r.Header.Set("Cookie", "limpet=old; theme=dark") })
	if got.Get("Cookie") != "theme=dark" {
		t.Errorf("endpoint got Cookie %q, want theme=dark", got.Get("Cookie"))
	}
	if got.Get("Traceparent") == "" {
		t.Error("endpoint got no Traceparent, want the observer's")
	}
	if diff := cmp.Diff([]string{"cart=1", "limpet=sealed"}, resp.Header["Set-Cookie"]); diff != "" {
		t.Errorf("Set-Cookie differs (-want +got):\n%s", diff)
	}
}

func TestTheDecisionIsToldOnlyToDebuggers(t *testing.T) {
	address := upstreamServer(t, func(http.ResponseWriter, *http.Request) {})
	for _, allowed := range []bool{true, false} {
		s := serve(t, &fakePicker{places: []place{at(address)}}, withConfig(func(c *Config) {
			if allowed {
				c.Debuggers = loopback
			}
		}))
		want := ""
		if allowed {
			want = "reason=bound; revision=demo-00001; endpoint=demo-00001-pod-1; key=dead010203040506"
		}
		ask := func(r *http.Request) { r.Header.Set("Limpet-Debug", "1") }
		if got := s.get(t, "/", ask).Header.Get("Limpet-Decision"); got != want {
			t.Errorf("debugger %v: Limpet-Decision = %q, want %q", allowed, got, want)
		}
		if got := s.get(t, "/").Header.Get("Limpet-Decision"); got != "" {
			t.Errorf("debugger %v, not asked: Limpet-Decision = %q, want none", allowed, got)
		}
	}
}

func TestErrorsOfThePickBecomeStatuses(t *testing.T) {
	for _, c := range []struct {
		err    error
		status int
		cause  string
	}{
		{&affinity.IDError{Source: affinity.Source{Header: "K-Session"}, Reason: "longer than 1024 bytes"}, 400, "bad-id"},
		{fmt.Errorf("routing: %w", router.ErrUnknownService), 404, "unknown-service"},
		{affinity.ErrUnknownTag, 404, "unknown-tag"},
		{affinity.ErrNoRevision, 503, "no-revision"},
		{affinity.ErrNoEndpoint, 503, "no-endpoint"},
		{endpoint.ErrBusy, 503, "busy"},
		{context.DeadlineExceeded, 504, "timeout"},
		{errUnlucky, 502, "bad-gateway"},
	} {
		s := serve(t, &fakePicker{err: c.err})
		resp := s.get(t, "/", func(r *http.Request) { r.Header.Set("K-Session", "secret-id") })
		wantOwn(t, resp, c.status, c.cause)
		if got, want := resp.Header.Get("Retry-After") != "", c.status == 503; got != want {
			t.Errorf("%v: Retry-After present = %v, want %v", c.err, got, want)
		}
		body := text(t, resp)
		if strings.Contains(body, "secret-id") || c.status == 400 && !strings.Contains(body, "header K-Session") {
			t.Errorf("%v: body = %q, want the source's name and never the id", c.err, body)
		}
	}
}

func TestAnUnknownTagInAHeaderFallsBackButATagHostDoesNot(t *testing.T) {
	address := upstreamServer(t, func(http.ResponseWriter, *http.Request) {})
	p := &fakePicker{places: []place{at(address)}, ask: func(_ context.Context, r *router.Request) error {
		if r.Tag != "" {
			return affinity.ErrUnknownTag
		}
		return nil
	}}
	s := serve(t, p, withConfig(func(c *Config) {
		c.Routes[0].TagHeader = "Knative-Serving-Tag"
		c.Routes = append(c.Routes, Route{Hosts: []string{"gone-demo.example.com"}, Service: demo, Tag: "gone"})
	}))
	header := s.get(t, "/", func(r *http.Request) { r.Header.Set("Knative-Serving-Tag", "gone") })
	if header.StatusCode != http.StatusOK {
		t.Errorf("unknown tag in the header: status = %d, want 200", header.StatusCode)
	}
	wantOwn(t, s.get(t, "/", func(r *http.Request) { r.Host = "gone-demo.example.com" }), 404, "unknown-tag")
}

func TestAnUnknownHostIsAnswered404(t *testing.T) {
	s := serve(t, &fakePicker{}, withRoute(func(r *Route) { r.Hosts = []string{"shop.example.com"} }))
	wantOwn(t, s.get(t, "/"), 404, "no-route")
}

func TestEveryRequestIsObservedOnceWithoutWhatIdentifiesAClient(t *testing.T) { // defect 49
	address := upstreamServer(t, func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "four") })
	s := serve(t, &fakePicker{places: []place{at(address)}}, withRoute(func(r *Route) { r.Path = "/users" }))
	req, _ := http.NewRequest(http.MethodPost, "http://"+s.address+"/users/user-42/cart?sid=user-42", strings.NewReader("abc"))
	req.Header.Set("K-Session", "user-42")
	req.AddCookie(&http.Cookie{Name: "sid", Value: "user-42"})
	s.do(t, req)
	o := s.ledger.next(t)
	if o.Service != demo || o.Route != "/users" || o.Status != 200 || o.BytesIn != 3 || o.BytesOut != 4 || o.Reason != affinity.ReasonBound ||
		o.Target.Endpoint != "demo-00001-pod-1" || o.Address != address || o.Method != "POST" || o.Protocol != "HTTP/1.1" ||
		o.Key != [8]byte{0xde, 0xad, 1, 2, 3, 4, 5, 6} || o.Duration < o.Upstream || o.Upstream <= 0 || o.Attempts != 1 || o.Cause != "" {
		t.Errorf("Observed = %+v, want the facts of the request", o)
	}
	if all := fmt.Sprintf("%+v", o); strings.Contains(all, "user-42") {
		t.Errorf("Observed = %s, want no id in it", all)
	}
	if n := len(s.ledger.ended); n != 0 {
		t.Errorf("%d more requests observed, want none", n)
	}
}

func TestTrailersGoBothWays(t *testing.T) {
	address := upstreamServer(t, func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		w.Header().Set("Trailer", "X-Announced")
		fmt.Fprintf(w, "%s %s", body, r.Trailer.Get("X-Checksum"))
		w.Header().Set("X-Announced", "1")
		w.Header().Set(http.TrailerPrefix+"X-Late", "2")
	})
	for _, protocol := range []Protocol{ProtocolHTTP1, ProtocolH2C} {
		s := serve(t, &fakePicker{places: []place{at(address)}}, withRoute(func(r *Route) { r.Upstream.Protocol = protocol }))
		req, _ := http.NewRequest(http.MethodPost, "http://"+s.address+"/", io.MultiReader(strings.NewReader("body")))
		req.Trailer = http.Header{"X-Checksum": {"c0ffee"}}
		resp := s.do(t, req)
		if got, want := text(t, resp), "body c0ffee"; got != want {
			t.Errorf("%s: endpoint saw %q, want %q", protocol, got, want)
		}
		if resp.Trailer.Get("X-Announced") != "1" || resp.Trailer.Get("X-Late") != "2" {
			t.Errorf("%s: client got trailers %v, want both", protocol, resp.Trailer)
		}
	}
}

func TestEarlyHintsAreForwarded(t *testing.T) {
	address := upstreamServer(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Link", "</style.css>; rel=preload")
		w.WriteHeader(http.StatusEarlyHints)
		w.Header().Del("Link")
		io.WriteString(w, "page")
	})
	for _, protocol := range []Protocol{ProtocolHTTP1, ProtocolH2C} {
		s := serve(t, &fakePicker{places: []place{at(address)}}, withRoute(func(r *Route) { r.Upstream.Protocol = protocol }))
		var hints []string
		trace := &httptrace.ClientTrace{Got1xxResponse: func(code int, h textproto.MIMEHeader) error {
			hints = append(hints, fmt.Sprint(code, " ", h.Get("Link")))
			return nil
		}}
		resp := s.get(t, "/", func(r *http.Request) { *r = *r.WithContext(httptrace.WithClientTrace(r.Context(), trace)) })
		if diff := cmp.Diff([]string{"103 </style.css>; rel=preload"}, hints); diff != "" {
			t.Errorf("%s: hints differ (-want +got):\n%s", protocol, diff)
		}
		if resp.StatusCode != 200 || resp.Header.Get("Link") != "" || text(t, resp) != "page" {
			t.Errorf("%s: answer = %d %v, want the page without the hint's header", protocol, resp.StatusCode, resp.Header)
		}
	}
}

func TestContinueComesFromTheEndpoint(t *testing.T) {
	asked := make(chan struct{})
	address := upstreamServer(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/refuse" {
			w.Header().Set("Connection", "close")
			w.WriteHeader(http.StatusForbidden)
			return
		}
		<-asked
		body, _ := io.ReadAll(r.Body) // sends 100
		w.Write(body)
	})
	s := serve(t, &fakePicker{places: []place{at(address)}})
	c, err := net.Dial("tcp", s.address)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	io.WriteString(c, "POST /take HTTP/1.1\r\nHost: demo.example.com\r\nContent-Length: 4\r\nExpect: 100-continue\r\n\r\n")
	close(asked)
	r := bufio.NewReader(c)
	if line, _ := r.ReadString('\n'); !strings.HasPrefix(line, "HTTP/1.1 100 ") {
		t.Fatalf("first line = %q, want 100", line)
	}
	if line, _ := r.ReadString('\n'); line != "\r\n" {
		t.Fatalf("after 100 = %q, want the end of the head", line)
	}
	io.WriteString(c, "body")
	resp, err := http.ReadResponse(r, nil)
	if err != nil {
		t.Fatal(err)
	}
	if got := text(t, resp); got != "body" {
		t.Errorf("answer = %q, want body", got)
	}
	status, _ := exchangeRaw(t, s.address, "POST /refuse HTTP/1.1\r\nHost: demo.example.com\r\nContent-Length: 4\r\nExpect: 100-continue\r\n\r\n")
	if status != http.StatusForbidden {
		t.Errorf("refused: status = %d, want 403 without 100 before it", status)
	}
}

func TestTheEndOfAClientEndsTheRequestAtTheEndpoint(t *testing.T) {
	for _, protocol := range []Protocol{ProtocolHTTP1, ProtocolH2C} {
		reached, gone := make(chan struct{}), make(chan struct{})
		address := upstreamServer(t, func(_ http.ResponseWriter, r *http.Request) {
			close(reached)
			<-r.Context().Done()
			close(gone)
		})
		s := serve(t, &fakePicker{places: []place{at(address)}}, withRoute(func(r *Route) { r.Upstream.Protocol = protocol }))
		ctx, cancel := context.WithCancel(context.Background())
		req, _ := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+s.address+"/", nil)
		go func() { <-reached; cancel() }()
		if _, err := s.client.Do(req); !errors.Is(err, context.Canceled) {
			t.Errorf("%s: Do() = %v, want canceled", protocol, err)
		}
		<-gone
		if o := s.ledger.next(t); o.Status != StatusClientGone || o.Cause != "client-gone" {
			t.Errorf("%s: observed %d %s, want 499 client-gone", protocol, o.Status, o.Cause)
		}
		if got := s.picker.outcomes(); !slices.Equal(got, []endpoint.Outcome{endpoint.OutcomeUnknown}) {
			t.Errorf("%s: outcomes = %v, want [Unknown]", protocol, got)
		}
	}
}

func TestLargeBodiesAreStreamedBothWaysInBoundedMemory(t *testing.T) {
	const size = 64 << 20
	address := upstreamServer(t, func(w http.ResponseWriter, r *http.Request) {
		http.NewResponseController(w).EnableFullDuplex()
		io.Copy(w, r.Body)
	})
	for _, protocol := range []Protocol{ProtocolHTTP1, ProtocolH2C} {
		s := serve(t, &fakePicker{places: []place{at(address)}}, withRoute(func(r *Route) { r.Upstream.Protocol = protocol }))
		sent, received := crc32.NewIEEE(), crc32.NewIEEE()
		var memory runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&memory)
		before, peak := memory.HeapAlloc, uint64(0)
		body := io.TeeReader(io.LimitReader(rand.NewChaCha8([32]byte{1}), size), sent)
		req, _ := http.NewRequest(http.MethodPost, "http://"+s.address+"/", body)
		req.ContentLength = size
		resp, err := s.client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		var n int64
		for err == nil {
			var part int64
			part, err = io.CopyN(received, resp.Body, 4<<20)
			n += part
			runtime.ReadMemStats(&memory)
			peak = max(peak, memory.HeapAlloc)
		}
		resp.Body.Close()
		if n != size || err != io.EOF || sent.Sum32() != received.Sum32() {
			t.Errorf("%s: got %d bytes (%v), want the %d that were sent", protocol, n, err, size)
		}
		// Client, gateway and endpoint share this process. Together they stay far below one copy of the body.
		if peak > before+size/4 {
			t.Errorf("%s: the heap grew by %d bytes, want far fewer than the body's %d", protocol, peak-before, size)
		}
	}
}

func TestOversizedBodiesAreRefused(t *testing.T) {
	address := upstreamServer(t, func(w http.ResponseWriter, r *http.Request) { io.Copy(io.Discard, r.Body) })
	s := serve(t, &fakePicker{places: []place{at(address)}}, withRoute(func(r *Route) { r.MaxBodyBytes = 1000 }))
	for _, c := range []struct {
		name, head string
		size       int
		status     int
	}{
		{"length known", "Content-Length: 1001\r\n\r\n", 1001, 413},
		{"length unknown", "Transfer-Encoding: chunked\r\n\r\n3e9\r\n", 1001, 413},
		{"just allowed", "Content-Length: 1000\r\n\r\n", 1000, 200},
	} {
		client, err := net.Dial("tcp", s.address)
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(client, "POST / HTTP/1.1\r\nHost: demo.example.com\r\n%s%s", c.head, strings.Repeat("x", c.size))
		resp, err := http.ReadResponse(bufio.NewReader(client), nil)
		if err != nil || resp.StatusCode != c.status {
			t.Errorf("%s: response = %v, %v, want status %d", c.name, resp, err, c.status)
		}
		client.Close()
	}
}

func TestAnEndpointCannotSpeakForTheGateway(t *testing.T) {
	address := upstreamServer(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Limpet-Reason", "forged")
		w.Header().Set("Limpet-Decision", "reason=bound; endpoint=forged")
	})
	s := serve(t, &fakePicker{places: []place{at(address)}})
	req, _ := http.NewRequest(http.MethodGet, "http://"+s.address+"/", nil)
	resp := s.do(t, req)
	if resp.Header.Get("Limpet-Reason") != "" || resp.Header.Get("Limpet-Decision") != "" {
		t.Errorf("response header = %v, want none of the endpoint's Limpet-*", resp.Header)
	}
}

func TestARequestTriesThreeEndpointsAtMost(t *testing.T) {
	var places []place
	for range 10 {
		places = append(places, at(closedPort(t)))
	}
	picker := &fakePicker{places: places}
	s := serve(t, picker)
	req, _ := http.NewRequest(http.MethodGet, "http://"+s.address+"/", nil)
	if resp := s.do(t, req); resp.StatusCode != http.StatusServiceUnavailable {
		t.Errorf("status = %d, want 503", resp.StatusCode)
	}
	if picker.moved != maxEndpoints-1 {
		t.Errorf("another endpoint was asked for %d times, want %d", picker.moved, maxEndpoints-1)
	}
}
