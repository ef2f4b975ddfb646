package bindingtest

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/limpet-project/limpet/affinity"
	"github.com/limpet-project/limpet/binding"
)

// ability returns the store as an A, or skips the test if it is none.
func ability[A any](t *testing.T, store binding.Store) A {
	t.Helper()
	a, ok := store.(A)
	if !ok {
		t.Skipf("%T is no %T", store, (*A)(nil))
	}
	return a
}

// supported skips the test if a wrapper's store lacks the ability that the wrapper forwards.
func supported(t *testing.T, call string, err error) {
	t.Helper()
	if errors.Is(err, errors.ErrUnsupported) {
		t.Skip(err)
	}
	if err != nil {
		t.Fatalf("%s = %v, want no error", call, err)
	}
}

func (s *suite) testPeeker(t *testing.T) {
	u := s.subject(t)
	p := ability[binding.Peeker](t, u.store)
	k := u.session("s-100")
	agrees := func(when string) {
		t.Helper()
		if b, ok := p.Peek(k); ok && !same(b, u.get(k)) {
			t.Errorf("Peek %s = %+v, want %+v or false", when, b, u.get(k))
		}
	}
	if b, ok := p.Peek(k); ok && b.Bound() {
		t.Errorf("Peek of an unbound key = %+v, want none", b)
	}
	first := u.swap(k, unbound, pod1, hour)
	agrees("after Swap")
	u.want(k, first)
	agrees("after Get")
	second := u.swap(k, first.Version, pod2, hour)
	agrees("after re-binding")
	u.lose(k, first.Version, pod3, second)
	agrees("after a lost Swap")
	u.delete(k, unbound)
	if b, ok := p.Peek(k); ok && b.Bound() {
		t.Errorf("Peek of a deleted key = %+v, want none", b)
	}
}

func (s *suite) testLister(t *testing.T) {
	t.Run("lists the bindings of one service", func(t *testing.T) {
		u := s.subject(t)
		l := ability[binding.Lister](t, u.store)
		other := s.around(t, u.store)
		want := map[affinity.Key]binding.Binding{}
		for i := range 250 {
			scope := affinity.Scope{Service: u.service, Kind: affinity.KindSession}
			if i%5 == 0 {
				scope.Tag = "canary"
			}
			if i%7 == 0 {
				scope.Kind = affinity.KindFlow
			}
			k := key(scope, fmt.Sprintf("s-%d", i))
			want[k] = plain(u.swap(k, unbound, pod1, hour))
			other.swap(other.session(fmt.Sprintf("s-%d", i)), unbound, pod2, hour)
		}
		got, now := map[affinity.Key]binding.Binding{}, u.now()
		for _, e := range list(t, l, u.service, 100) {
			if _, twice := got[e.Key]; twice {
				t.Errorf("List of a service at rest has %v twice, want once", e.Key)
			}
			got[e.Key] = plain(e.Binding)
			if left := e.Life.TTL(now); left < time.Minute || left > hour.TTL(now)+time.Minute {
				t.Errorf("remaining life of %v = %v, want at most %v", e.Key, left, hour.TTL(now))
			}
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("List(%v) (-want +got):\n%s", u.service, diff)
		}
	})
	t.Run("lists nothing of an unknown service", func(t *testing.T) {
		u := s.subject(t)
		if got := list(t, ability[binding.Lister](t, u.store), u.service, 10); len(got) != 0 {
			t.Errorf("List of an unknown service = %v, want none", got)
		}
	})
	t.Run("leaves out what ended", func(t *testing.T) {
		u := s.slow(t)
		l := ability[binding.Lister](t, u.store)
		ends, control, stays := u.session("s-100"), u.session("s-101"), u.session("s-102")
		u.swap(ends, unbound, pod1, u.brief())
		u.swap(stays, unbound, pod1, hour)
		u.swap(control, unbound, pod1, u.brief())
		u.outlast(control)
		got := list(t, l, u.service, 10)
		if len(got) != 1 || got[0].Key != stays {
			t.Errorf("List after two of three ended = %v, want %v alone", got, stays)
		}
	})
}

// list reads all pages of a service.
func list(t *testing.T, l binding.Lister, service affinity.ServiceName, n int) (all []binding.Entry) {
	t.Helper()
	for cursor := ""; ; {
		page, next, err := l.List(t.Context(), service, cursor, n)
		supported(t, "List", err)
		all = append(all, page...)
		if next == "" {
			return all
		}
		cursor = next
	}
}

