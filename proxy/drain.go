package proxy

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/limpet-project/limpet/socket"
)

const (
	// restTime is what connections that wait in the kernel's backlog have to be accepted, and then what a kept-alive connection has for
	// another request, or for its end, once nothing is accepted any longer.
	restTime = time.Second
	// lastRead is how long a connection that is closed because it rests is listened to before that.
	lastRead = 5 * time.Millisecond
	// settleTick is how often connections are looked at while they are waited for.
	settleTick = 5 * time.Millisecond
)

// Drain asks clients to leave, and goes on accepting and serving: each answer ends its connection, by Connection: close or by GOAWAY.
// A connection of HTTP/1 can be closed without loss only then; hence the longer it is before Shutdown, the fewer are left. It
// returns at once and may be called any number of times, also before Serve.
func (l *Listener) Drain() { l.leaving.Store(true) }

// farewell says in the header of a response that its connection ends with it, if the listener drains. For HTTP/2 net/http makes a
// GOAWAY of it that lets streams under way end.
func farewell(h http.Header, r *http.Request) {
	if c := connOf(r); c != nil && c.listener.leaving.Load() {
		h["Connection"] = closeConnection
	}
}

// closeConnection is shared by all responses: nobody changes it.
var closeConnection = []string{"close"}

// An acceptance is the part of Serve that accepts.
type acceptance struct {
	ln    *limitedListener
	ended chan struct{}
}

// accept accepts until something ends that. It returns nil if Shutdown did, or the end of Serve's context.
func (l *Listener) accept(ln *limitedListener) error {
	a := &acceptance{ln, make(chan struct{})}
	l.mu.Lock()
	l.accepting = a
	closed := l.closed
	l.mu.Unlock()
	defer close(a.ended)
	if closed {
		ln.Close()
	}
	var err error
	if l.Certificates != nil {
		err = l.server.ServeTLS(ln, "", "")
	} else {
		err = l.server.Serve(ln)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed || errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return err
}

// acceptWaiting lets those in whom the kernel has told that they are connected: closing the listener would reset them.
func (l *Listener) acceptWaiting(ctx context.Context) {
	l.mu.Lock()
	a := l.accepting
	l.mu.Unlock()
	if a == nil {
		return
	}
	socket.Of(a.ln.Listener).Accepted(ctx, cmp.Or(l.restFor, restTime))
}

// stopAccepting returns when no connection is added any longer. Those that there are go on: net/http's own Shutdown would drop the
// requests that they are about to bring.
func (l *Listener) stopAccepting() {
	l.mu.Lock()
	l.closed = true
	a := l.accepting
	l.mu.Unlock()
	if a == nil {
		return
	}
	a.ln.Close() // it is closed again where it was accepted from
	<-a.ended
}

// settle waits until each connection of HTTP/1 has ended or has a request that is being handled. Those that rest have restTime, and
// are closed then; those on which a request is arriving have what the limits say.
func (l *Listener) settle(ctx context.Context) {
	tick := time.NewTicker(settleTick)
	defer tick.Stop()
	for end := time.Now().Add(cmp.Or(l.restFor, restTime)); l.unsettled(time.Now().After(end)); {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

// unsettled reports whether a connection may still bring a request. With part, those that rest are being closed.
func (l *Listener) unsettled(part bool) bool {
	some := false
	for _, c := range l.conns.all() {
		if c.apart.Load() || c.busy.Load() || c.spent.Load() {
			continue
		}
		some = true
		if part {
			c.part()
		}
	}
	return some
}

// rest is what a connection of HTTP/1 does between requests.
type rest struct {
	served  atomic.Bool // it had a request
	busy    atomic.Bool // a request is being handled
	quiet   atomic.Bool // there is no request, and nothing of the next one was read
	apart   atomic.Bool // it does not, or no longer, speak HTTP/1 by net/http
	parting atomic.Bool // the read deadline that is set is part's

	reading   sync.Mutex
	readUntil time.Time // the read deadline that the server set; it has to be there again when parting ends
}

// begin notes that a request is being handled.
func (r *rest) begin() {
	r.served.Store(true)
	r.busy.Store(true)
	r.quiet.Store(false)
}

// noteState is told by the server what becomes of a connection.
func noteState(nc net.Conn, state http.ConnState) {
	c := clientOf(nc)
	if c == nil {
		return
	}
	switch state {
	case http.StateNew:
		c.quiet.Store(true)
	case http.StateIdle:
		if c.served.Load() {
			c.quiet.Store(true)
		} else {
			c.apart.Store(true) // HTTP/2 begins with a rest
		}
	case http.StateHijacked:
		c.apart.Store(true)
	}
}

// clientOf returns the connection of a client that a server's is, nil if it is none.
func clientOf(nc net.Conn) *clientConn {
	if tc, ok := nc.(*tls.Conn); ok {
		nc = tc.NetConn()
	}
	c, _ := nc.(*clientConn)
	return c
}

// SetReadDeadline sets the server's own deadline.
func (c *clientConn) SetReadDeadline(t time.Time) error {
	c.reading.Lock()
	defer c.reading.Unlock()
	c.readUntil = t
	c.parting.Store(false)
	return c.Conn.SetReadDeadline(t)
}

// part has the connection closed soon, unless the client sends something. It may be called again, as the server may set a deadline of
// its own in between.
func (c *clientConn) part() {
	c.reading.Lock()
	defer c.reading.Unlock()
	now := time.Now()
	if !c.quiet.Load() || c.parting.Load() || !c.readUntil.IsZero() && c.readUntil.Before(now) {
		return
	}
	c.parting.Store(true)
	_ = c.Conn.SetReadDeadline(now.Add(lastRead)) // fails if it is closed, which is as good
}

// overdue is called when a read timed out while c is parting. It reports whether to read again, or the error to end with, nil for that
// of the timeout. last says that there was such another read.
func (c *clientConn) overdue(last bool) (again bool, err error) {
	c.reading.Lock()
	defer c.reading.Unlock()
	switch now := time.Now(); {
	case !c.readUntil.IsZero() && !now.Before(c.readUntil):
		return false, nil // it is the server's deadline
	case !c.quiet.Load():
		c.parting.Store(false)
		return c.Conn.SetReadDeadline(c.readUntil) == nil, nil
	case last:
		return false, io.EOF
	default: // the deadline may have come before what had arrived was looked at
		return c.Conn.SetReadDeadline(now.Add(lastRead)) == nil, nil
	}
}
