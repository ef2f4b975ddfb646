package router

import (
	"context"
	"sync"
	"time"

	"github.com/limpet-project/limpet/affinity"
	"github.com/limpet-project/limpet/binding"
)

const (
	// renewEvery is how often renewals are sent and requests in flight are looked at: a quarter of the shortest idle, 1 s, holds two.
	renewEvery = 100 * time.Millisecond
	// renewTimeout bounds one batch; it is not a request's wait.
	renewTimeout = time.Second
	// maxRenewals bounds the renewals that wait to be sent; more are dropped and counted.
	maxRenewals = 100_000
	// renewBatch is the number of renewals of one call of the store.
	renewBatch = 512
)

// renewals collects what has to be renewed, one entry a key.
type renewals struct {
	mu      sync.Mutex
	pending map[affinity.Key]binding.Renewal
	dropped int
}

func (q *renewals) add(n binding.Renewal) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.pending == nil {
		q.pending = make(map[affinity.Key]binding.Renewal)
	}
	if len(q.pending) >= maxRenewals {
		q.dropped++
		return
	}
	q.pending[n.Key] = n
}

// take returns what is pending and how many were dropped since the last call.
func (q *renewals) take() (map[affinity.Key]binding.Renewal, int) {
	q.mu.Lock()
	defer q.mu.Unlock()
	pending, dropped := q.pending, q.dropped
	q.pending, q.dropped = nil, 0
	return pending, dropped
}

// flush sends the pending renewals to the store. Best effort: those of a batch that fails come again with the next use of their key.
func (r *Router) flush(ctx context.Context) {
	pending, dropped := r.renewals.take()
	batch := make([]binding.Renewal, 0, min(len(pending), renewBatch))
	send := func() {
		ctx, cancel := context.WithTimeout(ctx, renewTimeout)
		defer cancel()
		if r.o.Store.Touch(ctx, batch) != nil {
			dropped += len(batch)
		}
		batch = batch[:0]
	}
	for _, n := range pending {
		if batch = append(batch, n); len(batch) == renewBatch {
			send()
		}
	}
	if len(batch) > 0 {
		send()
	}
	if dropped > 0 && r.o.Observer != nil {
		r.o.Observer.RenewalsDropped(dropped)
	}
}

// renewStart renews the bindings that the request uses, and lists it among those in flight so that it renews them while it lasts.
func (p *Pick) renewStart() {
	session, flow := p.storesSession() && p.session.idle > 0, p.storesFlow() && p.flow.idle > 0
	if !session && !flow {
		return
	}
	p.renew(p.decide.Now)
	p.flight.due = p.decide.Now.Add(p.quarter(session, flow))
	p.r.flights.add(p)
}

// renewEnd renews what the end of the request has to.
func (p *Pick) renewEnd() {
	if p.r.flights.remove(p) {
		p.renew(time.Now())
	}
}

// quarter returns the shortest quarter of idle among the bindings in use.
func (p *Pick) quarter(session, flow bool) time.Duration {
	switch {
	case !flow:
		return p.session.idle / 4
	case !session:
		return p.flow.idle / 4
	}
	return min(p.session.idle, p.flow.idle) / 4
}

// renew asks for the renewal of each binding of which less than idle is left.
func (p *Pick) renew(now time.Time) {
	if p.storesSession() {
		p.renewHeld(p.decide.Session, &p.session, now)
	}
	if p.storesFlow() {
		p.renewHeld(p.decide.Flow, &p.flow, now)
	}
}

func (p *Pick) renewHeld(k affinity.Key, h *held, now time.Time) {
	if h.version.IsZero() || !h.ends.IsZero() && h.ends.Sub(now) >= h.idle {
		return
	}
	life := p.life(k, h)
	ends := now.Add(life.Idle + life.Idle/4)
	if !h.until.IsZero() {
		if last := h.until.Add(-p.r.offset()); !h.ends.IsZero() && !h.ends.Before(last) {
			return // nothing left to gain
		} else if ends.After(last) {
			ends = last
		}
	}
	h.ends = ends
	p.r.renewals.add(binding.Renewal{Key: k, Version: h.version, Life: life})
}

// flightShards spreads the list of requests in flight over as many locks.
const flightShards = 32

// flights lists the requests in flight that hold a binding in the store.
type flights struct {
	shards [flightShards]struct {
		sync.Mutex
		head *Pick
		_    [48]byte // keep neighbours off one cache line
	}
}

// A flight is a pick's place in the list, guarded by its shard. Zero: not in the list.
type flight struct {
	due        time.Time // when to renew next
	next, prev *Pick
	listed     bool
}

func (p *Pick) shard() int { return int(p.decide.Random % flightShards) }

func (f *flights) add(p *Pick) {
	s := &f.shards[p.shard()]
	s.Lock()
	defer s.Unlock()
	p.flight.listed = true
	if p.flight.next = s.head; s.head != nil {
		s.head.flight.prev = p
	}
	s.head = p
}

// remove reports whether p was listed. After it no other goroutine touches p.
func (f *flights) remove(p *Pick) bool {
	s := &f.shards[p.shard()]
	s.Lock()
	defer s.Unlock()
	if !p.flight.listed {
		return false
	}
	p.flight.listed = false
	if p.flight.prev == nil {
		s.head = p.flight.next
	} else {
		p.flight.prev.flight.next = p.flight.next
	}
	if p.flight.next != nil {
		p.flight.next.flight.prev = p.flight.prev
	}
	p.flight.next, p.flight.prev = nil, nil
	return true
}

// renew renews the bindings of the requests that have been in flight for another quarter of idle.
func (f *flights) renew(r *Router, now time.Time) {
	for i := range f.shards {
		s := &f.shards[i]
		s.Lock()
		for p := s.head; p != nil; p = p.flight.next {
			if now.Before(p.flight.due) {
				continue
			}
			p.renewDue(r, now)
		}
		s.Unlock()
	}
}

// renewDue renews p's bindings from another goroutine, under p's shard: another request of the session may have done so already,
// which the store's own view tells.
func (p *Pick) renewDue(r *Router, now time.Time) {
	session, flow := p.storesSession(), p.storesFlow()
	p.flight.due = now.Add(p.quarter(session, flow))
	if r.peeker != nil {
		if session {
			p.refresh(r, p.decide.Session, &p.session)
		}
		if flow {
			p.refresh(r, p.decide.Flow, &p.flow)
		}
	}
	p.renew(now)
}

// refresh takes over the end of k's binding as the store knows it here.
func (p *Pick) refresh(r *Router, k affinity.Key, h *held) {
	if b, ok := r.peeker.Peek(k); ok && b.Version == h.version && !b.Ends.IsZero() {
		h.ends = b.Ends
	}
}