func (s *suite) testRestorer(t *testing.T) {
	restore := func(u *subject, entries ...binding.Entry) []binding.Binding {
		u.t.Helper()
		got, err := ability[binding.Restorer](u.t, u.store).Restore(u.t.Context(), entries)
		supported(u.t, "Restore", err)
		if len(got) != len(entries) {
			u.t.Fatalf("Restore(%d entries) has %d results, want as many", len(entries), len(got))
		}
		return got
	}
	t.Run("writes lost bindings with their own version", func(t *testing.T) {
		u := s.subject(t)
		k := u.session("s-100")
		lost := u.swap(k, unbound, pod1, hour)
		u.delete(k, unbound)
		if got := restore(u, binding.Entry{Key: k, Binding: lost, Life: hour}); !same(got[0], lost) {
			t.Errorf("Restore of a lost binding = %+v, want %+v", got[0], lost)
		}
		u.want(k, lost)
		u.want(k, u.swap(k, lost.Version, pod2, hour))
	})
	t.Run("lets the newer version win", func(t *testing.T) {
		u := s.subject(t)
		k := u.session("s-100")
		old := u.swap(k, unbound, pod1, hour)
		held := u.swap(k, old.Version, pod2, hour)
		if got := restore(u, binding.Entry{Key: k, Binding: old, Life: hour}); !same(got[0], held) {
			t.Errorf("Restore of an older version = %+v, want %+v to stay", got[0], held)
		}
		u.want(k, held)
		newer := binding.Binding{Target: pod3, Version: binding.Version{Made: held.Version.Made + 1, Nonce: 0}}
		if got := restore(u, binding.Entry{Key: k, Binding: newer, Life: hour}); !same(got[0], newer) {
			t.Errorf("Restore of a newer version = %+v, want %+v", got[0], newer)
		}
		u.want(k, newer)
		if got := restore(u, binding.Entry{Key: k, Binding: newer, Life: hour}); !same(got[0], newer) {
			t.Errorf("Restore of the same version = %+v, want %+v", got[0], newer)
		}
		if again := u.swap(k, newer.Version, pod1, hour); again.Version.Compare(newer.Version) <= 0 {
			t.Errorf("version after a restored one = %v, want newer than %v", again.Version, newer.Version)
		}
	})
	t.Run("writes provisional bindings only where the key is unbound", func(t *testing.T) {
		u := s.subject(t)
		bound, free := u.session("s-100"), u.session("s-101")
		held := u.swap(bound, unbound, pod1, hour)
		made := binding.Version{Made: held.Version.Made + time.Hour.Microseconds(), Nonce: 42}
		got := restore(u,
			binding.Entry{Key: bound, Binding: binding.Binding{Target: pod2, Version: made, Provisional: true}, Life: hour},
			binding.Entry{Key: free, Binding: binding.Binding{Target: pod3, Version: made, Provisional: true}, Life: hour})
		if !same(got[0], held) {
			t.Errorf("Restore of a provisional binding of a bound key = %+v, want %+v", got[0], held)
		}
		if b := got[1]; b.Target != pod3 || b.Provisional || b.Version.IsZero() || b.Version == made {
			t.Errorf("Restore of a provisional binding of an unbound key = %+v, want %v with a version of the store", b, pod3)
		}
		u.want(bound, held)
		u.want(free, got[1])
	})
	t.Run("takes many and answers in order", func(t *testing.T) {
		u := s.subject(t)
		entries := make([]binding.Entry, 600)
		var want []binding.Binding
		now := u.now().UnixMicro()
		for i := range entries {
			b := binding.Binding{Target: affinity.Target{Revision: "demo-00001", Endpoint: fmt.Sprintf("pod-%d", i%50)}}
			b.Version = binding.Version{Made: now + int64(i), Nonce: uint64(i)}
			entries[i] = binding.Entry{Key: u.session(fmt.Sprintf("s-%d", i)), Binding: b, Life: hour}
			want = append(want, b)
		}
		if diff := cmp.Diff(want, restore(u, entries...), cmpopts.IgnoreFields(binding.Binding{}, "Ends")); diff != "" {
			t.Errorf("Restore (-want +got):\n%s", diff)
		}
	})
	t.Run("keeps the absolute end and the remaining life", func(t *testing.T) {
		u := s.slow(t)
		k, start, most := u.session("s-100"), time.Now(), u.brief().Idle
		now := u.now()
		b := binding.Binding{Target: pod1, Version: binding.Version{Made: now.UnixMicro(), Nonce: 3}, Until: now.Add(most).Truncate(time.Millisecond)}
		restore(u, binding.Entry{Key: k, Binding: b, Life: binding.Life{Idle: 2 * time.Hour, Until: b.Until}})
		u.want(k, b)
		u.lasts(k, start, most-time.Millisecond)
	})
}

