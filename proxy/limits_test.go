package proxy

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

const (
	short = 100 * time.Millisecond
	// enough is a limit that holds for what does come: a machine that stands still for less fails no test.
	enough = 5 * time.Second
)

func TestTimeoutsOfAnUpstream(t *testing.T) {
	address := upstreamServer(t, func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/begins":
			w.WriteHeader(200)
			http.NewResponseController(w).Flush()
		case "/events":
			w.Header().Set("Content-Type", "text/event-stream")
			w.WriteHeader(200)
			http.NewResponseController(w).Flush()
			<-time.After(enough + short)
			io.WriteString(w, "data: late\n\n")
			return
		}
		<-r.Context().Done()
	})
	for _, c := range []struct {
		name, path string
		upstream   Upstream
		status     int
		cause      string
	}{
		{"no header in time", "/silent", Upstream{ResponseTimeout: short}, 504, "timeout"},
		{"no answer in time", "/silent", Upstream{RequestTimeout: short}, 504, "timeout"},
		{"nothing moves", "/silent", Upstream{IdleTimeout: short}, 504, "timeout"},
		{"nothing moves, h2c", "/silent", Upstream{IdleTimeout: short, Protocol: ProtocolH2C}, 504, "timeout"},
		{"begins and stops", "/begins", Upstream{ResponseTimeout: enough, RequestTimeout: enough}, 200, "timeout"},
		{"a stream is not cut", "/events", Upstream{ResponseTimeout: enough, RequestTimeout: enough}, 200, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			s := serve(t, &fakePicker{places: []place{at(address)}}, withRoute(func(r *Route) { r.Upstream = c.upstream }))
			resp, err := s.client.Get("http://" + s.address + c.path)
			if err != nil {
				t.Fatal(err)
			}
			_, err = io.ReadAll(resp.Body)
			resp.Body.Close()
			if resp.StatusCode != c.status || (err != nil) != (c.status == 200 && c.cause != "") {
				t.Errorf("status = %d, body ends with %v; want %d", resp.StatusCode, err, c.status)
			}
			if o := s.ledger.next(t); o.Cause != c.cause {
				t.Errorf("observed cause %q, want %q", o.Cause, c.cause)
			}
		})
	}
}

func TestConnectingIsBounded(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	// The kernel accepts and nobody answers: a TLS handshake is part of connecting.
	s := serve(t, &fakePicker{places: []place{at(ln.Addr().String())}}, withRoute(func(r *Route) {
		r.Upstream = Upstream{Protocol: ProtocolTLS, ConnectTimeout: short}
	}))
	wantOwn(t, s.get(t, "/"), http.StatusServiceUnavailable, "no-connection")
}

func TestASlowHeadIsCutOff(t *testing.T) {
	s := serve(t, &fakePicker{}, withLimits(Limits{ReadHeaderTimeout: short}))
	for _, begin := range []string{"", "GET / HT", "GET / HTTP/1.1\r\nHost: demo.example.com\r\nX-Slow: "} {
		c, err := net.Dial("tcp", s.address)
		if err != nil {
			t.Fatal(err)
		}
		io.WriteString(c, begin)
		c.SetReadDeadline(time.Now().Add(patience))
		// What comes when the time is over, on a machine that stands still, makes the end of the connection a reset.
		if _, err := io.ReadAll(c); err != nil && !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("after %q: ReadAll() = %v, want the connection closed", begin, err)
		}
		c.Close()
	}
}

func TestAClientThatStopsSendingItsBodyIsCutOff(t *testing.T) {
	address := upstreamServer(t, func(_ http.ResponseWriter, r *http.Request) { io.Copy(io.Discard, r.Body) })
	s := serve(t, &fakePicker{places: []place{at(address)}}, withLimits(Limits{ReadStall: short}))
	c, err := net.Dial("tcp", s.address)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	io.WriteString(c, "POST / HTTP/1.1\r\n"+host+"Content-Length: 10\r\n\r\nabc")
	c.SetReadDeadline(time.Now().Add(patience))
	resp, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		t.Fatal(err)
	}
	wantOwn(t, resp, http.StatusRequestTimeout, "client-stalled")
}

