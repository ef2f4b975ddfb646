package binding

import (
	"sync"
	"sync/atomic"
	"time"
	"unique"

	"github.com/limpet-project/limpet/affinity"
)

// cached is what a Near keeps of a binding beside its key. Times are microseconds since 1970 on this process's clock, except
// until, which is the store's and 0 for none.
type cached struct {
	target  unique.Handle[affinity.Target]
	version Version
	until   int64
	ends    int64
	fresh   int64  // fresh until then, if nothing was lost since
	state   uint32 // Near.state when the store was asked
	used    uint32 // set by readers, cleared by the hand of the clock
	guessed bool   // ends is a guess
	owed    bool   // was renewed here and not in the store
}

func (v *cached) binding() Binding {
	b := Binding{Target: v.target.Value(), Version: v.version}
	if v.until != 0 {
		b.Until = time.UnixMicro(v.until)
	}
	if !v.guessed {
		b.Ends = time.UnixMicro(v.ends)
	}
	return b
}

// A nearShard is a part of a Near with its own lock.
type nearShard struct {
	near *Near
	max  int

	mu     sync.RWMutex
	table  table[cached]
	seqs   [16]uint32 // count changes of parts of the keys: an answer to a question from before one is not kept
	unsure int64      // until then a write of unknown outcome may still reach the store
	hand   uint32     // of the clock that evicts
	swept  uint32     // where the search for ended entries is
	tally  tally

	_ [64]byte // keeps the locks of neighbours on different cache lines
}

func (s *nearShard) micros() int64 { return s.near.now().UnixMicro() }

func (s *nearShard) unlock() {
	changes := s.tally.take()
	s.mu.Unlock()
	s.tally.census.tell(changes)
}

// seq returns the count of changes of the part that keys of a hash belong to.
func (s *nearShard) seq(h uint64) *uint32 { return &s.seqs[h>>48&15] }

func (s *nearShard) mark(h uint64) mark {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return mark{s.near.state.Load(), *s.seq(h), s.micros()}
}

// read returns k's binding if it is fresh, else the mark to ask the store with.
func (s *nearShard) read(h uint64, k *affinity.Key) (Binding, mark, bool) {
	now, state := s.micros(), s.near.state.Load()
	s.mu.RLock()
	defer s.mu.RUnlock()
	c, _ := s.table.find(h, k)
	if c == nil || c.value.state != state || c.value.fresh <= now || c.value.ends <= now {
		return Binding{}, mark{state, *s.seq(h), now}, false
	}
	if atomic.LoadUint32(&c.value.used) == 0 {
		atomic.StoreUint32(&c.value.used, 1)
	}
	return c.value.binding(), mark{}, true
}

// learn keeps what the store answered to a question asked at m. It does not replace a newer version, which may be one that the
// store lost. That a key is unbound leaves no version behind that answers from before could be compared with, so it counts as a
// change.
func (s *nearShard) learn(h uint64, k *affinity.Key, b Binding, m mark) {
	s.mu.Lock()
	defer s.unlock()
	c, id := s.table.find(h, k)
	switch {
	case *s.seq(h) != m.seq:
		s.learnStale(h, k, b, m)
	case b.Bound() && (c == nil || c.value.version.Compare(b.Version) <= 0):
		s.fill(h, k, b, m, Life{})
	case !b.Bound() && c != nil && c.value.state == s.near.state.Load():
		s.drop(id)
	}
	if !b.Bound() {
		*s.seq(h)++
	}
}

// learnStale keeps an answer that a report has overtaken, perhaps one of another key: the store has to be asked again, and while it
// is away this is what is known last.
func (s *nearShard) learnStale(h uint64, k *affinity.Key, b Binding, m mark) {
	c, _ := s.table.find(h, k)
	if b.Bound() && (c == nil || c.value.version.Compare(b.Version) < 0) {
		c = s.fill(h, k, b, m, Life{})
		c.value.fresh = 0
	} else if c != nil && !b.Bound() {
		c.value.fresh = 0
	}
}

// restored keeps the answer of the store that was offered what is known here: it is right even if it is older. If the store did not
// take the offer, for want of room, the entry stays as known last: a full store is no reason to move a session.
func (s *nearShard) restored(h uint64, k *affinity.Key, b Binding, m mark) {
	s.mu.Lock()
	defer s.unlock()
	switch {
	case *s.seq(h) != m.seq:
		s.learnStale(h, k, b, m)
	case b.Bound():
		s.fill(h, k, b, m, Life{})
	}
}

// wrote keeps a binding that this gateway made by a call that began at m.
func (s *nearShard) wrote(h uint64, k *affinity.Key, b Binding, m mark, life Life) {
	s.mu.Lock()
	defer s.unlock()
	missed := *s.seq(h) != m.seq
	*s.seq(h)++
	if c, _ := s.table.find(h, k); c != nil && c.value.version.Compare(b.Version) > 0 {
		return
	}
	c := s.fill(h, k, b, m, life)
	c.value.owed = false
	if missed { // perhaps of this very key
		c.value.fresh = 0
	}
}

// fill makes or replaces k's entry. It is fresh from m on.
func (s *nearShard) fill(h uint64, k *affinity.Key, b Binding, m mark, life Life) *cell[cached] {
	target := unique.Make(b.Target)
	c, _ := s.table.find(h, k)
	switch {
	case c == nil:
		c = s.insert(h, k, target)
	case c.value.target != target:
		s.tally.note(c.scope, c.value.target, -1)
		s.tally.note(c.scope, target, 1)
	}
	v := &c.value
	if v.version != b.Version {
		v.ends, v.owed = 0, false
	}
	v.target, v.version, v.until, v.state = target, b.Version, micros(b.Until), m.state
	v.fresh = m.now + s.near.ttl.Microseconds()
	if m.state&1 == 1 && m.now >= s.unsure {
		v.fresh = always
	}
	s.setEnds(v, b, life, m.now)
	return c
}

