package affinity

import (
	"errors"
	"time"
)

// Errors with which a request cannot be served now. [Decide] returns the first two. It does not return ErrNoEndpoint: that is the
// answer of a caller that does not wait for an endpoint, see [Decision.NoEndpoint].
var (
	ErrNoRevision = errors.New("no valid revision")
	ErrUnknownTag = errors.New("no revision carries the tag")
	ErrNoEndpoint = errors.New("no ready endpoint")
)

// Memory is what was remembered for a key. The zero Memory is nothing.
type Memory struct {
	// Target of a session may be a revision alone: it began while only endpoints that stand by could take it.
	Target Target
	// Made is when the binding was made, on this gateway's clock (the router converts from the store's).
	Made time.Time
	// Expired says that the memory is past its deadlines and is known only to give the reason.
	Expired bool
	// Provisional says that it was made while the store was away and is not confirmed.
	Provisional bool
}

// A Request is what Decide knows of a request. Keys and memories are zero where there is none.
type Request struct {
	Session, Flow             Key
	SessionMemory, FlowMemory Memory
	// Tag is the tag that the client addressed explicitly, "" for none.
	Tag string
	// Now is this gateway's clock.
	Now time.Time
	// Loads may be nil: every load is then zero.
	Loads Loads
	// Random takes the place of a key where the request has none; two requests should not share it.
	Random uint64
	// Degraded says that the store is away or full: plain rendezvous, on which gateways with equal snapshots agree.
	Degraded bool
	// Kept is the revision that this request was given before, while no endpoint was ready: it takes the place of the split for as long
	// as it may be chosen. "" is none.
	Kept string
	// Avoid names endpoints that this request could not reach; they are passed over even if they are ready.
	Avoid []string
	// Settled says that the wait for an unknown target is over or not possible: unknown counts as gone.
	Settled bool
}

// Bind says which memory a decision asks the router to make before the request goes on.
type Bind uint8

// The binds. A decision asks for one at a time: the flow first, then, decided again with the winner, the session.
const (
	BindNothing Bind = iota
	BindFlow
	BindSession
)

// String returns "nothing", "flow" or "session".
func (b Bind) String() string {
	switch b {
	case BindNothing:
		return "nothing"
	case BindFlow:
		return "flow"
	case BindSession:
		return "session"
	}
	return "unknown"
}

// A Decision is the outcome of Decide.
type Decision struct {
	// Target is the revision and the endpoint that the request goes to. With Bind it is also what to remember: for BindFlow, and
	// for a session that goes to an endpoint that stands by, the revision alone.
	Target Target
	// Endpoint is the endpoint to go to in the snapshot, nil if the revision has none ready (scaled to zero) and with BindFlow.
	Endpoint *Endpoint
	// Reason says why.
	Reason Reason
	// Bind says what to remember first.
	Bind Bind
	// WaitUntil is set when the remembered target is unknown here: decide again when the snapshot changes, at the latest then.
	// Every other field is zero then.
	WaitUntil time.Time
}

// NoEndpoint reports whether the decision is final and names a revision none of whose endpoints can take the request: it is
// scaled to zero, all of them are down, or the request avoids those that are ready. The session was not bound. The caller
// activates the revision and decides again when the snapshot changes, or answers ErrNoEndpoint.
func (d Decision) NoEndpoint() bool {
	return d.Endpoint == nil && d.Bind == BindNothing && d.Target.Revision != ""
}

// Decide chooses the target of a request. It does not block, allocates nothing and does not modify its arguments; equal arguments
// give equal decisions. A nil policy is that of a service without affinity, whose requests have no keys.
//
// The caller does what a decision asks for (bind the flow, bind the session, wait) and decides again with what is then
// remembered, until a decision asks for nothing. The reason of each decision is that of the state of things that it was given:
// the first one of a request with a new session says [ReasonNew], and the last one, which finds the session that was just bound,
// says [ReasonBound]. A caller that wants the reason for the whole request keeps that of the first decision that asked to bind,
// or of the last one if none did. Where a request has both a session and a flow, the reason is the session's, also of a decision
// that binds the flow; in mode hash, which remembers no session, it is the flow's.
//
// It returns [ErrUnknownTag] if the request addresses a tag that no listed revision carries, and [ErrNoRevision] if no revision may
// be chosen: none is active with a weight or the addressed tag, and no memory is kept valid by the policy's retain.
func Decide(p *Policy, s *Snapshot, r Request) (Decision, error) {
	if s == nil {
		return Decision{}, ErrNoRevision
	}
	c := choice{policy: p, snapshot: s, request: &r}
	if r.Tag != "" && !s.HasTag(r.Tag) {
		return Decision{}, ErrUnknownTag
	}
	session := c.session()
	switch session.fate {
	case unknown:
		return Decision{WaitUntil: c.settled(&r.SessionMemory)}, nil
	case valid, incomplete, endpointGone:
		return c.stay(session), nil
	}
	return c.start(session)
}

