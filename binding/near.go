package binding

import (
	"context"
	"errors"
	"fmt"
	"math"
	"sync/atomic"
	"time"

	"github.com/limpet-project/limpet/affinity"
)

// NearOptions configure a Near. The zero value is ready to use.
type NearOptions struct {
	// Max is the number of entries at most; 0 is 100,000. The ones not used lately are evicted.
	Max int
	// TTL is how long an entry is fresh while changes are not reported; 0 is 2s.
	TTL time.Duration
	// Idle stands in for the life of a binding that the store did not tell and that was not used here since; 0 is 1h.
	Idle time.Duration
	// Now is this process's clock; nil is time.Now.
	Now func() time.Time
	// Census is told of every session that enters, moves in and leaves the cache; nil is nobody. It is called without locks held.
	Census Census
}

// Near is a cache of bindings in front of a remote Store. What it answers without asking is what the store held a moment ago: it
// may be as old as the report of a change is late or, while nobody reports changes, as TTL. Writes always go to the store.
//
// An entry is fresh, or last known: kept, and answered only by LastKnown. Entries become last known all at once when reports
// may have been missed, and each by itself when its change is reported or its TTL is over. The store is asked before such an entry
// is used again, and drops it if it is not bound there; while the store is away it is the best that is known, since most changes
// are renewals. Unbound keys are not cached.
//
// An entry ends with the life that the store told, or that the last Swap or Touch of this gateway gave it. A binding that other
// gateways keep alive is reported or asked for again.
//
// Near is a Peeker, and has what its store has of Lister, Restorer, Clock and Pinger. Make one with NewNear; Run makes it fresh.
type Near struct {
	store   Store
	ttl     time.Duration
	idle    time.Duration
	now     func() time.Time
	shards  []nearShard
	state   atomic.Uint32 // a period of reports: counts up by Lost and Live; odd while changes are reported
	revived chan struct{} // has an element after Live
}

