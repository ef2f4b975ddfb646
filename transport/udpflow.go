package transport

import (
	"context"
	"errors"
	"net/netip"
	"sync"
	"syscall"
	"time"

	"github.com/limpet-project/limpet/affinity"
	"github.com/limpet-project/limpet/endpoint"
	"github.com/limpet-project/limpet/router"
)

// A flowPhase says who may do what to a flow.
type flowPhase uint8

const (
	flowPicking flowPhase = iota // a goroutine finds it a target; datagrams wait
	flowOpen                     // datagrams are sent on as they come
	flowOver                     // it takes nothing any longer
)

// A flow is what one address and port of a client sends to one address of the listener, and what comes back.
type flow struct {
	u       *UDP
	key     flowKey
	client  netip.AddrPort
	name    [28]byte // the client's address as the kernel gave it
	nameLen uint32
	control []byte // where answers are sent from; nil: where the socket is
	header  []byte // before each datagram to the endpoint

	owner  *flowClient   // the table's
	due    time.Duration // when it is looked at next; guarded by the table's lock
	place  int           // in the agenda, -1 for none; guarded by the table's lock
	listed bool          // in the table; guarded by its lock

	mu       sync.Mutex // nothing is waited for while it is held
	phase    flowPhase
	ending   Ending // of a flow that is to end while it picks
	route    *Route
	snapshot *affinity.Snapshot // in which the target was last found to hold
	until    time.Time          // holds no longer than this; zero: no such end
	pick     *router.Pick       // the picking goroutine's while there is one
	socket   *udpSocket         // nil while there is no target
	fault    error              // with which the endpoint refused a datagram while others were waiting
	pulse    *pulse             // the endpoint's, nil without AnswerTimeout
	tries    int                // endpoints that took nothing in a row
	answered bool               // by this endpoint
	last     time.Duration      // when a datagram last went either way
	asked    time.Duration      // when the oldest datagram without an answer was sent, 0 for none
	backlog  backlog
	told     [2]int64 // the bytes of which the observer was told
	o        Observed // note is the picking goroutine's; the counts are guarded
}

// room is the space before each datagram that is received from a client, for a header.
const room = 64

// take forwards one datagram: buffer[room:] with space before it. Where it cannot, it says so. It reports whether the flow is still there.
func (f *flow) take(ctx context.Context, s *serving, buffer []byte, now time.Duration) bool {
	datagram := buffer[room:]
	f.mu.Lock()
	if f.phase == flowOver || f.ending != "" {
		f.mu.Unlock()
		return false
	}
	f.last = now
	f.o.DatagramsIn++
	f.o.BytesIn += int64(len(datagram))
	if f.phase == flowOpen && !f.holds(s.route, s.snapshot) {
		f.pickAgain(ctx, s, f.move)
	}
	if f.phase == flowPicking {
		kept := f.backlog.wait(datagram, &f.u.kept)
		f.mu.Unlock()
		if !kept {
			f.u.drop(CauseWaiting)
		}
		return true
	}
	kept := f.backlog.sent(datagram, now, &f.u.kept)
	f.ask(now)
	socket := f.socket
	socket.use() // it is open as long as the flow is
	f.mu.Unlock()
	copy(buffer[room-len(f.header):], f.header)
	err := socket.send(buffer[room-len(f.header):])
	socket.done()
	if err != nil {
		f.failed(ctx, s, socket, err, kept)
	}
	return true
}

// ask notes that an answer may come. The caller holds mu.
func (f *flow) ask(now time.Duration) {
	if f.asked == 0 && f.u.AnswerTimeout > 0 {
		f.asked = now
	}
}

// failed takes note of why a datagram could not be sent: what is refused goes elsewhere if it was kept.
func (f *flow) failed(ctx context.Context, s *serving, socket *udpSocket, err error, kept bool) {
	if cause := sendCause(err); cause != CauseRefused {
		f.u.drop(cause)
		return
	}
	if !kept {
		f.u.drop(CauseRefused)
	}
	f.refused(ctx, s, socket, err)
}

// sendCause says why a datagram could not be sent: it is too long, or there is no room for it now, or its receiver refuses it.
func sendCause(err error) Cause {
	switch {
	case errors.Is(err, syscall.EMSGSIZE):
		return CauseTooLong
	case errors.Is(err, syscall.EAGAIN), errors.Is(err, syscall.ENOBUFS), errors.Is(err, syscall.ENOMEM):
		return CauseSend
	}
	return CauseRefused
}

