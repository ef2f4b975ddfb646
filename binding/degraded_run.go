package binding

import (
	"context"
	"math/rand/v2"
	"time"

	"github.com/limpet-project/limpet/affinity"
)

// restoreBatch is the number of bindings offered in one call.
const restoreBatch = 500

// Run probes a store that is away and offers it what it lost when it is back, until ctx ends; it returns nil. Without Run a
// breaker that opened stays open. It does not run its store's Near, which has a Run of its own.
func (d *Degraded) Run(ctx context.Context) error {
	var revived chan struct{}
	if d.near != nil {
		revived = d.near.revived
	}
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-d.opened:
			if !d.probe(ctx) {
				return nil
			}
		case <-revived:
		}
		for !d.away.Load() && !d.restoreAll(ctx) {
			if !sleep(ctx, d.options.Probe) {
				return nil
			}
		}
	}
}

// probe pings the store until it answers, then closes the breaker. It returns false if ctx ended.
func (d *Degraded) probe(ctx context.Context) bool {
	for d.away.Load() {
		if !sleep(ctx, d.options.Probe*4/5+rand.N(d.options.Probe*2/5+1)) {
			return false
		}
		once, cancel := context.WithTimeout(ctx, d.options.Timeout)
		err := ping(once, d.store)
		cancel()
		if err == nil {
			d.turn(false, nil)
		}
	}
	return true
}

// restoreAll offers the store, in this order, the bindings known last, flows before sessions because many sessions go by one
// flow, the renewals that it missed, and the bindings made while it was away. It returns false if the store failed in between.
func (d *Degraded) restoreAll(ctx context.Context) bool {
	if d.near != nil {
		state := d.near.state.Load
		lost := func(kind affinity.Kind) func(*cell[cached]) bool {
			return func(c *cell[cached]) bool { return c.value.state != state() && c.scope.Value().Kind == kind }
		}
		offer := func(pick func(*cell[cached]) bool, do func(context.Context, []Entry) error) bool {
			return d.eachBatch(ctx, func(at cursor) ([]Entry, cursor) { return d.near.walk(at, restoreBatch, pick) }, do)
		}
		ok := offer(lost(affinity.KindFlow), d.restoreBatch) && offer(lost(affinity.KindSession), d.restoreBatch) &&
			offer(func(c *cell[cached]) bool { return c.value.owed }, d.renewBatch)
		if !ok {
			return false
		}
	}
	return d.eachBatch(ctx, func(at cursor) ([]Entry, cursor) { return d.local.walk(nil, at, restoreBatch) }, d.offerBatch)
}

// eachBatch does something with each batch of entries, no faster than the configured rate, and returns false if that failed.
func (d *Degraded) eachBatch(ctx context.Context, page func(cursor) ([]Entry, cursor), do func(context.Context, []Entry) error) bool {
	defer d.endDeletes()
	for at := (cursor{}); ; {
		d.noteDeletes()
		var entries []Entry
		entries, at = page(at)
		if len(entries) > 0 && !d.oneBatch(ctx, entries, do) {
			return false
		}
		if at == (cursor{}) {
			return true
		}
	}
}

// oneBatch does something with entries, as eachBatch says.
func (d *Degraded) oneBatch(ctx context.Context, entries []Entry, do func(context.Context, []Entry) error) bool {
	once, cancel := context.WithTimeout(ctx, d.options.Timeout)
	defer cancel()
	err := do(once, entries)
	if err == nil {
		err = d.repeatDeletes(once, entries)
	}
	if err != nil && d.failed(once, err) || d.away.Load() {
		return false
	}
	return sleep(ctx, time.Second*time.Duration(len(entries))/time.Duration(d.options.RestoreRate))
}

// noteDeletes begins to note which keys are deleted here: a batch that was read before must not bring them back.
func (d *Degraded) noteDeletes() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.deleted = map[affinity.Key]Version{}
}

// endDeletes ends the noting and returns what was noted.
func (d *Degraded) endDeletes() map[affinity.Key]Version {
	d.mu.Lock()
	defer d.mu.Unlock()
	deleted := d.deleted
	d.deleted = nil
	return deleted
}

// repeatDeletes deletes again what was deleted while the batch was on its way.
func (d *Degraded) repeatDeletes(ctx context.Context, entries []Entry) error {
	deleted := d.endDeletes()
	if len(deleted) == 0 {
		return nil
	}
	for i := range entries {
		if v, ok := deleted[entries[i].Key]; ok {
			if err := d.store.Delete(ctx, entries[i].Key, v); err != nil {
				return err
			}
		}
	}
	return nil
}

func (d *Degraded) restoreBatch(ctx context.Context, entries []Entry) error {
	_, err := restore(ctx, d.store, entries)
	return err
}

// renewBatch makes renewals good that the store missed.
func (d *Degraded) renewBatch(ctx context.Context, entries []Entry) error {
	renewals := make([]Renewal, len(entries))
	for i, e := range entries {
		renewals[i] = Renewal{e.Key, e.Binding.Version, e.Life}
	}
	return d.store.Touch(ctx, renewals)
}

// offerBatch offers provisional bindings and forgets those whose keys are bound in the store now.
func (d *Degraded) offerBatch(ctx context.Context, entries []Entry) error {
	created := make([]Entry, 0, len(entries))
	offered := make([]Version, 0, len(entries))
	for _, e := range entries {
		v, old := e.Binding.Version, d.predecessor(e.Key)
		e.Binding = d.mark(e.Binding)
		if old.IsZero() {
			created, offered = append(created, e), append(offered, v)
			continue
		}
		b, err := d.succeed(ctx, e, old)
		if err != nil {
			return err
		}
		if !b.Provisional {
			d.settle(ctx, e.Key, v)
		}
	}
	results, err := restore(ctx, d.store, created)
	for i := range results {
		if results[i].Bound() {
			d.settle(ctx, created[i].Key, offered[i])
		}
	}
	return err
}

// settle forgets a provisional binding that was offered, unless it was made anew meanwhile.
func (d *Degraded) settle(ctx context.Context, k affinity.Key, v Version) {
	_ = d.local.Delete(ctx, k, v) // Memory's Delete returns no error
	if _, again := d.local.Peek(k); again {
		return
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(d.replaced, k)
}
