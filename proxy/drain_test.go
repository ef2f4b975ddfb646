package proxy

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/limpet-project/limpet/socket"
)

// A looper is a client that keeps one connection in use: it looks for the end of it before each request, as clients with a pool do.
type looper struct {
	conn net.Conn
	in   *bufio.Reader
	told bool // the last answer ended the connection
}

func newLooper(t testing.TB, address string) *looper {
	t.Helper()
	c, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return &looper{conn: c, in: bufio.NewReader(c)}
}

// post sends a request and reads its answer.
func (l *looper) post() error {
	if _, err := io.WriteString(l.conn, "POST / HTTP/1.1\r\n"+host+"Content-Length: 2\r\n\r\nhi"); err != nil {
		return err
	}
	return l.answer()
}

func (l *looper) answer() error {
	resp, err := http.ReadResponse(l.in, nil)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	l.told = resp.Close
	if _, err := io.Copy(io.Discard, resp.Body); err != nil || resp.StatusCode != http.StatusOK {
		return fmt.Errorf("status %d, body: %w", resp.StatusCode, err)
	}
	return nil
}

// hello is an endpoint that answers at once.
func hello(t testing.TB) string {
	return upstreamServer(t, func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		_, _ = io.WriteString(w, "hello")
	})
}

// loop has n clients send requests until they are told to leave, with pauses of 10 ms and more, and counts what was lost.
func loop(t testing.TB, address string, n int) (clients *sync.WaitGroup, lost *atomic.Int64) {
	clients, lost = new(sync.WaitGroup), new(atomic.Int64)
	for i := range n {
		l := newLooper(t, address)
		clients.Go(func() {
			for sock := socket.Of(l.conn); !sock.HungUp(); {
				if err := l.post(); err != nil {
					lost.Add(1)
					t.Logf("client %d lost a request: %v", i, err)
					return
				}
				if l.told {
					return
				}
				<-time.After(time.Duration(10+i%20) * time.Millisecond)
			}
		})
	}
	return clients, lost
}

func TestNoRequestOnAKeptAliveConnectionIsLostWhenAListenerDrains(t *testing.T) {
	for _, delay := range []time.Duration{0, 300 * time.Millisecond} {
		s := serve(t, &fakePicker{places: []place{at(hello(t))}}, func(l *Listener, _ *Config) { l.restFor = patience })
		clients, lost := loop(t, s.address, 50)
		for range 50 {
			s.ledger.next(t)
		}
		s.listener.Drain()
		<-time.After(delay)
		if err := s.listener.Shutdown(context.Background()); err != nil {
			t.Errorf("delay %s: Shutdown() = %v, want nil", delay, err)
		}
		clients.Wait()
		if n := lost.Load(); n != 0 {
			t.Errorf("delay %s: %d requests were lost, want none", delay, n)
		}
	}
}

func TestADrainingListenerServesAndAsksClientsOfHTTP1ToLeave(t *testing.T) {
	s := serve(t, &fakePicker{places: []place{at(hello(t))}})
	before := newLooper(t, s.address)
	if err := before.post(); err != nil || before.told {
		t.Fatalf("before Drain: post() = %v, Connection: close %v; want nil, false", err, before.told)
	}
	s.listener.Drain()
	for name, l := range map[string]*looper{"kept-alive": before, "new": newLooper(t, s.address)} {
		if err := l.post(); err != nil || !l.told {
			t.Errorf("%s connection: post() = %v, Connection: close %v; want nil, true", name, err, l.told)
		}
		eventually(t, name+" connection ends", socket.Of(l.conn).HungUp)
	}
}

