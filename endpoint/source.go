package endpoint

import (
	"context"
	"time"

	"github.com/limpet-project/limpet/affinity"
)

// A Source publishes whole snapshots and pools, never deltas, and the set of services that exist, so that a missed event heals.
// Run returns when ctx ends, with nil, or when the source cannot go on.
type Source interface {
	Run(ctx context.Context, t *Table) error
}

// A SourceFunc is a function as a [Source].
type SourceFunc func(ctx context.Context, t *Table) error

// Run calls f.
func (f SourceFunc) Run(ctx context.Context, t *Table) error { return f(ctx, t) }

// A RevisionName names a revision for its pool. A revision that several services list has one pool.
type RevisionName struct {
	Namespace string
	Name      string
}

// String returns "namespace/name", or the name alone where there is no namespace.
func (r RevisionName) String() string {
	if r.Namespace == "" {
		return r.Name
	}
	return r.Namespace + "/" + r.Name
}

// A Service is what a source says of one service.
type Service struct {
	Name      affinity.ServiceName
	Revisions []Revision
	// Retain keeps a revision that is no longer listed, with its endpoints as they were, for so long. It should be the policy's.
	Retain time.Duration
	// Probe checks the endpoints of the service's revisions; nil checks nothing: listed endpoints count as ready.
	Probe *Probe
	// Ejection is the passive health rule; nil ejects nothing.
	Ejection *Ejection
}

// A Revision is what a source says of one revision of a service.
type Revision struct {
	Name   string
	Weight int
	Tags   []string
	Failed bool
	// Relayed sends every request to a member that stands by, as long as one is ready; sessions decide the revision only.
	Relayed bool
}

// A Member is what a source says of one endpoint.
type Member struct {
	Name     string // identity, unique within the revision
	Address  string // host:port
	NotReady bool   // listed, but the source knows that it is not ready
	// Draining keeps its sessions and takes no new ones, until DrainUntil (zero: no deadline).
	Draining   bool
	DrainUntil time.Time
	Limit      int // requests in flight at most; 0 is no limit
	// Standby gets requests only while no other endpoint of the revision can take them; nothing is bound to it.
	Standby bool
}

// same reports whether two statements of a source say the same.
func (m Member) same(n Member) bool {
	sameUntil := m.DrainUntil.Equal(n.DrainUntil)
	m.DrainUntil, n.DrainUntil = time.Time{}, time.Time{}
	return sameUntil && m == n
}