// setEnds notes when an entry ends: as the store said, else as life says, else as was known, else as can be guessed.
func (s *nearShard) setEnds(v *cached, b Binding, life Life, now int64) {
	switch {
	case !b.Ends.IsZero():
		v.ends, v.guessed = b.Ends.UnixMicro(), false
	case life.Idle > 0:
		v.ends, v.guessed = s.end(life, now, v.until), false
	case v.ends <= now:
		v.ends, v.guessed = s.end(Life{Idle: s.near.idle}, now, v.until), true
	}
}

// end returns the end of a life used at now on this process's clock; until is the store's.
func (s *nearShard) end(life Life, now, until int64) int64 {
	ahead := s.near.Offset().Microseconds()
	return life.end(now+ahead, until) - ahead
}

// insert adds an entry, evicting others if the shard is full.
func (s *nearShard) insert(h uint64, k *affinity.Key, target unique.Handle[affinity.Target]) *cell[cached] {
	s.sweep(2)
	for s.table.count >= s.max {
		s.evict()
	}
	c, _ := s.table.add(h, k)
	c.value.target = target
	s.tally.note(c.scope, target, 1)
	return c
}

// evict drops the next entry under the hand of the clock that was not used since the hand was there last.
func (s *nearShard) evict() {
	for {
		s.hand = s.hand%s.table.last + 1
		c := s.table.at(s.hand)
		if c.used() && atomic.SwapUint32(&c.value.used, 0) == 0 {
			s.drop(s.hand)
			return
		}
	}
}

// sweep looks at a few entries in turn and drops those that ended.
func (s *nearShard) sweep(most int) {
	now := s.micros()
	for range min(most, int(s.table.last)) {
		s.swept = s.swept%s.table.last + 1
		if c := s.table.at(s.swept); c.used() && c.value.ends <= now {
			s.drop(s.swept)
		}
	}
}

// drop removes an entry. With it goes the version that answers from before could be compared with, so it counts as a change.
func (s *nearShard) drop(id uint32) {
	c := s.table.at(id)
	k := c.key()
	*s.seq(hash(&k))++
	s.tally.note(c.scope, c.value.target, -1)
	s.table.remove(id)
}

// invalidate handles the report that k was changed. Most changes are renewals, so what was known is kept as known last: the store
// is asked at the next use, which drops the entry if it is unbound there, and answered with it while the store is away.
func (s *nearShard) invalidate(h uint64, k *affinity.Key) {
	s.mu.Lock()
	defer s.unlock()
	*s.seq(h)++
	if c, _ := s.table.find(h, k); c != nil {
		c.value.fresh = 0
	}
}

// doubt handles a write of k whose outcome is unknown: the store must be asked, and asked again while the write may be on its way.
func (s *nearShard) doubt(h uint64, k *affinity.Key) {
	s.mu.Lock()
	defer s.unlock()
	*s.seq(h)++
	s.unsure = s.micros() + s.near.ttl.Microseconds()
	if c, _ := s.table.find(h, k); c != nil {
		c.value.fresh = 0
	}
}

func (s *nearShard) forget(h uint64, k *affinity.Key, v Version) {
	s.mu.Lock()
	defer s.unlock()
	*s.seq(h)++ // also of an entry that is only on its way here
	if c, id := s.table.find(h, k); c != nil && (v.IsZero() || c.value.version == v) {
		s.drop(id)
	}
}

func (s *nearShard) extend(h uint64, r *Renewal, owed bool) {
	s.mu.Lock()
	defer s.unlock()
	c, _ := s.table.find(h, &r.Key)
	if c == nil || c.value.version != r.Version {
		return
	}
	now := s.micros()
	c.value.ends, c.value.guessed = s.end(r.Life, now, c.value.until), false
	c.value.owed = owed
}

// lastKnown returns k's binding, fresh or not, unless it ended.
func (s *nearShard) lastKnown(h uint64, k *affinity.Key) (Binding, bool) {
	now := s.micros()
	s.mu.RLock()
	defer s.mu.RUnlock()
	if c, _ := s.table.find(h, k); c != nil && c.value.ends > now {
		return c.value.binding(), true
	}
	return Binding{}, false
}

// lost returns k's entry if the store may have lost it.
func (s *nearShard) lost(h uint64, k *affinity.Key) (Entry, bool) {
	now, state := s.micros(), s.near.state.Load()
	s.mu.RLock()
	defer s.mu.RUnlock()
	if c, _ := s.table.find(h, k); c != nil && c.value.ends > now && c.value.state != state {
		return entry(c, now), true
	}
	return Entry{}, false
}

func entry(c *cell[cached], now int64) Entry {
	return Entry{c.key(), c.value.binding(), remaining(now, c.value.until, c.value.ends)}
}

// page appends the entries that pick chooses; see walk.
func (s *nearShard) page(entries []Entry, from uint32, n int, now int64, pick func(*cell[cached]) bool) ([]Entry, uint32) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	for id := max(from, 1); id <= s.table.last; id++ {
		if len(entries) == n || id-from >= 8*pageCells {
			return entries, id
		}
		if c := s.table.at(id); c.used() && c.value.ends > now && pick(c) {
			entries = append(entries, entry(c, now))
		}
	}
	return entries, 0
}
