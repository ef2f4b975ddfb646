package endpoint

import (
	"context"
	"errors"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/limpet-project/limpet/affinity"
)

// limited returns a table with one revision of n endpoints that take so many requests each.
func limited(o Options, n, limit int) *Table {
	t := NewTable(o)
	t.SetServices([]Service{split(100)})
	t.SetMembers(demo1, withLimit(n, limit))
	return t
}

func withLimit(n, limit int) []Member {
	members := pods(demo1, n)
	for i := range members {
		members[i].Limit = limit
	}
	return members
}

// mustAcquire takes a place at once.
func mustAcquire(t *testing.T, table *Table, e *affinity.Endpoint) {
	t.Helper()
	if err := table.Acquire(context.Background(), e, 0); err != nil {
		t.Fatalf("Acquire(%s) = %v, want nil", e.Name, err)
	}
}

// acquireLater begins to wait for a place and returns where the answer will be.
func acquireLater(ctx context.Context, table *Table, e *affinity.Endpoint, wait time.Duration) <-chan error {
	answer := make(chan error, 1)
	go func() { answer <- table.Acquire(ctx, e, wait) }()
	synctest.Wait()
	return answer
}

// waits checks that no answer has come.
func waits(t *testing.T, answer <-chan error) {
	t.Helper()
	select {
	case err := <-answer:
		t.Fatalf("Acquire() = %v, want it to wait", err)
	default:
	}
}

// Defects 22 and 23: every pick counts, that of a known session like any other.
func TestEveryRequestCountsAgainstTheLimitAndInTheLoad(t *testing.T) {
	table := limited(Options{}, 1, 2)
	e := endpointOf(table, demo1, 1)
	mustAcquire(t, table, e)
	mustAcquire(t, table, e)
	if err := table.Acquire(context.Background(), e, 0); err != ErrBusy {
		t.Fatalf("Acquire() at the limit = %v, want ErrBusy", err)
	}
	if load := table.Load(e); load.InFlight != 2 {
		t.Fatalf("Load().InFlight = %d, want 2", load.InFlight)
	}
	table.Release(e, OutcomeOK)
	mustAcquire(t, table, e)
}

func TestRequestsWithoutALimitAreCounted(t *testing.T) {
	table := limited(Options{}, 1, 0)
	e := endpointOf(table, demo1, 1)
	for range 100 {
		mustAcquire(t, table, e)
	}
	if load := table.Load(e); load.InFlight != 100 {
		t.Fatalf("Load().InFlight = %d, want 100", load.InFlight)
	}
	for range 100 {
		table.Release(e, OutcomeUnknown)
	}
	if load := table.Load(e); load.InFlight != 0 {
		t.Fatalf("Load().InFlight = %d, want 0", load.InFlight)
	}
}

// Defect 24: head-of-line blocking.
func TestAWaiterForAFullEndpointDoesNotBlockRequestsForOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		table := limited(Options{}, 2, 1)
		full, other := endpointOf(table, demo1, 1), endpointOf(table, demo1, 2)
		mustAcquire(t, table, full)
		answer := acquireLater(t.Context(), table, full, time.Hour)
		mustAcquire(t, table, other)
		table.Release(other, OutcomeOK)
		waits(t, answer)
		if load := table.Load(full); load.InFlight != 2 {
			t.Errorf("Load(full).InFlight = %d, want 2: one in flight, one waiting", load.InFlight)
		}
		table.Release(full, OutcomeOK)
		if err := <-answer; err != nil {
			t.Errorf("Acquire() = %v, want nil", err)
		}
	})
}

// Defect 25: an overload rule exists and is bounded in time and number.
func TestTheWaitForAFullEndpointIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		table := limited(Options{MaxQueue: 2}, 1, 1)
		e := endpointOf(table, demo1, 1)
		mustAcquire(t, table, e)
		one, two := acquireLater(t.Context(), table, e, 10*time.Second), acquireLater(t.Context(), table, e, 20*time.Second)
		if err := table.Acquire(t.Context(), e, time.Hour); err != ErrBusy {
			t.Errorf("Acquire() at a full queue = %v, want ErrBusy", err)
		}
		begin := time.Now()
		if err := <-one; err != ErrBusy || time.Since(begin) != 10*time.Second {
			t.Errorf("Acquire() = %v after %v, want ErrBusy after 10s", err, time.Since(begin))
		}
		waits(t, two)
		table.Release(e, OutcomeOK)
		if err := <-two; err != nil {
			t.Errorf("Acquire() = %v, want nil", err)
		}
	})
}

