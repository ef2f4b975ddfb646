package proxy

import (
	"cmp"
	"errors"
	"io"
	"maps"
	"net"
	"net/netip"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// A limitedListener accepts at most so many connections at once; more wait in the kernel's backlog.
type limitedListener struct {
	net.Listener
	limits Limits
	places chan struct{}
	done   chan struct{}
	close  sync.Once
	conns  *connSet
	// leaving says that clients are asked to leave.
	leaving *atomic.Bool
}

func newLimitedListener(ln net.Listener, conns *connSet, limits Limits, leaving *atomic.Bool) *limitedListener {
	return &limitedListener{
		Listener: ln,
		limits:   limits,
		places:   make(chan struct{}, limits.MaxConnections),
		done:     make(chan struct{}),
		conns:    conns,
		leaving:  leaving,
	}
}

// Accept waits for a place and a connection.
func (l *limitedListener) Accept() (net.Conn, error) {
	select {
	case l.places <- struct{}{}:
	case <-l.done:
		return nil, net.ErrClosed
	}
	nc, err := l.Listener.Accept()
	if err != nil {
		<-l.places
		return nil, err
	}
	c := &clientConn{Conn: nc, listener: l, limits: &l.limits, peer: parsePeer(nc.RemoteAddr().String())}
	if !l.conns.add(c) {
		c.Close()
		return nil, net.ErrClosed
	}
	return c, nil
}

// Close ends accepting. Connections go on.
func (l *limitedListener) Close() error {
	l.close.Do(func() { close(l.done) })
	return l.Listener.Close()
}

// A clientConn is a connection of a client. A write that makes no progress for the listener's WriteStall fails, whoever writes.
type clientConn struct {
	net.Conn
	listener *limitedListener
	limits   *Limits
	peer     netip.Addr
	closing  sync.Once
	// spent says that nothing more may be read: what comes belongs to a request that was given up.
	spent atomic.Bool
	// until is the write deadline that is set, in Unix nanoseconds; explicit says that the server set it.
	until    atomic.Int64
	explicit atomic.Bool
	rest
}

// Read reads nothing from a connection that is spent. One that is being closed because it rests is read once more: what the client has
// sent by then is a request like others.
func (c *clientConn) Read(b []byte) (int, error) {
	for last := false; ; last = true {
		if c.spent.Load() {
			return 0, io.EOF
		}
		n, err := c.Conn.Read(b)
		if n > 0 && c.quiet.Load() {
			c.quiet.Store(false)
		}
		if n > 0 || err == nil || !c.parting.Load() || !errors.Is(err, os.ErrDeadlineExceeded) {
			return n, err
		}
		if again, end := c.overdue(last); !again {
			return 0, cmp.Or(end, err)
		}
	}
}

// Write gives each write the whole WriteStall. To spare most system calls the deadline is set a quarter too late and renewed when
// less than WriteStall is left of it.
func (c *clientConn) Write(b []byte) (int, error) {
	if stall := c.limits.WriteStall; !c.explicit.Load() {
		now := time.Now()
		if until := c.until.Load(); until-now.UnixNano() < int64(stall) {
			end := now.Add(stall + stall/4)
			if err := c.Conn.SetWriteDeadline(end); err != nil {
				return 0, err
			}
			c.until.Store(end.UnixNano())
		}
	}
	return c.Conn.Write(b)
}

// SetWriteDeadline sets a deadline that goes before WriteStall; the zero time ends it.
func (c *clientConn) SetWriteDeadline(t time.Time) error {
	c.explicit.Store(!t.IsZero())
	if t.IsZero() {
		return nil
	}
	c.until.Store(0)
	return c.Conn.SetWriteDeadline(t)
}

// SetDeadline sets both deadlines.
func (c *clientConn) SetDeadline(t time.Time) error {
	if err := c.SetReadDeadline(t); err != nil {
		return err
	}
	return c.SetWriteDeadline(t)
}

// CloseWrite says to the client that nothing more will come.
func (c *clientConn) CloseWrite() error {
	if half, ok := c.Conn.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return nil
}

// Close closes the connection. One that is spent is given a moment in which the client reads the answer: closing it while the
// client still sends would reset it, and the answer with it (RFC 9112, 9.6).
func (c *clientConn) Close() error {
	first := false
	c.closing.Do(func() { first = true })
	switch {
	case !first:
		return net.ErrClosed
	case c.spent.Load() && c.CloseWrite() == nil:
		go c.linger() // the listener waits for it, as for every open connection
		return nil
	}
	return c.leave()
}

// linger takes what the client sends for a moment.
func (c *clientConn) linger() {
	if c.Conn.SetReadDeadline(time.Now().Add(lingerTime)) == nil {
		_, _ = io.Copy(io.Discard, c.Conn)
	}
	_ = c.leave()
}

// leave gives the connection's place to another one.
func (c *clientConn) leave() error {
	err := c.Conn.Close()
	<-c.listener.places
	c.listener.conns.remove(c)
	return err
}

// cut closes the connection without a moment's delay.
func (c *clientConn) cut() {
	first := false
	c.closing.Do(func() { first = true })
	if first {
		_ = c.leave()
		return
	}
	_ = c.Conn.Close() // ends a linger
}

// A connSet is the set of open connections. The zero connSet is empty.
type connSet struct {
	mu    sync.Mutex
	conns map[*clientConn]struct{}
	over  bool          // closeAll was called
	empty chan struct{} // closed when conns is empty; nil until somebody waits
}

// add reports whether c may go on: not if all connections were closed before it came.
func (s *connSet) add(c *clientConn) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.conns == nil {
		s.conns = map[*clientConn]struct{}{}
	}
	s.conns[c] = struct{}{}
	return !s.over
}

func (s *connSet) remove(c *clientConn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.conns, c)
	if len(s.conns) == 0 && s.empty != nil {
		close(s.empty)
		s.empty = nil
	}
}

// all returns the connections that are open.
func (s *connSet) all() []*clientConn {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Collect(maps.Keys(s.conns))
}

// drained returns a channel that is closed when no connection is open. Nothing may be added any longer.
func (s *connSet) drained() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.conns) == 0 {
		done := make(chan struct{})
		close(done)
		return done
	}
	if s.empty == nil {
		s.empty = make(chan struct{})
	}
	return s.empty
}

// closeAll closes every connection that is open, and lets no further one in.
func (s *connSet) closeAll() {
	s.mu.Lock()
	s.over = true
	s.mu.Unlock()
	for _, c := range s.all() {
		c.cut()
	}
}
