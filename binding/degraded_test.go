package binding_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/limpet-project/limpet/affinity"
	"github.com/limpet-project/limpet/binding"
	"github.com/limpet-project/limpet/binding/bindingtest"
)

// budget is the store timeout of a request.
const budget = 50 * time.Millisecond

func TestDegradedKeepsTheContractWhileClosed(t *testing.T) {
	c := newClock()
	var remotes []*remote
	open := func(t *testing.T, r *remote) binding.Store {
		g := r.gateway()
		n := binding.NewNear(g, binding.NearOptions{Now: c.Now})
		d := binding.NewDegraded(n, binding.DegradedOptions{Now: c.Now})
		run(t, n)
		run(t, d)
		<-g.live
		return d
	}
	add := func() *remote {
		remotes = append(remotes, newRemote(c.Now))
		return remotes[len(remotes)-1]
	}
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
}

// A rig is one gateway's stores in front of a remote, in a bubble.
type rig struct {
	t        *testing.T
	remote   *remote
	near     *binding.Near
	degraded *binding.Degraded
	other    *gateway // another gateway, without caches
}

// newRig returns a rig whose Runs are running.
func newRig(t *testing.T, o binding.DegradedOptions) *rig {
	r := newRemote(time.Now)
	n := binding.NewNear(r.gateway(), binding.NearOptions{})
	d := binding.NewDegraded(n, o)
	run(t, n)
	run(t, d)
	synctest.Wait()
	return &rig{t, r, n, d, r.gateway()}
}

// within runs a call with a request's budget and returns how long it took.
func (r *rig) within(call func(ctx context.Context)) time.Duration {
	ctx, cancel := context.WithTimeout(r.t.Context(), budget)
	defer cancel()
	start := time.Now()
	call(ctx)
	return time.Since(start)
}

// fail breaks the store and lets requests notice until the breaker is open.
func (r *rig) fail(f fault) {
	r.t.Helper()
	r.remote.set(f)
	for range 3 {
		r.within(func(ctx context.Context) { r.degraded.Get(ctx, session("nobody")) })
	}
	if !r.degraded.State().Open {
		r.t.Fatal("State().Open after three failures = false, want true")
	}
}

// heal repairs the store and waits until the breaker is closed and everything was offered.
func (r *rig) heal() {
	r.t.Helper()
	r.remote.set(works)
	time.Sleep(10 * time.Second)
	if s := r.degraded.State(); s.Open {
		r.t.Fatalf("State of a store that works again = %+v, want closed", s)
	}
}

// atOnce checks that a call does not wait.
func (r *rig) atOnce(what string, call func(ctx context.Context)) {
	r.t.Helper()
	if took := r.within(call); took != 0 {
		r.t.Errorf("%s while the breaker is open took %v, want 0", what, took)
	}
}

func TestDegradedWaitsForAStoreThatHangsOnceAndThenNotAtAll(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, binding.DegradedOptions{})
		mustSwap(t, r.degraded, session("s-1"), unbound, pod1)
		r.remote.set(hangs)
		var group sync.WaitGroup
		for i := range 100 { // requests in flight when the store fails
			group.Go(func() {
				took := r.within(func(ctx context.Context) {
					k := session(fmt.Sprintf("new-%d", i))
					if _, err := r.degraded.Get(ctx, k); !errors.Is(err, binding.ErrUnavailable) {
						t.Errorf("Get of an unknown key of a store that hangs = %v, want ErrUnavailable", err)
					}
					b, err := r.degraded.Swap(ctx, k, unbound, pod2, hour)
					if err != nil || !b.Provisional || b.Target != pod2 {
						t.Errorf("Swap in a store that hangs = %+v, %v, want a provisional binding", b, err)
					}
				})
				if took != budget {
					t.Errorf("a request in flight at the failure waited %v, want its budget of %v once", took, budget)
				}
			})
		}
		group.Wait()
		for i := range 50 {
			r.atOnce("a request", func(ctx context.Context) {
				k := session(fmt.Sprintf("later-%d", i))
				if _, err := r.degraded.Get(ctx, k); !errors.Is(err, binding.ErrUnavailable) {
					t.Errorf("Get of an unknown key = %v, want ErrUnavailable", err)
				}
				made, err := r.degraded.Swap(ctx, k, unbound, pod2, hour)
				if err != nil || !made.Provisional {
					t.Errorf("Swap = %+v, %v, want a provisional binding", made, err)
				}
				if err := r.degraded.Touch(ctx, []binding.Renewal{{Key: k, Version: made.Version, Life: hour}}); err != nil {
					t.Errorf("Touch = %v, want no error", err)
				}
				wantTarget(t, r.degraded, session("s-1"), pod1)
			})
		}
	})
}