// What the gateway answers by itself, and what was under way when it began, ends connections as well.
func TestEveryAnswerOfADrainingListenerEndsItsConnection(t *testing.T) {
	inside, release := make(chan struct{}), make(chan struct{})
	address := upstreamServer(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Connection", "Connection, X-Internal-Hop")
		if r.URL.Path == "/slow" {
			close(inside)
			<-release
		}
		w.WriteHeader(http.StatusEarlyHints)
	})
	s := serve(t, &fakePicker{places: []place{at(address)}}, withRoute(func(r *Route) { r.Hosts = []string{"demo.example.com"} }))
	asked := func(path, host string) bool {
		return s.get(t, path, func(r *http.Request) { r.Host = host }).Close
	}
	slow := make(chan bool)
	go func() { slow <- asked("/slow", "demo.example.com") }()
	<-inside
	s.listener.Drain()
	close(release)
	if !<-slow || !asked("/", "demo.example.com") || !asked("/", "other.example.com") {
		t.Error("an answer does not end its connection, want all to")
	}
}

func TestADrainingListenerSendsClientsOfHTTP2AwayWithTheirRequestsAnswered(t *testing.T) {
	inside, release := make(chan struct{}), make(chan struct{})
	address := upstreamServer(t, func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(http.StatusEarlyHints)
		if r.URL.Path == "/slow" {
			close(inside)
			<-release
		}
		_, _ = io.WriteString(w, "whole")
	})
	s := serve(t, &fakePicker{places: []place{at(address)}})
	transport := &http.Transport{Protocols: new(http.Protocols)}
	transport.Protocols.SetUnencryptedHTTP2(true)
	cc, err := transport.NewClientConn(context.Background(), "http", s.address)
	if err != nil {
		t.Fatal(err)
	}
	defer cc.Close()
	fetch := func(path string) string {
		req, _ := http.NewRequest(http.MethodGet, "http://"+s.address+path, nil)
		resp, err := cc.RoundTrip(req)
		if err != nil {
			return err.Error()
		}
		defer resp.Body.Close()
		return text(t, resp)
	}
	slow := make(chan string)
	go func() { slow <- fetch("/slow") }()
	<-inside
	if got := fetch("/"); got != "whole" || cc.Available() == 0 {
		t.Errorf("before Drain the answer is %q and %d more may be asked for, want whole and some", got, cc.Available())
	}
	s.listener.Drain()
	if got := fetch("/"); got != "whole" {
		t.Errorf("answer = %q, want whole", got)
	}
	eventually(t, "the connection takes no further request", func() bool { return cc.Available() == 0 })
	close(release)
	if got := <-slow; got != "whole" {
		t.Errorf("answer of the request under way = %q, want whole", got)
	}
	eventually(t, "the connection has ended", func() bool { return cc.Err() != nil })
}

func TestShutdownAnswersARequestThatIsArrivingAndClosesWhatRests(t *testing.T) {
	s := serve(t, &fakePicker{places: []place{at(hello(t))}})
	arriving, resting, unused := newLooper(t, s.address), newLooper(t, s.address), newLooper(t, s.address)
	for _, l := range []*looper{arriving, resting} {
		if err := l.post(); err != nil {
			t.Fatal(err)
		}
	}
	write := func(l *looper, part string) {
		if _, err := io.WriteString(l.conn, part); err != nil {
			t.Error(err)
		}
	}
	write(arriving, "GET / HTT")
	eventually(t, "all are accepted", func() bool { return len(s.listener.conns.all()) == 3 })
	begin := time.Now()
	down := make(chan error, 1)
	go func() { down <- s.listener.Shutdown(context.Background()) }()
	for name, l := range map[string]*looper{"resting": resting, "unused": unused} {
		if _, err := l.in.ReadByte(); err != io.EOF || time.Since(begin) < restTime {
			t.Errorf("the %s connection ends with %v after %s, want EOF after %s", name, err, time.Since(begin), restTime)
		}
	}
	<-time.After(10 * lastRead) // if it were closed with the others, it would be now
	write(arriving, "P/1.1\r\n"+host+"\r\n")
	if err := arriving.answer(); err != nil || !arriving.told {
		t.Errorf("the request that was arriving: %v, Connection: close %v; want nil, true", err, arriving.told)
	}
	if err := <-down; err != nil {
		t.Errorf("Shutdown() = %v, want nil", err)
	}
}

