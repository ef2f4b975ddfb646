package endpoint

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/limpet-project/limpet/affinity"
)

// sharedDrains is a DrainStore that several tables share and that can fail or hang.
type sharedDrains struct {
	ownDrains
	mu   sync.Mutex
	err  error
	hang chan struct{} // not nil: a reading has its answer but does not return before this is closed
}

func (s *sharedDrains) set(err error, hang chan struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.err, s.hang = err, hang
}

func (s *sharedDrains) state() (chan struct{}, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.hang, s.err
}

func (s *sharedDrains) Drains(ctx context.Context) ([]Drain, error) {
	hang, err := s.state()
	list, _ := s.ownDrains.Drains(ctx)
	if hang != nil {
		select {
		case <-hang:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	if err != nil {
		return nil, err
	}
	return list, nil
}

func (s *sharedDrains) SetDrain(ctx context.Context, d Drain) error {
	if _, err := s.state(); err != nil {
		return err
	}
	return s.ownDrains.SetDrain(ctx, d)
}

// drainOf orders the drain of the n-th endpoint of demo-00001.
func drainOf(n int, until time.Time) Drain {
	return Drain{Service: demo, Revision: "demo-00001", Endpoint: pod(demo1, n), Until: until}
}

// Defect 31: an endpoint that leaves keeps its sessions for a while.
func TestADrainingEndpointKeepsItsSessionsUntilItsDeadline(t *testing.T) {
	bubble(t, func() *Table { return started(Options{}, split(100), 2) }, func(t *testing.T, table *Table) {
		deadline := time.Now().Add(time.Minute)
		members := pods(demo1, 2)
		members[0].Draining, members[0].DrainUntil = true, deadline
		table.SetMembers(demo1, members)
		e := endpointOf(table, demo1, 1)
		if e.State != affinity.EndpointDraining || !e.Until.Equal(deadline) || !e.Since.Equal(time.Now()) {
			t.Fatalf("Endpoint = %+v, want draining since now until %v", e, deadline)
		}
		mustAcquire(t, table, e) // a session that it holds
		table.Release(e, OutcomeOK)
		after(2 * time.Minute)
		if e := endpointOf(table, demo1, 1); e.State != affinity.EndpointDraining || !e.Until.Equal(deadline) {
			t.Fatalf("Endpoint = %+v after its deadline, want it listed as draining", e)
		}
		table.SetMembers(demo1, pods(demo1, 2))
		wantState(t, table, demo1, 1, affinity.EndpointReady)
	})
}

func TestADrainOrderedOnOneGatewayHoldsOnAllUntilCancelled(t *testing.T) {
	shared := &sharedDrains{}
	bubble(t, func() *Table { return started(Options{Drains: shared}, split(100), 2) }, func(t *testing.T, here *Table) {
		there := started(Options{Drains: shared}, split(100), 2)
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- there.Run(ctx) }()
		synctest.Wait()

		deadline := time.Now().Add(time.Minute)
		if err := here.Drain(t.Context(), drainOf(1, deadline)); err != nil {
			t.Fatalf("Drain() = %v, want nil", err)
		}
		wantState(t, here, demo1, 1, affinity.EndpointDraining)
		after(1200 * time.Millisecond)
		for _, table := range []*Table{here, there} {
			if e := endpointOf(table, demo1, 1); e.State != affinity.EndpointDraining || !e.Until.Equal(deadline) {
				t.Errorf("Endpoint = %+v, want draining until %v", e, deadline)
			}
			wantState(t, table, demo1, 2, affinity.EndpointReady)
		}
		d := drainOf(1, time.Time{})
		d.Cancel = true
		if err := there.Drain(t.Context(), d); err != nil {
			t.Fatalf("Drain(cancel) = %v, want nil", err)
		}
		wantState(t, there, demo1, 1, affinity.EndpointReady)
		after(1200 * time.Millisecond)
		wantState(t, here, demo1, 1, affinity.EndpointReady)
		cancel()
		<-ended
	})
}

func TestDrainsThatCannotBeReadStayAsLastKnown(t *testing.T) {
	shared := &sharedDrains{}
	bubble(t, func() *Table { return started(Options{Drains: shared}, split(100), 2) }, func(t *testing.T, table *Table) {
		if err := shared.SetDrain(t.Context(), drainOf(1, time.Time{})); err != nil {
			t.Fatal(err)
		}
		after(1200 * time.Millisecond)
		wantState(t, table, demo1, 1, affinity.EndpointDraining)
		away := errors.New("connection refused")
		shared.set(away, nil)
		after(time.Minute)
		wantState(t, table, demo1, 1, affinity.EndpointDraining)
		if err := table.Drain(t.Context(), drainOf(2, time.Time{})); !errors.Is(err, away) {
			t.Errorf("Drain() = %v, want %v", err, away)
		}
		wantState(t, table, demo1, 2, affinity.EndpointReady)
		shared.set(nil, nil)
		cancel := drainOf(1, time.Time{})
		cancel.Cancel = true
		if err := shared.SetDrain(t.Context(), cancel); err != nil {
			t.Fatal(err)
		}
		after(1200 * time.Millisecond)
		wantState(t, table, demo1, 1, affinity.EndpointReady)
	})
}

func TestAReadingThatBeganBeforeAnOrderDoesNotUndoIt(t *testing.T) {
	shared := &sharedDrains{}
	bubble(t, func() *Table { return started(Options{Drains: shared}, split(100), 2) }, func(t *testing.T, table *Table) {
		hang := make(chan struct{})
		shared.set(nil, hang)
		after(1200 * time.Millisecond) // a reading has found no order
		if err := table.Drain(t.Context(), drainOf(1, time.Time{})); err != nil {
			t.Fatalf("Drain() = %v, want nil", err)
		}
		close(hang)
		synctest.Wait()
		wantState(t, table, demo1, 1, affinity.EndpointDraining)
		shared.set(nil, nil)
		after(2 * time.Second)
		wantState(t, table, demo1, 1, affinity.EndpointDraining)
	})
}

// Defect 11: one slow call to the store must not stall requests and changes of endpoints.
func TestAHangingDrainStoreStallsNeitherRequestsNorChanges(t *testing.T) {
	shared := &sharedDrains{}
	var hang chan struct{}
	bubble(t, func() *Table {
		hang = make(chan struct{})
		shared.set(nil, hang)
		return started(Options{Drains: shared}, ejecting(Ejection{Consecutive: 1}), 2)
	}, func(t *testing.T, table *Table) {
		begin := time.Now() // virtual time stands still unless somebody waits
		e := endpointOf(table, demo1, 1)
		mustAcquire(t, table, e)
		table.SetMembers(demo1, pods(demo1, 3))
		table.Release(e, OutcomeFailed)
		wantState(t, table, demo1, 1, affinity.EndpointDown)
		if len(table.Status()) != 1 {
			t.Error("Status() is empty")
		}
		if waited := time.Since(begin); waited != 0 {
			t.Errorf("waited %v for a store that hangs, want 0", waited)
		}
		close(hang)
		shared.set(nil, nil)
	})
}

// Defect 11, for whoever listens: an observer that hangs.
func TestAHangingObserverStallsNeitherRequestsNorChanges(t *testing.T) {
	o := &observer{}
	bubble(t, func() *Table {
		o.hang = make(chan struct{})
		return started(Options{Observer: o}, ejecting(Ejection{Consecutive: 1}), 4)
	}, func(t *testing.T, table *Table) {
		begin := time.Now()
		fail(t, table, endpointOf(table, demo1, 1), 1)
		synctest.Wait()
		fail(t, table, endpointOf(table, demo1, 2), 1)
		table.SetMembers(demo1, pods(demo1, 3))
		if waited := time.Since(begin); waited != 0 {
			t.Errorf("waited %v for an observer that hangs, want 0", waited)
		}
		close(o.hang)
		synctest.Wait()
		if len(o.events) < 3 {
			t.Errorf("events = %v, want all of them once the observer listens", o.events)
		}
	})
}

func TestADrainOfAnUnknownEndpointIsRefused(t *testing.T) {
	table := started(Options{}, split(100), 1)
	if err := table.Drain(t.Context(), drainOf(2, time.Time{})); !errors.Is(err, ErrUnknownEndpoint) {
		t.Errorf("Drain(%s) = %v, want ErrUnknownEndpoint", pod(demo1, 2), err)
	}
	cancel := drainOf(2, time.Time{})
	cancel.Cancel = true
	if err := table.Drain(t.Context(), cancel); err != nil {
		t.Errorf("Drain(cancel) = %v, want nil", err)
	}
}

func TestADrainHoldsForAnEndpointThatIsListedLater(t *testing.T) {
	shared := &sharedDrains{}
	bubble(t, func() *Table { return started(Options{Drains: shared}, split(100), 1) }, func(t *testing.T, table *Table) {
		if err := shared.SetDrain(t.Context(), drainOf(2, time.Time{})); err != nil {
			t.Fatal(err)
		}
		after(1200 * time.Millisecond)
		table.SetMembers(demo1, pods(demo1, 2))
		wantState(t, table, demo1, 2, affinity.EndpointDraining)
	})
}

func TestOfTwoDrainDeadlinesTheEarlierOneCounts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		table := started(Options{}, split(100), 1)
		soon, late := time.Now().Add(time.Minute), time.Now().Add(time.Hour)
		members := pods(demo1, 1)
		members[0].Draining, members[0].DrainUntil = true, late
		table.SetMembers(demo1, members)
		if err := table.Drain(t.Context(), drainOf(1, soon)); err != nil {
			t.Fatalf("Drain() = %v, want nil", err)
		}
		if e := endpointOf(table, demo1, 1); !e.Until.Equal(soon) {
			t.Errorf("Until = %v, want %v", e.Until, soon)
		}
	})
}

