package binding

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/limpet-project/limpet/affinity"
)

// DegradedOptions configure a Degraded. The zero value is ready to use.
type DegradedOptions struct {
	// Failures is the number of calls in a row that find the store unavailable until nobody asks it any more; 0 is 3.
	Failures int
	// Probe is about how often a store that is away is pinged; 0 is 200ms.
	Probe time.Duration
	// Timeout bounds a ping and a batch of restored bindings; 0 is 1s.
	Timeout time.Duration
	// Provisional is the number of bindings at most that are made here while the store is away; 0 is 100,000. The ones idle
	// longest are forgotten first, as in Memory.
	Provisional int
	// RestoreRate is the number of bindings per second at most that are offered to a store that is back; 0 is 20,000.
	RestoreRate int
	// OnState is called when the store is given up and when it is back; nil is nobody. It must not block.
	OnState func(open bool, err error)
	// Log is where that is logged; nil is nowhere.
	Log *slog.Logger
	// Now is this process's clock; nil is time.Now.
	Now func() time.Time
}

// Degraded is a Store that answers while its store cannot. It holds a circuit breaker: closed, it asks the store; open, after
// several failures in a row, it answers at once from what this gateway knows. A call whose store fails is answered as if the
// breaker were open, so that each request waits for a store that is away once at the most, and after that not at all.
//
// While the store is away, Get returns the binding known last, which Near keeps; else one made meanwhile; else ErrUnavailable.
// Swap binds in this process: the binding is Provisional and yields to any other. Two gateways may then disagree about a
// session that only one of them knew, as nobody can prevent.
//
// Run probes. When the store is back, requests ask it again at once and Run offers it in the background what it may have lost:
// bindings known last (the newer version wins), then provisional ones (where the key is not bound). A Get that the store
// answers with less than is known here offers that binding first, so that nothing moves while Run is at work. Run does the same
// after every loss that Near is told of.
//
// Degraded is a Peeker, and has what its store has of Lister, Restorer and Clock. Make one with NewDegraded.
type Degraded struct {
	store    Store
	near     *Near // store, if it is one
	local    *Memory
	options  DegradedOptions
	failures atomic.Int32 // in a row
	away     atomic.Bool
	opened   chan struct{} // has an element after the breaker opened

	mu       sync.Mutex // orders changes of the state
	since    time.Time
	cause    error
	deleted  map[affinity.Key]Version // what was deleted while a batch is being restored, else nil
	replaced map[affinity.Key]Version // what a provisional binding took the place of, since that was gone
}

// NewDegraded returns a Degraded in front of store, which should be a Near: any other store knows nothing while it is away. The
// breaker is closed.
func NewDegraded(store Store, o DegradedOptions) *Degraded {
	o = o.withDefaults()
	d := &Degraded{store: store, options: o, opened: make(chan struct{}, 1), since: o.Now()}
	d.near, _ = store.(*Near)
	d.local = NewMemory(MemoryOptions{Max: o.Provisional, Now: func() time.Time { return o.Now().Add(d.Offset()) }})
	return d
}

func (o DegradedOptions) withDefaults() DegradedOptions {
	o.Failures = positive(o.Failures, 3)
	o.Probe = positive(o.Probe, 200*time.Millisecond)
	o.Timeout = positive(o.Timeout, time.Second)
	o.Provisional = positive(o.Provisional, 100_000)
	o.RestoreRate = positive(o.RestoreRate, 20_000)
	if o.Now == nil {
		o.Now = time.Now
	}
	return o
}

// positive returns v, or standard if v is not positive.
func positive[N int | time.Duration](v, standard N) N {
	if v <= 0 {
		return standard
	}
	return v
}

// Get returns k's binding from the store, or while that is away what is known here.
func (d *Degraded) Get(ctx context.Context, k affinity.Key) (Binding, error) {
	if ask, err := d.ask(ctx); !ask {
		return d.known(k, err)
	}
	b, err := d.store.Get(ctx, k)
	if err != nil {
		return d.instead(ctx, k, err)
	}
	d.succeeded()
	return d.confirm(ctx, k, b)
}