// watcher records what a store reports.
type watcher struct {
	mu      sync.Mutex
	live    bool
	lost    bool // since the last reset
	changed map[affinity.Key]bool
	closed  bool
	late    bool // called after Watch returned
}

func (w *watcher) update(edit func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.late = w.late || w.closed
	edit()
}

func (w *watcher) Invalidate(k affinity.Key) { w.update(func() { w.changed[k] = true }) }
func (w *watcher) Lost()                     { w.update(func() { w.live, w.lost = false, true }) }
func (w *watcher) Live()                     { w.update(func() { w.live = true }) }

func (w *watcher) is(what func() bool) func() bool {
	return func() bool {
		w.mu.Lock()
		defer w.mu.Unlock()
		return what()
	}
}

func (w *watcher) reset() { w.update(func() { w.lost, w.changed = false, map[affinity.Key]bool{} }) }

// told waits until the change of k was reported, or that everything may have changed.
func (w *watcher) told(u *subject, what string, k affinity.Key) {
	u.t.Helper()
	u.eventually("report of "+what, w.is(func() bool { return w.changed[k] || w.lost }))
}

func (s *suite) testInvalidator(t *testing.T) {
	if s.Pair == nil {
		t.Skip("no pair of gateways")
	}
	if s.Advance == nil {
		t.Parallel()
	}
	a, b := s.Pair(t)
	u, other := s.around(t, a), s.around(t, b)
	inv := ability[binding.Invalidator](t, a)
	w := &watcher{changed: map[affinity.Key]bool{}}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- inv.Watch(ctx, w) }()
	defer func() {
		cancel()
		if err := <-ended; err != nil && !errors.Is(err, context.Canceled) {
			t.Errorf("Watch whose context ended = %v, want no error or context.Canceled", err)
		}
		w.update(func() { w.closed = true })
		other.swap(other.session("s-late"), unbound, pod1, hour)
		if w.is(func() bool { return w.late })() {
			t.Error("Watch called its watcher after it returned")
		}
	}()
	u.eventually("Live", w.is(func() bool { return w.live }))

	k := u.session("s-" + rand.Text())
	first := other.swap(k, unbound, pod1, hour)
	u.get(k)
	w.reset()
	second := other.swap(k, first.Version, pod2, hour)
	w.told(u, "another gateway's Swap of a key that was read", k)
	w.reset()
	third := u.swap(k, second.Version, pod3, hour)
	other.swap(k, third.Version, pod1, hour)
	w.told(u, "another gateway's Swap of a key that was bound here", k)
	u.get(k)
	w.reset()
	other.delete(k, unbound)
	w.told(u, "another gateway's Delete", k)

	ends := u.session("s-" + rand.Text())
	u.swap(ends, unbound, pod1, u.brief())
	u.get(ends)
	w.reset()
	other.outlast(ends)
	w.told(u, "an expiry", ends)
}

func (s *suite) testClock(t *testing.T) {
	u := s.subject(t)
	c := ability[binding.Clock](t, u.store)
	if s.Advance != nil {
		t.Skip("time is virtual")
	}
	before := time.Now()
	made := u.now().Add(-c.Offset())
	// Half a minute is far more than any measurement is wrong by and far less than a mistaken sign or unit.
	if off := made.Sub(before).Abs(); off > patience {
		t.Errorf("Made of a binding of this moment, less Offset, is %v away from this process's clock", off)
	}
}

func (s *suite) testPinger(t *testing.T) {
	u := s.subject(t)
	if err := ability[binding.Pinger](t, u.store).Ping(t.Context()); err != nil {
		t.Errorf("Ping of a store that works = %v, want no error", err)
	}
}
