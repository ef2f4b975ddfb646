package affinity

import (
	"slices"
	"time"
)

// A fate is what became of a remembered target.
type fate uint8

const (
	nothing      fate = iota // was remembered
	expired                  // a memory past its deadlines
	valid                    // may be used
	unknown                  // not known here to be valid, nor to have become invalid since it was bound
	incomplete               // the revision is valid, and no endpoint was chosen yet
	endpointGone             // the revision is valid
	revisionGone
)

// A finding is the fate of a memory and what it names in the snapshot.
type finding struct {
	fate     fate
	revision *Revision // if it is valid
	endpoint *Endpoint // if it is valid too
}

// free reports whether the memory is none that has to be respected: the key may be bound anew.
func (f finding) free() bool { return f.fate != valid && f.fate != unknown }

// session finds out what became of the session's target.
func (c choice) session() finding {
	m := &c.request.SessionMemory
	if !c.remembersSession() {
		return finding{}
	}
	f := c.recall(m)
	if f.fate != valid || relays(f.revision) {
		return f
	}
	f.fate, f.endpoint = c.endpointFate(f.revision.Pool, m)
	return f
}

// flow finds out what became of the flow's target. In mode proportional there is none.
func (c choice) flow() finding {
	if !c.pinsFlow() {
		return finding{}
	}
	return c.recall(&c.request.FlowMemory)
}

// recall finds out what became of the remembered revision.
func (c choice) recall(m *Memory) finding {
	switch {
	case m.Target.IsZero():
		return finding{}
	case m.Expired:
		return finding{fate: expired}
	}
	r := c.snapshot.Revision(m.Target.Revision)
	switch {
	case r != nil && (c.chooses(r) || c.retains(r)):
		return finding{fate: valid, revision: r}
	case r != nil && c.becameInvalid(r.Since, m), c.isSettled(m):
		return finding{fate: revisionGone}
	}
	return finding{fate: unknown}
}

// relays reports whether every request for the revision goes to an endpoint that stands by.
func relays(r *Revision) bool { return r.Relayed && len(r.Pool.reserves()) > 0 }

// endpointFate returns valid, unknown, incomplete or endpointGone, and the endpoint if it is valid.
func (c choice) endpointFate(p *Pool, m *Memory) (fate, *Endpoint) {
	switch {
	case m.Target.Endpoint == "":
		return incomplete, nil
	case c.avoids(m.Target.Endpoint):
		return endpointGone, nil
	}
	e := p.Endpoint(m.Target.Endpoint)
	switch {
	case e != nil && e.Standby:
		return endpointGone, nil
	case e != nil && c.holds(e):
		return valid, e
	case e != nil && c.becameInvalid(invalidSince(e), m), c.isSettled(m):
		return endpointGone, nil
	}
	return unknown, nil
}

// chooses reports whether the revision takes new traffic of the request's kind.
func (c choice) chooses(r *Revision) bool {
	if r.State != RevisionActive {
		return false
	}
	if c.request.Tag != "" {
		return slices.Contains(r.Tags, c.request.Tag)
	}
	return r.Weight > 0
}

// retains reports whether the policy keeps what is bound to a revision that left the split. It does not apply to tags: an
// addressed tag is that of the revision that carries it now.
func (c choice) retains(r *Revision) bool {
	if c.policy == nil || c.policy.Retain <= 0 || r.State == RevisionFailed || c.request.Tag != "" {
		return false
	}
	return c.request.Now.Before(r.Since.Add(time.Duration(c.policy.Retain)))
}

// holds reports whether the endpoint serves sessions that it holds.
func (c choice) holds(e *Endpoint) bool {
	switch e.State {
	case EndpointReady:
		return true
	case EndpointDraining:
		return e.Until.IsZero() || c.request.Now.Before(e.Until)
	}
	return false
}

// invalidSince returns when an endpoint that holds no session stopped to: a draining one at its deadline.
func invalidSince(e *Endpoint) time.Time {
	if e.State == EndpointDraining && e.Until.After(e.Since) {
		return e.Until
	}
	return e.Since
}

// becameInvalid reports whether a target that is invalid since then is gone: that is certain only if it became so after it was
// bound, and if this gateway has heard of everything once. Otherwise whoever bound it may know more.
func (c choice) becameInvalid(since time.Time, m *Memory) bool {
	return c.snapshot.Synced && since.After(m.Made)
}

// isSettled reports whether the wait for an unknown target is over.
func (c choice) isSettled(m *Memory) bool {
	return c.request.Settled || !c.request.Now.Before(c.settled(m))
}

// settled returns when the wait for the target of m ends.
func (c choice) settled(m *Memory) time.Time {
	if c.policy == nil {
		return m.Made
	}
	return m.Made.Add(time.Duration(c.policy.Settle))
}

// avoids reports whether the request could not reach the endpoint of that name.
func (c choice) avoids(name string) bool {
	return len(c.request.Avoid) > 0 && slices.Contains(c.request.Avoid, name)
}