// Prototype defects 2, 3 and 4: one error closed the store for ever, an absent store panicked, a store that went away between two
// steps made a busy loop that ignored the deadline.
func TestDegradedKeepsAnsweringInEachKindOfFailure(t *testing.T) {
	for _, f := range []fault{refuses, hangs, reads} {
		synctest.Test(t, func(t *testing.T) {
			r := newRig(t, binding.DegradedOptions{})
			mustSwap(t, r.degraded, session("s-1"), unbound, pod1)
			r.remote.set(f)
			for i := range 20 {
				k := session(fmt.Sprintf("new-%d", i))
				took := r.within(func(ctx context.Context) {
					r.degraded.Get(ctx, k)
					if b, err := r.degraded.Swap(ctx, k, unbound, pod2, hour); err != nil || b.Target != pod2 {
						t.Errorf("fault %v: Swap = %+v, %v, want a binding", f, b, err)
					}
					if b, err := r.degraded.Get(ctx, k); err != nil || b.Target != pod2 {
						t.Errorf("fault %v: Get after Swap = %+v, %v, want %v", f, b, err, pod2)
					}
				})
				if took > budget {
					t.Errorf("fault %v: a request took %v, want at most %v", f, took, budget)
				}
				wantTarget(t, r.degraded, session("s-1"), pod1)
			}
			r.heal()
			if b := mustSwap(t, r.degraded, session("s-2"), unbound, pod3); b.Provisional {
				t.Errorf("fault %v: Swap after the store is back = %+v, want none provisional", f, b)
			}
		})
	}
}

// Prototype defect 5: a start without the store was fatal.
func TestDegradedStartsWithoutTheStore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRemote(time.Now)
		r.set(hangs)
		n := binding.NewNear(r.gateway(), binding.NearOptions{})
		d := binding.NewDegraded(n, binding.DegradedOptions{})
		run(t, n)
		run(t, d)
		for i := range 10 {
			ctx, cancel := context.WithTimeout(t.Context(), budget)
			if b, err := d.Swap(ctx, session(fmt.Sprintf("s-%d", i)), unbound, pod1, hour); err != nil || !b.Provisional {
				t.Errorf("Swap without a store = %+v, %v, want a provisional binding", b, err)
			}
			cancel()
		}
		r.set(works)
		time.Sleep(10 * time.Second)
		for i := range 10 {
			wantTarget(t, r.gateway(), session(fmt.Sprintf("s-%d", i)), pod1)
		}
	})
}