func TestDrainsKeptInThisProcessAreBoundedAndEndWithTheirEndpoints(t *testing.T) {
	bubble(t, func() *Table { return started(Options{}, split(100), 2) }, func(t *testing.T, table *Table) {
		if err := table.Drain(t.Context(), drainOf(2, time.Time{})); err != nil {
			t.Fatalf("Drain() = %v, want nil", err)
		}
		table.SetMembers(demo1, pods(demo1, 1))
		after(10*time.Minute + 2*time.Second)
		if drains, _ := table.own.Drains(t.Context()); len(drains) != 0 {
			t.Errorf("Drains() = %v after the tombstone of the endpoint, want none", drains)
		}
		for n := range maxOwnDrains {
			if err := table.own.SetDrain(t.Context(), Drain{Endpoint: fmt.Sprint(n)}); err != nil {
				t.Fatalf("SetDrain(%d) = %v, want nil", n, err)
			}
		}
		if err := table.Drain(t.Context(), drainOf(1, time.Time{})); !errors.Is(err, ErrTooManyDrains) {
			t.Errorf("Drain() = %v, want ErrTooManyDrains", err)
		}
	})
}

// observer collects events; it can hang.
type observer struct {
	hang   chan struct{}
	events []Event
	missed int
}

func (o *observer) EndpointChanged(e Event) {
	if o.hang != nil {
		<-o.hang
	}
	o.events = append(o.events, e)
}