// A choice is one call of Decide.
type choice struct {
	policy   *Policy
	snapshot *Snapshot
	request  *Request
}

// stay decides for a session whose revision is valid. The flow follows the session if it is not bound; a flow that is bound,
// validly or to what is unknown here, is left alone.
func (c choice) stay(session finding) Decision {
	flow := c.flow()
	reason := c.reason(session, flow)
	switch {
	case c.pinsFlow() && flow.free():
		return Decision{Target: Target{Revision: session.revision.Name}, Reason: reason, Bind: BindFlow}
	case session.endpoint != nil:
		return decision(session.revision, session.endpoint, reason, BindNothing)
	}
	return c.place(session.revision, reason)
}

// start decides for a session whose revision is not remembered or not valid, and for a request without one: the revision is
// the flow's, which is bound first, or comes from the split.
func (c choice) start(session finding) (Decision, error) {
	flow := c.flow()
	if flow.fate == unknown {
		return Decision{WaitUntil: c.settled(&c.request.FlowMemory)}, nil
	}
	revision := flow.revision
	if flow.fate != valid {
		revision = c.kept()
	}
	if revision == nil {
		revision = c.split()
	}
	if revision == nil {
		return Decision{}, ErrNoRevision
	}
	reason := c.reason(session, flow)
	if c.pinsFlow() && flow.free() {
		return Decision{Target: Target{Revision: revision.Name}, Reason: reason, Bind: BindFlow}, nil
	}
	return c.place(revision, reason), nil
}

// place chooses an endpoint of the revision.
func (c choice) place(revision *Revision, reason Reason) Decision {
	if relays(revision) {
		if d := c.standBy(revision, reason); d.Endpoint != nil {
			return d
		}
	}
	e, bind := c.own(revision.Pool)
	if e == nil {
		return c.standBy(revision, reason)
	}
	return decision(revision, e, reason, bind)
}

// own chooses an endpoint that does not stand by, nil if there is none, and says whether the session is to be bound to it.
func (c choice) own(p *Pool) (*Endpoint, Bind) {
	switch {
	case c.request.Session.IsZero():
		return c.spread(p), BindNothing
	case !c.remembersSession():
		return c.plain(p), BindNothing
	}
	return c.placeSession(p), BindSession
}

// standBy chooses an endpoint that stands by. A session is bound to the revision alone, unless something of it is remembered
// already: its endpoint may come back, and the next request that finds one ready completes the binding.
func (c choice) standBy(revision *Revision, reason Reason) Decision {
	e := c.reserve(revision.Pool)
	d := decision(revision, e, reason, BindNothing)
	m := &c.request.SessionMemory
	if e != nil && c.remembersSession() && (m.Expired || m.Target.Revision != revision.Name) {
		d.Bind, d.Target.Endpoint = BindSession, ""
	}
	return d
}

func decision(revision *Revision, e *Endpoint, reason Reason, bind Bind) Decision {
	d := Decision{Target: Target{Revision: revision.Name}, Endpoint: e, Reason: reason, Bind: bind}
	if e != nil {
		d.Target.Endpoint = e.Name
	}
	return d
}

// reason returns why the request goes where it goes: because of the session if one is remembered, else because of the flow.
func (c choice) reason(session, flow finding) Reason {
	switch {
	case c.remembersSession():
		return c.reasonOf(session.fate, &c.request.SessionMemory)
	case c.pinsFlow():
		return c.reasonOf(flow.fate, &c.request.FlowMemory)
	case c.request.Tag != "":
		return ReasonTag
	}
	return ReasonNone
}

func (c choice) reasonOf(f fate, m *Memory) Reason {
	switch {
	case (f == valid || f == incomplete) && m.Provisional, f == nothing && c.request.Degraded:
		return ReasonDegraded
	case f == valid, f == incomplete:
		return ReasonBound
	case f == expired:
		return ReasonExpired
	case f == endpointGone:
		return ReasonEndpointGone
	case f == revisionGone:
		return ReasonRevisionGone
	}
	return ReasonNew
}

// remembersSession reports whether the request has a session that is bound to an endpoint, in the store or in a token.
func (c choice) remembersSession() bool {
	if c.request.Session.IsZero() {
		return false
	}
	return c.policy == nil || c.policy.Session == nil || c.policy.Session.Mode != ModeHash
}

// pinsFlow reports whether the request has a flow that is bound to a revision.
func (c choice) pinsFlow() bool {
	if c.request.Flow.IsZero() {
		return false
	}
	return c.policy == nil || c.policy.Revision == nil || c.policy.Revision.Mode != ModeProportional
}