func TestDegradedKeepsSessionsWhereTheyAreLastKnown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, binding.DegradedOptions{})
		mine := mustSwap(t, r.degraded, session("s-1"), unbound, pod1)
		mustSwap(t, r.other, session("s-2"), unbound, pod2)
		wantTarget(t, r.degraded, session("s-2"), pod2)
		r.fail(refuses)
		r.remote.each(binding.Watcher.Lost)
		if b := wantTarget(t, r.degraded, session("s-1"), pod1); b.Provisional || b.Version != mine.Version {
			t.Errorf("Get of a session known last = %+v, want %+v, not provisional", b, mine)
		}
		wantTarget(t, r.degraded, session("s-2"), pod2)
		if b, ok := r.degraded.Peek(session("s-2")); !ok || b.Target != pod2 {
			t.Errorf("Peek while the store is away = %+v, %v, want %v", b, ok, pod2)
		}
		if b, err := r.degraded.Swap(t.Context(), session("s-1"), unbound, pod3, hour); !errors.Is(err, binding.ErrConflict) || b.Target != pod1 {
			t.Errorf("Swap of a known session from nothing = %+v, %v, want %v, ErrConflict", b, err, pod1)
		}
		moved, err := r.degraded.Swap(t.Context(), session("s-1"), mine.Version, pod3, hour)
		if err != nil || !moved.Provisional {
			t.Errorf("re-binding a known session = %+v, %v, want a provisional binding", moved, err)
		}
		wantTarget(t, r.degraded, session("s-1"), pod3)
		if s := r.degraded.State(); !s.Open || s.LastKnown != 2 || s.Provisional != 1 {
			t.Errorf("State() = %+v, want open with 2 last known and 1 provisional", s)
		}
	})
}

func TestDegradedRacesOfOneGatewayEndOnOneTargetWhileTheStoreIsAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, binding.DegradedOptions{})
		r.fail(refuses)
		left := make([]binding.Binding, 32)
		var group sync.WaitGroup
		for i := range left {
			group.Go(func() {
				var err error
				to := affinity.Target{Revision: "demo-00001", Endpoint: fmt.Sprintf("pod-%d", i)}
				if left[i], err = r.degraded.Swap(t.Context(), session("s-1"), unbound, to, hour); err != nil && !errors.Is(err, binding.ErrConflict) {
					t.Error(err)
				}
			})
		}
		group.Wait()
		for _, b := range left {
			if b.Target != left[0].Target || !b.Provisional {
				t.Errorf("racer left with %+v, want %v, provisional", b, left[0].Target)
			}
		}
	})
}

func TestProvisionalBindingsYieldToExistingOnesAndTakeFreeKeys(t *testing.T) {
	for _, bulk := range []bool{true, false} { // by Run, or at the first Get before Run comes to it
		synctest.Test(t, func(t *testing.T) {
			rate := 0
			if !bulk {
				rate = 1 // the provisional binding of "first" holds Run up for a second
			}
			r := newRig(t, binding.DegradedOptions{RestoreRate: rate})
			r.fail(refuses)
			for _, id := range []string{"taken", "free"} {
				if b, err := r.degraded.Swap(t.Context(), session(id), unbound, pod1, hour); err != nil || !b.Provisional {
					t.Fatalf("Swap while the store is away = %+v, %v, want a provisional binding", b, err)
				}
			}
			r.remote.set(works)
			taken := mustSwap(t, r.other, session("taken"), unbound, pod2)
			if bulk {
				time.Sleep(10 * time.Second)
			} else {
				for r.degraded.State().Open {
					time.Sleep(time.Millisecond)
				}
			}
			if b := wantTarget(t, r.degraded, session("taken"), pod2); b.Version != taken.Version || b.Provisional {
				t.Errorf("bulk=%v: Get of a key bound elsewhere = %+v, want %+v", bulk, b, taken)
			}
			if b := wantTarget(t, r.degraded, session("free"), pod1); b.Provisional {
				t.Errorf("bulk=%v: Get of a provisional binding after the store is back = %+v, want it confirmed", bulk, b)
			}
			wantTarget(t, r.other, session("free"), pod1)
			if left := r.degraded.State().Provisional; left != 0 {
				t.Errorf("bulk=%v: provisional bindings left = %d, want 0", bulk, left)
			}
		})
	}
}