// refused has the flow go to another endpoint, because this one refuses datagrams or cannot be reached.
func (f *flow) refused(ctx context.Context, s *serving, socket *udpSocket, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	switch {
	case f.socket != socket || f.phase == flowOver: // it is somewhere else already
	case f.phase == flowPicking:
		f.fault = err // the goroutine that picks sends what waits, and has to know
	default:
		f.backlog.rewind(s.now())
		f.o.Err = err
		f.pickAgain(ctx, s, f.flee)
	}
}

// pickAgain has the flow look for another target; how is called first, in the goroutine that does so. The caller holds mu.
func (f *flow) pickAgain(ctx context.Context, s *serving, how func(context.Context) error) {
	f.phase = flowPicking
	f.u.picking.Add(1) // an open flow is not turned away
	s.pickers.run(ctx, picking{f, s, how})
}

// holds reports whether the flow may stay at its endpoint, by the snapshot of the route's service. The caller holds mu.
func (f *flow) holds(route *Route, snapshot *affinity.Snapshot) bool {
	if snapshot == f.snapshot && f.route == route && f.until.IsZero() {
		return true
	}
	if f.route.Service != route.Service {
		return false
	}
	f.route, f.snapshot = route, snapshot
	var ok bool
	f.until, ok = holding(snapshot, route.Policy, f.o.Target, f.o.Address, time.Now())
	return ok
}

// holding reports whether what goes to an endpoint may stay there, and until when at most, the zero time for no end: the revision is
// listed or retained, and the endpoint is at its address and ready, or drains.
func holding(snap *affinity.Snapshot, p *affinity.Policy, at affinity.Target, address string, now time.Time) (until time.Time, ok bool) {
	if snap == nil {
		return until, false
	}
	r := snap.Revision(at.Revision)
	if r == nil || r.State == affinity.RevisionFailed {
		return until, false
	}
	if r.State != affinity.RevisionActive || r.Weight <= 0 {
		if p == nil || p.Retain <= 0 {
			return until, false
		}
		until = r.Since.Add(time.Duration(p.Retain))
	}
	e := r.Pool.Endpoint(at.Endpoint)
	if e == nil || e.Address != address || e.State != affinity.EndpointReady && e.State != affinity.EndpointDraining {
		return until, false
	}
	if e.State == affinity.EndpointDraining && !e.Until.IsZero() && (until.IsZero() || e.Until.Before(until)) {
		until = e.Until
	}
	return until, until.IsZero() || now.Before(until)
}

// heard takes note of n datagrams of the endpoint, and reports whether they are the client's and whether the flow is done with them.
func (f *flow) heard(socket *udpSocket, n int, bytes int64, now time.Duration) (mine, done bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.socket != socket || f.phase == flowOver {
		return false, false
	}
	f.last, f.asked, f.tries, f.answered, f.o.Err = now, 0, 0, true, nil
	if f.pulse != nil {
		f.pulse.last.Store(int64(now))
	}
	f.backlog.answered(&f.u.kept)
	f.o.DatagramsOut += int64(n)
	f.o.BytesOut += bytes
	return true, f.answeredAll()
}

// stop ends the flow because the listener ends: at once, or by the goroutine that picks.
func (f *flow) stop() {
	f.mu.Lock()
	open := f.phase == flowOpen
	if open {
		f.phase = flowOver
	} else {
		f.ending = EndShutdown
	}
	f.mu.Unlock()
	if open {
		f.finish(EndShutdown, "", nil)
	}
}

// answeredAll reports whether the flow has had as many responses as it may have. The caller holds mu.
func (f *flow) answeredAll() bool {
	limit := int64(f.u.Responses)
	return limit > 0 && f.phase == flowOpen && f.o.DatagramsOut >= limit*f.o.DatagramsIn
}

// complete ends the flow if it has had as many responses as it may have.
func (f *flow) complete() {
	f.mu.Lock()
	done := f.answeredAll()
	if done {
		f.phase = flowOver
	}
	f.mu.Unlock()
	if done {
		f.finish(EndResponses, "", nil)
	}
}