// NewNear returns an empty cache in front of store.
func NewNear(store Store, o NearOptions) *Near {
	if o.Max <= 0 {
		o.Max = 100_000
	}
	if o.TTL <= 0 {
		o.TTL = 2 * time.Second
	}
	if o.Idle <= 0 {
		o.Idle = time.Hour
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	n := &Near{store: store, ttl: o.TTL, idle: o.Idle, now: o.Now, revived: make(chan struct{}, 1)}
	n.shards = make([]nearShard, shardCount(0, o.Max))
	for i := range n.shards {
		n.shards[i].near = n
		n.shards[i].max = max(1, o.Max/len(n.shards))
		n.shards[i].tally.census = o.Census
	}
	return n
}

func (n *Near) shard(h uint64) *nearShard { return &n.shards[h>>32&uint64(len(n.shards)-1)] }

// A mark is the moment before the store was asked. An answer is kept only if no change of such keys was reported since.
type mark struct {
	state uint32
	seq   uint32
	now   int64
}

// Get returns k's binding, from the cache if it is fresh there.
func (n *Near) Get(ctx context.Context, k affinity.Key) (Binding, error) {
	h := hash(&k)
	s := n.shard(h)
	b, m, ok := s.read(h, &k)
	if ok {
		return b, nil
	}
	b, err := n.store.Get(ctx, k)
	if err != nil {
		return Binding{}, err
	}
	s.learn(h, &k, b, m)
	return b, nil
}

// Peek returns k's binding if it is fresh in the cache.
func (n *Near) Peek(k affinity.Key) (Binding, bool) {
	h := hash(&k)
	b, _, ok := n.shard(h).read(h, &k)
	return b, ok
}

// Swap binds k in the store and keeps the result, be it the caller's or the winner's.
func (n *Near) Swap(ctx context.Context, k affinity.Key, old Version, t affinity.Target, life Life) (Binding, error) {
	h := hash(&k)
	s := n.shard(h)
	m := s.mark(h)
	b, err := n.store.Swap(ctx, k, old, t, life)
	switch {
	case err == nil:
		s.wrote(h, &k, b, m, life)
	case errors.Is(err, ErrConflict):
		s.learn(h, &k, b, m)
	case !errors.Is(err, ErrFull):
		s.doubt(h, &k)
	}
	return b, err
}

// Touch extends lives in the store and in the cache. In the cache it does so even if the store cannot be asked: these renewals
// are owed, and Degraded makes them good.
func (n *Near) Touch(ctx context.Context, renewals []Renewal) error {
	err := n.store.Touch(ctx, renewals)
	n.extend(renewals, err != nil)
	return err
}

// extend extends lives in the cache.
func (n *Near) extend(renewals []Renewal, owed bool) {
	for i := range renewals {
		h := hash(&renewals[i].Key)
		n.shard(h).extend(h, &renewals[i], owed)
	}
}

// Delete forgets k in the store and in the cache.
func (n *Near) Delete(ctx context.Context, k affinity.Key, v Version) error {
	err := n.store.Delete(ctx, k, v)
	if err != nil {
		h := hash(&k)
		n.shard(h).doubt(h, &k)
		return err
	}
	n.forget(k, v)
	return nil
}

// forget drops k from the cache if it is at version v, at any version if v is zero.
func (n *Near) forget(k affinity.Key, v Version) {
	h := hash(&k)
	n.shard(h).forget(h, &k, v)
}

// LastKnown returns what this gateway knew last of k, fresh or not. It is for the time while the store is away.
func (n *Near) LastKnown(k affinity.Key) (Binding, bool) {
	h := hash(&k)
	return n.shard(h).lastKnown(h, &k)
}

// LastKnownEntries returns up to k bindings that the store may have lost: those known from before changes went unreported. They
// come with their remaining life. A cursor of "" begins; a returned "" ends.
func (n *Near) LastKnownEntries(from string, k int) (entries []Entry, next string, err error) {
	at, err := parseCursor(from)
	if err != nil {
		return nil, "", err
	}
	entries, at = n.walk(at, k, func(c *cell[cached]) bool { return c.value.state != n.state.Load() })
	if at == (cursor{}) {
		return entries, "", nil
	}
	return entries, at.String(), nil
}

// walk returns up to k entries that pick chooses, from a cursor on, and the next cursor, zero at the end.
func (n *Near) walk(at cursor, k int, pick func(c *cell[cached]) bool) ([]Entry, cursor) {
	now := n.now().UnixMicro()
	return walk(len(n.shards), at, k, func(shard int, entries []Entry, from uint32, most int) ([]Entry, uint32) {
		return n.shards[shard].page(entries, from, most, now, pick)
	})
}

// Len returns the number of entries.
func (n *Near) Len() int {
	sum := 0
	for i := range n.shards {
		n.shards[i].mu.RLock()
		sum += n.shards[i].table.count
		n.shards[i].mu.RUnlock()
	}
	return sum
}

// Restore hands bindings to the store and keeps what is then in force. A store that is no Restorer creates the entries of
// unbound keys with versions of its own.
func (n *Near) Restore(ctx context.Context, entries []Entry) ([]Binding, error) {
	marks := make([]mark, len(entries))
	for i := range entries {
		h := hash(&entries[i].Key)
		marks[i] = n.shard(h).mark(h)
	}
	results, err := restore(ctx, n.store, entries)
	for i := range results {
		h := hash(&entries[i].Key)
		n.shard(h).restored(h, &entries[i].Key, results[i], marks[i])
	}
	return results, err
}

// restore hands entries to s, one by one if it is no Restorer. The results may be fewer than the entries if err is not nil.
func restore(ctx context.Context, s Store, entries []Entry) ([]Binding, error) {
	if r, ok := s.(Restorer); ok {
		results, err := r.Restore(ctx, entries)
		if !errors.Is(err, errors.ErrUnsupported) {
			return results, err
		}
	}
	results := make([]Binding, 0, len(entries))
	for i := range entries {
		e := &entries[i]
		b, err := s.Swap(ctx, e.Key, Version{}, e.Binding.Target, e.Life)
		if err != nil && !errors.Is(err, ErrConflict) && !errors.Is(err, ErrFull) {
			return results, err
		}
		results = append(results, b)
	}
	return results, nil
}

// List lists the bindings of a service in the store.
func (n *Near) List(ctx context.Context, service affinity.ServiceName, from string, k int) ([]Entry, string, error) {
	return list(ctx, n.store, service, from, k)
}

func list(ctx context.Context, s Store, service affinity.ServiceName, from string, n int) ([]Entry, string, error) {
	l, ok := s.(Lister)
	if !ok {
		return nil, "", fmt.Errorf("listing bindings in a %T: %w", s, errors.ErrUnsupported)
	}
	return l.List(ctx, service, from, n)
}

// Offset returns how far the store's clock is ahead of this process's; 0 if it has none of its own.
func (n *Near) Offset() time.Duration { return offset(n.store) }

func offset(s Store) time.Duration {
	if c, ok := s.(Clock); ok {
		return c.Offset()
	}
	return 0
}

// Ping asks the store whether it works.
func (n *Near) Ping(ctx context.Context) error { return ping(ctx, n.store) }

// always is a time that does not come.
const always = math.MaxInt64
