package transport

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/limpet-project/limpet/endpoint"
	"github.com/limpet-project/limpet/router"
	"github.com/limpet-project/limpet/socket"
)

// Defaults of a TCP listener.
const (
	DefaultConnectTimeout = time.Second
	DefaultMaxConnections = 10000
)

// A TCP forwards the connections of a listener, each to the endpoint that its router picks for the client's address. It serves once.
// Name, Router and Endpoints are needed; a Route is swapped in before it serves.
type TCP struct {
	Name      string // of the listener
	Router    *router.Router
	Endpoints *endpoint.Table
	Observer  Observer // nil is none
	// ConnectTimeout bounds the making of a connection to one endpoint; default 1s.
	ConnectTimeout time.Duration
	// IdleTimeout ends a connection in which no byte went either way for so long; 0 never does. It is at most a second or a quarter
	// late, whichever is less.
	IdleTimeout time.Duration
	// MaxConnections are open at once; more wait in the kernel's backlog. Default 10000.
	MaxConnections int
	// AcceptProxy requires a PROXY header of every connection, and believes those of Trusted alone: others are refused.
	AcceptProxy bool
	Trusted     []netip.Prefix
	// SendProxy tells endpoints whose connection it is.
	SendProxy ProxyProtocol
	// CloseDown closes the connections to an endpoint that is down or gone; otherwise they are left to themselves.
	CloseDown bool

	route      atomic.Pointer[Route]
	pipes      pipes
	headerTime time.Duration // 0 is headerTime; tests do not wait for that
	acceptFor  time.Duration // 0 is acceptTime; a test that is slow has to have longer

	mu        sync.Mutex // nothing is waited for while it is held
	accepting *acceptance
	closed    bool // nothing is accepted any longer
	cutting   bool // nothing goes on any longer
	conns     map[*connection]struct{}
	serving   sync.WaitGroup // connections and what ends with them
}

// An acceptance is the part of Serve that accepts.
type acceptance struct {
	ln    *net.TCPListener
	done  chan struct{} // closed when it has to end
	ended chan struct{}
	stop  context.CancelFunc // of what connections wait for
}

// Swap replaces the route. Connections under way keep the one that they began with.
func (t *TCP) Swap(r Route) { t.route.Store(&r) }

// Open returns the number of connections that are open.
func (t *TCP) Open() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return len(t.conns)
}

// Drain does nothing: TCP has no way to ask clients to leave. Connections are accepted until Shutdown.
func (t *TCP) Drain() {}

// Serve accepts connections on ln, which it closes, until Shutdown is called or ctx ends, and returns nil then. The end of ctx breaks
// off what is under way; Shutdown does not. When Serve returns all its goroutines have ended.
func (t *TCP) Serve(ctx context.Context, ln *net.TCPListener) error {
	ctx, stop := context.WithCancel(ctx)
	a := &acceptance{ln: ln, done: make(chan struct{}), ended: make(chan struct{}), stop: stop}
	var tending sync.WaitGroup
	defer tending.Wait()
	defer stop()
	defer t.pipes.close()
	tending.Go(func() { t.tend(ctx) })
	broken := make(chan struct{})
	release := context.AfterFunc(ctx, func() { defer close(broken); t.breakOff() })
	err := t.accept(ctx, a)
	if err != nil {
		t.breakOff()
	}
	t.serving.Wait()
	if !release() {
		<-broken
	}
	if err != nil {
		return fmt.Errorf("serving %s: %w", ln.Addr(), err)
	}
	return nil
}

// Shutdown lets in what waits in the kernel's backlog, for a second at most, stops accepting, and lets connections go on until they end
// or ctx does. Then what is left is reset. It returns when no connection is open any longer, with ctx's error if something had to be
// broken off.
func (t *TCP) Shutdown(ctx context.Context) error {
	t.acceptWaiting(ctx)
	t.stopAccepting()
	ended := make(chan struct{})
	go func() { // ends with the last connection, which is waited for below
		t.serving.Wait()
		close(ended)
	}()
	select {
	case <-ended:
		return nil
	case <-ctx.Done():
	}
	t.breakOff()
	<-ended
	return fmt.Errorf("draining: %w", ctx.Err())
}