// finish gives back what the flow holds. It is called once, by whoever made it be over.
func (f *flow) finish(e Ending, c Cause, err error) {
	f.u.flows.remove(f)
	f.leave(e == EndUnanswered)
	f.mu.Lock()
	lost := f.backlog.free(&f.u.kept)
	f.mu.Unlock()
	if lost > 0 && c == "" {
		c = CauseShutdown
	}
	f.u.dropped(c, lost)
	f.o.Ending, f.o.Cause = f.outcome(e, c)
	if err != nil {
		f.o.Err = err
	}
	f.o.Duration = time.Since(f.o.Begin)
	if o := f.u.Observer; o != nil {
		if in, out := f.o.BytesIn-f.told[0], f.o.BytesOut-f.told[1]; f.o.Picked && in+out > 0 {
			o.Carried(&f.o, in, out)
		}
		o.End(&f.o)
	}
}

// outcome returns what is said of the end: a flow that was served has an ending, and one that was refused a cause.
func (f *flow) outcome(e Ending, c Cause) (Ending, Cause) {
	switch {
	case f.o.DatagramsOut == 0 && (e == "" || !f.o.Picked):
		return "", c
	case e != "":
		return e, ""
	case c == CauseRefused:
		return EndEndpointReset, ""
	}
	return EndDown, ""
}

// leave gives up the target, with what passive health is told of it. It belongs to whoever picks or finishes.
func (f *flow) leave(failed bool) {
	f.mu.Lock()
	socket, pulse, answered := f.socket, f.pulse, f.answered
	f.socket, f.pulse, f.answered, f.asked = nil, nil, false, 0
	f.mu.Unlock()
	socket.close()
	f.u.flows.leave(f.o.Target, pulse)
	if f.pick == nil {
		return
	}
	f.o.Outcome = endpoint.OutcomeUnknown
	switch {
	case failed:
		f.o.Outcome = endpoint.OutcomeFailed
	case answered:
		f.o.Outcome = endpoint.OutcomeOK
	}
	f.pick.Done(f.o.Outcome)
	f.pick = nil
}

// pause returns after what time at most a flow is looked at again.
func (u *UDP) pause() time.Duration {
	p := min(u.IdleTimeout, lookEvery)
	if u.AnswerTimeout > 0 {
		p = min(p, u.AnswerTimeout)
	}
	return p
}

// look ends the flow if it is time to, else it returns when to look again.
func (f *flow) look(now time.Duration) (again time.Duration, open bool) {
	f.mu.Lock()
	end := Ending("")
	again = now + f.u.pause()
	if f.phase == flowOpen {
		again = min(again, f.last+f.u.IdleTimeout)
		if now >= f.last+f.u.IdleTimeout {
			end = EndIdle
		}
	}
	if limit := f.u.AnswerTimeout; limit > 0 {
		if f.asked > 0 && f.pulse != nil && time.Duration(f.pulse.last.Load()) > f.asked {
			f.asked = 0 // the endpoint answers, so this is not its failure
		}
		if f.phase == flowOpen && f.asked > 0 && now >= f.asked+limit {
			end = EndUnanswered
		}
		if f.asked > 0 {
			again = min(again, max(f.asked+limit, now+1))
		}
	}
	open = f.phase != flowOver && end == ""
	f.tell()
	if end != "" {
		f.phase = flowOver
	}
	f.mu.Unlock()
	if end != "" {
		f.finish(end, "", nil)
	}
	return again, open
}

// tell tells the observer what was carried. The caller holds mu.
func (f *flow) tell() {
	in, out := f.o.BytesIn-f.told[0], f.o.BytesOut-f.told[1]
	if o := f.u.Observer; o != nil && f.o.Picked && f.phase == flowOpen && in+out > 0 {
		f.told = [2]int64{f.o.BytesIn, f.o.BytesOut}
		o.Carried(&f.o, in, out)
	}
}

// admit adds a flow to the table, or says why it does not.
func (s *serving) admit(f *flow, now time.Duration) Cause {
	switch {
	case f.u.picking.Load() >= maxPicking:
		return CauseWaiting
	case int64(now) < f.u.resting.Load():
		return CauseFlows
	}
	client := clientPrefix(f.route.Policy, f.client.Addr())
	return f.u.flows.add(f, client, now+f.u.pause())
}

// begin keeps the flow's first datagram and has a goroutine find it a target.
func (f *flow) begin(ctx context.Context, s *serving, buffer []byte, now time.Duration) {
	datagram := buffer[room:]
	f.mu.Lock()
	f.o.DatagramsIn, f.o.BytesIn = 1, int64(len(datagram))
	kept := f.backlog.wait(datagram, &f.u.kept)
	f.pickAgain(ctx, s, f.first)
	f.mu.Unlock()
	if !kept {
		f.u.drop(CauseWaiting)
	}
}
