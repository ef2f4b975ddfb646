package transport

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/limpet-project/limpet/endpoint"
)

// Why a flow finds no target, beside what the router says.
var (
	errRefused  = errors.New("endpoints refuse the datagrams")
	errNoSocket = errors.New("no socket is left") // or no port
)

// restWithoutSockets is how long no flow begins after there was no socket or port for one: to search for a port among those that are taken
// costs the kernel as much as many datagrams.
const restWithoutSockets = 100 * time.Millisecond

// maxResting bounds the goroutines that rest until there is another flow to find a target for: their stacks have grown to what that takes.
const maxResting = 64

// pickers are the goroutines that find targets for flows, one for each flow at a time, because a pick may take its time.
type pickers struct {
	next    chan picking // from who has a flow to one that rests
	resting atomic.Int64
	running sync.WaitGroup
}

// A picking is a flow that needs a target, and how to begin.
type picking struct {
	f   *flow
	s   *serving
	how func(context.Context) error
}

// run has a goroutine find a target. It does not wait.
func (p *pickers) run(ctx context.Context, one picking) {
	select {
	case p.next <- one:
	default:
		p.running.Go(func() { p.work(ctx, one) })
	}
}

// work finds targets for one flow after the other, until enough others rest.
func (p *pickers) work(ctx context.Context, one picking) {
	for {
		one.f.settle(ctx, one.s, one.how)
		one.f.u.picking.Add(-1)
		one = picking{}
		if p.resting.Add(1) > maxResting {
			p.resting.Add(-1)
			return
		}
		select {
		case one = <-p.next:
			p.resting.Add(-1)
		case <-ctx.Done():
			p.resting.Add(-1)
			return
		}
	}
}

// first makes the flow's first pick.
func (f *flow) first(ctx context.Context) (err error) {
	f.pick, err = f.u.Router.Pick(ctx, f.route.request(f.client.Addr()))
	return err
}

// move gives up the endpoint, which may hold the flow no longer, and picks anew.
func (f *flow) move(ctx context.Context) error {
	f.leave(false)
	f.mu.Lock()
	f.route, f.tries = f.u.route.Load(), 0
	f.o.Service = f.route.Service
	f.mu.Unlock()
	return f.first(ctx)
}

// flee gives up the endpoint, which refuses datagrams, and picks another one.
func (f *flow) flee(ctx context.Context) error {
	f.mu.Lock()
	socket, pulse := f.socket, f.pulse
	f.socket, f.pulse, f.answered, f.asked = nil, nil, false, 0
	f.tries++
	tries := f.tries
	f.mu.Unlock()
	socket.close()
	f.u.flows.leave(f.o.Target, pulse)
	if tries >= maxEndpoints {
		f.o.Outcome = endpoint.OutcomeFailed
		f.pick.Done(f.o.Outcome)
		f.pick = nil
		return errRefused
	}
	return f.pick.Another(ctx)
}

// settle finds the flow a target that takes its datagrams, and sends those that wait. If there is none the flow ends.
func (f *flow) settle(ctx context.Context, s *serving, how func(context.Context) error) {
	for {
		err := how(ctx)
		if err == nil {
			err = f.connect(ctx, s)
		}
		if err == nil {
			err = f.flush(s)
		}
		switch {
		case err == nil:
			return
		case err == errMoves:
			how = f.move
			continue
		case !errors.As(err, new(*endpointError)):
			f.giveUp(s, err)
			return
		}
		f.mu.Lock()
		f.backlog.rewind(s.now())
		f.o.Err = err
		f.mu.Unlock()
		how = f.flee
	}
}

