package binding_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/limpet-project/limpet/affinity"
	"github.com/limpet-project/limpet/binding"
	"github.com/limpet-project/limpet/binding/bindingtest"
)

// run keeps a Run going until the test ends.
func run(t *testing.T, r interface{ Run(context.Context) error }) {
	ctx, cancel := context.WithCancel(context.Background())
	var group sync.WaitGroup
	group.Go(func() {
		if err := r.Run(ctx); err != nil {
			t.Errorf("%T.Run = %v, want no error", r, err)
		}
	})
	t.Cleanup(func() {
		cancel()
		group.Wait()
	})
}

func TestNearKeepsTheContract(t *testing.T) {
	c := newClock()
	var remotes []*remote
	add := func() *remote {
		remotes = append(remotes, newRemote(c.Now))
		return remotes[len(remotes)-1]
	}
	for _, watched := range []bool{false, true} {
		open := func(t *testing.T, r *remote) binding.Store {
			g := r.gateway()
			n := binding.NewNear(g, binding.NearOptions{Now: c.Now})
			if watched {
				run(t, n)
				<-g.live
			}
			return n
		}
		t.Run(fmt.Sprintf("watched=%v", watched), func(t *testing.T) {
			bindingtest.RunWith(t, bindingtest.Options{
				New: func(t *testing.T) binding.Store { return open(t, add()) },
				Pair: func(t *testing.T) (binding.Store, binding.Store) {
					r := add()
					return open(t, r), open(t, r)
				},
				Advance: func(d time.Duration) {
					c.Advance(d)
					for _, r := range remotes {
						r.expired()
					}
				},
			})
		})
	}
}

// watchedNear returns a Near whose changes are reported. It must be called in a bubble.
func watchedNear(t *testing.T, r *remote, o binding.NearOptions) *binding.Near {
	n := binding.NewNear(r.gateway(), o)
	run(t, n)
	synctest.Wait()
	return n
}

func TestNearAnswersKnownKeysWithoutTheStore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRemote(time.Now)
		n := watchedNear(t, r, binding.NearOptions{})
		other := r.gateway()
		bound := mustSwap(t, other, session("s-1"), unbound, pod1)
		wantTarget(t, n, session("s-1"), pod1)
		mustSwap(t, n, session("s-2"), unbound, pod2)
		if b, err := n.Swap(t.Context(), session("s-3"), bound.Version, pod2, hour); !errors.Is(err, binding.ErrConflict) || b.Bound() {
			t.Fatalf("Swap of a version of an unbound key = %+v, %v, want nothing and ErrConflict", b, err)
		}
		held := mustSwap(t, other, session("s-4"), unbound, pod3)
		if b, err := n.Swap(t.Context(), session("s-4"), unbound, pod1, hour); !errors.Is(err, binding.ErrConflict) || b.Version != held.Version {
			t.Fatalf("lost Swap = %+v, %v, want %+v, ErrConflict", b, err, held)
		}
		before := r.asked()
		time.Sleep(time.Minute) // far beyond the TTL of entries whose changes are not reported
		for id, want := range map[string]affinity.Target{"s-1": pod1, "s-2": pod2, "s-4": pod3} {
			wantTarget(t, n, session(id), want)
			if b, ok := n.Peek(session(id)); !ok || b.Target != want {
				t.Errorf("Peek(%s) = %+v, %v, want %v", id, b, ok, want)
			}
		}
		if asked := r.asked() - before; asked != 0 {
			t.Errorf("calls of the store for known keys = %d, want 0", asked)
		}
		if _, ok := n.Peek(session("s-3")); ok {
			t.Error("Peek of an unbound key = true, want false")
		}
	})
}

func TestNearAsksAgainForWhatAnotherGatewayChanged(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRemote(time.Now)
		n, other := watchedNear(t, r, binding.NearOptions{}), r.gateway()
		first := mustSwap(t, n, session("s-1"), unbound, pod1)
		mustSwap(t, other, session("s-1"), first.Version, pod2)
		if b, ok := n.Peek(session("s-1")); ok {
			t.Errorf("Peek after another gateway's Swap = %+v, want none", b)
		}
		if b, ok := n.LastKnown(session("s-1")); !ok || b.Target != pod1 {
			t.Errorf("LastKnown of an invalidated key = %+v, %v, want %v: it may only have been renewed", b, ok, pod1)
		}
		wantTarget(t, n, session("s-1"), pod2)
	})
}

