package endpoint

import (
	"fmt"
	"testing"
	"time"

	"github.com/limpet-project/limpet/affinity"
)

// ejecting returns demo with an ejection rule.
func ejecting(rule Ejection) Service {
	s := split(100)
	s.Ejection = &rule
	return s
}

func TestFailuresInARowEjectAndTimeBringsBack(t *testing.T) {
	bubble(t, func() *Table { return started(Options{}, ejecting(Ejection{}), 3) }, func(t *testing.T, table *Table) {
		e := endpointOf(table, demo1, 1)
		fail(t, table, e, 4)
		mustAcquire(t, table, e)
		table.Release(e, OutcomeOK) // the row is broken
		fail(t, table, e, 4)
		mustAcquire(t, table, e)
		table.Release(e, OutcomeUnknown) // says nothing
		wantState(t, table, demo1, 1, affinity.EndpointReady)
		fail(t, table, e, 1)
		wantState(t, table, demo1, 1, affinity.EndpointDown)
		after(10*time.Second - time.Millisecond)
		wantState(t, table, demo1, 1, affinity.EndpointDown)
		after(time.Millisecond)
		wantState(t, table, demo1, 1, affinity.EndpointReady)
		fail(t, table, endpointOf(table, demo1, 1), 4)
		wantState(t, table, demo1, 1, affinity.EndpointReady)
	})
}

func TestEjectionsThatFollowEachOtherDoubleUpToTheirMaximum(t *testing.T) {
	rule := Ejection{Consecutive: 2, Base: 10 * time.Second, Max: 30 * time.Second}
	bubble(t, func() *Table { return started(Options{}, ejecting(rule), 2) }, func(t *testing.T, table *Table) {
		eject := func(want time.Duration) {
			t.Helper()
			fail(t, table, endpointOf(table, demo1, 1), 2)
			wantState(t, table, demo1, 1, affinity.EndpointDown)
			after(want - time.Millisecond)
			wantState(t, table, demo1, 1, affinity.EndpointDown)
			after(time.Millisecond)
			wantState(t, table, demo1, 1, affinity.EndpointReady)
		}
		eject(10 * time.Second)
		after(100 * time.Second) // ten times its length: still follows
		eject(20 * time.Second)
		eject(30 * time.Second)
		eject(30 * time.Second)
		after(300*time.Second + time.Millisecond)
		eject(10 * time.Second)
	})
}

func TestNoMoreThanTheShareOfARevisionIsEjected(t *testing.T) {
	tests := []struct {
		endpoints int
		share     float64
		want      int
	}{
		{endpoints: 1, want: 0},
		{endpoints: 2, want: 1},
		{endpoints: 3, want: 1},
		{endpoints: 7, want: 3},
		{endpoints: 8, share: 0.9, want: 4},
		{endpoints: 8, share: 0.25, want: 2},
		{endpoints: 3, share: 0.25, want: 0},
		{endpoints: 100, share: 0.29, want: 29},
	}
	for _, test := range tests {
		t.Run(fmt.Sprintf("%v of %d", test.share, test.endpoints), func(t *testing.T) {
			rule := Ejection{Consecutive: 1, MaxShare: test.share}
			bubble(t, func() *Table { return started(Options{}, ejecting(rule), test.endpoints) }, func(t *testing.T, table *Table) {
				for n := range test.endpoints {
					fail(t, table, endpointOf(table, demo1, n+1), 1)
				}
				if got := test.endpoints - revisionOf(table, "demo-00001").Pool.Ready(); got != test.want {
					t.Errorf("ejected = %d of %d, want %d", got, test.endpoints, test.want)
				}
			})
		})
	}
}

func TestFailuresFromBeforeAnEjectionDoNotCountAfterIt(t *testing.T) {
	bubble(t, func() *Table { return started(Options{}, ejecting(Ejection{Consecutive: 2}), 2) }, func(t *testing.T, table *Table) {
		e := endpointOf(table, demo1, 1)
		mustAcquire(t, table, e)
		fail(t, table, e, 2)
		table.Release(e, OutcomeFailed)
		after(10 * time.Second)
		fail(t, table, e, 1)
		wantState(t, table, demo1, 1, affinity.EndpointReady)
	})
}

func TestEndpointsThatAreDownOrDrainingDoNotCountForTheShare(t *testing.T) {
	bubble(t, func() *Table { return started(Options{}, ejecting(Ejection{Consecutive: 1}), 4) }, func(t *testing.T, table *Table) {
		members := pods(demo1, 4)
		members[2].NotReady = true
		members[3].Draining = true
		table.SetMembers(demo1, members)
		fail(t, table, endpointOf(table, demo1, 4), 1)
		wantState(t, table, demo1, 4, affinity.EndpointDraining)
		fail(t, table, endpointOf(table, demo1, 1), 1)
		fail(t, table, endpointOf(table, demo1, 2), 1)
		wantState(t, table, demo1, 1, affinity.EndpointDown)
		wantState(t, table, demo1, 2, affinity.EndpointReady)
	})
}

func TestWhenOthersLeaveEjectedEndpointsComeBackEarly(t *testing.T) {
	bubble(t, func() *Table { return started(Options{}, ejecting(Ejection{Consecutive: 1}), 4) }, func(t *testing.T, table *Table) {
		fail(t, table, endpointOf(table, demo1, 1), 1)
		after(time.Second)
		fail(t, table, endpointOf(table, demo1, 2), 1)
		wantState(t, table, demo1, 2, affinity.EndpointDown)
		table.SetMembers(demo1, pods(demo1, 3))
		wantState(t, table, demo1, 1, affinity.EndpointReady) // the one that was to come first
		wantState(t, table, demo1, 2, affinity.EndpointDown)
		table.SetMembers(demo1, pods(demo1, 2)[1:])
		wantState(t, table, demo1, 2, affinity.EndpointReady)
	})
}

func TestEndpointsWithoutARuleAreNotEjected(t *testing.T) {
	bubble(t, func() *Table { return started(Options{}, split(100), 4) }, func(t *testing.T, table *Table) {
		fail(t, table, endpointOf(table, demo1, 1), 100)
		wantState(t, table, demo1, 1, affinity.EndpointReady)
		table.SetServices([]Service{ejecting(Ejection{Consecutive: 3})})
		fail(t, table, endpointOf(table, demo1, 1), 3)
		wantState(t, table, demo1, 1, affinity.EndpointDown)
		table.SetServices([]Service{split(100)})
		wantState(t, table, demo1, 1, affinity.EndpointReady)
	})
}
