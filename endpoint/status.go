package endpoint

import (
	"cmp"
	"slices"
	"time"

	"github.com/limpet-project/limpet/affinity"
)

// A ServiceStatus is what is known of one service, for metrics and operators. It belongs to whoever asked for it.
type ServiceStatus struct {
	Name      affinity.ServiceName
	Synced    bool
	Revisions []RevisionStatus // sorted by name, removed ones included
}

// A RevisionStatus is what is known of one revision of a service.
type RevisionStatus struct {
	Name      string
	Weight    int
	Tags      []string
	State     affinity.RevisionState
	Since     time.Time
	Relayed   bool             // every request goes to an endpoint that stands by
	Endpoints []EndpointStatus // sorted by name, gone ones included
}

// An EndpointStatus is what is known of one endpoint and what it carries at the moment.
type EndpointStatus struct {
	Name         string
	Address      string
	State        affinity.EndpointState
	Since        time.Time
	Cause        Cause     // why it is down; "" if it is not
	ProbedAt     time.Time // the zero time: not yet
	ProbeError   string    // what was wrong at the last probe; "" for nothing
	EjectedUntil time.Time // the zero time: not ejected
	Draining     bool      // takes no new sessions, whatever its state
	DrainUntil   time.Time // the zero time: no deadline
	Limit        int       // 0 is no limit
	Standby      bool      // takes only what no other endpoint of the revision can
	InFlight     int64     // without those that wait
	Queued       int64
	Bound        int64
}

// Status returns what is known of all services, sorted by name. Services are read one after the other: the table is not held up by
// it, and the result is not of one moment.
func (t *Table) Status() []ServiceStatus {
	names := t.Services()
	list := make([]ServiceStatus, 0, len(names))
	for _, name := range names {
		if s, ok := t.ServiceStatus(name); ok {
			list = append(list, s)
		}
	}
	return list
}

// ServiceStatus returns what is known of one service, and whether it exists.
func (t *Table) ServiceStatus(name affinity.ServiceName) (ServiceStatus, bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	s := t.all[name]
	if s == nil {
		return ServiceStatus{}, false
	}
	status := ServiceStatus{Name: name, Synced: t.synced, Revisions: make([]RevisionStatus, 0, len(s.revisions))}
	for _, r := range s.revisions {
		status.Revisions = append(status.Revisions, r.status())
	}
	slices.SortFunc(status.Revisions, func(a, b RevisionStatus) int { return cmp.Compare(a.Name, b.Name) })
	return status, true
}

func (r *revision) status() RevisionStatus {
	status := RevisionStatus{Name: r.spec.Name, State: r.state, Since: r.since, Relayed: r.spec.Relayed}
	status.Endpoints = make([]EndpointStatus, 0, len(r.pool.members))
	if r.state != affinity.RevisionRemoved {
		status.Weight, status.Tags = r.spec.Weight, slices.Clone(r.spec.Tags)
	}
	for _, m := range r.pool.members {
		status.Endpoints = append(status.Endpoints, m.status())
	}
	return status
}

func (m *member) status() EndpointStatus {
	draining, until := m.draining()
	return EndpointStatus{
		Name: m.spec.Name, Address: m.spec.Address, State: m.state, Since: m.since, Cause: m.cause,
		ProbedAt: m.probedAt, ProbeError: m.probeText, EjectedUntil: m.ejectedUntil,
		Draining: draining, DrainUntil: until, Limit: m.spec.Limit, Standby: m.spec.Standby,
		InFlight: m.counter.inFlight.Load(), Queued: m.counter.queued.Load(), Bound: max(m.counter.bound.Load(), 0),
	}
}
