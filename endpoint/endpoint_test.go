package endpoint

import (
	"context"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/limpet-project/limpet/affinity"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// The names that most tests use.
var (
	demo  = affinity.ServiceName{Namespace: "shop", Name: "demo"}
	demo1 = RevisionName{"shop", "demo-00001"}
	demo2 = RevisionName{"shop", "demo-00002"}
)

// pod returns the name of the n-th replica of a revision.
func pod(r RevisionName, n int) string { return fmt.Sprintf("%s-pod-%d", r.Name, n) }

// pods returns the members 1 to n of a revision.
func pods(r RevisionName, n int) []Member {
	list := make([]Member, n)
	for i := range list {
		list[i] = Member{Name: pod(r, i+1), Address: fmt.Sprintf("10.0.%s.%d:8080", r.Name[len(r.Name)-1:], i+1)}
	}
	return list
}

// split returns a service with the weights of demo-00001 and demo-00002.
func split(weights ...int) Service {
	s := Service{Name: demo}
	for i, w := range weights {
		s.Revisions = append(s.Revisions, Revision{Name: fmt.Sprintf("demo-%05d", i+1), Weight: w})
	}
	return s
}

// started returns a table with one service of one revision with n ready endpoints, synchronised.
func started(o Options, s Service, n int) *Table {
	t := NewTable(o)
	t.SetServices([]Service{s})
	t.SetMembers(demo1, pods(demo1, n))
	t.SetSynced()
	return t
}

// run runs the table until the test ends.
func run(t *testing.T, table *Table) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- table.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("Run() = %v, want nil", err)
		}
	})
}

// bubble runs a test in virtual time with the table running.
func bubble(t *testing.T, table func() *Table, test func(t *testing.T, table *Table)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		made := table()
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- made.Run(ctx) }()
		synctest.Wait()
		test(t, made)
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("Run() = %v, want nil", err)
		}
	})
}

// after lets virtual time pass.
func after(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

// revisionOf returns a revision of demo as its snapshot shows it, nil if it is not listed.
func revisionOf(table *Table, name string) *affinity.Revision {
	s := table.Snapshot(demo)
	if s == nil {
		return nil
	}
	return s.Revision(name)
}

// endpointOf returns an endpoint of demo as its snapshot shows it, nil if it is not listed.
func endpointOf(table *Table, r RevisionName, n int) *affinity.Endpoint {
	revision := revisionOf(table, r.Name)
	if revision == nil {
		return nil
	}
	return revision.Pool.Endpoint(pod(r, n))
}

// wantState checks the state of the n-th endpoint of a revision.
func wantState(t *testing.T, table *Table, r RevisionName, n int, want affinity.EndpointState) {
	t.Helper()
	e := endpointOf(table, r, n)
	if e == nil {
		t.Fatalf("Endpoint(%s) = nil, want %v", pod(r, n), want)
	}
	if e.State != want {
		t.Fatalf("Endpoint(%s).State = %v, want %v", pod(r, n), e.State, want)
	}
}

// fail sends so many requests that fail, one after the other.
func fail(t *testing.T, table *Table, e *affinity.Endpoint, times int) {
	t.Helper()
	for range times {
		if err := table.Acquire(context.Background(), e, 0); err != nil {
			t.Fatalf("Acquire(%s) = %v, want nil", e.Name, err)
		}
		table.Release(e, OutcomeFailed)
	}
}