func (o *observer) Missed(events int) { o.missed += events }

func TestEventsTellEveryChangeInOrder(t *testing.T) {
	o := &observer{}
	bubble(t, func() *Table { return started(Options{Observer: o}, ejecting(Ejection{Consecutive: 1}), 2) },
		func(t *testing.T, table *Table) {
			if len(o.events) != 0 {
				t.Fatalf("events = %v for what was there at the start, want none", o.events)
			}
			fail(t, table, endpointOf(table, demo1, 1), 1)
			after(10 * time.Second)
			if err := table.Drain(t.Context(), drainOf(1, time.Time{})); err != nil {
				t.Fatalf("Drain() = %v, want nil", err)
			}
			table.SetMembers(demo1, pods(demo1, 3)[1:])
			after(time.Second)
			var got []string
			for _, e := range o.events {
				got = append(got, fmt.Sprint(e.Endpoint, " ", e.From, " ", e.To, " ", e.Cause))
			}
			want := []string{
				"demo-00001-pod-1 ready down ejected", "demo-00001-pod-1 down ready ", "demo-00001-pod-1 ready draining ",
				"demo-00001-pod-1 draining gone ", "demo-00001-pod-3 gone ready ",
			}
			if fmt.Sprint(got) != fmt.Sprint(want) {
				t.Errorf("events = %q, want %q", got, want)
			}
		})
}

func TestEventsThatNobodyHearsAreBounded(t *testing.T) {
	o := &observer{}
	table := started(Options{Observer: o}, split(100), 0)
	table.SetMembers(demo1, pods(demo1, maxEvents+1))
	table.deliverEvents()
	if len(o.events)+o.missed != maxEvents+1 || o.missed == 0 {
		t.Fatalf("told %d events and missed %d, want %d together", len(o.events), o.missed, maxEvents+1)
	}
	if last := o.events[len(o.events)-1].Endpoint; last != table.pools[demo1].members[maxEvents].id.endpoint {
		t.Fatalf("last event is of %s, want the newest", last)
	}
}