func TestAClientThatSendsSlowlyButSteadilyIsServed(t *testing.T) {
	t.Parallel()
	address := upstreamServer(t, func(w http.ResponseWriter, r *http.Request) { io.Copy(w, r.Body) })
	s := serve(t, &fakePicker{places: []place{at(address)}}, withLimits(Limits{ReadStall: enough}), withRoute(func(r *Route) {
		r.Upstream.ResponseTimeout = enough // runs from the last byte that was sent
	}))
	c, err := net.Dial("tcp", s.address)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	io.WriteString(c, "POST / HTTP/1.1\r\n"+host+"Content-Length: 10\r\n\r\n")
	for range 10 {
		<-time.After(enough/10 + short) // all together take longer than any of the limits
		io.WriteString(c, "x")
	}
	resp, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		t.Fatal(err)
	}
	if got := text(t, resp); got != "xxxxxxxxxx" {
		t.Errorf("answer = %d %q, want all that was sent", resp.StatusCode, got)
	}
}

func TestAClientThatTakesNothingIsCutOff(t *testing.T) {
	address := upstreamServer(t, func(w http.ResponseWriter, r *http.Request) {
		for r.Context().Err() == nil {
			if _, err := w.Write(make([]byte, 1<<20)); err != nil {
				return
			}
		}
	})
	s := serve(t, &fakePicker{places: []place{at(address)}}, withLimits(Limits{WriteStall: short}))
	c, err := net.Dial("tcp", s.address)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	io.WriteString(c, "GET / HTTP/1.1\r\n"+host+"\r\n") // and reads nothing
	if o := s.ledger.next(t); o.Cause != "client-gone" {
		t.Errorf("observed %s (%v), want client-gone", o.Cause, o.Err)
	}
}

func TestAnHTTP2ClientThatOpensNoWindowIsCutOff(t *testing.T) {
	address := upstreamServer(t, func(w http.ResponseWriter, r *http.Request) {
		for r.Context().Err() == nil {
			if _, err := w.Write(make([]byte, 1<<20)); err != nil {
				return
			}
		}
	})
	s := serve(t, &fakePicker{places: []place{at(address)}}, withLimits(Limits{WriteStall: short}))
	transport := &http.Transport{Protocols: new(http.Protocols)}
	transport.Protocols.SetUnencryptedHTTP2(true)
	defer transport.CloseIdleConnections()
	resp, err := (&http.Client{Transport: transport}).Get("http://" + s.address + "/") // its body is not read
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if o := s.ledger.next(t); o.Cause != "client-gone" {
		t.Errorf("observed %s (%v), want client-gone", o.Cause, o.Err)
	}
}

func TestLargeHeadsAreRefused(t *testing.T) {
	address := upstreamServer(t, func(http.ResponseWriter, *http.Request) {})
	s := serve(t, &fakePicker{places: []place{at(address)}}, withLimits(Limits{MaxHeaderBytes: 8 << 10}))
	pad := func(n int) func(*http.Request) {
		return func(r *http.Request) { r.Header.Set("X-Pad", strings.Repeat("x", n)) }
	}
	if got := s.get(t, "/", pad(4<<10)).StatusCode; got != 200 {
		t.Errorf("small head: status = %d, want 200", got)
	}
	wantOwn(t, s.get(t, "/", pad(9<<10)), http.StatusRequestHeaderFieldsTooLarge, "header-too-large")
	if got := s.get(t, "/", pad(64<<10)).StatusCode; got != http.StatusRequestHeaderFieldsTooLarge {
		t.Errorf("huge head: status = %d, want 431", got)
	}
}

