package binding

import (
	"math"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"
	"unique"

	"github.com/limpet-project/limpet/affinity"
)

// sweepCells is how many ended bindings one call removes at most before its own work.
const sweepCells = 8

// A memoryShard is a part of a Memory with its own lock.
type memoryShard struct {
	memory *Memory
	max    int
	due    atomic.Int64 // when the first binding ends, MaxInt64 for never: tells without the lock whether to sweep

	mu       sync.RWMutex
	table    table[held]
	byEnd    []uint32 // heap of cells, the first to end at the top
	services useLists
	last     Version // the newest made here
	evicted  uint64
	expired  uint64
	tally    tally

	_ [64]byte // keeps the locks of neighbours on different cache lines
}

// lock locks the shard and removes a few bindings that ended.
func (s *memoryShard) lock(now int64) {
	s.mu.Lock()
	s.expire(now, sweepCells)
}

// unlock releases the shard and tells the census what changed.
func (s *memoryShard) unlock() {
	changes := s.tally.take()
	s.mu.Unlock()
	s.tally.census.tell(changes)
}

func (s *memoryShard) count(c *cell[held], delta int) { s.tally.note(c.scope, c.value.target, delta) }

// find returns k's cell unless its binding ended.
func (s *memoryShard) find(h uint64, k *affinity.Key, now int64) (*cell[held], uint32) {
	c, id := s.table.find(h, k)
	if c == nil || c.value.ends <= now {
		return nil, 0
	}
	return c, id
}

func (s *memoryShard) read(h uint64, k *affinity.Key, now int64) (Binding, bool) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if c, _ := s.find(h, k, now); c != nil {
		return c.value.binding(), true
	}
	return Binding{}, false
}

func (s *memoryShard) swap(h uint64, k *affinity.Key, old Version, t affinity.Target, life Life, now int64) (Binding, error) {
	s.lock(now)
	defer s.unlock()
	c, id := s.find(h, k, now)
	switch {
	case c == nil && !old.IsZero():
		return Binding{}, ErrConflict
	case c != nil && c.value.version != old:
		return c.value.binding(), ErrConflict
	case c == nil:
		if c, id = s.bind(h, k, t, life.Quota); c == nil {
			return Binding{}, ErrFull
		}
	default:
		s.retarget(c, t)
	}
	s.set(id, s.version(now, old), micros(life.Until), life, now)
	return c.value.binding(), nil
}

// bind adds a cell for k, which has no binding in force, if the quota allows. The caller sets its version and life.
func (s *memoryShard) bind(h uint64, k *affinity.Key, t affinity.Target, quota int) (*cell[held], uint32) {
	if _, id := s.table.find(h, k); id != 0 { // ended, and not swept yet
		s.expired++
		s.drop(id)
	}
	if !s.memory.quotas.take(k.Scope.Service, quota) {
		return nil, 0
	}
	for s.table.count >= s.max {
		s.evicted++
		s.drop(s.victim(k.Scope.Service))
	}
	c, id := s.table.add(h, k)
	s.memory.count.Add(1)
	c.value.target = unique.Make(t)
	c.value.service = s.services.number(k.Scope.Service)
	c.value.ends = math.MaxInt64
	s.pushEnd(id)
	s.services.append(&s.table, id)
	s.count(c, 1)
	return c, id
}

// retarget points a bound cell elsewhere.
func (s *memoryShard) retarget(c *cell[held], t affinity.Target) {
	s.count(c, -1)
	c.value.target = unique.Make(t)
	s.count(c, 1)
}

// set gives a cell its version and a new life. An absolute end that it has already stays.
func (s *memoryShard) set(id uint32, v Version, until int64, life Life, now int64) {
	c := s.table.at(id)
	c.value.version = v
	if c.value.until == 0 {
		c.value.until = until
	}
	s.use(id, life.end(now, c.value.until))
}