func TestNearAsksAgainForAnAnswerThatWasOvertakenByItsInvalidation(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRemote(time.Now)
		n, other := watchedNear(t, r, binding.NearOptions{}), r.gateway()
		first := mustSwap(t, other, session("s-1"), unbound, pod1)
		r.delay = func(affinity.Key) {
			r.delay = nil
			mustSwap(t, other, session("s-1"), first.Version, pod2)
		}
		wantTarget(t, n, session("s-1"), pod1) // as it was when the store answered
		if b, ok := n.Peek(session("s-1")); ok {
			t.Errorf("Peek after the invalidation overtook the answer = %+v, want none", b)
		}
		wantTarget(t, n, session("s-1"), pod2)
	})
}

func TestNearDoesNotKeepAnAnswerThatWasOvertakenByItsOwnDelete(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRemote(time.Now)
		n := watchedNear(t, r, binding.NearOptions{})
		mustSwap(t, r.gateway(), session("s-1"), unbound, pod1)
		r.delay = func(k affinity.Key) {
			r.delay = nil
			if err := n.Delete(t.Context(), k, unbound); err != nil {
				t.Error(err)
			}
		}
		wantTarget(t, n, session("s-1"), pod1)
		wantTarget(t, n, session("s-1"), affinity.Target{})
	})
}

func TestNearDoesNotKeepAnAnswerFromBeforeAnotherFoundTheKeyUnbound(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRemote(time.Now)
		n := watchedNear(t, r, binding.NearOptions{})
		mustSwap(t, r.gateway(), session("s-1"), unbound, pod1)
		r.delay = func(k affinity.Key) {
			r.delay = nil
			// A Delete of this gateway has reached the store, and its own answer is still on its way.
			if err := r.memory.Delete(t.Context(), k, unbound); err != nil {
				t.Error(err)
			}
			wantTarget(t, n, k, affinity.Target{})
		}
		wantTarget(t, n, session("s-1"), pod1)
		wantTarget(t, n, session("s-1"), affinity.Target{})
	})
}

func TestNearKeepsWhatWasLostAsLastKnown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRemote(time.Now)
		n := watchedNear(t, r, binding.NearOptions{})
		made := mustSwap(t, n, session("s-1"), unbound, pod1)
		r.each(binding.Watcher.Lost)
		if b, ok := n.Peek(session("s-1")); ok {
			t.Errorf("Peek after Lost = %+v, want none", b)
		}
		if b, ok := n.LastKnown(session("s-1")); !ok || b.Version != made.Version {
			t.Errorf("LastKnown after Lost = %+v, %v, want %+v", b, ok, made)
		}
		entries, next, err := n.LastKnownEntries("", 10)
		if err != nil || next != "" || len(entries) != 1 || entries[0].Key != session("s-1") {
			t.Fatalf("LastKnownEntries = %v, %q, %v, want the one binding", entries, next, err)
		}
		if got, want := entries[0].Life.TTL(time.Now()), hour.TTL(time.Now()); got != want {
			t.Errorf("remaining life of a binding just made = %v, want %v", got, want)
		}
		r.each(binding.Watcher.Live)
		if b, ok := n.Peek(session("s-1")); ok {
			t.Errorf("Peek before the store was asked again = %+v, want none", b)
		}
		wantTarget(t, n, session("s-1"), pod1)
		if _, ok := n.Peek(session("s-1")); !ok {
			t.Error("Peek after the store was asked again = false, want true")
		}
		time.Sleep(76 * time.Minute)
		if b, ok := n.LastKnown(session("s-1")); ok {
			t.Errorf("LastKnown after the life is over = %+v, want none", b)
		}
	})
}

func TestNearIsFreshForItsTTLWhereChangesAreNotReported(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRemote(time.Now)
		n := binding.NewNear(r.gateway(), binding.NearOptions{TTL: 2 * time.Second})
		made := mustSwap(t, n, session("s-1"), unbound, pod1)
		mustSwap(t, r.gateway(), session("s-1"), made.Version, pod2)
		wantTarget(t, n, session("s-1"), pod1)
		time.Sleep(2 * time.Second)
		if _, ok := n.LastKnown(session("s-1")); !ok {
			t.Error("LastKnown of a stale entry = false, want true")
		}
		wantTarget(t, n, session("s-1"), pod2)
	})
}

