package endpoint

import (
	"context"
	"time"

	"github.com/limpet-project/limpet/affinity"
)

// An Outcome is how a request at an endpoint ended, for passive health.
type Outcome uint8

// The outcomes.
const (
	OutcomeOK      Outcome = iota // answered, whatever the status, unless one of the others
	OutcomeFailed                 // no connection, broken protocol, timeout, or 502, 503, 504 from the endpoint
	OutcomeUnknown                // ended for a reason that is not the endpoint's: the client went away
)

// String returns "ok", "failed" or "unknown".
func (o Outcome) String() string {
	switch o {
	case OutcomeOK:
		return "ok"
	case OutcomeFailed:
		return "failed"
	}
	return "unknown"
}

// Acquire takes a place at e, waiting in its queue up to wait if it is at its limit (wait <= 0: not at all). The limit is the one
// that was published last, not e's: a change reaches those who wait. Places are given in the order of arrival, and nobody waits
// for another endpoint's. It returns ErrBusy, ErrGone, or the error of ctx. Every nil return is followed by one Release.
// Without a limit it neither locks nor allocates.
func (t *Table) Acquire(ctx context.Context, e *affinity.Endpoint, wait time.Duration) error {
	c := t.slots.of(e)
	if c == nil {
		return ErrGone
	}
	return c.enter(ctx, wait, t.maxQueue)
}

// Release gives the place back and tells how the request went. It panics if no place was taken.
func (t *Table) Release(e *affinity.Endpoint, o Outcome) {
	c := t.slots.of(e)
	if c == nil {
		panic("endpoint: Release without Acquire")
	}
	switch o {
	case OutcomeOK:
		if c.failures.Load() != 0 {
			c.failures.Store(0)
		}
	case OutcomeFailed:
		if limit := c.ejectAfter.Load(); limit > 0 && c.failures.Add(1) >= limit {
			t.eject(e)
		}
	}
	c.leave()
}

// eject leaves out an endpoint that failed too many requests in a row, if its revision's rule allows it.
func (t *Table) eject(e *affinity.Endpoint) {
	t.update(func(now time.Time) {
		m := t.slots.owners[e.Slot]
		if m == nil || !m.listed {
			return
		}
		if p := t.pools[m.id.revision]; p != nil && p.eject(m, now) {
			t.markPool(p)
		}
	})
}

// Load implements affinity.Loads. It takes no lock and allocates nothing.
func (t *Table) Load(e *affinity.Endpoint) affinity.Load {
	c := t.slots.of(e)
	if c == nil {
		return affinity.Load{}
	}
	return affinity.Load{Bound: max(c.bound.Load(), 0), InFlight: c.inFlight.Load() + c.queued.Load()}
}

// Count adds delta to the sessions bound to a target; it is a binding.Census. Sessions of an endpoint that is not listed are
// counted for when it is.
func (t *Table) Count(s affinity.ServiceName, target affinity.Target, delta int) {
	if target.Endpoint == "" {
		return
	}
	if c := t.counterOf(s, target); c != nil {
		c.bound.Add(int64(delta))
		return
	}
	id := identity{RevisionName{s.Namespace, target.Revision}, target.Endpoint}
	t.mu.Lock()
	defer t.mu.Unlock()
	if p := t.pools[id.revision]; p != nil {
		if m := p.find(id.endpoint); m != nil {
			m.counter.bound.Add(int64(delta))
			return
		}
	}
	t.slots.count(id, int64(delta))
}

// counterOf finds the counter of a target in the service's snapshot.
func (t *Table) counterOf(s affinity.ServiceName, target affinity.Target) *counter {
	snapshot := t.Snapshot(s)
	if snapshot == nil {
		return nil
	}
	r := snapshot.Revision(target.Revision)
	if r == nil {
		return nil
	}
	e := r.Pool.Endpoint(target.Endpoint)
	if e == nil {
		return nil
	}
	return t.slots.of(e)
}
