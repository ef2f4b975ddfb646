package proxy

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"github.com/limpet-project/limpet/endpoint"
)

// readRequest reads one request with its body.
func readRequest(r *bufio.Reader) (*http.Request, string, error) {
	req, err := http.ReadRequest(r)
	if err != nil {
		return nil, "", err
	}
	body, err := io.ReadAll(req.Body)
	return req, string(body), err
}

const okAnswer = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"

// pooled returns the idle HTTP/1.1 connections to address.
func pooled(g *Gateway, address string) []*conn {
	for _, up := range g.config.Load().upstreams {
		p := up.pool(address, "")
		p.mu.Lock()
		defer p.mu.Unlock()
		return slices.Clone(p.idle)
	}
	return nil
}

func TestARequestThatWasSentIsNotRepeatedWhenItsConnectionDies(t *testing.T) {
	var incremented atomic.Int64
	address := rawEndpoint(t, func(_ int, c net.Conn) {
		r := bufio.NewReader(c)
		for {
			req, _, err := readRequest(r)
			if err != nil {
				return
			}
			if req.URL.Path == "/incr" {
				incremented.Add(1)
				return // dies without an answer
			}
			io.WriteString(c, okAnswer)
		}
	})
	s := serve(t, &fakePicker{places: []place{at(address), at(address)}})
	if got := s.get(t, "/warm-up").StatusCode; got != http.StatusOK { // so that the connection is a reused one
		t.Fatalf("warm-up: status = %d, want 200", got)
	}
	wantOwn(t, s.get(t, "/incr"), http.StatusBadGateway, "bad-gateway")
	if n := incremented.Load(); n != 1 {
		t.Errorf("the endpoint counted %d requests, want 1", n)
	}
	if s.picker.moved != 0 {
		t.Error("another endpoint was asked for; want that only when no connection could be established")
	}
	if got, want := s.picker.outcomes(), []endpoint.Outcome{endpoint.OutcomeOK, endpoint.OutcomeFailed}; !slices.Equal(got, want) {
		t.Errorf("outcomes = %v, want %v", got, want)
	}
}

// failingConn fails the next write before a byte of it left.
type failingConn struct {
	net.Conn
	armed atomic.Bool
}

func (c *failingConn) Write(b []byte) (int, error) {
	if c.armed.Load() {
		return 0, net.ErrClosed
	}
	return c.Conn.Write(b)
}

func TestAReusedConnectionThatFailsBeforeAByteWasWrittenIsReplacedOnce(t *testing.T) {
	var connections atomic.Int64
	var bodies sync.Map
	address := rawEndpoint(t, func(n int, c net.Conn) {
		connections.Add(1)
		r := bufio.NewReader(c)
		for {
			_, body, err := readRequest(r)
			if err != nil {
				return
			}
			bodies.Store(fmt.Sprint(n, " ", body), true)
			io.WriteString(c, okAnswer)
		}
	})
	s := serve(t, &fakePicker{places: []place{at(address)}})
	post := func(body string) *http.Response {
		req, _ := http.NewRequest(http.MethodPost, "http://"+s.address+"/", io.MultiReader(strings.NewReader(body)))
		return s.do(t, req)
	}
	var first atomic.Pointer[failingConn]
	dial := s.gateway.engine.dial
	s.gateway.engine.dial = func(ctx context.Context, network, address string) (net.Conn, error) {
		c, err := dial(ctx, network, address)
		if err != nil {
			return nil, err
		}
		failing := &failingConn{Conn: c}
		first.CompareAndSwap(nil, failing)
		return failing, nil
	}
	post("first")
	first.Load().armed.Store(true)
	if got := post("second").StatusCode; got != http.StatusOK {
		t.Errorf("status = %d, want 200 over a new connection", got)
	}
	if _, ok := bodies.Load("2 second"); !ok || connections.Load() != 2 {
		t.Errorf("the endpoint saw %d connections, second with the body: %v; want 2, true", connections.Load(), ok)
	}
}

func TestAConnectionThatTheEndpointClosedWhileIdleIsNotUsed(t *testing.T) {
	closed := make(chan struct{})
	address := rawEndpoint(t, func(n int, c net.Conn) {
		r := bufio.NewReader(c)
		readRequest(r)
		io.WriteString(c, okAnswer)
		if n > 1 {
			readRequest(r)
			return
		}
		<-closed
	})
	s := serve(t, &fakePicker{places: []place{at(address)}})
	s.get(t, "/")
	idle := pooled(s.gateway, address)[0]
	close(closed)
	eventually(t, "the gateway notices", func() bool { return !idle.alive() })
	if got := s.get(t, "/").StatusCode; got != http.StatusOK {
		t.Errorf("status = %d, want 200", got)
	}
}

