package binding

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync/atomic"
	"time"

	"github.com/limpet-project/limpet/affinity"
)

// Run has changes reported to n until ctx ends, and returns nil. Where the store is no Invalidator, or cannot report, it
// returns at once: entries are then fresh for their TTL.
func (n *Near) Run(ctx context.Context) error {
	inv, ok := n.store.(Invalidator)
	if !ok {
		return nil
	}
	const shortest, longest = 100 * time.Millisecond, 2 * time.Second
	for pause := shortest; ; pause = min(2*pause, longest) {
		w := &watching{near: n}
		err := inv.Watch(ctx, w)
		w.Lost()
		if ctx.Err() != nil || errors.Is(err, errors.ErrUnsupported) {
			return nil
		}
		if w.was.Load() {
			pause = shortest
		}
		if !sleep(ctx, pause/2+rand.N(pause)) {
			return nil
		}
	}
}

// sleep waits for d, and returns false if ctx ended before.
func sleep(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// watching is a Near as the Watcher of its store.
type watching struct {
	near *Near
	was  atomic.Bool // Live was called
}

// Invalidate drops an entry.
func (w *watching) Invalidate(k affinity.Key) {
	h := hash(&k)
	w.near.shard(h).invalidate(h, &k)
}

// Lost makes every entry last known.
func (w *watching) Lost() { w.near.turn(false) }

// Live makes the entries that are filled from now on fresh for as long as they live.
func (w *watching) Live() {
	w.was.Store(true)
	w.near.turn(true)
	select {
	case w.near.revived <- struct{}{}:
	default:
	}
}

// turn begins a new period. The number of one in which changes are reported is odd.
func (n *Near) turn(live bool) {
	for {
		old := n.state.Load()
		next := old + 1
		if (next&1 == 1) != live {
			next++
		}
		if n.state.CompareAndSwap(old, next) {
			return
		}
	}
}

// suspect makes every entry last known, unless changes are being reported, in which case a loss is reported too.
func (n *Near) suspect() {
	if old := n.state.Load(); old&1 == 0 {
		n.state.CompareAndSwap(old, old+2)
	}
}
