package redis_test

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/limpet-project/limpet/affinity"
	"github.com/limpet-project/limpet/binding"
	"github.com/limpet-project/limpet/redis"
	"github.com/limpet-project/limpet/redis/redistest"
)

// watcher records what a store reports.
type watcher struct {
	mu      sync.Mutex
	live    bool
	losses  int
	changed map[affinity.Key]int
}

func newWatcher() *watcher { return &watcher{changed: map[affinity.Key]int{}} }

func (w *watcher) Invalidate(k affinity.Key) { w.mu.Lock(); defer w.mu.Unlock(); w.changed[k]++ }
func (w *watcher) Lost()                     { w.mu.Lock(); defer w.mu.Unlock(); w.live = false; w.losses++ }
func (w *watcher) Live()                     { w.mu.Lock(); defer w.mu.Unlock(); w.live = true }

func (w *watcher) isLive() bool { w.mu.Lock(); defer w.mu.Unlock(); return w.live }

func (w *watcher) lost() int { w.mu.Lock(); defer w.mu.Unlock(); return w.losses }

func (w *watcher) told(k affinity.Key) int { w.mu.Lock(); defer w.mu.Unlock(); return w.changed[k] }

// watched returns a watcher of s that is live. It ends with the test.
func watched(t *testing.T, s *redis.Store) *watcher {
	t.Helper()
	w, ctx := newWatcher(), t.Context()
	var group sync.WaitGroup
	group.Go(func() {
		if err := s.Watch(ctx, w); !errors.Is(err, context.Canceled) && !errors.Is(err, redis.ErrClosed) {
			t.Errorf("Watch = %v, want the end of its context", err)
		}
	})
	t.Cleanup(group.Wait)
	eventually(t, "Live", w.isLive)
	return w
}

func TestChangesOfOtherGatewaysAreReportedAndOwnOnesAreNot(t *testing.T) {
	server := redistest.Start(t)
	here, there := open(t, server), open(t, server)
	w := watched(t, here)

	// What this gateway does itself, it knows.
	mine := bind(t, here, session(1), pod1)
	mine, err := here.Swap(t.Context(), session(1), mine.Version, pod2, hour)
	if err != nil {
		t.Fatalf("Swap = %v, want no error", err)
	}
	renewal := []binding.Renewal{{Key: session(1), Version: mine.Version, Life: hour}}
	if err := here.Touch(t.Context(), renewal); err != nil {
		t.Fatalf("Touch = %v, want no error", err)
	}
	// Reports travel in order: when the report of another's change of session 2 is here, so are all of before.
	bind(t, here, session(2), pod1)
	change := func(k affinity.Key) {
		t.Helper()
		b, err := there.Get(t.Context(), k)
		if err == nil {
			_, err = there.Swap(t.Context(), k, b.Version, pod2, hour)
		}
		if err != nil {
			t.Fatalf("changing %v from another gateway: %v", k, err)
		}
		eventually(t, "report of a change", func() bool { return w.told(k) == 1 })
	}
	change(session(2))
	if n := w.told(session(1)); n != 0 {
		t.Errorf("reports of what this gateway did itself = %d, want 0", n)
	}
	// Its own Swap and Touch did not make the server forget that this gateway holds session 1.
	change(session(1))
}

func TestDefect9BindingsExpireAndTheirEndIsReported(t *testing.T) {
	server := redistest.Start(t)
	s := open(t, server)
	w := watched(t, s)
	b, err := s.Swap(t.Context(), session(1), unbound, pod1, binding.Life{Idle: 5 * time.Second})
	if err != nil {
		t.Fatalf("Swap = %v, want no error", err)
	}
	wants(t, s, session(1), b)
	eventually(t, "report of an expiry", func() bool { return w.told(session(1)) > 0 })
	wants(t, s, session(1), binding.Binding{})
	eventually(t, "end of the index", func() bool { return server.Do("KEYS", "limpet:1:i:*") == "" })
}

func TestAnEmptiedServerIsALoss(t *testing.T) {
	server := redistest.Start(t)
	s := open(t, server)
	w := watched(t, s)
	bind(t, s, session(1), pod1)
	server.Flush()
	eventually(t, "Lost", func() bool { return w.lost() > 0 })
	eventually(t, "Live", w.isLive)
	// Reporting goes on.
	bind(t, s, session(1), pod1)
	server.Do("DEL", bindingKey(t, server))
	eventually(t, "report after the loss", func() bool { return w.told(session(1)) > 0 })
}

func TestASilentOrBrokenConnectionIsALoss(t *testing.T) {
	server := redistest.Start(t)
	proxy := redistest.StartProxy(t, server.Addr())
	s := open(t, server, func(o *redis.Options) { o.Addresses = []string{proxy.Addr()} })
	w := watched(t, s)
	for _, c := range []struct {
		name        string
		break_, go_ func()
	}{
		{"a reset", proxy.Reset, func() {}},
		{"a frozen server", server.Freeze, server.Thaw},
		{"a cut network", proxy.Cut, proxy.Pass},
		{"a restart", server.Restart, func() {}},
	} {
		before := w.lost()
		c.break_()
		eventually(t, "Lost after "+c.name, func() bool { return w.lost() > before })
		c.go_()
		eventually(t, "Live after "+c.name, w.isLive)
		eventually(t, "connection after "+c.name, func() bool { return s.Ping(t.Context()) == nil })
	}
}

func TestAServerThatReportsNothingIsUsedWithoutWatching(t *testing.T) {
	server := redistest.Start(t, redistest.User("limpet", "correct-horse", "~limpet:*", "+@all", "-client|tracking"))
	s := open(t, server, func(o *redis.Options) { o.Username, o.Password = "limpet", "correct-horse" })
	if err := s.Watch(t.Context(), newWatcher()); err == nil {
		t.Errorf("Watch of a server without tracking = %v, want an error", err)
	}
	wants(t, s, session(1), bind(t, s, session(1), pod1))
}