func TestOnlyAFailureToConnectTriesAnotherEndpoint(t *testing.T) { // defect 50
	good := upstreamServer(t, func(w http.ResponseWriter, r *http.Request) { io.Copy(w, r.Body) })
	dead := func() place { return place{"demo-00001", "demo-00001-pod-dead", closedPort(t)} }
	tlsBroken := place{"demo-00001", "demo-00001-pod-no-tls", good}
	resets := place{"demo-00001", "demo-00001-pod-resets", rawEndpoint(t, func(_ int, c net.Conn) { readRequest(bufio.NewReader(c)) })}
	garbage := place{"demo-00001", "demo-00001-pod-garbage", rawEndpoint(t, func(_ int, c net.Conn) {
		readRequest(bufio.NewReader(c))
		io.WriteString(c, "SMTP ready\r\n")
	})}
	for _, c := range []struct {
		name     string
		protocol Protocol
		places   []place
		status   int
		cause    string
		moved    int
	}{
		{"refused, then good", ProtocolHTTP1, []place{dead(), dead(), at(good)}, 200, "", 2},
		{"refused, then good, h2c", ProtocolH2C, []place{dead(), at(good)}, 200, "", 1},
		{"all refused", ProtocolHTTP1, []place{dead(), dead()}, 503, "no-connection", 1},
		{"no TLS there", ProtocolTLS, []place{tlsBroken, tlsBroken}, 503, "no-connection", 1},
		{"connection reset after the request", ProtocolHTTP1, []place{resets, at(good)}, 502, "bad-gateway", 0},
		{"no HTTP there", ProtocolHTTP1, []place{garbage, at(good)}, 502, "bad-gateway", 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := serve(t, &fakePicker{places: c.places}, withRoute(func(r *Route) { r.Upstream.Protocol = c.protocol }))
			req, _ := http.NewRequest(http.MethodPost, "http://"+s.address+"/", strings.NewReader("body"))
			resp := s.do(t, req)
			if c.cause != "" {
				wantOwn(t, resp, c.status, c.cause)
			} else if got := text(t, resp); resp.StatusCode != c.status || got != "body" {
				t.Errorf("answer = %d %q, want %d body", resp.StatusCode, got, c.status)
			}
			if s.picker.moved != c.moved {
				t.Errorf("Another found %d places, want %d", s.picker.moved, c.moved)
			}
			if o := s.ledger.next(t); o.Address != c.places[c.moved].address {
				t.Errorf("observed address = %s, want that of place %d", o.Address, c.moved)
			}
		})
	}
}

func TestAnIdempotentRequestIsRepeatedOnceWhereItsRouteAllowsIt(t *testing.T) {
	for _, c := range []struct {
		name, method, body string
		allowed            bool
		deaths             int64
		status             int
		seen               int64
	}{
		{"GET", http.MethodGet, "", true, 1, 200, 2},
		{"DELETE", http.MethodDelete, "", true, 1, 200, 2},
		{"GET that dies twice", http.MethodGet, "", true, 2, 502, 2},
		{"GET where it is not allowed", http.MethodGet, "", false, 1, 502, 1},
		{"POST", http.MethodPost, "", true, 1, 502, 1},
		{"PUT whose body was begun", http.MethodPut, "body", true, 1, 502, 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			var seen atomic.Int64
			address := rawEndpoint(t, func(_ int, conn net.Conn) {
				if _, _, err := readRequest(bufio.NewReader(conn)); err == nil && seen.Add(1) > c.deaths {
					io.WriteString(conn, okAnswer)
				}
			})
			s := serve(t, &fakePicker{places: []place{at(address), at(address)}}, withRoute(func(r *Route) { r.RetryIdempotent = c.allowed }))
			req, _ := http.NewRequest(c.method, "http://"+s.address+"/", strings.NewReader(c.body))
			if got := s.do(t, req).StatusCode; got != c.status {
				t.Errorf("status = %d, want %d", got, c.status)
			}
			if n := seen.Load(); n != c.seen {
				t.Errorf("the endpoint saw %d requests, want %d", n, c.seen)
			}
			if s.picker.moved != 0 {
				t.Error("the repetition went to another endpoint, want the same")
			}
		})
	}
}

// h2Endpoint speaks HTTP/2 by frames. serve is called for each complete head of a stream; it returns false to end the connection.
func h2Endpoint(t testing.TB, serve func(conn int, f *http2.Framer, stream uint32) bool) string {
	return rawEndpoint(t, func(n int, c net.Conn) {
		r := bufio.NewReader(c)
		if _, err := io.CopyN(io.Discard, r, int64(len(http2.ClientPreface))); err != nil {
			return
		}
		f := http2.NewFramer(c, r)
		f.WriteSettings()
		for {
			frame, err := f.ReadFrame()
			if err != nil {
				return
			}
			switch frame := frame.(type) {
			case *http2.SettingsFrame:
				if !frame.IsAck() {
					f.WriteSettingsAck()
				}
			case *http2.PingFrame:
				if !frame.IsAck() {
					f.WritePing(true, frame.Data)
				}
			case *http2.HeadersFrame:
				if !serve(n, f, frame.StreamID) {
					return
				}
			}
		}
	})
}

