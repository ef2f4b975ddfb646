package endpoint

import (
	"sync/atomic"
	"time"

	"github.com/limpet-project/limpet/affinity"
)

const (
	chunkSize = 64          // counters that are made together
	slotRest  = time.Minute // how long a slot rests after its tombstone, so that no request still looks at it
)

// An identity names one endpoint of all.
type identity struct {
	revision RevisionName
	endpoint string
}

// A counter holds what one slot counts. It belongs to one identity at a time and outlives snapshots.
type counter struct {
	gate
	name       atomic.Pointer[string] // the endpoint whose slot this is
	bound      atomic.Int64
	failures   atomic.Int32 // failed requests in a row
	ejectAfter atomic.Int32 // so many failures eject; 0 ejects never
	_          [32]byte     // keeps counters of two endpoints out of one cache line
}

type chunk [chunkSize]counter

// Slots hand out small numbers and the counters that belong to them. Reading a counter takes no lock; everything else is
// guarded by the table's lock.
type slots struct {
	chunks  atomic.Pointer[[]*chunk]
	owners  []*member // by slot; slot 0 belongs to nobody, so that the zero Endpoint counts nowhere
	free    []int32
	resting []restingSlot        // in the order in which they may be given to another identity
	kept    map[identity]*member // the owners of resting slots
	orphans map[identity]int64   // sessions bound to endpoints that have no slot
}

// A restingSlot is a slot whose endpoint is no longer listed, not even as gone.
type restingSlot struct {
	owner *member
	since time.Time
}

// maxOrphans bounds the endpoints without a slot for which bound sessions are counted.
const maxOrphans = 100_000

// counter returns the counter of a slot, nil if it was never given out.
func (s *slots) counter(slot int32) *counter {
	chunks := s.chunks.Load()
	if chunks == nil || slot <= 0 || int(slot) >= len(*chunks)*chunkSize {
		return nil
	}
	return &(*chunks)[slot/chunkSize][slot%chunkSize]
}

// of returns the counter of e's identity, nil if e's slot belongs to another one or to none.
func (s *slots) of(e *affinity.Endpoint) *counter {
	c := s.counter(e.Slot)
	if c == nil {
		return nil
	}
	if name := c.name.Load(); name == nil || *name != e.Name {
		return nil
	}
	return c
}

// assign gives m a slot: the one it had, if that still rests, else a free one.
func (s *slots) assign(m *member, now time.Time) {
	if old := s.kept[m.id]; old != nil {
		delete(s.kept, m.id)
		m.slot, m.counter = old.slot, old.counter
		s.owners[m.slot] = m
		return
	}
	s.wake(now)
	if len(s.free) == 0 {
		s.grow()
	}
	last := len(s.free) - 1
	m.slot, s.free = s.free[last], s.free[:last]
	m.counter = s.counter(m.slot)
	s.owners[m.slot] = m
	m.counter.name.Store(&m.id.endpoint)
	m.counter.bound.Store(s.orphans[m.id])
	delete(s.orphans, m.id)
}

// rest begins the time after which m's slot may be another's. Its counter goes on counting meanwhile.
func (s *slots) rest(m *member, now time.Time) {
	if s.kept == nil {
		s.kept = make(map[identity]*member)
	}
	s.kept[m.id] = m
	s.resting = append(s.resting, restingSlot{m, now})
}

// wake frees the slots that rested long enough and at which no request is left.
func (s *slots) wake(now time.Time) {
	for range len(s.resting) {
		r := s.resting[0]
		if now.Sub(r.since) < slotRest {
			return
		}
		s.resting = s.resting[1:]
		if s.kept[r.owner.id] != r.owner {
			continue // its identity came back
		}
		if r.owner.counter.inFlight.Load() > 0 {
			s.resting = append(s.resting, restingSlot{r.owner, now})
			continue
		}
		s.release(r.owner)
	}
}

// release makes m's slot free.
func (s *slots) release(m *member) {
	delete(s.kept, m.id)
	c := m.counter
	c.name.Store(nil)
	c.failures.Store(0)
	c.ejectAfter.Store(0)
	c.limit.Store(0)
	s.count(m.id, c.bound.Swap(0))
	s.owners[m.slot] = nil
	s.free = append(s.free, m.slot)
}

// count counts sessions bound to an endpoint that no pool lists.
func (s *slots) count(id identity, delta int64) {
	if m := s.kept[id]; m != nil {
		m.counter.bound.Add(delta)
		return
	}
	if s.orphans == nil {
		s.orphans = make(map[identity]int64)
	}
	n, known := s.orphans[id]
	switch n += delta; {
	case n == 0:
		delete(s.orphans, id)
	case known, len(s.orphans) < maxOrphans:
		s.orphans[id] = n
	}
}

// grow makes another chunk of counters. The counters that exist stay where they are.
func (s *slots) grow() {
	var chunks []*chunk
	if old := s.chunks.Load(); old != nil {
		chunks = append(chunks, *old...)
	}
	base := len(chunks) * chunkSize
	chunks = append(chunks, new(chunk))
	s.chunks.Store(&chunks)
	s.owners = append(s.owners, make([]*member, chunkSize)...)
	for slot := base + chunkSize - 1; slot >= max(base, 1); slot-- {
		s.free = append(s.free, int32(slot))
	}
}