// acceptTime is what connections that wait in the kernel's backlog have to be accepted before nothing is accepted any longer.
const acceptTime = time.Second

// acceptWaiting lets those in whom the kernel has told that they are connected: closing the listener would reset them.
func (t *TCP) acceptWaiting(ctx context.Context) {
	t.mu.Lock()
	a := t.accepting
	t.mu.Unlock()
	if a == nil {
		return
	}
	socket.Of(a.ln).Accepted(ctx, cmp.Or(t.acceptFor, acceptTime))
}

// stopAccepting returns when no connection is added any longer.
func (t *TCP) stopAccepting() {
	t.mu.Lock()
	a, first := t.accepting, !t.closed
	t.closed = true
	t.mu.Unlock()
	if a == nil {
		return
	}
	if first {
		close(a.done)
		a.ln.Close() // it is not used any longer
	}
	<-a.ended
}

// breakOff ends everything.
func (t *TCP) breakOff() {
	t.mu.Lock()
	t.cutting = true
	a, conns := t.accepting, t.open()
	t.mu.Unlock()
	t.stopAccepting()
	if a != nil {
		a.stop()
	}
	for _, c := range conns {
		c.cut(EndShutdown)
	}
}

// open returns the open connections. The caller holds mu.
func (t *TCP) open() []*connection {
	list := make([]*connection, 0, len(t.conns))
	for c := range t.conns {
		list = append(list, c)
	}
	return list
}

// accept accepts until something ends that. It returns nil if Shutdown did, or the end of ctx.
func (t *TCP) accept(ctx context.Context, a *acceptance) error {
	defer close(a.ended)
	defer a.ln.Close()
	t.mu.Lock()
	t.accepting = a
	closed := t.closed
	t.mu.Unlock()
	if closed {
		return nil
	}
	places := make(chan struct{}, cmp.Or(t.MaxConnections, DefaultMaxConnections))
	for pause := time.Duration(0); ; {
		select {
		case places <- struct{}{}:
		case <-a.done:
			return nil
		}
		nc, err := a.ln.AcceptTCP()
		if err == nil {
			pause = 0
			t.begin(ctx, nc, func() { <-places })
			continue
		}
		<-places
		if a.over() {
			return nil
		}
		if pause = nextPause(pause); !passes(err) || !a.wait(pause) {
			return err
		}
	}
}

// over reports whether accepting was ended.
func (a *acceptance) over() bool {
	select {
	case <-a.done:
		return true
	default:
		return false
	}
}

// wait waits, and reports whether to go on after it.
func (a *acceptance) wait(pause time.Duration) bool {
	select {
	case <-time.After(pause):
		return true
	case <-a.done:
		return false
	}
}

// passes reports whether an error of accepting may pass: too many open files, a connection that was gone before it was accepted.
func passes(err error) bool {
	var temporary interface{ Temporary() bool }
	return errors.As(err, &temporary) && temporary.Temporary()
}

// nextPause returns how long to wait after another error in a row.
func nextPause(last time.Duration) time.Duration {
	return min(max(2*last, 5*time.Millisecond), time.Second)
}

// begin serves a connection, and calls leave when it has ended.
func (t *TCP) begin(ctx context.Context, nc *net.TCPConn, leave func()) {
	c := newConnection(t, nc)
	t.mu.Lock()
	if t.conns == nil {
		t.conns = map[*connection]struct{}{}
	}
	t.conns[c] = struct{}{}
	cutting := t.cutting
	t.serving.Add(1)
	t.mu.Unlock()
	if cutting {
		c.cut(EndShutdown)
	}
	go func() { // Serve and Shutdown wait for it
		defer t.serving.Done()
		defer leave()
		c.serve(ctx)
		t.mu.Lock()
		delete(t.conns, c)
		t.mu.Unlock()
	}()
}