// use notes that a binding was used and now ends at ends.
func (s *memoryShard) use(id uint32, ends int64) {
	c := s.table.at(id)
	c.value.ends = ends
	s.fixEnd(c.value.rank)
	s.services.remove(&s.table, id)
	s.services.append(&s.table, id)
}

// version makes a version that is newer than old and than every other made here by this clock.
func (s *memoryShard) version(now int64, old Version) Version {
	v := Version{Made: now, Nonce: rand.Uint64() >> 1}
	if v.Compare(s.last) <= 0 {
		v = s.last.next()
	}
	s.last = v
	if v.Compare(old) <= 0 {
		v = old.next() // old was restored from a store whose clock was ahead
	}
	return v
}

// next returns the version right after v.
func (v Version) next() Version {
	if v.Nonce == math.MaxUint64 {
		return Version{Made: v.Made + 1}
	}
	return Version{Made: v.Made, Nonce: v.Nonce + 1}
}

func (s *memoryShard) touch(h uint64, r *Renewal, now int64) {
	s.lock(now)
	defer s.unlock()
	if c, id := s.find(h, &r.Key, now); c != nil && c.value.version == r.Version {
		s.use(id, r.Life.end(now, c.value.until))
	}
}

// restore takes an entry back if it is newer than what is bound, and returns what is then bound.
func (s *memoryShard) restore(h uint64, e *Entry, now int64) Binding {
	s.lock(now)
	defer s.unlock()
	c, id := s.find(h, &e.Key, now)
	if c != nil && (e.Binding.Provisional || c.value.version.Compare(e.Binding.Version) >= 0) {
		return c.value.binding()
	}
	v := e.Binding.Version
	if e.Binding.Provisional {
		v = s.version(now, Version{})
	}
	if c != nil {
		s.retarget(c, e.Binding.Target)
		c.value.until = 0
	} else if c, id = s.bind(h, &e.Key, e.Binding.Target, e.Life.Quota); c == nil {
		return Binding{}
	}
	until := e.Binding.Until
	if until.IsZero() {
		until = e.Life.Until
	}
	s.set(id, v, micros(until), e.Life, now)
	return c.value.binding()
}

// drop forgets a binding.
func (s *memoryShard) drop(id uint32) {
	c := s.table.at(id)
	s.count(c, -1)
	service := c.scope.Value().Service
	s.services.remove(&s.table, id)
	s.services.release(c.value.service, service)
	s.removeEnd(c.value.rank)
	s.table.remove(id)
	s.memory.count.Add(-1)
	s.memory.quotas.give(service)
}

// victim chooses the binding that makes room for one of service.
func (s *memoryShard) victim(service affinity.ServiceName) uint32 {
	list := s.services.most()
	if own, ok := s.services.numbers[service]; ok && s.services.lists[own].count*len(s.services.numbers) >= s.max {
		list = own
	}
	return s.services.lists[list].oldest
}

// expire removes bindings that ended, most at the most.
func (s *memoryShard) expire(now int64, most int) {
	for range most {
		if len(s.byEnd) == 0 || s.table.at(s.byEnd[0]).value.ends > now {
			return
		}
		s.expired++
		s.drop(s.byEnd[0])
	}
}

// page appends to entries the bindings of a service (nil: of all) from cell number from on, up to n entries or pageCells cells.
// It returns the next number, 0 after the last.
func (s *memoryShard) page(entries []Entry, service *affinity.ServiceName, from uint32, n int, now time.Time) ([]Entry, uint32) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if service != nil {
		if _, ok := s.services.numbers[*service]; !ok {
			return entries, 0
		}
	}
	micros := now.UnixMicro()
	for id := max(from, 1); id <= s.table.last; id++ {
		if len(entries) == n || id-from >= 8*pageCells {
			return entries, id
		}
		c := s.table.at(id)
		if !c.used() || c.value.ends <= micros || service != nil && c.scope.Value().Service != *service {
			continue
		}
		entries = append(entries, Entry{c.key(), c.value.binding(), remaining(micros, c.value.until, c.value.ends)})
	}
	return entries, 0
}
