package binding

import (
	"context"
	"math"
	"sync/atomic"
	"time"
	"unique"

	"github.com/limpet-project/limpet/affinity"
)

// MemoryOptions configure a Memory. The zero value is ready to use.
type MemoryOptions struct {
	// Max is the number of bindings at most; 0 is 1,000,000. It is divided evenly among the shards, so that a store whose keys
	// happen to fall unevenly evicts a few per cent early.
	Max int
	// Shards is the number of parts with a lock each, rounded up to a power of two; 0 is 64, fewer for a small Max.
	Shards int
	// Now is the clock; nil is time.Now.
	Now func() time.Time
	// Census is told of every session that is bound, re-bound and forgotten; nil is nobody. It is called without locks held.
	Census Census
}

// Memory is a Store in this process, for one gateway. It never waits and needs no goroutine: bindings that ended are removed
// by the calls that come after, a few at a time. It may forget: a process that restarts knows nothing, and beyond Max it evicts.
//
// Eviction takes the binding that was idle longest in the key's shard: of the key's own service if that has its even share of
// the shard, else of the service that has most. So a service within its share loses nothing to the clients of another.
//
// Memory is a Peeker, a Lister, a Restorer and a Pinger. Make one with NewMemory.
type Memory struct {
	shards  []memoryShard
	now     func() time.Time
	quotas  quotas
	count   atomic.Int64
	refused atomic.Uint64
}

// NewMemory returns an empty store.
func NewMemory(o MemoryOptions) *Memory {
	if o.Max <= 0 {
		o.Max = 1_000_000
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	m := &Memory{shards: make([]memoryShard, shardCount(o.Shards, o.Max)), now: o.Now}
	for i := range m.shards {
		m.shards[i].memory = m
		m.shards[i].tally.census = o.Census
		m.shards[i].max = max(1, o.Max/len(m.shards))
		m.shards[i].due.Store(math.MaxInt64)
	}
	return m
}

// shardCount returns the power of two for a wish of shards, or a good one for a capacity: parts of less than a thousand would
// fill unevenly.
func shardCount(wish, capacity int) int {
	n := 1
	for wish > 0 && n < wish && n < 1<<12 {
		n *= 2
	}
	for wish <= 0 && n < 64 && capacity/(2*n) >= 1000 {
		n *= 2
	}
	return n
}

// shard returns the part that holds keys of a hash.
func (m *Memory) shard(h uint64) *memoryShard { return &m.shards[h>>32&uint64(len(m.shards)-1)] }

func (m *Memory) micros() int64 { return m.now().UnixMicro() }

// Get returns k's binding. It does not wait, so ctx is not looked at.
func (m *Memory) Get(_ context.Context, k affinity.Key) (Binding, error) {
	b, _ := m.Peek(k)
	return b, nil
}

// Peek returns k's binding, and false if k is not bound.
func (m *Memory) Peek(k affinity.Key) (Binding, bool) {
	h, now := hash(&k), m.micros()
	s := m.shard(h)
	b, ok := s.read(h, &k, now)
	if s.due.Load() <= now && s.mu.TryLock() {
		s.expire(now, sweepCells)
		s.unlock()
	}
	return b, ok
}

// Swap binds k to t if k is still at version old. It returns ErrFull if the service has life.Quota bindings already.
func (m *Memory) Swap(_ context.Context, k affinity.Key, old Version, t affinity.Target, life Life) (Binding, error) {
	h, now := hash(&k), m.micros()
	s := m.shard(h)
	b, err := s.swap(h, &k, old, t, life, now)
	if err == ErrFull && m.makeRoom(k.Scope.Service, life.Quota, now) {
		b, err = s.swap(h, &k, old, t, life, now)
	}
	if err == ErrFull {
		m.refused.Add(1)
	}
	return b, err
}

// makeRoom removes bindings that ended until the service is below its quota, and reports whether it is.
func (m *Memory) makeRoom(service affinity.ServiceName, quota int, now int64) bool {
	for i := range m.shards {
		for s := &m.shards[i]; s.due.Load() <= now; {
			s.mu.Lock()
			s.expire(now, 16*sweepCells)
			s.unlock()
			if m.quotas.count(service) < quota {
				return true
			}
		}
	}
	return m.quotas.count(service) < quota
}

// Touch extends the lives of bindings that are still at the versions given.
func (m *Memory) Touch(_ context.Context, renewals []Renewal) error {
	now := m.micros()
	for i := range renewals {
		r := &renewals[i]
		h := hash(&r.Key)
		m.shard(h).touch(h, r, now)
	}
	return nil
}

// Delete forgets k if it is at version v, at any version if v is zero.
func (m *Memory) Delete(_ context.Context, k affinity.Key, v Version) error {
	h, now := hash(&k), m.micros()
	s := m.shard(h)
	s.lock(now)
	if c, id := s.find(h, &k, now); c != nil && (v.IsZero() || c.value.version == v) {
		s.drop(id)
	}
	s.unlock()
	return nil
}

// Ping returns nil: memory is there.
func (m *Memory) Ping(context.Context) error { return nil }

// MemoryStats are counts of a Memory since it was made, and of what it holds.
type MemoryStats struct {
	Bindings int    // bound now
	Evicted  uint64 // forgotten for want of room
	Expired  uint64 // ended by their lives
	Refused  uint64 // not made, because the service's quota was reached
}

// Stats removes all bindings that ended and returns counts.
func (m *Memory) Stats() MemoryStats {
	stats, now := MemoryStats{Refused: m.refused.Load()}, m.micros()
	for i := range m.shards {
		s := &m.shards[i]
		for s.due.Load() <= now {
			s.mu.Lock()
			s.expire(now, 16*sweepCells)
			s.unlock()
		}
		s.mu.RLock()
		stats.Bindings += s.table.count
		stats.Evicted += s.evicted
		stats.Expired += s.expired
		s.mu.RUnlock()
	}
	return stats
}

// held is what a Memory keeps of a binding beside its key. Times are microseconds since 1970; until is 0 for none.
type held struct {
	target       unique.Handle[affinity.Target]
	version      Version
	until, ends  int64
	older, newer uint32 // neighbours in the service's list by use
	service      uint32 // number of the service in the shard
	rank         uint32 // place in the heap of ends
}

func (v *held) binding() Binding {
	b := Binding{Target: v.target.Value(), Version: v.version, Ends: time.UnixMicro(v.ends)}
	if v.until != 0 {
		b.Until = time.UnixMicro(v.until)
	}
	return b
}

// micros returns t as a cell keeps it.
func micros(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixMicro()
}

// end returns when a life that is used at now ends; until, the end that the binding has already, goes before the life's own.
func (l Life) end(now, until int64) int64 {
	if until != 0 {
		l.Until = time.UnixMicro(until)
	}
	return now + l.TTL(time.UnixMicro(now)).Microseconds()
}

// remaining returns the life of a binding that ends at ends if nobody uses it.
func remaining(now, until, ends int64) Life {
	l := Life{Idle: time.Duration(ends-now) * time.Microsecond * 4 / 5}
	if until != 0 {
		l.Until = time.UnixMicro(until)
	}
	return l
}
