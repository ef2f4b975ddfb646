package affinity

import (
	"slices"
	"sort"
	"strings"
	"time"
)

// A Snapshot is an immutable view of one service: revisions, weights, and for each a shared immutable pool of endpoints.
// Make one with [NewSnapshot]; after that nobody may change it. Times in it are this gateway's clock.
type Snapshot struct {
	Service   ServiceName
	Revisions []Revision // sorted by name; those that were removed stay listed for a while, as Removed
	// Synced says that the source's first synchronisation is complete: what is not listed does not exist. Until then it may.
	Synced bool
}

// NewSnapshot returns a snapshot of the service. It copies the revisions and sorts them by name; their pools and tags are shared,
// neither copied nor read, so a snapshot costs no more for large pools than for small ones. Names are unique: of several
// revisions with one name the first counts.
func NewSnapshot(service ServiceName, revisions []Revision, synced bool) *Snapshot {
	list := slices.Clone(revisions)
	slices.SortStableFunc(list, func(a, b Revision) int { return strings.Compare(a.Name, b.Name) })
	list = slices.CompactFunc(list, func(a, b Revision) bool { return a.Name == b.Name })
	for i := range list {
		list[i].seed = seed(list[i].Name)
	}
	return &Snapshot{Service: service, Revisions: list, Synced: synced}
}

// Revision returns the revision with that name, nil if it is not listed. It points into s.
func (s *Snapshot) Revision(name string) *Revision {
	i, found := sort.Find(len(s.Revisions), func(i int) int { return strings.Compare(name, s.Revisions[i].Name) })
	if !found {
		return nil
	}
	return &s.Revisions[i]
}

// HasTag reports whether a revision that exists carries the tag, be it valid or not. For a tag that none carries [Decide] returns
// [ErrUnknownTag].
func (s *Snapshot) HasTag(tag string) bool {
	return slices.ContainsFunc(s.Revisions, func(r Revision) bool {
		return r.State != RevisionRemoved && slices.Contains(r.Tags, tag)
	})
}

// A RevisionState says whether a revision may be chosen at all.
type RevisionState uint8

// The revision states.
const (
	RevisionActive  RevisionState = iota // exists; whether it is valid depends on its weight
	RevisionFailed                       // listed by the source as failed: never valid
	RevisionRemoved                      // no longer listed, or being deleted
)

// String returns "active", "failed" or "removed".
func (s RevisionState) String() string {
	switch s {
	case RevisionActive:
		return "active"
	case RevisionFailed:
		return "failed"
	case RevisionRemoved:
		return "removed"
	}
	return "unknown"
}

// A Revision is a version of the service in a snapshot.
type Revision struct {
	Name   string
	Weight int // share of the split relative to the others; 0 takes no new traffic
	Tags   []string
	State  RevisionState
	// Since is when the revision became what it is (valid or not), as far as this gateway knows; the zero time is "always".
	Since time.Time
	// Pool holds the endpoints. It may be nil or empty: a revision scaled to zero is valid.
	Pool *Pool
	// Relayed sends every request to a standby endpoint as long as one is ready: a session decides the revision only, and the next
	// hop the endpoint.
	Relayed bool

	seed uint64 // hash of the name, set by NewSnapshot
}

// A Pool is the immutable set of endpoints of one revision. Services that list the same revision share its pool.
// Make one with [NewPool]. A nil Pool is an empty one.
type Pool struct {
	Endpoints []Endpoint // sorted by name; those that went stay listed for a while, as Gone

	ready   []candidate
	standby []candidate
	index   map[string]int32 // place in Endpoints by name
}

// A candidate is a ready endpoint. The seeds lie side by side, apart from the endpoints, because every new session reads them all.
type candidate struct {
	seed uint64 // hash of the name
	at   int32  // place in Endpoints
}

// NewPool returns a pool of the endpoints. It copies them and sorts them by name. Names are unique: of several endpoints with
// one name the first counts.
func NewPool(endpoints []Endpoint) *Pool {
	list := slices.Clone(endpoints)
	slices.SortStableFunc(list, func(a, b Endpoint) int { return strings.Compare(a.Name, b.Name) })
	list = slices.CompactFunc(list, func(a, b Endpoint) bool { return a.Name == b.Name })
	p := &Pool{Endpoints: list, index: make(map[string]int32, len(list))}
	for i := range list {
		p.index[list[i].Name] = int32(i)
		if list[i].State != EndpointReady {
			continue
		}
		if n := (candidate{seed: seed(list[i].Name), at: int32(i)}); list[i].Standby {
			p.standby = append(p.standby, n)
		} else {
			p.ready = append(p.ready, n)
		}
	}
	return p
}

// Endpoint returns the endpoint with that name, in whatever state, nil if it is not listed. It points into p.
func (p *Pool) Endpoint(name string) *Endpoint {
	if p == nil {
		return nil
	}
	i, listed := p.index[name]
	if !listed {
		return nil
	}
	return &p.Endpoints[i]
}

// Ready returns the number of ready endpoints without those that stand by.
func (p *Pool) Ready() int {
	if p == nil {
		return 0
	}
	return len(p.ready)
}

// candidates returns the ready endpoints; p may be nil.
func (p *Pool) candidates() []candidate {
	if p == nil {
		return nil
	}
	return p.ready
}

// reserves returns the ready endpoints that stand by; p may be nil.
func (p *Pool) reserves() []candidate {
	if p == nil {
		return nil
	}
	return p.standby
}

// An EndpointState says which requests an endpoint may get.
type EndpointState uint8

// The endpoint states.
const (
	EndpointReady    EndpointState = iota // any
	EndpointDraining                      // requests of sessions that it already holds, until its deadline
	EndpointDown                          // listed but failing its probes, ejected, or not ready: none
	EndpointGone                          // no longer listed: none
)

// String returns "ready", "draining", "down" or "gone".
func (s EndpointState) String() string {
	switch s {
	case EndpointReady:
		return "ready"
	case EndpointDraining:
		return "draining"
	case EndpointDown:
		return "down"
	case EndpointGone:
		return "gone"
	}
	return "unknown"
}

// An Endpoint is one replica in a pool, named by identity (pod UID, or the configured name) and reached at an address.
type Endpoint struct {
	Name    string
	Address string // host:port
	State   EndpointState
	// Since is when the endpoint entered its state, as far as this gateway knows; the zero time is "always".
	Since time.Time
	// Until is the drain deadline; the zero time is none.
	Until time.Time
	// Limit is the number of requests in flight at most, as this gateway counts them; 0 is no limit.
	Limit int
	// Standby gets requests only while no other endpoint of the revision can take them, and holds no sessions: it wakes the
	// revision, or knows where to go on.
	Standby bool
	// Slot is a small number that belongs to the endpoint's identity and survives snapshots. Loads may index by it.
	Slot int32
}

// A Load is what one endpoint carries at the moment, as this gateway sees it.
type Load struct {
	Bound    int64 // sessions bound to it
	InFlight int64 // requests in flight, with those that wait for it
}

// Loads reports the live load of endpoints. It must not block and is called concurrently.
type Loads interface {
	Load(e *Endpoint) Load
}