// Peek returns k's binding if Get would return it without waiting.
func (d *Degraded) Peek(k affinity.Key) (Binding, bool) {
	if d.away.Load() {
		b, err := d.known(k, nil)
		return b, err == nil
	}
	if _, made := d.provisional(k); made {
		return Binding{}, false // Get has to settle which of the two is in force
	}
	if p, ok := d.store.(Peeker); ok {
		return p.Peek(k)
	}
	return Binding{}, false
}

// Swap binds k in the store, or while that is away here.
func (d *Degraded) Swap(ctx context.Context, k affinity.Key, old Version, t affinity.Target, life Life) (Binding, error) {
	ask, err := d.ask(ctx)
	if err != nil && ctx.Err() == context.Canceled {
		return Binding{}, err
	}
	if !ask {
		return d.swapHere(ctx, k, old, t, life)
	}
	b, err := d.store.Swap(ctx, k, old, t, life)
	if d.failed(ctx, err) {
		return d.swapHere(ctx, k, old, t, life)
	}
	if err == nil || errors.Is(err, ErrConflict) && b.Bound() {
		d.yield(ctx, k)
	}
	return b, err
}

// Touch extends lives in the store. While that is away it extends those known here, which the store is told when it is back.
func (d *Degraded) Touch(ctx context.Context, renewals []Renewal) error {
	ask, err := d.ask(ctx)
	if !ask {
		if d.near != nil {
			d.near.extend(renewals, true)
		}
		if err != nil && ctx.Err() == context.Canceled {
			return err
		}
		return d.local.Touch(ctx, renewals)
	}
	if err = d.store.Touch(ctx, renewals); d.failed(ctx, err) {
		return d.local.Touch(ctx, renewals)
	}
	return err
}

// Delete forgets k in the store. While that is away it forgets k here and returns ErrUnavailable.
func (d *Degraded) Delete(ctx context.Context, k affinity.Key, v Version) error {
	d.mu.Lock()
	if d.deleted != nil {
		d.deleted[k] = v
	}
	d.mu.Unlock()
	_ = d.local.Delete(ctx, k, v) // Memory's Delete returns no error
	ask, err := d.ask(ctx)
	if !ask {
		if d.near != nil {
			d.near.forget(k, v)
		}
		return err
	}
	err = d.store.Delete(ctx, k, v)
	d.failed(ctx, err)
	return err
}

// Restore hands bindings to the store, unless it is away.
func (d *Degraded) Restore(ctx context.Context, entries []Entry) ([]Binding, error) {
	if ask, err := d.ask(ctx); !ask {
		return nil, err
	}
	results, err := restore(ctx, d.store, entries)
	d.failed(ctx, err)
	return results, err
}

// List lists the bindings of a service in the store, unless it is away.
func (d *Degraded) List(ctx context.Context, service affinity.ServiceName, from string, n int) ([]Entry, string, error) {
	if ask, err := d.ask(ctx); !ask {
		return nil, "", err
	}
	entries, next, err := list(ctx, d.store, service, from, n)
	if err == nil || errors.Is(err, ErrUnavailable) { // any other error may be about the cursor
		d.failed(ctx, err)
	}
	return entries, next, err
}

// Offset returns how far the store's clock is ahead of this process's, as measured last; 0 if it has none of its own.
func (d *Degraded) Offset() time.Duration { return offset(d.store) }

// instead answers a Get that the store answered with an error.
func (d *Degraded) instead(ctx context.Context, k affinity.Key, err error) (Binding, error) {
	if !d.failed(ctx, err) {
		return Binding{}, err
	}
	return d.known(k, err)
}

// known returns what this gateway knows of k, or ErrUnavailable.
func (d *Degraded) known(k affinity.Key, err error) (Binding, error) {
	if b, ok := d.provisional(k); ok {
		return b, nil
	}
	if d.near != nil {
		if b, ok := d.near.LastKnown(k); ok {
			return b, nil
		}
	}
	if errors.Is(err, context.Canceled) {
		return Binding{}, err
	}
	return Binding{}, ErrUnavailable
}

// provisional returns the binding of k that was made while the store was away.
func (d *Degraded) provisional(k affinity.Key) (Binding, bool) {
	if d.local.count.Load() == 0 {
		return Binding{}, false
	}
	b, ok := d.local.Peek(k)
	return d.mark(b), ok
}