func TestNearAsksAgainAfterAWriteOfUnknownOutcome(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRemote(time.Now)
		n := watchedNear(t, r, binding.NearOptions{})
		made := mustSwap(t, n, session("s-1"), unbound, pod1)
		r.set(refuses)
		if _, err := n.Swap(t.Context(), session("s-1"), made.Version, pod2, hour); !errors.Is(err, binding.ErrUnavailable) {
			t.Fatalf("Swap in a store that refuses = %v, want ErrUnavailable", err)
		}
		if b, ok := n.Peek(session("s-1")); ok {
			t.Errorf("Peek after a write of unknown outcome = %+v, want none", b)
		}
		// Prototype defect 8: errors were ignored.
		if _, err := n.Get(t.Context(), session("s-1")); !errors.Is(err, binding.ErrUnavailable) {
			t.Errorf("Get in a store that refuses = %v, want ErrUnavailable: Near does not hide errors", err)
		}
		r.set(works)
		wantTarget(t, n, session("s-1"), pod1)
		// The write was on its way and arrives now; nobody reports a gateway's own writes to it.
		mustSwap(t, r.memory, session("s-1"), made.Version, pod2)
		time.Sleep(2 * time.Second)
		wantTarget(t, n, session("s-1"), pod2)
	})
}

func TestNearKeepsUsedEntriesInAFloodOfNewOnes(t *testing.T) {
	const most = 2000
	n := binding.NewNear(newRemote(time.Now).gateway(), binding.NearOptions{Max: most, TTL: time.Hour})
	for i := range 100 {
		mustSwap(t, n, session(fmt.Sprintf("s-%d", i)), unbound, pod1)
	}
	for flood := range 20 * most {
		mustSwap(t, n, session(fmt.Sprintf("flood-%d", flood)), unbound, pod2)
		n.Peek(session(fmt.Sprintf("s-%d", flood%100)))
	}
	kept := 0
	for i := range 100 {
		if _, ok := n.Peek(session(fmt.Sprintf("s-%d", i))); ok {
			kept++
		}
	}
	if got := n.Len(); got > most {
		t.Errorf("Len after a flood = %d, want at most %d", got, most)
	}
	if kept != 100 {
		t.Errorf("entries in use that stayed = %d, want 100", kept)
	}
}

func TestNearCensusIsTheNumberOfSessionEntries(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var one, two atomic.Int64
		census := func(_ affinity.ServiceName, to affinity.Target, delta int) {
			map[affinity.Target]*atomic.Int64{pod1: &one, pod2: &two}[to].Add(int64(delta))
		}
		want := func(when string, first, second int64) {
			t.Helper()
			if one.Load() != first || two.Load() != second {
				t.Errorf("census %s = %d, %d, want %d, %d", when, one.Load(), two.Load(), first, second)
			}
		}
		r := newRemote(time.Now)
		n, other := watchedNear(t, r, binding.NearOptions{Census: census}), r.gateway()
		made := mustSwap(t, n, session("s-1"), unbound, pod1)
		wantTarget(t, n, session("s-1"), pod1)
		mustSwap(t, other, session("s-2"), unbound, pod1)
		wantTarget(t, n, session("s-2"), pod1)
		flow := session("f-1")
		flow.Scope.Kind = affinity.KindFlow
		mustSwap(t, n, flow, unbound, affinity.Target{Revision: "demo-00001"})
		want("of two sessions and a flow", 2, 0)
		made = mustSwap(t, n, session("s-1"), made.Version, pod2)
		want("after one moved", 1, 1)
		mustSwap(t, other, session("s-1"), made.Version, pod1)
		want("after another gateway changed one, not asked for again", 1, 1)
		wantTarget(t, n, session("s-1"), pod1)
		want("after it was asked for again", 2, 0)
		if err := n.Delete(t.Context(), session("s-1"), unbound); err != nil {
			t.Fatal(err)
		}
		if err := n.Delete(t.Context(), session("s-2"), unbound); err != nil {
			t.Fatal(err)
		}
		want("after all are gone", 0, 0)
	})
}

func TestNearPeekDoesNotAllocate(t *testing.T) {
	n := binding.NewNear(newRemote(time.Now).gateway(), binding.NearOptions{TTL: time.Hour})
	k := session("s-1")
	mustSwap(t, n, k, unbound, pod1)
	if allocs := testing.AllocsPerRun(100, func() { n.Peek(k) }); allocs != 0 {
		t.Errorf("allocations of Peek = %v, want 0", allocs)
	}
	if allocs := testing.AllocsPerRun(100, func() { n.LastKnown(k) }); allocs != 0 {
		t.Errorf("allocations of LastKnown = %v, want 0", allocs)
	}
}