func TestShutdownLeavesConnectionsThatRestTimeForAnotherRequest(t *testing.T) {
	s := serve(t, &fakePicker{places: []place{at(hello(t))}}, func(l *Listener, _ *Config) { l.restFor = time.Hour })
	late := newLooper(t, s.address)
	if err := late.post(); err != nil {
		t.Fatal(err)
	}
	down := make(chan error, 1)
	go func() { down <- s.listener.Shutdown(context.Background()) }()
	eventually(t, "nothing is accepted any longer", func() bool {
		s.listener.mu.Lock()
		defer s.listener.mu.Unlock()
		return s.listener.closed
	})
	if err := late.post(); err != nil || !late.told {
		t.Errorf("a request within the time for it: post() = %v, Connection: close %v; want nil, true", err, late.told)
	}
	if err := <-down; err != nil {
		t.Errorf("Shutdown() = %v, want nil", err)
	}
}

// The kernel has told their clients that they are connected.
func TestShutdownServesConnectionsThatWaitToBeAccepted(t *testing.T) {
	s := serve(t, &fakePicker{places: []place{at(hello(t))}}, func(l *Listener, _ *Config) {
		l.restFor, l.Limits.MaxConnections = time.Hour, 1
	})
	first, waiting := newLooper(t, s.address), newLooper(t, s.address)
	if err := first.post(); err != nil {
		t.Fatal(err)
	}
	down := make(chan error, 1)
	go func() { down <- s.listener.Shutdown(context.Background()) }()
	eventually(t, "the listener leaves", s.listener.leaving.Load)
	if err := first.post(); err != nil || !first.told {
		t.Errorf("the connection that was there: post() = %v, Connection: close %v; want nil, true", err, first.told)
	}
	if err := waiting.post(); err != nil || !waiting.told {
		t.Errorf("the connection that waited: post() = %v, Connection: close %v; want nil, true", err, waiting.told)
	}
	if err := <-down; err != nil {
		t.Errorf("Shutdown() = %v, want nil", err)
	}
}

func TestShutdownDoesNotWaitForConnectionsOfHTTP2ThatRest(t *testing.T) {
	s := serve(t, &fakePicker{places: []place{at(hello(t))}})
	transport := &http.Transport{Protocols: new(http.Protocols)}
	transport.Protocols.SetUnencryptedHTTP2(true)
	cc, err := transport.NewClientConn(context.Background(), "http", s.address)
	if err != nil {
		t.Fatal(err)
	}
	defer cc.Close()
	req, _ := http.NewRequest(http.MethodGet, "http://"+s.address+"/", nil)
	resp, err := cc.RoundTrip(req)
	if err != nil || text(t, resp) != "hello" {
		t.Fatalf("answer = %v, %v, want hello", resp, err)
	}
	resp.Body.Close()
	if s.listener.unsettled(false) {
		t.Error("a connection of HTTP/2 is taken for one of HTTP/1")
	}
	if err := s.listener.Shutdown(context.Background()); err != nil {
		t.Errorf("Shutdown() = %v, want nil", err)
	}
}

func TestAListenerThatWasShutDownBeforeServesNothing(t *testing.T) {
	l := Listener{Handler: http.NotFoundHandler()}
	if err := l.Shutdown(context.Background()); err != nil {
		t.Errorf("Shutdown() = %v, want nil", err)
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	if err := l.Serve(context.Background(), ln, nil); err != nil {
		t.Errorf("Serve() = %v, want nil", err)
	}
	if c, err := net.Dial("tcp", ln.Addr().String()); err == nil || !strings.Contains(err.Error(), "refused") {
		t.Errorf("Dial() = %v, %v, want it refused", c, err)
	}
}
