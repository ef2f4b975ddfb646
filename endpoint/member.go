package endpoint

import (
	"time"

	"github.com/limpet-project/limpet/affinity"
)

// A Cause says why an endpoint is down.
type Cause string

// The causes. The empty Cause is that of an endpoint that is not down.
const (
	CauseSource  Cause = "source"  // its source says that it is not ready
	CauseProbe   Cause = "probe"   // it fails its probe, or has not passed it yet
	CauseEjected Cause = "ejected" // it failed too many requests
)

// A health is what probes found out.
type health uint8

const (
	healthUnproven health = iota // no result yet: not ready while it is probed
	healthHoped                  // no result yet, but it was there when this gateway began: ready until the first result
	healthGood                   // passes, or served before it was probed
	healthBad                    // fails
)

// passes reports whether an endpoint of that health is ready as far as probes go.
func (h health) passes() bool { return h == healthGood || h == healthHoped }

// A member is one endpoint of a pool: what its source says of it, what was found out, and what follows from both. The table's
// lock guards it.
type member struct {
	id      identity
	spec    Member
	listed  bool
	ended   bool // not even a tombstone any longer
	slot    int32
	counter *counter

	health    health
	streak    int // probe results in a row that speak against health
	probeText string
	probedAt  time.Time
	task      *probeTask

	ejectedUntil time.Time // zero: not ejected
	lastEjection time.Duration
	lastReturn   time.Time // when the last ejection was to end

	order *Drain // the operator's order in force

	settled bool // state was computed once
	served  bool // was open once
	state   affinity.EndpointState
	cause   Cause
	since   time.Time
}

// draining reports whether the member takes no new sessions, and its deadline: the earlier one if there are two.
func (m *member) draining() (bool, time.Time) {
	var until time.Time
	if m.spec.Draining {
		until = m.spec.DrainUntil
	}
	if m.order != nil && !m.order.Until.IsZero() && (until.IsZero() || m.order.Until.Before(until)) {
		until = m.order.Until
	}
	return m.spec.Draining || m.order != nil, until
}

// standing returns the state that follows from what is known: gone before down before draining before ready.
func (m *member) standing() (affinity.EndpointState, Cause) {
	draining, _ := m.draining()
	switch {
	case !m.listed:
		return affinity.EndpointGone, ""
	case m.spec.NotReady:
		return affinity.EndpointDown, CauseSource
	case m.failsProbe():
		return affinity.EndpointDown, CauseProbe
	case !m.ejectedUntil.IsZero():
		return affinity.EndpointDown, CauseEjected
	case draining:
		return affinity.EndpointDraining, ""
	}
	return affinity.EndpointReady, ""
}

// fit reports whether the member is ready but for an ejection. Shares of a revision are counted among these.
func (m *member) fit() bool {
	draining, _ := m.draining()
	return m.listed && !m.spec.NotReady && !m.failsProbe() && !draining
}

// failsProbe reports whether the member is known to fail its probe, or has to pass it first.
func (m *member) failsProbe() bool {
	return m.health == healthBad || m.health == healthUnproven && m.task != nil
}

// settle computes the member's state and reports whether it changed.
func (m *member) settle(now time.Time) bool {
	state, cause := m.standing()
	changed := m.settled && state != m.state
	if changed {
		m.since = now
	}
	m.settled, m.state, m.cause = true, state, cause
	m.served = m.served || m.open()
	return changed
}

// open reports whether requests may be sent to the member.
func (m *member) open() bool {
	return m.state == affinity.EndpointReady || m.state == affinity.EndpointDraining
}

// endpoint returns the member as a snapshot shows it. One that was never ready here has not stopped to be: another gateway, which
// knew of it or probed it earlier, may have bound sessions to it, and they are no reason to think that it is gone.
func (m *member) endpoint() affinity.Endpoint {
	_, until := m.draining()
	since := m.since
	if m.state == affinity.EndpointDown && !m.served {
		since = time.Time{}
	}
	return affinity.Endpoint{
		Name: m.spec.Name, Address: m.spec.Address, State: m.state, Since: since,
		Until: until, Limit: m.spec.Limit, Standby: m.spec.Standby, Slot: m.slot,
	}
}
