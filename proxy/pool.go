package proxy

import (
	"context"
	"slices"
	"sync"
	"time"
)

// A pool holds the connections to one endpoint. Those of HTTP/1.1 are kept while idle, the last used on top; those of HTTP/2 are
// shared while they have streams to give. Its lock is never held over I/O.
type pool struct {
	upstream *upstream
	key      poolKey

	mu      sync.Mutex
	idle    []*conn // HTTP/1.1, sorted by the time since which they are idle
	shared  []*conn // HTTP/2
	making  *making // the shared connection that is being made, nil for none
	single  bool    // the endpoint was seen to speak HTTP/1.1
	reached bool    // there was a connection once
	sweeper *time.Timer
	closed  bool // connections that come back are closed
}

// making is a connection that several requests wait for.
type making struct {
	done chan struct{}
	err  error // set before done is closed
}

// acquire returns a connection with a place for one request, and whether it had been in use before. The caller sends one request
// over it and releases it. fresh asks for a new one.
func (p *pool) acquire(ctx context.Context, fresh bool) (c *conn, reused bool, err error) {
	if fresh || p.exclusive() {
		if !fresh {
			if c := p.take(); c != nil {
				return c, true, nil
			}
		}
		c, err := p.dialOwn(ctx, false)
		return c, false, err
	}
	for waited := false; ; waited = true {
		if c := p.take(); c != nil {
			return c, !waited, nil
		}
		if p.exclusive() {
			c, err := p.dialOwn(ctx, false)
			return c, false, err
		}
		if err := p.join(ctx); err != nil {
			return nil, false, err
		}
	}
}