func TestAnEmptiedStoreRegainsItsBindings(t *testing.T) {
	for _, outage := range []bool{true, false} { // with the breaker opening, or a restart so quick that no call failed
		synctest.Test(t, func(t *testing.T) {
			r := newRig(t, binding.DegradedOptions{})
			const n = 2*500 + 7 // three batches
			made := make([]binding.Binding, n)
			for i := range n {
				made[i] = mustSwap(t, r.degraded, session(fmt.Sprintf("s-%d", i)), unbound, pod1)
			}
			if outage {
				r.fail(refuses)
			}
			r.remote.empty()
			r.heal()
			for i := range n {
				if b := wantTarget(t, r.other, session(fmt.Sprintf("s-%d", i)), pod1); b.Version != made[i].Version {
					t.Fatalf("outage=%v: restored binding %d = %+v, want %+v", outage, i, b, made[i])
				}
			}
			if s := r.degraded.State(); s.LastKnown != 0 {
				t.Errorf("outage=%v: State() after the restore = %+v, want none last known", outage, s)
			}
		})
	}
}

func TestAnEmptiedStoreThatReportsNoChangesRegainsItsBindings(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRemote(time.Now)
		d := binding.NewDegraded(binding.NewNear(r.gateway(), binding.NearOptions{}), binding.DegradedOptions{})
		run(t, d)
		mustSwap(t, d, session("s-1"), unbound, pod1)
		r.set(refuses)
		for range 3 {
			wantTarget(t, d, session("s-1"), pod1)
			time.Sleep(2 * time.Second) // entries are stale by then
		}
		wantTarget(t, d, session("s-1"), pod1)
		r.empty()
		r.set(works)
		time.Sleep(10 * time.Second)
		wantTarget(t, r.gateway(), session("s-1"), pod1)
		wantTarget(t, d, session("s-1"), pod1)
	})
}

func TestAGetAfterALossRestoresItsOwnBindingFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, binding.DegradedOptions{RestoreRate: 1}) // a batch of 500 holds Run up for minutes
		for i := range 1200 {
			mustSwap(t, r.degraded, session(fmt.Sprintf("s-%d", i)), unbound, pod1)
		}
		r.remote.empty()
		synctest.Wait()
		for i := range 1200 {
			k := session(fmt.Sprintf("s-%d", i))
			if took := r.within(func(context.Context) { wantTarget(t, r.degraded, k, pod1) }); took != 0 {
				t.Fatalf("Get during the bulk restore took %v, want it not to wait for it", took)
			}
			wantTarget(t, r.other, k, pod1)
		}
	})
}

func TestTheNewerVersionWinsAfterAFailover(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, binding.DegradedOptions{})
		old := mustSwap(t, r.degraded, session("older-here"), unbound, pod1)
		replica := mustSwap(t, r.other, session("newer-here"), unbound, pod1)
		wantTarget(t, r.degraded, session("newer-here"), pod1)
		newer := mustSwap(t, r.degraded, session("newer-here"), replica.Version, pod2)
		r.remote.empty(
			binding.Entry{Key: session("newer-here"), Binding: replica, Life: hour},
			binding.Entry{Key: session("older-here"), Binding: binding.Binding{Target: pod3, Version: binding.Version{Made: old.Version.Made + 1}}, Life: hour},
		)
		if b := wantTarget(t, r.degraded, session("newer-here"), pod2); b.Version != newer.Version {
			t.Errorf("Get right after the failover = %+v, want %+v", b, newer)
		}
		time.Sleep(time.Minute)
		wantTarget(t, r.degraded, session("older-here"), pod3)
		if b := wantTarget(t, r.degraded, session("newer-here"), pod2); b.Version != newer.Version {
			t.Errorf("Get after the failover = %+v, want %+v", b, newer)
		}
		wantTarget(t, r.other, session("newer-here"), pod2)
	})
}