func TestConnectionsAreLimitedAndTheirPlacesComeBack(t *testing.T) {
	var inside atomic.Int64
	release := make(chan struct{})
	address := upstreamServer(t, func(http.ResponseWriter, *http.Request) { inside.Add(1); <-release })
	s := serve(t, &fakePicker{places: []place{at(address)}}, withLimits(Limits{MaxConnections: 2}))
	var wg sync.WaitGroup
	for range 3 {
		wg.Go(func() {
			if status, _ := exchangeRaw(t, s.address, "GET / HTTP/1.1\r\n"+host+"Connection: close\r\n\r\n"); status != 200 {
				t.Errorf("status = %d, want 200", status)
			}
		})
	}
	eventually(t, "two requests are inside", func() bool { return inside.Load() == 2 })
	s.listener.conns.mu.Lock()
	open := len(s.listener.conns.conns)
	s.listener.conns.mu.Unlock()
	if open != 2 {
		t.Errorf("%d connections are accepted, want 2", open)
	}
	close(release)
	wg.Wait()
}

func TestStreamsOfAConnectionAreLimited(t *testing.T) {
	s := serve(t, &fakePicker{}, withLimits(Limits{MaxStreams: 7}))
	transport := &http.Transport{Protocols: new(http.Protocols)}
	transport.Protocols.SetUnencryptedHTTP2(true)
	cc, err := transport.NewClientConn(context.Background(), "http", s.address)
	if err != nil {
		t.Fatal(err)
	}
	defer cc.Close()
	eventually(t, "the limit is known", func() bool { return cc.Available() == 7 })
}

func TestConfigurationsAreSwappedUnderLoadWithoutAFailure(t *testing.T) {
	first := upstreamServer(t, func(w http.ResponseWriter, r *http.Request) { io.Copy(w, r.Body) })
	s := serve(t, &fakePicker{places: []place{at(first)}})
	base := Config{Routes: []Route{{Hosts: []string{"*"}, Service: demo}}}
	var stop atomic.Bool
	var served atomic.Int64
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for !stop.Load() {
				req, _ := http.NewRequest(http.MethodPost, "http://"+s.address+"/", strings.NewReader("body"))
				resp, err := s.client.Do(req)
				if err != nil {
					t.Error(err)
					return
				}
				body, _ := io.ReadAll(resp.Body)
				resp.Body.Close()
				if resp.StatusCode != 200 || string(body) != "body" {
					t.Errorf("answer = %d %q, want 200 body", resp.StatusCode, body)
				}
				served.Add(1)
			}
		})
	}
	protocols := []Protocol{ProtocolHTTP1, ProtocolH2C}
	for i := range 100 {
		next := base
		next.Routes = []Route{base.Routes[0]}
		next.Routes[0].Upstream = Upstream{Protocol: protocols[i%2], ConnectTimeout: patience, MaxIdleConns: 1 + i%3}
		if err := s.gateway.Swap(next); err != nil {
			t.Fatal(err)
		}
		before := served.Load()
		eventually(t, "requests are served", func() bool { return served.Load() > before+3 || t.Failed() })
	}
	stop.Store(true)
	wg.Wait()
}

func TestConnectionsOfUnchangedUpstreamsSurviveASwap(t *testing.T) {
	var connections sync.Map
	address := upstreamServer(t, func(_ http.ResponseWriter, r *http.Request) { connections.Store(r.RemoteAddr, true) })
	s := serve(t, &fakePicker{places: []place{at(address)}})
	for i := range 3 {
		s.get(t, "/")
		config := Config{Routes: []Route{{Hosts: []string{"*"}, Service: demo, MaxBodyBytes: int64(i), Upstream: Upstream{ConnectTimeout: patience}}}}
		if err := s.gateway.Swap(config); err != nil {
			t.Fatal(err)
		}
	}
	n := 0
	connections.Range(func(any, any) bool { n++; return true })
	if n != 1 {
		t.Errorf("three requests took %d connections, want 1", n)
	}
	idle := pooled(s.gateway, address)
	s.gateway.Swap(Config{})
	if len(idle) != 1 || idle[0].alive() {
		t.Errorf("%d connections were idle, the first alive %v after its upstream went; want 1, false", len(idle), len(idle) == 1 && idle[0].alive())
	}
}