func TestPlacesAreGivenInTheOrderOfArrival(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		table := limited(Options{}, 1, 1)
		e := endpointOf(table, demo1, 1)
		mustAcquire(t, table, e)
		var order []int
		var waiting sync.WaitGroup
		for n := range 10 {
			waiting.Go(func() {
				if err := table.Acquire(t.Context(), e, time.Hour); err != nil {
					t.Errorf("Acquire() = %v, want nil", err)
				}
				order = append(order, n) // one at a time: the limit is 1
				table.Release(e, OutcomeOK)
			})
			synctest.Wait()
		}
		if err := table.Acquire(t.Context(), e, 0); err != ErrBusy {
			t.Errorf("Acquire() past the queue = %v, want ErrBusy", err)
		}
		table.Release(e, OutcomeOK)
		waiting.Wait()
		if !slices.IsSorted(order) || len(order) != 10 {
			t.Errorf("order = %v, want that of arrival", order)
		}
	})
}

func TestARequestWhoseContextEndsLeavesTheQueue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		table := limited(Options{}, 1, 1)
		e := endpointOf(table, demo1, 1)
		mustAcquire(t, table, e)
		ctx, cancel := context.WithCancel(t.Context())
		answer := acquireLater(ctx, table, e, time.Hour)
		next := acquireLater(t.Context(), table, e, time.Hour)
		cancel()
		if err := <-answer; !errors.Is(err, context.Canceled) {
			t.Errorf("Acquire() = %v, want context.Canceled", err)
		}
		if err := table.Acquire(ctx, e, time.Hour); !errors.Is(err, context.Canceled) {
			t.Errorf("Acquire() with an ended context = %v, want context.Canceled", err)
		}
		table.Release(e, OutcomeOK)
		if err := <-next; err != nil {
			t.Errorf("Acquire() of the next = %v, want nil", err)
		}
		table.Release(e, OutcomeOK)
		if load := table.Load(e); load.InFlight != 0 {
			t.Errorf("Load().InFlight = %d, want 0", load.InFlight)
		}
	})
}

func TestAChangedLimitReachesThoseWhoWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		table := limited(Options{}, 1, 1)
		e := endpointOf(table, demo1, 1)
		mustAcquire(t, table, e)
		one, two := acquireLater(t.Context(), table, e, time.Hour), acquireLater(t.Context(), table, e, time.Hour)
		table.SetMembers(demo1, withLimit(1, 2))
		if err := <-one; err != nil {
			t.Fatalf("Acquire() = %v, want nil", err)
		}
		waits(t, two)
		table.SetMembers(demo1, withLimit(1, 1))
		table.Release(e, OutcomeOK) // back at the limit: nobody may follow
		synctest.Wait()
		waits(t, two)
		table.SetMembers(demo1, withLimit(1, 0))
		if err := <-two; err != nil {
			t.Fatalf("Acquire() = %v, want nil", err)
		}
	})
}

func TestThoseWhoWaitForAnEndpointThatGoesDecideAgain(t *testing.T) {
	down := withLimit(1, 1)
	down[0].NotReady = true
	tests := []struct {
		name    string
		members []Member
	}{
		{name: "gone", members: nil},
		{name: "down", members: down},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				table := limited(Options{}, 1, 1)
				e := endpointOf(table, demo1, 1)
				mustAcquire(t, table, e)
				answer := acquireLater(t.Context(), table, e, time.Hour)
				table.SetMembers(demo1, test.members)
				if err := <-answer; err != ErrGone {
					t.Errorf("Acquire() = %v, want ErrGone", err)
				}
				if now := endpointOf(table, demo1, 1); now.State == affinity.EndpointReady {
					t.Errorf("State = %v when ErrGone was returned, want the snapshot to show why", now.State)
				}
				if err := table.Acquire(t.Context(), e, time.Hour); err != ErrGone {
					t.Errorf("Acquire() of another = %v, want ErrGone", err)
				}
				table.SetMembers(demo1, withLimit(1, 1))
				table.Release(e, OutcomeOK)
				mustAcquire(t, table, endpointOf(table, demo1, 1))
			})
		})
	}
}