func TestAReportedEndIsBelievedOnceTheStoreWasAsked(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, binding.DegradedOptions{})
		mustSwap(t, r.degraded, session("s-1"), unbound, pod1)
		if err := r.other.Delete(t.Context(), session("s-1"), unbound); err != nil {
			t.Fatal(err)
		}
		wantTarget(t, r.degraded, session("s-1"), affinity.Target{})
		r.fail(refuses)
		if b, err := r.degraded.Get(t.Context(), session("s-1")); !errors.Is(err, binding.ErrUnavailable) {
			t.Errorf("Get of a key that another gateway deleted = %+v, %v, want ErrUnavailable", b, err)
		}
		r.heal()
		wantTarget(t, r.degraded, session("s-1"), affinity.Target{})
	})
}

func TestASessionThatAnotherGatewayRenewedStaysWhileTheStoreIsAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, binding.DegradedOptions{})
		made := mustSwap(t, r.degraded, session("s-1"), unbound, pod1)
		renewal := binding.Renewal{Key: session("s-1"), Version: made.Version, Life: hour}
		if err := r.other.Touch(t.Context(), []binding.Renewal{renewal}); err != nil {
			t.Fatal(err)
		}
		r.fail(refuses)
		wantTarget(t, r.degraded, session("s-1"), pod1)
	})
}

func TestASessionSurvivesAStoreThatIsEmptiedAgainAfterAnotherGatewayRestoredIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, binding.DegradedOptions{})
		made := mustSwap(t, r.degraded, session("s-1"), unbound, pod1)
		for range 3 {
			r.remote.empty()
			entry := binding.Entry{Key: session("s-1"), Binding: made, Life: hour}
			if _, err := r.other.Restore(t.Context(), []binding.Entry{entry}); err != nil {
				t.Fatal(err)
			}
			r.remote.empty()
			if b := wantTarget(t, r.degraded, session("s-1"), pod1); b.Version != made.Version {
				t.Errorf("Get after the store was emptied again = %+v, want the version %+v", b, made.Version)
			}
		}
	})
}

func TestABindingDeletedDuringTheRestoreStaysDeleted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, binding.DegradedOptions{})
		for i := range 100 {
			mustSwap(t, r.degraded, session(fmt.Sprintf("s-%d", i)), unbound, pod1)
		}
		r.remote.before = func() { // the store is about to take the batch
			r.remote.before = nil
			if err := r.degraded.Delete(t.Context(), session("s-7"), unbound); err != nil {
				t.Error(err)
			}
		}
		r.remote.empty()
		time.Sleep(10 * time.Second)
		wantTarget(t, r.other, session("s-6"), pod1)
		wantTarget(t, r.other, session("s-7"), affinity.Target{})
		wantTarget(t, r.degraded, session("s-7"), affinity.Target{})
	})
}

func TestAFullStoreIsNotAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, binding.DegradedOptions{})
		mustSwap(t, r.other, session("s-1"), unbound, pod1)
		r.remote.set(full)
		for i := range 10 {
			if _, err := r.degraded.Swap(t.Context(), session(fmt.Sprintf("new-%d", i)), unbound, pod1, hour); !errors.Is(err, binding.ErrFull) {
				t.Errorf("Swap in a full store = %v, want ErrFull", err)
			}
		}
		wantTarget(t, r.degraded, session("s-1"), pod1)
		if r.degraded.State().Open {
			t.Error("State().Open of a full store = true, want false")
		}
	})
}

func TestACallerThatGoesAwayDoesNotOpenTheBreaker(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, binding.DegradedOptions{})
		r.remote.set(hangs)
		for range 10 {
			ctx, cancel := context.WithCancel(t.Context())
			time.AfterFunc(10*time.Millisecond, cancel)
			if _, err := r.degraded.Get(ctx, session("s-1")); !errors.Is(err, context.Canceled) {
				t.Errorf("Get of a caller that went away = %v, want context.Canceled", err)
			}
			if _, err := r.degraded.Swap(ctx, session("s-1"), unbound, pod1, hour); !errors.Is(err, context.Canceled) {
				t.Errorf("Swap of a caller that went away = %v, want context.Canceled", err)
			}
		}
		if s := r.degraded.State(); s.Open || s.Provisional != 0 {
			t.Errorf("State() after callers went away = %+v, want closed and nothing provisional", s)
		}
	})
}