// h2OK answers a stream with 200 and no body.
func h2OK(f *http2.Framer, stream uint32) {
	var block strings.Builder
	hpack.NewEncoder(&block).WriteField(hpack.HeaderField{Name: ":status", Value: "200"})
	f.WriteHeaders(http2.HeadersFrameParam{StreamID: stream, BlockFragment: []byte(block.String()), EndStream: true, EndHeaders: true})
}

func TestHTTP2StreamsThatTheEndpointDidNotProcessAreRepeatedOnceOnANewConnection(t *testing.T) {
	type reaction func(f *http2.Framer, stream uint32) bool
	refuse := func(f *http2.Framer, stream uint32) bool {
		return f.WriteRSTStream(stream, http2.ErrCodeRefusedStream) == nil
	}
	goAwayBelow := func(f *http2.Framer, stream uint32) bool { return f.WriteGoAway(stream-2, http2.ErrCodeNo, nil) == nil }
	reset := func(f *http2.Framer, stream uint32) bool {
		return f.WriteRSTStream(stream, http2.ErrCodeInternal) == nil
	}
	protocol := func(f *http2.Framer, stream uint32) bool {
		return f.WriteRSTStream(stream, http2.ErrCodeProtocol) == nil
	}
	goAwayAbove := func(f *http2.Framer, stream uint32) bool { f.WriteGoAway(stream, http2.ErrCodeNo, nil); return false }
	die := func(*http2.Framer, uint32) bool { return false }
	answer := func(f *http2.Framer, stream uint32) bool { h2OK(f, stream); return true }
	for _, c := range []struct {
		name          string
		first, second reaction // to the second request, and to its repetition
		status, seen  int
	}{
		{"REFUSED_STREAM", refuse, answer, 200, 3},
		{"GOAWAY below the stream", goAwayBelow, answer, 200, 3},
		{"refused twice", refuse, refuse, 502, 3},
		{"INTERNAL_ERROR", reset, answer, 502, 2},
		{"PROTOCOL_ERROR", protocol, answer, 502, 2},
		{"GOAWAY that covers the stream", goAwayAbove, answer, 502, 2},
		{"connection lost", die, answer, 502, 2},
	} {
		for _, body := range []string{"", "a body"} {
			t.Run(c.name+" "+body, func(t *testing.T) {
				var seen, connections atomic.Int64
				address := h2Endpoint(t, func(conn int, f *http2.Framer, stream uint32) bool {
					connections.Store(int64(conn))
					switch seen.Add(1) {
					case 1:
						h2OK(f, stream)
						return true
					case 2:
						return c.first(f, stream)
					}
					return c.second(f, stream)
				})
				s := serve(t, &fakePicker{places: []place{at(address), at(address)}}, withRoute(func(r *Route) { r.Upstream.Protocol = ProtocolH2C }))
				s.get(t, "/warm-up")
				req, _ := http.NewRequest(http.MethodPost, "http://"+s.address+"/incr", io.MultiReader(strings.NewReader(body)))
				if got := s.do(t, req).StatusCode; got != c.status {
					t.Errorf("status = %d, want %d", got, c.status)
				}
				if n := int(seen.Load()); n != c.seen {
					t.Errorf("the endpoint saw %d requests, want %d", n, c.seen)
				}
				if want := int64(c.seen - 1); connections.Load() != want {
					t.Errorf("the last request came on connection %d, want %d", connections.Load(), want)
				}
				if s.picker.moved != 0 {
					t.Error("another endpoint was asked for")
				}
			})
		}
	}
}

func TestAFullHTTP2ConnectionIsJoinedByAnother(t *testing.T) {
	var connections sync.Map
	release := make(chan struct{})
	var inside atomic.Int64
	server := upstreamServer(t, func(_ http.ResponseWriter, r *http.Request) {
		connections.Store(r.RemoteAddr, true)
		inside.Add(1)
		<-release
	})
	s := serve(t, &fakePicker{places: []place{at(server)}}, withRoute(func(r *Route) { r.Upstream.Protocol = ProtocolH2C }))
	const requests = 300 // Go's server allows 250 streams on a connection
	var wg sync.WaitGroup
	for range requests {
		wg.Go(func() {
			resp, err := s.client.Get("http://" + s.address + "/")
			if err != nil {
				t.Error(err)
				return
			}
			resp.Body.Close()
		})
	}
	eventually(t, "all requests are at the endpoint", func() bool { return inside.Load() == requests })
	close(release)
	wg.Wait()
	n := 0
	connections.Range(func(any, any) bool { n++; return true })
	if n < 2 || n > 10 {
		t.Errorf("%d requests took %d connections, want a few and more than one", requests, n)
	}
}