func TestAPlaceThatComesAsItsWaiterGivesUpIsKeptOrGivenBack(t *testing.T) {
	tests := []struct {
		name       string
		cause      error
		want       error
		wantPlaces int64
	}{
		{name: "context ended", cause: context.Canceled, want: context.Canceled, wantPlaces: 0},
		{name: "wait ended", cause: ErrBusy, want: nil, wantPlaces: 1},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			var g gate
			g.setLimit(1)
			w, err := g.join(1) // the place was given back between the look at it and the queue
			if err != nil {
				t.Fatalf("join() = %v, want nil", err)
			}
			if err := g.abandon(w, test.cause); err != test.want {
				t.Errorf("abandon(%v) = %v, want %v", test.cause, err, test.want)
			}
			if n := g.inFlight.Load(); n != test.wantPlaces || g.queued.Load() != 0 {
				t.Errorf("in flight = %d, queued = %d, want %d, 0", n, g.queued.Load(), test.wantPlaces)
			}
		})
	}
}

func TestNobodyOvertakesTheQueueForAFreePlace(t *testing.T) {
	var g gate
	g.setLimit(1)
	if err := g.enter(t.Context(), 0, 1); err != nil {
		t.Fatalf("enter() = %v, want nil", err)
	}
	if _, err := g.join(1); err != nil {
		t.Fatalf("join() = %v, want nil", err)
	}
	g.limit.Store(2) // a place is free and the waiter has not been given it yet
	if err := g.enter(t.Context(), 0, 1); err != ErrBusy {
		t.Errorf("enter() past a waiter = %v, want ErrBusy", err)
	}
}

func TestReleaseWithoutAcquireIsOurOwnFault(t *testing.T) {
	table := limited(Options{}, 1, 1)
	e := endpointOf(table, demo1, 1)
	defer func() {
		if recover() == nil {
			t.Error("Release() without Acquire returned, want a panic")
		}
		if load := table.Load(e); load.InFlight != 0 {
			t.Errorf("Load().InFlight = %d, want 0", load.InFlight)
		}
	}()
	table.Release(e, OutcomeOK)
}

// A place that is given at the moment at which its waiter gives up must neither be lost nor be counted twice.
func TestNoPlaceIsLostWhenWaitersComeAndGo(t *testing.T) {
	table := limited(Options{}, 1, 3)
	e := endpointOf(table, demo1, 1)
	var workers sync.WaitGroup
	for worker := range 8 {
		workers.Go(func() {
			for i := range 500 {
				ctx, cancel := context.WithTimeout(context.Background(), time.Duration((worker+i)%5)*20*time.Microsecond)
				if table.Acquire(ctx, e, time.Duration(i%3)*30*time.Microsecond) == nil {
					if load := table.slots.of(e).inFlight.Load(); load > 3 {
						t.Errorf("in flight = %d, want at most 3", load)
					}
					table.Release(e, OutcomeOK)
				}
				cancel()
			}
		})
	}
	workers.Wait()
	if load := table.Load(e); load.InFlight != 0 {
		t.Fatalf("Load().InFlight = %d at the end, want 0", load.InFlight)
	}
	for range 3 {
		mustAcquire(t, table, e)
	}
}

func TestARequestWhoseContextHasEndedGetsNoPlace(t *testing.T) {
	table := limited(Options{}, 1, 1)
	e := endpointOf(table, demo1, 1)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for _, wait := range []time.Duration{0, time.Minute} {
		if err := table.Acquire(ctx, e, wait); !errors.Is(err, context.Canceled) {
			t.Errorf("Acquire() with an ended context, waiting %v, = %v, want %v", wait, err, context.Canceled)
		}
	}
	if load := table.Load(e); load.InFlight != 0 {
		t.Errorf("requests in flight afterwards = %d, want none", load.InFlight)
	}
}