func TestTheBreakerStaysOpenUntilTheStoreTakesWrites(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, binding.DegradedOptions{})
		r.fail(refuses)
		r.remote.set(reads)
		time.Sleep(10 * time.Second)
		if !r.degraded.State().Open {
			t.Error("State().Open of a store that only reads = false, want true")
		}
	})
}

func TestUseWhileTheStoreIsAwayIsMadeGood(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, binding.DegradedOptions{})
		made := mustSwap(t, r.degraded, session("s-1"), unbound, pod1)
		time.Sleep(10 * time.Minute)
		r.fail(hangs)
		time.Sleep(50 * time.Minute)
		if err := r.degraded.Touch(t.Context(), []binding.Renewal{{Key: session("s-1"), Version: made.Version, Life: hour}}); err != nil {
			t.Fatal(err)
		}
		r.heal()
		time.Sleep(time.Hour) // 110 minutes after it was made, an hour after its last use
		wantTarget(t, r.other, session("s-1"), pod1)
	})
}

func TestProvisionalBindingsAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, binding.DegradedOptions{Provisional: 100})
		r.fail(refuses)
		for i := range 1000 {
			mustSwap(t, r.degraded, session(fmt.Sprintf("s-%d", i)), unbound, pod1)
		}
		if n := r.degraded.State().Provisional; n != 100 {
			t.Errorf("provisional bindings after 1000 = %d, want 100", n)
		}
		wantTarget(t, r.degraded, session("s-999"), pod1)
	})
}

func TestTheStateIsVisible(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var told []string
		var log bytes.Buffer
		start := time.Now()
		r := newRig(t, binding.DegradedOptions{
			OnState: func(open bool, err error) { told = append(told, fmt.Sprint(open, err != nil)) },
			Log:     slog.New(slog.NewTextHandler(&log, nil)),
		})
		if s := r.degraded.State(); s.Open || !s.Since.Equal(start) {
			t.Errorf("State() at the start = %+v, want closed since %v", s, start)
		}
		time.Sleep(time.Minute)
		r.fail(refuses)
		if s := r.degraded.State(); !s.Since.Equal(start.Add(time.Minute)) || !errors.Is(s.Err, binding.ErrUnavailable) {
			t.Errorf("State() = %+v, want open for a minute with the cause", s)
		}
		r.heal()
		if want := "true true,false false"; strings.Join(told, ",") != want {
			t.Errorf("OnState was told %v, want %v", told, want)
		}
		if !strings.Contains(log.String(), "store is away") || !strings.Contains(log.String(), "connection refused") || !strings.Contains(log.String(), "store is back") {
			t.Errorf("log = %s, want both changes and the cause", &log)
		}
	})
}

func TestDegradedWithoutANearCacheBindsProvisionally(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRemote(time.Now)
		d := binding.NewDegraded(r.gateway(), binding.DegradedOptions{})
		run(t, d)
		r.set(refuses)
		mustSwap(t, d, session("s-1"), unbound, pod1)
		wantTarget(t, d, session("s-1"), pod1)
		r.set(works)
		time.Sleep(10 * time.Second)
		if b := wantTarget(t, d, session("s-1"), pod1); b.Provisional {
			t.Errorf("Get after the store is back = %+v, want it confirmed", b)
		}
	})
}