// mark makes a binding of the local store, which runs on the store's clock, a provisional one.
func (d *Degraded) mark(b Binding) Binding {
	if b.Bound() {
		b.Provisional, b.Ends = true, b.Ends.Add(-d.Offset())
	}
	return b
}

// swapHere is Swap while the store is away.
func (d *Degraded) swapHere(ctx context.Context, k affinity.Key, old Version, t affinity.Target, life Life) (Binding, error) {
	life.Quota = 0 // the number of provisional bindings is bounded otherwise
	if _, made := d.provisional(k); !made {
		last := Binding{}
		if d.near != nil {
			last, _ = d.near.LastKnown(k)
		}
		if last.Version != old {
			return last, ErrConflict
		}
		if !last.Until.IsZero() {
			life.Until = last.Until
		}
		defer d.note(k, old)
		old = Version{}
	}
	b, err := d.local.Swap(ctx, k, old, t, life)
	return d.mark(b), err
}

// note remembers which version the provisional binding of k takes the place of: if the store still has that one when it is back,
// nobody else moved the session, and the provisional binding is its successor rather than a rival.
func (d *Degraded) note(k affinity.Key, v Version) {
	if v.IsZero() {
		return
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.replaced == nil {
		d.replaced = map[affinity.Key]Version{}
	}
	if len(d.replaced) < d.options.Provisional {
		d.replaced[k] = v
	}
}

// predecessor returns the version that the provisional binding of k took the place of, zero if none.
func (d *Degraded) predecessor(k affinity.Key) Version {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.replaced[k]
}

// confirm completes an answer of the store: what is known here and newer is offered first, then what was made here while the
// store was away. It returns the binding in force. While b is in force the store's failure to take an offer does no harm.
func (d *Degraded) confirm(ctx context.Context, k affinity.Key, b Binding) (Binding, error) {
	var err error
	if d.near != nil {
		h := hash(&k)
		if e, ok := d.near.shard(h).lost(h, &k); ok && e.Binding.Version.Compare(b.Version) > 0 {
			if b, err = d.offer(ctx, e); err != nil {
				return b, err
			}
		}
	}
	p, ok := d.provisional(k)
	if !ok || b.Provisional {
		return b, nil
	}
	if !b.Bound() || b.Version == d.predecessor(k) {
		if b, err = d.succeed(ctx, d.asEntry(k, p), b.Version); err != nil || b.Provisional {
			return b, err
		}
	}
	d.yield(ctx, k)
	return b, nil
}

// succeed puts a provisional binding in the place of version old, or binds k if old is zero, and returns the binding in force; if
// the store fails or has no room, the provisional one.
func (d *Degraded) succeed(ctx context.Context, e Entry, old Version) (Binding, error) {
	if old.IsZero() {
		return d.offer(ctx, e)
	}
	b, err := d.store.Swap(ctx, e.Key, old, e.Binding.Target, e.Life)
	switch {
	case err == nil, errors.Is(err, ErrConflict) && b.Bound():
		return b, nil
	case errors.Is(err, ErrConflict): // the store lost it just now
		return d.offer(ctx, e)
	case errors.Is(err, ErrFull):
		return e.Binding, nil
	}
	return d.instead(ctx, e.Key, err)
}

// offer restores one entry and returns the binding in force; if the store fails or has no room for it, what is known here.
func (d *Degraded) offer(ctx context.Context, e Entry) (Binding, error) {
	results, err := restore(ctx, d.store, []Entry{e})
	switch {
	case errors.Is(err, ErrFull), err == nil && !results[0].Bound():
		return e.Binding, nil
	case err != nil:
		return d.instead(ctx, e.Key, err)
	}
	return results[0], nil
}

// asEntry returns a provisional binding with its remaining life.
func (d *Degraded) asEntry(k affinity.Key, p Binding) Entry {
	now := d.options.Now()
	return Entry{k, p, remaining(now.UnixMicro(), micros(p.Until), p.Ends.UnixMicro())}
}

// yield forgets the provisional binding of k: the store has one.
func (d *Degraded) yield(ctx context.Context, k affinity.Key) {
	if d.local.count.Load() > 0 {
		d.settle(ctx, k, Version{})
	}
}
