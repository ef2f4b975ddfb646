// Package binding remembers which target a session or a flow is bound to.
//
// A Store may forget: bindings expire, processes restart, memory is bounded. It must never disagree with itself: two gateways
// that race to bind one key leave with the same target. A binding is advice: it is never wrong to make it again.
//
// Start with [Store]; [Memory] keeps bindings in this process, [Near] caches those of a remote store, [Degraded] answers while a
// store is away. Every implementation passes bindingtest.Run.
package binding

import (
	"context"
	"errors"
	"time"

	"github.com/limpet-project/limpet/affinity"
)

// Errors that callers branch on; implementations may wrap them.
var (
	// ErrConflict means that a Swap lost; the winner is returned with it.
	ErrConflict = errors.New("binding was changed by another gateway")
	// ErrFull means that the store takes no new binding of this service now: quota reached or store out of memory. Reads work.
	ErrFull = errors.New("no room for another binding")
	// ErrUnavailable means that the store cannot be asked now: refused, timed out, read-only, loading, without permission.
	ErrUnavailable = errors.New("binding store is unavailable")
)

// A Version names one making of a binding. It is unique across re-creation of a key and ordered by Made, then Nonce, so that an
// expired and re-made binding is never mistaken for the old one. The zero Version is that of a key that is not bound.
type Version struct {
	Made  int64  // microseconds since 1970, the store's clock
	Nonce uint64 // tells makings of one microsecond apart
}

// IsZero reports whether v is the version of an unbound key.
func (v Version) IsZero() bool { return v == Version{} }

// Compare returns -1, 0 or 1 as v is older than, the same as, or newer than w.
func (v Version) Compare(w Version) int {
	switch {
	case v.Made < w.Made, v.Made == w.Made && v.Nonce < w.Nonce:
		return -1
	case v == w:
		return 0
	}
	return 1
}

// A Binding is a remembered target of a key. The zero Binding is that of an unbound key.
type Binding struct {
	Target  affinity.Target
	Version Version
	// Until is the absolute end, the store's clock; the zero time is none. A re-binding keeps it.
	Until time.Time
	// Ends is when the binding ends unless it is renewed, on this process's clock, as far as is known here: Get, Peek and Swap
	// fill it in (a remote store asks for the remaining life in the same round trip), and Touch moves it. The zero time is
	// unknown. The router renews a binding of which less than Idle is left, so that two gateways that share a session do not
	// renew, and thereby invalidate each other, in turns.
	Ends time.Time
	// Provisional says that the binding was made here while the store was away: it yields to any other.
	Provisional bool
}

// Bound reports whether b is a binding at all.
func (b Binding) Bound() bool { return !b.Target.IsZero() }

// Life says how long a binding lasts and how many a service may have.
type Life struct {
	// Idle is the time without use after which the binding ends; at least a second. A store keeps it 1.25 times as long, so that
	// renewals, which come at most every quarter of Idle, never let a session end early.
	Idle time.Duration
	// Until is the absolute end, the store's clock; the zero time is none.
	Until time.Time
	// Quota is the number of bindings of the key's service at most; 0 is no limit. A store may count it in parts and refuse a
	// few per cent early, never late by more than that.
	Quota int
}

// TTL returns how long a store keeps a binding that is used at now: 1.25 × Idle, capped by Until.
func (l Life) TTL(now time.Time) time.Duration {
	ttl := l.Idle + l.Idle/4
	if !l.Until.IsZero() {
		ttl = min(ttl, l.Until.Sub(now))
	}
	return ttl
}

// A Renewal extends the life of one binding if it is still at Version.
type Renewal struct {
	Key     affinity.Key
	Version Version
	Life    Life
}

// A Store holds bindings. It is safe for concurrent use. Implementations pass bindingtest.Run.
type Store interface {
	// Get returns k's binding, or the zero Binding if k is not bound.
	Get(ctx context.Context, k affinity.Key) (Binding, error)

	// Swap binds k to t if k is still at version old (the zero Version: if k is not bound). It returns the binding in force: the
	// caller's, or with ErrConflict the winner's, so that losing costs no second trip.
	Swap(ctx context.Context, k affinity.Key, old Version, t affinity.Target, life Life) (Binding, error)

	// Touch extends the lives of bindings. It is best effort: a lost Touch shortens a session, it never moves one. Renewals of
	// bindings that are gone or at another version do nothing.
	Touch(ctx context.Context, renewals []Renewal) error

	// Delete forgets k if it is at version v, at any version if v is zero.
	Delete(ctx context.Context, k affinity.Key, v Version) error
}

// A Peeker is a Store that knows some bindings without waiting. Peek takes no longer than a lookup in memory; false means that
// Get has to be asked. Memory, Near and Degraded are Peekers.
type Peeker interface {
	Peek(k affinity.Key) (Binding, bool)
}

// An Entry is a binding with its key and remaining life, as listed and restored.
type Entry struct {
	Key     affinity.Key
	Binding Binding
	Life    Life
}

// A Restorer takes back bindings that it may have lost: it writes each entry with its own version unless the key has a binding
// of the same or a newer version. Provisional entries are written only where the key is not bound, with a new version.
// The result has, for each entry in order, the binding in force afterwards: the zero Binding if there was no room for the entry or
// its life was over. With an error the result ends before the first entry whose outcome is not known.
type Restorer interface {
	Restore(ctx context.Context, entries []Entry) ([]Binding, error)
}

// A Lister lists the bindings of one service, some at a time, in no particular order. A cursor of "" begins; a returned "" ends.
// Bindings made or ended meanwhile may be missed or listed; others are listed at least once.
type Lister interface {
	List(ctx context.Context, service affinity.ServiceName, cursor string, n int) (entries []Entry, next string, err error)
}

// A Watcher is told what other gateways changed. Its methods do not block.
type Watcher interface {
	// Invalidate says that k's binding was changed or ended.
	Invalidate(k affinity.Key)
	// Lost says that changes may have been missed, or that the store was emptied: nothing held is fresh any longer.
	Lost()
	// Live says that from now on every change will be reported, for as long as Lost is not called.
	Live()
}

// An Invalidator is a Store that reports changes. Watch calls w until ctx ends and returns after its last call to w.
// A store that cannot report returns an error at once.
type Invalidator interface {
	Watch(ctx context.Context, w Watcher) error
}

// A Clock is a Store with a clock of its own. Offset returns how far the store's clock is ahead of this process's, as measured
// last; it does not block. A store without it uses this process's clock.
type Clock interface {
	Offset() time.Duration
}

// A Census is told how the number of sessions bound to a target changes, as far as this gateway sees. It must not block.
// Only keys of kind session are counted.
type Census func(service affinity.ServiceName, t affinity.Target, delta int)