// exclusive reports whether a connection carries one request at a time, or p keeps none.
func (p *pool) exclusive() bool {
	if p.upstream.protocol == ProtocolHTTP1 {
		return true
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.single || p.closed
}

// take returns a connection that is there, with a place reserved, or nil. It takes none whose endpoint has hung up: a request that is
// written to such a one is lost, and nobody could say whether it was processed.
func (p *pool) take() *conn {
	for {
		c := p.reserve()
		if c == nil || !c.hungUp() {
			return c
		}
		p.discard(c)
	}
}

// discard gives up a reserved connection that gets no more requests. What the others on a shared one are still to read stays readable.
func (p *pool) discard(c *conn) {
	if !c.h2 {
		c.http.Close()
		return
	}
	p.mu.Lock()
	p.forget(c)
	p.mu.Unlock()
	c.http.Release()
	c.closeWhenUnused()
}

// forget takes a shared connection out of p; p.mu is held.
func (p *pool) forget(c *conn) {
	p.shared = slices.DeleteFunc(p.shared, func(s *conn) bool { return s == c })
}

// reserve is take for connections of which it is not known whether they were hung up.
func (p *pool) reserve() *conn {
	p.mu.Lock()
	defer p.mu.Unlock()
	for len(p.idle) > 0 {
		last := len(p.idle) - 1
		c := p.idle[last]
		p.idle[last] = nil
		p.idle = p.idle[:last]
		if c.alive() && c.http.Reserve() == nil {
			return c
		}
	}
	for _, c := range p.shared {
		if c.http.Reserve() == nil {
			return c
		}
	}
	return nil
}

// dialOwn makes a connection for one request. If it can be shared, others may use it too.
func (p *pool) dialOwn(ctx context.Context, http1Only bool) (*conn, error) {
	c, err := p.dial(ctx, http1Only)
	if err != nil {
		return nil, err
	}
	if err := c.http.Reserve(); err != nil {
		c.http.Close()
		return nil, &connectError{err}
	}
	if c.h2 {
		p.share(c)
	}
	return c, nil
}

// dial makes a connection that comes back to p.
func (p *pool) dial(ctx context.Context, http1Only bool) (*conn, error) {
	c, err := p.upstream.dial(ctx, p.key, http1Only)
	if err != nil {
		p.unreached()
		return nil, err
	}
	c.pool = p
	p.mu.Lock()
	p.reached = true
	p.mu.Unlock()
	return c, nil
}

// unreached forgets p if there never was a connection: with TLS its name may be the Host of any client.
func (p *pool) unreached() {
	p.mu.Lock()
	never := !p.reached
	p.mu.Unlock()
	if never {
		p.upstream.drop(p)
	}
}

// join waits until the connection that is being made is there; it has one made if there is none. The connection is not bound
// to the request that asked first: that one may go away while others wait.
func (p *pool) join(ctx context.Context) error {
	p.mu.Lock()
	m := p.making
	if m == nil && !p.closed {
		m = &making{done: make(chan struct{})}
		p.making = m
		p.upstream.engine.dials.Go(func() { p.make(m) })
	}
	p.mu.Unlock()
	if m == nil {
		return nil
	}
	select {
	case <-m.done:
		return m.err
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// make is bounded by the connect timeout.
func (p *pool) make(m *making) {
	c, err := p.dial(context.Background(), false)
	m.err = err
	if err == nil && c.h2 {
		p.share(c)
	}
	p.mu.Lock()
	p.making = nil
	if err == nil && !c.h2 {
		p.single = true
	}
	p.mu.Unlock()
	switch {
	case err != nil:
		p.unreached()
	case !c.h2:
		p.release(c)
	}
	close(m.done)
}

// share adds an HTTP/2 connection for all. A closed pool does not keep it: it ends with the request that made it.
func (p *pool) share(c *conn) {
	p.mu.Lock()
	c.idle = time.Now()
	closed := p.closed
	if !closed {
		p.shared = append(p.shared, c)
		p.sweepLater(idleConnLife)
	}
	p.mu.Unlock()
	if closed {
		c.closeWhenUnused()
	}
}

// release takes back a connection whose request has ended.
func (p *pool) release(c *conn) {
	var out *conn
	p.mu.Lock()
	c.idle = time.Now()
	switch {
	case c.h2:
		out = p.releaseShared(c)
	case p.closed || c.http.Available() != 1, p.upstream.protocol == ProtocolH2C: // it was made to be switched, and was not
		out = c
	default:
		if len(p.idle) >= p.upstream.maxIdle {
			out = p.idle[0]
			p.idle = slices.Delete(p.idle, 0, 1)
		}
		p.idle = append(p.idle, c)
		p.sweepLater(idleConnLife)
	}
	p.mu.Unlock()
	if out != nil {
		out.http.Close()
	}
}

// releaseShared returns c if it has to be closed: it is dead, or it takes no requests any longer. A closed pool has seen to it.
func (p *pool) releaseShared(c *conn) *conn {
	if p.closed || c.alive() && (c.http.InFlight() > 0 || c.http.Available() > 0) {
		return nil
	}
	p.forget(c)
	return c
}

// sweepLater arranges for sweep; p.mu is held.
func (p *pool) sweepLater(d time.Duration) {
	if p.sweeper == nil {
		p.sweeper = time.AfterFunc(d, p.sweep)
	}
}

// sweep closes connections that were idle for too long and forgets dead ones. An empty pool leaves its upstream.
func (p *pool) sweep() {
	var out []*conn
	p.mu.Lock()
	p.sweeper = nil
	now := time.Now()
	old := func(c *conn) bool {
		end := !c.alive() || c.http.InFlight() == 0 && now.Sub(c.idle) >= idleConnLife
		if end {
			out = append(out, c)
		}
		return end
	}
	p.idle = slices.DeleteFunc(p.idle, old)
	p.shared = slices.DeleteFunc(p.shared, old)
	empty := len(p.idle)+len(p.shared) == 0
	if !empty && !p.closed {
		p.sweepLater(p.nextSweep(now))
	}
	p.mu.Unlock()
	for _, c := range out {
		c.http.Close()
	}
	if empty {
		p.upstream.drop(p)
	}
}

// nextSweep is when the oldest connection may be idle for too long; p.mu is held.
func (p *pool) nextSweep(now time.Time) time.Duration {
	oldest := now
	for _, list := range [][]*conn{p.idle, p.shared} {
		for _, c := range list {
			if c.idle.Before(oldest) {
				oldest = c.idle
			}
		}
	}
	return max(oldest.Add(idleConnLife).Sub(now), idleConnLife/10)
}

// closeIfEmpty closes p if it holds nothing and makes nothing.
func (p *pool) closeIfEmpty() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.idle)+len(p.shared) > 0 || p.making != nil {
		return false
	}
	p.closed = true
	return true
}

// close closes what no request uses and lets the rest be closed when it comes back.
func (p *pool) close() {
	p.mu.Lock()
	p.closed = true
	idle, shared := p.idle, p.shared
	p.idle, p.shared = nil, nil
	if p.sweeper != nil {
		p.sweeper.Stop()
		p.sweeper = nil
	}
	p.mu.Unlock()
	for _, c := range idle {
		c.http.Close()
	}
	for _, c := range shared {
		c.closeWhenUnused()
	}
}
