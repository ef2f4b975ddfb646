package proxy

import (
	"context"
	"encoding/pem"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"golang.org/x/net/http2"
)

// An ear lets its connection's reader hear nothing while it is shut, as if the reader had no processor time.
type ear struct {
	shut atomic.Bool
	open func()        // for good
	done chan struct{} // closed by open
}

func newEar(t *testing.T) *ear {
	e := &ear{done: make(chan struct{})}
	e.open = sync.OnceFunc(func() { close(e.done) })
	t.Cleanup(e.open)
	return e
}

// listen makes the first connection of g hear by e.
func (e *ear) listen(g *Gateway) {
	var later atomic.Bool
	dial := g.engine.dial
	g.engine.dial = func(ctx context.Context, network, address string) (net.Conn, error) {
		c, err := dial(ctx, network, address)
		if err != nil || later.Swap(true) {
			return c, err
		}
		return &heardConn{c.(*net.TCPConn), e}, nil
	}
}

type heardConn struct {
	*net.TCPConn
	ear *ear
}

func (c *heardConn) Read(b []byte) (int, error) {
	n, err := c.TCPConn.Read(b)
	if c.ear.shut.Load() {
		<-c.ear.done
	}
	return n, err
}

// kept returns the connections to address that requests may come to use.
func kept(g *Gateway, address string) []*conn {
	var all []*conn
	for _, up := range g.config.Load().upstreams {
		p := up.pool(address, address)
		p.mu.Lock()
		all = append(append(all, p.idle...), p.shared...)
		p.mu.Unlock()
	}
	return all
}

// A request on a connection whose end has arrived is lost: whoever sent it cannot know whether it was processed, so that it could not
// be repeated either.
func TestNoRequestIsWrittenToAConnectionWhoseEndHasArrived(t *testing.T) {
	for name, c := range map[string]struct {
		protocol Protocol
		h2       bool
	}{
		"HTTP/1.1":          {ProtocolHTTP1, false},
		"h2c":               {ProtocolH2C, true},
		"HTTP/1.1 over TLS": {ProtocolTLS, false},
		"HTTP/2 over TLS":   {ProtocolTLS, true},
	} {
		t.Run(name, func(t *testing.T) {
			server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { io.Copy(w, r.Body) }))
			server.EnableHTTP2 = c.h2
			up := Upstream{Protocol: c.protocol, ResponseTimeout: patience}
			if c.protocol == ProtocolTLS {
				server.StartTLS()
				up.ServerName = "example.com"
				up.RootCAs = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw})
			} else {
				server.Config.Protocols = new(http.Protocols)
				server.Config.Protocols.SetHTTP1(!c.h2)
				server.Config.Protocols.SetUnencryptedHTTP2(c.h2)
				server.Start()
			}
			t.Cleanup(server.Close)
			address := server.Listener.Addr().String()
			s := serve(t, &fakePicker{places: []place{at(address)}}, withRoute(func(r *Route) { r.Upstream = up }))
			ear := newEar(t)
			ear.listen(s.gateway)
			post := func() string {
				req, _ := http.NewRequest(http.MethodPost, "http://"+s.address+"/", strings.NewReader("body"))
				resp := s.do(t, req)
				return resp.Status + " " + text(t, resp)
			}
			if got := post(); got != "200 OK body" {
				t.Fatalf("the first request: %s", got)
			}
			eventually(t, "the connection is kept", func() bool { return len(kept(s.gateway, address)) == 1 })
			old := kept(s.gateway, address)[0]
			ear.shut.Store(true)
			server.CloseClientConnections()
			eventually(t, "the end of the connection arrives", old.hungUp)
			if !old.alive() {
				t.Fatal("the gateway has read the end: the test shows nothing")
			}
			if got := post(); got != "200 OK body" {
				t.Errorf("the request after the end: %s, want 200 over another connection", got)
			}
		})
	}
}

func TestADiscardedHTTP2ConnectionStillBringsWhatItsRequestsAreOwed(t *testing.T) {
	var once sync.Once
	begun := make(chan struct{})
	address := h2Endpoint(t, func(conn int, f *http2.Framer, stream uint32) bool {
		if conn > 1 {
			h2OK(f, stream)
			return true
		}
		once.Do(func() { close(begun) })
		h2OK(f, stream)
		return false // closes: the answer and the end arrive together
	})
	s := serve(t, &fakePicker{places: []place{at(address), at(address)}}, withRoute(func(r *Route) { r.Upstream.Protocol = ProtocolH2C }))
	ear := newEar(t)
	ear.shut.Store(true)
	ear.listen(s.gateway)
	first := make(chan int, 1)
	go func() { first <- s.get(t, "/first").StatusCode }()
	<-begun
	eventually(t, "the connection is shared", func() bool { return len(kept(s.gateway, address)) == 1 })
	eventually(t, "the end of the connection arrives", kept(s.gateway, address)[0].hungUp)
	if got := s.get(t, "/second").StatusCode; got != http.StatusOK {
		t.Errorf("the second request: status = %d, want 200 over another connection", got)
	}
	ear.open()
	if got := <-first; got != http.StatusOK {
		t.Errorf("the first request: status = %d, want the 200 that was waiting to be read", got)
	}
}
