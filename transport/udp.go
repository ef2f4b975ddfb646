package transport

import (
	"cmp"
	"context"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/limpet-project/limpet/endpoint"
	"github.com/limpet-project/limpet/router"
)

// Defaults of a UDP listener.
const (
	DefaultFlowIdle          = 30 * time.Second
	DefaultMaxFlows          = 65536
	DefaultMaxFlowsPerClient = 16384 // a quarter: no single client can keep the others out
)

const (
	// maxPicking bounds the flows that wait for a target at once, each in a goroutine of its own.
	maxPicking = 4096
	// lookEvery is how often a flow is looked at, at the least: for the observer.
	lookEvery = 10 * time.Second
)

// A UDP forwards the flows of a listener. A flow is what one address and port of a client sends to one address of the listener; it has
// a pick of the router and a socket of its own, connected to the endpoint, and ends when nothing went either way for IdleTimeout. It
// serves once. Name, Router and Endpoints are needed; a Route is swapped in before it serves. It needs Linux.
//
// A flow moves when its endpoint refuses its datagrams: what was sent in the last second and not answered goes to another endpoint,
// at once. It also moves with the client's next datagram once its endpoint is down or gone, or its drain is over.
//
// Nobody can tell from a datagram whether its sender's address is true. The bounds protect memory and other clients' share of the flows;
// they cannot keep a sender of forged addresses from filling the table, and whatever an endpoint answers goes to the address that was
// forged. Endpoints that answer more than they are asked need a bound of their own.
type UDP struct {
	Name      string // of the listener
	Router    *router.Router
	Endpoints *endpoint.Table
	Observer  Observer // nil is none
	// IdleTimeout ends a flow in which no datagram went either way for so long; default 30s.
	IdleTimeout time.Duration
	// Responses ends a flow once the endpoint has sent so many datagrams for each of the client's; 0 is no such end. A resolver that asks
	// twice from one socket gets both answers with 1.
	Responses int
	// MaxFlows are open at once, MaxFlowsPerClient of them for one address of a client, or one prefix where the policy goes by
	// prefixes (by default 64 bits of IPv6). A datagram that would begin one more is dropped. Defaults 65536 and 16384.
	MaxFlows, MaxFlowsPerClient int
	// SendProxy tells endpoints whose datagram it is, by a header of version 2 before each datagram: a server that takes datagrams one by
	// one has nothing to which it could remember the first one's.
	SendProxy ProxyProtocol
	// AnswerTimeout makes it a failure of the endpoint, and the flow's end, that a datagram is not answered in so long, unless the endpoint
	// answered somebody else since. It is found out within twice the time. 0 never does: many protocols have no answers.
	AnswerTimeout time.Duration
	// Loops are the goroutines that forward; the first one receives from clients, the others, if any, from endpoints. Default 1.
	Loops int

	route    atomic.Pointer[Route]
	flows    flowTable
	picking  atomic.Int64 // flows that wait for a target
	resting  atomic.Int64 // no flow begins before, by the listener's clock
	kept     budget       // bytes of datagrams
	begun    sync.Once
	stopping chan struct{} // closed when Serve has to end
	stopOnce sync.Once

	mu     sync.Mutex
	served chan struct{} // closed when Serve has returned; nil before it began
}

// Swap replaces the route. A flow whose service is another one now moves with its next datagram; the others stay.
func (u *UDP) Swap(r Route) { u.route.Store(&r) }

// Open returns the number of flows that are open.
func (u *UDP) Open() int { return u.flows.len() }

// Drain does nothing: a datagram has no way to ask its sender to leave. New flows are taken until Shutdown.
func (u *UDP) Drain() {}

// Serve forwards what conn receives, until Shutdown is called or ctx ends, and returns nil then. It takes conn over and closes it. The end
// of ctx breaks off flows; Shutdown does not. When Serve returns all its goroutines have ended.
func (u *UDP) Serve(ctx context.Context, conn *net.UDPConn) error {
	u.prepare()
	local := localAddress(conn)
	done := make(chan struct{})
	defer close(done)
	u.mu.Lock()
	u.served = done
	u.mu.Unlock()
	s, err := newServing(u, conn)
	if err != nil {
		return fmt.Errorf("serving %s by UDP: %w", local, err)
	}
	ctx, cancel := context.WithCancel(ctx)
	defer s.close()
	defer s.pickers.running.Wait()
	defer cancel()
	failed := s.start(ctx)
	select {
	case <-ctx.Done():
	case <-u.stopping:
	case err = <-failed:
	}
	u.flows.shut()
	cancel() // ends what still picks
	s.stop()
	for _, f := range u.flows.all() {
		f.stop()
	}
	if err != nil {
		return fmt.Errorf("serving %s by UDP: %w", local, err)
	}
	return nil
}

// prepare fills in what was left out. It is called by whichever of Serve and Shutdown comes first.
func (u *UDP) prepare() {
	u.begun.Do(func() {
		u.IdleTimeout = cmp.Or(u.IdleTimeout, DefaultFlowIdle)
		u.Loops = max(u.Loops, 1)
		u.kept.limit = maxKeptBytes
		u.stopping = make(chan struct{})
		u.flows.begin(cmp.Or(u.MaxFlows, DefaultMaxFlows), cmp.Or(u.MaxFlowsPerClient, DefaultMaxFlowsPerClient))
	})
}

// Shutdown takes no new flows and lets the open ones go on until they end or ctx does; then what is left is broken off. It returns when no
// flow is open any longer, with ctx's error if something had to be broken off.
func (u *UDP) Shutdown(ctx context.Context) error {
	u.prepare()
	var err error
	select {
	case <-u.flows.shut():
	case <-ctx.Done():
		err = fmt.Errorf("draining: %w", ctx.Err())
	}
	u.stopOnce.Do(func() { close(u.stopping) })
	u.mu.Lock()
	served := u.served
	u.mu.Unlock()
	if served != nil {
		<-served
	}
	return err
}

// drop tells the observer of a datagram that was dropped.
func (u *UDP) drop(c Cause) { u.dropped(c, 1) }

func (u *UDP) dropped(c Cause, n int) {
	for ; n > 0 && u.Observer != nil; n-- {
		u.Observer.Drop(u.Name, c)
	}
}

// localAddress returns the address of a socket, unmapped.
func localAddress(conn *net.UDPConn) netip.AddrPort {
	if a, ok := conn.LocalAddr().(*net.UDPAddr); ok {
		return unmap(a.AddrPort())
	}
	return netip.AddrPort{}
}

// sweep looks at flows when they are due, until ctx ends.
func (u *UDP) sweep(ctx context.Context, now func() time.Duration) {
	timer := time.NewTimer(lookEvery)
	defer timer.Stop()
	due := make([]*flow, 0, 64)
	for {
		var next time.Duration
		if due, next = u.flows.due(now(), due); len(due) == cap(due) {
			next = 0
		}
		for i, f := range due {
			if again, open := f.look(now()); open {
				u.flows.again(f, again)
			}
			due[i] = nil
		}
		timer.Reset(next)
		select {
		case <-ctx.Done():
			return
		case <-u.flows.wake:
		case <-timer.C:
		}
	}
}
