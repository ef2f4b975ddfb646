package redis

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/redis/rueidis"

	"github.com/limpet-project/limpet/affinity"
	"github.com/limpet-project/limpet/binding"
)

// watchers passes on what servers report. The servers remember what a connection read and tell it of the next change, unless
// the change was its own (CLIENT TRACKING, NOLOOP). Every connection tracks from its first moment on, so that after a loss
// everything that is read anew is reported again.
type watchers struct {
	wake func()

	mu      sync.Mutex // held while watchers are called: they do not block
	live    bool
	losses  uint64 // how often Lost was said
	refusal error  // why nothing can be reported, once that is known
	all     map[*watch]bool
}

type watch struct {
	watcher binding.Watcher
	refused chan error
}

func (w *watchers) init(wake func()) { w.wake, w.all = wake, map[*watch]bool{} }

// Watch implements binding.Invalidator. It fails when the server cannot report changes, as soon as that is known, and with
// ErrClosed when the Store is closed.
func (s *Store) Watch(ctx context.Context, w binding.Watcher) error {
	me := &watch{watcher: w, refused: make(chan error, 1)}
	if err := s.watchers.add(me); err != nil {
		return fmt.Errorf("watching for changes: %w", err)
	}
	defer s.watchers.remove(me)
	select {
	case <-ctx.Done():
		return ctx.Err()
	case err := <-me.refused:
		return fmt.Errorf("watching for changes: %w", err)
	}
}

func (w *watchers) add(one *watch) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.refusal != nil {
		return w.refusal
	}
	w.all[one] = true
	if w.live {
		one.watcher.Live()
	}
	return nil
}

// remove returns after the last call to the watcher.
func (w *watchers) remove(one *watch) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.all, one)
}

// invalidated is called by connections with the names of changed keys, or with none when the connection was lost or the server
// emptied.
func (s *Store) invalidated(changed []rueidis.RedisMessage) {
	if changed == nil {
		s.watchers.lost()
		s.watchers.wake()
		return
	}
	for _, m := range changed {
		name, err := m.ToString()
		if err != nil {
			continue // not the name of a key
		}
		if k, ok := s.keys.parse(name); ok {
			s.watchers.invalidate(k)
		}
	}
}

func (w *watchers) invalidate(k affinity.Key) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for one := range w.all {
		one.watcher.Invalidate(k)
	}
}

func (w *watchers) lost() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.losses++
	w.live = false
	for one := range w.all {
		one.watcher.Lost()
	}
}

// seen returns the number of losses so far, for alive.
func (w *watchers) seen() uint64 {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.losses
}

// alive says that reports come, unless something was lost since seen.
func (w *watchers) alive(seen uint64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.live || w.losses != seen || w.refusal != nil {
		return
	}
	w.live = true
	for one := range w.all {
		one.watcher.Live()
	}
}

// refuse ends all watching, and that to come, because of err.
func (w *watchers) refuse(err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.refusal, w.live = err, false
	for one := range w.all {
		one.refused <- err // has room for one, and one is in all only once
		delete(w.all, one)
	}
}

// allow takes a refusal back, unless the Store is closed.
func (w *watchers) allow() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !errors.Is(w.refusal, ErrClosed) {
		w.refusal = nil
	}
}

func (w *watchers) close() { w.refuse(ErrClosed) }
