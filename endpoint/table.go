package endpoint

import (
	"container/list"
	"context"
	"errors"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/limpet-project/limpet/affinity"
)

// A Table holds what is known of all endpoints and publishes snapshots. It is safe for concurrent use. Make one with [NewTable],
// keep [Table.Run] running.
//
// Whoever changes the table sees the change in Snapshot when the call returns. A change of one revision's endpoints rebuilds
// that pool and the snapshots of the services that list it, nothing else; changes that come while another is being published
// are published together.
type Table struct {
	drains    DrainStore
	own       *ownDrains // drains, if it is kept in this process
	logger    *slog.Logger
	observer  Observer
	prober    prober
	maxQueue  int
	maxProbes int

	running  atomic.Bool
	services atomic.Pointer[map[affinity.ServiceName]*service] // replaced when the set of services changes
	slots    slots
	changed  signal
	events   eventQueue

	publishing sync.Mutex // held while changes are published; locked before mu
	published  uint64     // the version that was published last; guarded by publishing

	mu            sync.Mutex // guards what follows, services, pools and members; nothing is waited for while it is held
	version       uint64     // counts changes
	synced        bool
	all           map[affinity.ServiceName]*service
	allChanged    bool
	pools         map[RevisionName]*pool
	idle          list.List // pools that no service lists, longest first
	orders        orders
	ordersVersion uint64 // counts the orders given here
	dirtyPools    []*pool
	dirtyServices []*service
	deadlines     agenda[dirtier]
	deadlineWake  chan struct{}
	probes        agenda[*probeTask]
	probeWake     chan struct{}
	scratch       scratch
}

// Options configure a Table; the zero value works.
type Options struct {
	Drains    DrainStore   // shared drains; nil keeps them in this process
	MaxQueue  int          // requests that wait for one endpoint at most; default 1024
	MaxProbes int          // probes at the same time at most; default 256
	Logger    *slog.Logger // is told of changes of state and of drains that cannot be read; nil logs nothing
	Observer  Observer     // is told of changes of state; nil is none
}

// NewTable returns an empty table. Nothing is probed, no drain is read and no ejection ends until Run.
func NewTable(o Options) *Table {
	t := &Table{
		drains: o.Drains, logger: o.Logger, observer: o.Observer, prober: newProber(), maxQueue: o.MaxQueue, maxProbes: o.MaxProbes,
		all:          make(map[affinity.ServiceName]*service),
		pools:        make(map[RevisionName]*pool),
		deadlineWake: make(chan struct{}, 1),
		probeWake:    make(chan struct{}, 1),
	}
	if t.drains == nil {
		t.own = &ownDrains{}
		t.drains = t.own
	}
	if t.logger == nil {
		t.logger = slog.New(slog.DiscardHandler)
	}
	if t.maxQueue <= 0 {
		t.maxQueue = 1024
	}
	if t.maxProbes <= 0 {
		t.maxProbes = 256
	}
	t.events.wake = make(chan struct{}, 1)
	return t
}

// Run probes endpoints, reads shared drains, lets ejected endpoints back, ends tombstones and reports events until ctx ends; it
// returns after its last goroutine has. A table runs once at a time.
func (t *Table) Run(ctx context.Context) error {
	if !t.running.CompareAndSwap(false, true) {
		return errors.New("endpoint table is running already")
	}
	defer t.running.Store(false)
	var loops sync.WaitGroup
	loops.Go(func() { t.runProbes(ctx) })
	loops.Go(func() { t.runDrains(ctx) })
	loops.Go(func() { t.runDeadlines(ctx) })
	loops.Go(func() { t.runEvents(ctx) })
	loops.Wait()
	t.deliverEvents()
	return nil
}

// SetServices publishes the whole set of services: one that is not listed does not exist. Of several with one name the first
// counts. The table keeps nothing of the slice.
func (t *Table) SetServices(services []Service) {
	t.update(func(now time.Time) {
		listed := make(map[affinity.ServiceName]bool, len(services))
		for i := range services {
			if name := services[i].Name; !listed[name] {
				listed[name] = true
				t.setService(&services[i], now)
			}
		}
		for name, s := range t.all {
			if !listed[name] {
				t.dropService(s)
			}
		}
	})
}

// SetMembers publishes the whole set of endpoints of one revision. Those that are no longer in it stay listed as gone for ten
// minutes. It may come before or after the service that lists the revision; until a service does, the endpoints are kept and not
// probed. The table keeps nothing of the slice.
func (t *Table) SetMembers(r RevisionName, members []Member) {
	t.update(func(now time.Time) {
		p := t.pool(r)
		if p.setMembers(members, !t.synced, now, func(m *member) { t.addMember(m, now) }) {
			t.markPool(p)
		}
	})
}

// ForgetMembers says that the source will not say more of a revision, because nothing lists it any longer. Unlike SetMembers with
// no endpoints it leaves them as they were for services that retain the revision; when none does, they are dropped.
func (t *Table) ForgetMembers(r RevisionName) {
	t.update(func(time.Time) {
		if p := t.pools[r]; p != nil && !p.forgotten {
			p.forgotten = true
			t.markPool(p)
		}
	})
}

// SetSynced says that the first synchronisation of all sources is complete. From then on what is not listed does not exist, and
// what is listed for the first time has just appeared.
func (t *Table) SetSynced() {
	t.update(func(time.Time) {
		if t.synced {
			return
		}
		t.synced = true
		for _, s := range t.all {
			t.markService(s)
		}
	})
}

// Synced reports whether SetSynced was called.
func (t *Table) Synced() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.synced
}

// Snapshot returns the service's snapshot, nil if it does not exist. It takes no lock and allocates nothing.
func (t *Table) Snapshot(s affinity.ServiceName) *affinity.Snapshot {
	services := t.services.Load()
	if services == nil {
		return nil
	}
	known := (*services)[s]
	if known == nil {
		return nil
	}
	return known.snapshot.Load()
}

// Services returns the names of the services that exist, sorted.
func (t *Table) Services() []affinity.ServiceName {
	services := t.services.Load()
	if services == nil {
		return nil
	}
	names := make([]affinity.ServiceName, 0, len(*services))
	for name := range *services {
		names = append(names, name)
	}
	slices.SortFunc(names, compareNames)
	return names
}

// Changed returns a channel that is closed when a snapshot is next published. Whoever waits for a change calls Changed first and
// then Snapshot.
func (t *Table) Changed() <-chan struct{} { return t.changed.wait() }

// A signal wakes all who wait for it. The zero signal works.
type signal struct {
	mu sync.Mutex
	ch chan struct{} // nil: nobody waits
}

func (s *signal) wait() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ch == nil {
		s.ch = make(chan struct{})
	}
	return s.ch
}

func (s *signal) fire() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ch != nil {
		close(s.ch)
		s.ch = nil
	}
}
