package transport

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"sync"
	"syscall"
	"time"

	"github.com/limpet-project/limpet/endpoint"
	"github.com/limpet-project/limpet/router"
)

const (
	// maxEndpoints bounds the endpoints that one connection tries.
	maxEndpoints = 3
	// headerTime bounds the wait for a PROXY header.
	headerTime = 5 * time.Second
	// lingerTime and lingerBytes bound what is thrown away of a side that still sends while the other takes no more.
	lingerTime  = time.Second
	lingerBytes = 256 << 10
)

// A connection is one connection of a client, from its acceptance to its end.
type connection struct {
	t      *TCP
	route  *Route
	client *net.TCPConn
	source netip.AddrPort // the client's
	local  netip.AddrPort // what it connected to
	rest   []byte         // read beyond the PROXY header
	pick   *router.Pick   // nil before and after
	ready  time.Time      // when the endpoint took the connection
	in     pump           // from the client
	out    pump           // to it
	o      Observed

	mu       sync.Mutex   // nothing is waited for while it is held
	endpoint *net.TCPConn // nil until it is made
	ending   Ending       // "" until somebody knows
	sent     [2]int64     // what Carried was told
	moved    int64        // as the tender saw it last
	since    time.Time    // since when it saw that
	over     bool         // End was called, or will be at once
	lasts    bool         // it was looked at, and its other ends are asked whether they are alive
}

func newConnection(t *TCP, nc *net.TCPConn) *connection {
	c := &connection{t: t, route: t.route.Load(), client: nc, source: peerOf(nc.RemoteAddr()), local: peerOf(nc.LocalAddr())}
	c.since = time.Now()
	c.o = Observed{Listener: t.Name, Protocol: "tcp", Begin: c.since, Client: c.source.Addr()}
	if c.route != nil {
		c.o.Service = c.route.Service
	}
	return c
}

// peerOf returns the address of a TCP socket, unmapped.
func peerOf(a net.Addr) netip.AddrPort {
	if tcp, ok := a.(*net.TCPAddr); ok {
		return unmap(tcp.AddrPort())
	}
	return netip.AddrPort{}
}

// serve serves the connection until it has ended.
func (c *connection) serve(ctx context.Context) {
	defer c.end()
	if c.route == nil {
		c.refuse(ctx, CauseNoService, nil)
		return
	}
	if cause, err := c.identify(); err != nil {
		c.refuse(ctx, cause, err)
		return
	}
	var err error
	if c.pick, err = c.t.Router.Pick(ctx, c.route.request(c.source.Addr())); err != nil {
		c.refuse(ctx, causeOf(err), err)
		return
	}
	if err := c.reach(ctx); isOwn(err) {
		c.refuse(ctx, CauseFault, err)
		return
	} else if err != nil {
		c.refuse(ctx, CauseConnect, err)
		return
	}
	c.observe(Observer.Picked)
	if c.greet() {
		c.carry()
	}
}

// observe tells the observer, if there is one.
func (c *connection) observe(tell func(Observer, *Observed)) {
	if c.t.Observer != nil {
		tell(c.t.Observer, &c.o)
	}
}

// refuse notes why the connection is not served.
func (c *connection) refuse(ctx context.Context, cause Cause, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.ending == EndShutdown || ctx.Err() != nil {
		cause = CauseShutdown
	}
	c.o.Cause, c.o.Err, c.ending = cause, err, ""
}

// identify reads whose connection it is, if the listener is behind proxies that say so.
func (c *connection) identify() (Cause, error) {
	if !c.t.AcceptProxy {
		return "", nil
	}
	if !c.t.trusts(c.source.Addr()) {
		return CauseUntrusted, errors.New("the connection is not one of a trusted proxy")
	}
	if err := c.client.SetReadDeadline(time.Now().Add(cmp.Or(c.t.headerTime, headerTime))); err != nil {
		return CauseProxyHeader, err
	}
	r := bufio.NewReaderSize(c.client, maxProxyHeader)
	client, local, err := readProxy(r)
	if err != nil {
		return CauseProxyHeader, nameless(err)
	}
	if client.IsValid() {
		c.source, c.local = client, local
		c.o.Client = client.Addr()
	}
	c.rest, _ = r.Peek(r.Buffered()) // what is buffered can be peeked at
	return "", c.client.SetReadDeadline(time.Time{})
}

// nameless returns an error without the addresses that errors of sockets tell: one of them is the client's.
func nameless(err error) error {
	var op *net.OpError
	if errors.As(err, &op) {
		return fmt.Errorf("reading the PROXY header: %w", op.Err)
	}
	return err
}

func (t *TCP) trusts(a netip.Addr) bool {
	for _, p := range t.Trusted {
		if p.Contains(a) {
			return true
		}
	}
	return false
}

// reach connects to the picked endpoint, or to another one where that fails. The pick follows.
func (c *connection) reach(ctx context.Context) error {
	d := net.Dialer{Timeout: cmp.Or(c.t.ConnectTimeout, DefaultConnectTimeout), KeepAlive: -1} // see keepAlive
	for {
		c.o.note(c.pick)
		c.o.Attempts++
		began := time.Now()
		nc, err := d.DialContext(ctx, "tcp", c.o.Address)
		if err == nil {
			c.ready = time.Now()
			c.o.Connect = c.ready.Sub(began)
			return c.join(nc.(*net.TCPConn))
		}
		if ctx.Err() != nil || isOwn(err) {
			c.o.Outcome = endpoint.OutcomeUnknown
			return cmp.Or(ctx.Err(), err)
		}
		if c.o.Outcome = endpoint.OutcomeFailed; c.o.Attempts == maxEndpoints {
			return err
		}
		if c.pick.Another(ctx) != nil {
			return err // why there is no other one says less
		}
	}
}

