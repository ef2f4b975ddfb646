package endpoint

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"
)

// Errors of Acquire; callers branch on them.
var (
	// ErrBusy means that an endpoint was at its limit and the wait for it ended, or that too many wait for it already.
	ErrBusy = errors.New("endpoint is at its concurrency limit")
	// ErrGone means that the endpoint is down or gone since the snapshot was taken: the current snapshot shows it; decide again.
	ErrGone = errors.New("endpoint takes no requests any longer")
)

// A gate counts the requests at one endpoint and lets in as many as its limit. Without a limit it is an atomic addition. With
// one, requests that find no place wait in the order in which they came; nobody waits for another gate.
type gate struct {
	inFlight atomic.Int64
	queued   atomic.Int64 // length of the queue
	limit    atomic.Int64 // 0 is none
	closed   atomic.Bool  // down or gone: nobody enters and nobody waits

	mu          sync.Mutex // guards the queue; nothing is waited for while it is held
	first, last *waiter
}

// A waiter is one request in a gate's queue.
type waiter struct {
	next, previous *waiter
	waiting        bool
	ready          chan error // gets one answer: nil with a place, or why there will be none
}

// enter takes a place, waiting for it up to wait.
func (g *gate) enter(ctx context.Context, wait time.Duration, maxQueue int) error {
	if g.closed.Load() {
		return ErrGone
	}
	if g.limit.Load() <= 0 {
		g.inFlight.Add(1)
		return nil
	}
	return g.enterLimited(ctx, wait, maxQueue)
}

// enterLimited takes a place at once if nobody waits for one, else at the end of the queue. A request whose context has ended gets none.
func (g *gate) enterLimited(ctx context.Context, wait time.Duration, maxQueue int) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if g.queued.Load() == 0 && g.take() {
		return nil
	}
	if wait <= 0 {
		return ErrBusy
	}
	w, err := g.join(maxQueue)
	if err != nil {
		return err
	}
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case err := <-w.ready:
		return err
	case <-timer.C:
		return g.abandon(w, ErrBusy)
	case <-ctx.Done():
		return g.abandon(w, ctx.Err())
	}
}

// leave gives a place back. The addition comes before the look at the queue, and join's before its look at the places, so that
// one of the two sees the other.
func (g *gate) leave() {
	if g.inFlight.Add(-1) < 0 {
		g.inFlight.Add(1)
		panic("endpoint: Release without Acquire")
	}
	if g.queued.Load() > 0 {
		g.mu.Lock()
		g.grant()
		g.mu.Unlock()
	}
}

// take takes a place if there is one.
func (g *gate) take() bool {
	for {
		n, limit := g.inFlight.Load(), g.limit.Load()
		if limit > 0 && n >= limit {
			return false
		}
		if g.inFlight.CompareAndSwap(n, n+1) {
			return true
		}
	}
}

// join appends a waiter to the queue.
func (g *gate) join(maxQueue int) (*waiter, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.closed.Load() {
		return nil, ErrGone
	}
	if g.queued.Load() >= int64(maxQueue) {
		return nil, ErrBusy
	}
	w := &waiter{waiting: true, ready: make(chan error, 1), previous: g.last}
	if g.last == nil {
		g.first = w
	} else {
		g.last.next = w
	}
	g.last = w
	g.queued.Add(1)
	g.grant()
	return w, nil
}

// abandon ends w's wait with cause. An answer that came at the same moment counts, but nobody keeps a place for a request whose
// context has ended.
func (g *gate) abandon(w *waiter, cause error) error {
	g.mu.Lock()
	waited := w.waiting
	if waited {
		g.unlink(w)
	}
	g.mu.Unlock()
	if waited {
		return cause
	}
	err := <-w.ready
	if err == nil && cause != ErrBusy {
		g.leave()
		return cause
	}
	return err
}

// grant gives free places to the first waiters. The caller holds mu.
func (g *gate) grant() {
	for g.first != nil && g.take() {
		w := g.first
		g.unlink(w)
		w.ready <- nil
	}
}

// unlink takes w out of the queue. The caller holds mu.
func (g *gate) unlink(w *waiter) {
	if w.previous == nil {
		g.first = w.next
	} else {
		w.previous.next = w.next
	}
	if w.next == nil {
		g.last = w.previous
	} else {
		w.next.previous = w.previous
	}
	w.next, w.previous, w.waiting = nil, nil, false
	g.queued.Add(-1)
}

// setLimit changes the limit; those who wait for a place that it makes get it.
func (g *gate) setLimit(limit int) {
	g.limit.Store(int64(limit))
	g.mu.Lock()
	g.grant()
	g.mu.Unlock()
}

// close turns away everybody who waits and everybody who comes, until open.
func (g *gate) close() {
	g.closed.Store(true)
	g.mu.Lock()
	defer g.mu.Unlock()
	for g.first != nil {
		w := g.first
		g.unlink(w)
		w.ready <- ErrGone
	}
}

// open lets requests in again.
func (g *gate) open() { g.closed.Store(false) }
