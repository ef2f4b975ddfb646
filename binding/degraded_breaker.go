package binding

import (
	"context"
	"errors"
	"log/slog"
	"time"
)

// DegradedState says how a Degraded is.
type DegradedState struct {
	Open  bool      // the store is away
	Since time.Time // when it became so
	Err   error     // why, the last reason if the breaker is closed
	// LastKnown is the number of bindings that are answered from memory while the store is away, or that it has still to be
	// offered when it is back.
	LastKnown int
	// Provisional is the number of bindings made while the store was away that it has not been offered yet.
	Provisional int
}

// State returns how d is. It counts, so it is for people and for metrics, not for requests.
func (d *Degraded) State() DegradedState {
	d.mu.Lock()
	s := DegradedState{Open: d.away.Load(), Since: d.since, Err: d.cause}
	d.mu.Unlock()
	s.Provisional = d.local.Stats().Bindings
	if d.near != nil {
		s.LastKnown = d.near.countLastKnown(s.Open)
	}
	return s
}

// countLastKnown counts the entries that the store may have lost, or all.
func (n *Near) countLastKnown(all bool) int {
	sum, state, now := 0, n.state.Load(), n.now().UnixMicro()
	for i := range n.shards {
		s := &n.shards[i]
		s.mu.RLock()
		for id := uint32(1); id <= s.table.last; id++ {
			if c := s.table.at(id); c.used() && c.value.ends > now && (all || c.value.state != state) {
				sum++
			}
		}
		s.mu.RUnlock()
	}
	return sum
}

// ask reports whether to ask the store: not while it is away, and not if the caller's time is over already. The error says which.
func (d *Degraded) ask(ctx context.Context) (bool, error) {
	if err := ctx.Err(); err == context.Canceled {
		return false, err
	} else if err != nil || d.away.Load() {
		return false, ErrUnavailable
	}
	return true, nil
}

// failed counts how a call of the store ended and reports whether the store was unavailable. A caller that went away says
// nothing about the store; one whose time was over does, since that time is the store's.
func (d *Degraded) failed(ctx context.Context, err error) bool {
	switch {
	case err == nil, errors.Is(err, ErrConflict), errors.Is(err, ErrFull):
		d.succeeded()
		return false
	case ctx.Err() == context.Canceled:
		return false
	}
	if int(d.failures.Add(1)) >= d.options.Failures {
		d.open(err)
	}
	return true
}

func (d *Degraded) succeeded() {
	if d.failures.Load() != 0 {
		d.failures.Store(0)
	}
}

// open gives the store up.
func (d *Degraded) open(err error) {
	if !d.turn(true, err) {
		return
	}
	if d.near != nil {
		d.near.suspect()
	}
	select {
	case d.opened <- struct{}{}:
	default:
	}
}

// turn changes the state, tells who asked, and reports whether there was anything to change.
func (d *Degraded) turn(open bool, err error) bool {
	if !d.set(open, err) {
		return false
	}
	if d.options.OnState != nil {
		d.options.OnState(open, err)
	}
	switch {
	case d.options.Log == nil:
	case open:
		d.options.Log.Warn("binding store is away, sessions stay where they are last known", slog.Any("error", err))
	default:
		d.options.Log.Info("binding store is back")
	}
	return true
}

// set changes the state and reports whether there was anything to change.
func (d *Degraded) set(open bool, err error) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.away.Load() == open {
		return false
	}
	d.failures.Store(0)
	d.since = d.options.Now()
	if open {
		d.cause = err
	}
	d.away.Store(open)
	return true
}