// Prototype defect 1: one connection for all goroutines gave replies to the wrong sessions.
func TestConcurrentSessionsGetTheirOwnBindingsThroughOutages(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, binding.DegradedOptions{})
		var group sync.WaitGroup
		for i := range 50 {
			group.Go(func() {
				k, own := session(fmt.Sprintf("s-%d", i)), affinity.Target{Revision: "demo-00001", Endpoint: fmt.Sprintf("pod-%d", i)}
				for range 40 {
					r.within(func(ctx context.Context) {
						b, err := r.degraded.Get(ctx, k)
						if !b.Bound() {
							b, err = r.degraded.Swap(ctx, k, unbound, own, hour)
						}
						if err != nil || b.Target != own {
							t.Errorf("session %d got %+v, %v, want %v", i, b, err, own)
						}
					})
					time.Sleep(100 * time.Millisecond)
				}
			})
		}
		for _, f := range []fault{hangs, works, refuses, works} {
			time.Sleep(900 * time.Millisecond)
			r.remote.set(f)
		}
		group.Wait()
	})
}

func TestAStoreThatIsFullWhenItIsBackMovesNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, binding.DegradedOptions{})
		mustSwap(t, r.degraded, session("known"), unbound, pod1)
		r.fail(refuses)
		mustSwap(t, r.degraded, session("made-while-away"), unbound, pod2)
		r.remote.empty()
		r.remote.set(full)
		time.Sleep(10 * time.Second)
		for range 3 {
			wantTarget(t, r.degraded, session("known"), pod1)
			wantTarget(t, r.degraded, session("made-while-away"), pod2)
		}
		r.heal()
		wantTarget(t, r.degraded, session("known"), pod1)
		wantTarget(t, r.degraded, session("made-while-away"), pod2)
	})
}

func TestARestoreThatIsBrokenOffForgetsNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, binding.DegradedOptions{})
		for i := range 10 {
			mustSwap(t, r.degraded, session(fmt.Sprintf("s-%d", i)), unbound, pod1)
		}
		r.remote.before = func() {
			r.remote.before = nil
			r.remote.set(refuses)
		}
		r.remote.empty()
		time.Sleep(10 * time.Second)
		for i := range 10 {
			wantTarget(t, r.degraded, session(fmt.Sprintf("s-%d", i)), pod1)
		}
	})
}

func TestASessionThatMovedWhileTheStoreWasAwayStaysWhereItMoved(t *testing.T) {
	for _, emptied := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			r := newRig(t, binding.DegradedOptions{})
			for i := range 20 {
				mustSwap(t, r.degraded, session(fmt.Sprintf("s-%d", i)), unbound, pod1)
			}
			r.fail(refuses)
			for i := range 20 { // pod1 is gone
				k := session(fmt.Sprintf("s-%d", i))
				mustSwap(t, r.degraded, k, wantTarget(t, r.degraded, k, pod1).Version, pod2)
			}
			if emptied {
				r.remote.empty()
			}
			r.remote.set(works)
			for r.degraded.State().Open {
				time.Sleep(time.Millisecond)
			}
			wantTarget(t, r.degraded, session("s-0"), pod2) // before the bulk restore
			r.heal()
			for i := range 20 {
				wantTarget(t, r.degraded, session(fmt.Sprintf("s-%d", i)), pod2)
				wantTarget(t, r.other, session(fmt.Sprintf("s-%d", i)), pod2)
			}
			if n := r.degraded.State().Provisional; n != 0 {
				t.Errorf("State().Provisional afterwards = %d, want 0", n)
			}
		})
	}
}

func TestAMoveOfAnotherGatewayGoesBeforeOneMadeWhileTheStoreWasAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, binding.DegradedOptions{})
		made := mustSwap(t, r.degraded, session("s-1"), unbound, pod1)
		r.fail(refuses)
		mustSwap(t, r.degraded, session("s-1"), made.Version, pod2)
		r.remote.set(works)
		mustSwap(t, r.other, session("s-1"), made.Version, pod3)
		r.heal()
		wantTarget(t, r.degraded, session("s-1"), pod3)
	})
}