// isOwn reports whether an error of connecting is this machine's and says nothing of the endpoint: no more files, ports or memory.
func isOwn(err error) bool {
	return errors.Is(err, syscall.EMFILE) || errors.Is(err, syscall.ENFILE) || errors.Is(err, syscall.EADDRNOTAVAIL) ||
		errors.Is(err, syscall.ENOBUFS) || errors.Is(err, syscall.ENOMEM)
}

// join makes the connection to the endpoint part of c, unless c was cut meanwhile.
func (c *connection) join(nc *net.TCPConn) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.endpoint, c.since = nc, c.ready
	if c.ending != "" {
		reset(nc)
		return net.ErrClosed
	}
	return nil
}

// greet sends the endpoint what comes before the client's bytes: who it is, and what came with a PROXY header.
func (c *connection) greet() bool {
	if c.t.SendProxy == ProxyOff && len(c.rest) == 0 {
		return true
	}
	b := appendProxy(make([]byte, 0, maxProxyLine+len(c.rest)), c.t.SendProxy, "tcp", c.source, c.local)
	if _, err := c.endpoint.Write(append(b, c.rest...)); err != nil {
		c.cut(EndEndpointReset)
		return false
	}
	c.in.moved.Add(int64(len(c.rest)))
	c.rest = nil
	return true
}

// carry copies both ways until both sides are done.
func (c *connection) carry() {
	c.in.dst, c.in.src, c.in.pipes = c.endpoint, c.client, &c.t.pipes
	c.out.dst, c.out.src, c.out.pipes = c.client, c.endpoint, &c.t.pipes
	var back sync.WaitGroup
	back.Go(func() { c.forward(&c.out, EndEndpointReset, EndClientReset) })
	c.forward(&c.in, EndClientReset, EndEndpointReset)
	back.Wait()
	c.linger()
}

// forward runs one direction and passes its end on: a FIN to where the bytes went, an error in reading to both sides. If the bytes are not
// taken any longer the other direction has still to say what is left.
func (c *connection) forward(p *pump, readFailed, writeFailed Ending) {
	switch p.run() {
	case pumpEnded:
		_ = p.dst.CloseWrite() // fails if it is gone, which the other direction finds out
	case pumpUnread:
		c.cut(readFailed)
	case pumpRefused:
		c.mark(writeFailed)
	}
}

// linger lets a side hear the last words of the other one, which has ended what it had to say and takes no more: what the side still sends
// is thrown away for a moment, because to close now would reset it.
func (c *connection) linger() {
	for _, p := range []*pump{&c.in, &c.out} {
		other := &c.in
		if p == other {
			other = &c.out
		}
		if p.result != pumpRefused || other.result != pumpEnded {
			continue
		}
		if p.src.SetReadDeadline(time.Now().Add(lingerTime)) == nil {
			_, _ = io.CopyN(io.Discard, p.src, lingerBytes) // whatever comes, it ends
		}
	}
}

// mark notes how the connection ends, unless that is known.
func (c *connection) mark(e Ending) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.ending == "" {
		c.ending = e
	}
}

// cut resets both sides at once.
func (c *connection) cut(e Ending) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.over {
		return
	}
	if c.ending == "" {
		c.ending = e
	}
	reset(c.client)
	if c.endpoint != nil {
		reset(c.endpoint)
	}
}

// reset closes a connection in a way that its other end cannot take for a regular end.
func reset(nc *net.TCPConn) {
	_ = nc.SetLinger(0) // fails if it is closed, which is as good
	_ = nc.Close()
}

// end closes what is open and tells how it went.
func (c *connection) end() {
	c.close()
	now := time.Now()
	c.o.Duration = now.Sub(c.o.Begin)
	c.o.BytesIn, c.o.BytesOut = c.in.moved.Load(), c.out.moved.Load()
	if c.pick != nil {
		if c.o.Cause == "" {
			c.o.Outcome = c.outcome(now)
		}
		c.pick.Done(c.o.Outcome)
		c.pick = nil
	}
	c.observe(Observer.End)
}

// close closes both sides: what was refused by a reset, as by a port where nobody listens.
func (c *connection) close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.over = true
	if c.o.Cause != "" {
		reset(c.client)
	}
	_ = c.client.Close()
	if c.endpoint != nil {
		_ = c.endpoint.Close()
	}
	if c.ending == "" && c.o.Cause == "" {
		c.ending = EndClosed
	}
	c.report()
	c.o.Ending = c.ending
}

// outcome is what passive health is told: an endpoint that took the connection did its part, unless it broke it off at once and
// without a word, while the client had neither said anything nor left. No client can make it do that.
func (c *connection) outcome(now time.Time) endpoint.Outcome {
	soon := now.Sub(c.ready) < cmp.Or(c.t.ConnectTimeout, DefaultConnectTimeout)
	silent := c.in.moved.Load()+c.out.moved.Load() == 0 && c.in.result != pumpEnded
	if c.ending == EndEndpointReset && soon && silent {
		return endpoint.OutcomeFailed
	}
	return endpoint.OutcomeOK
}

// report tells the observer what was carried since it was last told. The caller holds mu, so that nothing is told after the end.
func (c *connection) report() {
	in, out := c.in.moved.Load()-c.sent[0], c.out.moved.Load()-c.sent[1]
	c.sent[0], c.sent[1] = c.sent[0]+in, c.sent[1]+out
	if in+out > 0 && c.t.Observer != nil {
		c.t.Observer.Carried(&c.o, in, out)
	}
}