// giveUp ends a flow that found no target.
func (f *flow) giveUp(s *serving, err error) {
	f.mu.Lock()
	e, tries := f.ending, f.tries
	f.phase = flowOver
	f.mu.Unlock()
	cause := CauseFault
	switch {
	case e != "" || errors.Is(err, context.Canceled):
		cause, err = CauseShutdown, nil
	case errors.Is(err, errRefused):
		cause = CauseRefused
	case errors.Is(err, errNoSocket):
		cause = CauseFlows
		f.u.resting.Store(int64(s.now() + restWithoutSockets))
	case tries > 0:
		cause = CauseRefused // that there is no other endpoint says less
	default:
		cause = causeOf(err)
	}
	f.finish(e, cause, err)
}

// An endpointError says that an endpoint cannot be reached: another one may.
type endpointError struct{ cause error }

// Error implements error.
func (e *endpointError) Error() string {
	return "sending datagrams to the endpoint: " + e.cause.Error()
}

// Unwrap returns the cause.
func (e *endpointError) Unwrap() error { return e.cause }

// connect makes the flow's socket.
func (f *flow) connect(ctx context.Context, s *serving) error {
	f.mu.Lock()
	f.o.note(f.pick)
	f.o.Attempts++
	target := f.o.Target
	f.mu.Unlock()
	address, err := resolve(ctx, f.o.Address)
	if err != nil {
		return &endpointError{err}
	}
	socket, err := s.connect(f, address)
	if err != nil {
		return err
	}
	var p *pulse
	if f.u.AnswerTimeout > 0 {
		p = f.u.flows.follow(target)
	}
	f.mu.Lock()
	f.socket, f.pulse, f.snapshot, f.fault = socket, p, nil, nil
	f.mu.Unlock()
	if o := f.u.Observer; o != nil {
		o.Picked(&f.o)
	}
	return socket.listen()
}

// resolve returns the address of an endpoint, which may be given by a name.
func resolve(ctx context.Context, address string) (netip.AddrPort, error) {
	if a, err := netip.ParseAddrPort(address); err == nil {
		return a, nil
	}
	ctx, cancel := context.WithTimeout(ctx, resolveTimeout)
	defer cancel()
	host, service, err := net.SplitHostPort(address)
	if err != nil {
		return netip.AddrPort{}, err
	}
	port, err := net.DefaultResolver.LookupPort(ctx, "udp", service)
	if err != nil {
		return netip.AddrPort{}, err
	}
	found, err := net.DefaultResolver.LookupNetIP(ctx, "ip", host)
	if err != nil {
		return netip.AddrPort{}, err
	}
	if len(found) == 0 {
		return netip.AddrPort{}, fmt.Errorf("no address for %s", host)
	}
	return netip.AddrPortFrom(found[0].Unmap(), uint16(port)), nil
}

// resolveTimeout bounds the look-up of an endpoint's name.
const resolveTimeout = time.Second

// errMoves says that the endpoint holds the flow no longer.
var errMoves = errors.New("the endpoint holds the flow no longer")

// flush sends what waits, in order, and opens the flow when nothing does any longer. What comes after the first may find that the endpoint
// was in force no longer than that.
func (f *flow) flush(s *serving) error {
	buffer := make([]byte, 0, room)
	for first := true; ; first = false {
		route := f.u.route.Load()
		snapshot := f.u.Endpoints.Snapshot(route.Service)
		f.mu.Lock()
		if f.ending != "" {
			f.mu.Unlock()
			return context.Canceled
		}
		if err := f.fault; err != nil {
			f.mu.Unlock()
			return &endpointError{err}
		}
		if !f.backlog.waits() {
			f.phase = flowOpen
			f.mu.Unlock()
			f.complete() // the answers may have come before
			return nil
		}
		if !first && !f.holds(route, snapshot) {
			f.mu.Unlock()
			return errMoves
		}
		now := s.now()
		buffer = f.backlog.next(append(buffer[:0], f.header...), now)
		f.last = now // what waited begins to be idle when it is sent
		f.ask(now)
		socket := f.socket
		f.mu.Unlock()
		if err := socket.send(buffer); err != nil {
			cause := sendCause(err)
			if cause == CauseRefused {
				return &endpointError{err}
			}
			f.u.drop(cause)
		}
	}
}
