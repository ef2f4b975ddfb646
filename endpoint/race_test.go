package endpoint

import (
	"context"
	"fmt"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/limpet-project/limpet/affinity"
)

func TestPublishingReadingAndRequestsGoOnTogether(t *testing.T) {
	table := started(Options{}, ejecting(Ejection{Consecutive: 2, Base: time.Millisecond}), 8)
	run(t, table)
	var publishers, readers sync.WaitGroup
	stop := make(chan struct{})
	for worker := range 4 {
		readers.Go(func() { request(t, table, worker, stop) })
	}
	for worker := range 2 {
		publishers.Go(func() {
			for i := range 300 {
				members := pods(demo1, 4+i%5)
				members[i%4].Limit = i % 3
				members[(i+1)%4].NotReady = worker == 0 && i%2 == 0
				table.SetMembers(demo1, members)
				services := []Service{ejecting(Ejection{Consecutive: 2, Base: time.Millisecond})}
				if i%7 == 0 {
					services = append(services, Service{Name: affinity.ServiceName{Namespace: "shop", Name: fmt.Sprint("demo-", i%3)}})
				}
				table.SetServices(services)
				d := drainOf(1+i%4, time.Time{})
				d.Cancel = i%2 == 1
				_ = table.Drain(context.Background(), d) // unknown at times
				table.Status()
			}
		})
	}
	publishers.Wait()
	close(stop)
	readers.Wait()
	for _, e := range revisionOf(table, "demo-00001").Pool.Endpoints {
		if load := table.Load(&e); load != (affinity.Load{}) {
			t.Errorf("Load(%s) = %+v at the end, want zero", e.Name, load)
		}
	}
}

// request sends requests to whatever the snapshot shows until stop.
func request(t *testing.T, table *Table, worker int, stop <-chan struct{}) {
	for i := 0; ; i++ {
		select {
		case <-stop:
			return
		default:
		}
		pool := revisionOf(table, "demo-00001").Pool
		e := &pool.Endpoints[(worker+i)%len(pool.Endpoints)]
		target := affinity.Target{Revision: "demo-00001", Endpoint: e.Name}
		table.Count(demo, target, 1)
		if err := table.Acquire(t.Context(), e, time.Duration(i%2)*50*time.Microsecond); err == nil {
			table.Load(e)
			table.Release(e, Outcome(i%3))
		}
		table.Count(demo, target, -1)
		table.Changed()
	}
}

func TestAPodOfOneServiceAmongManyRebuildsOneSnapshot(t *testing.T) {
	const services = 500
	table := NewTable(Options{})
	list := manyServices(services)
	table.SetServices(list)
	before := make([]*affinity.Snapshot, services)
	for i, s := range list {
		before[i] = table.Snapshot(s.Name)
	}
	for i, s := range list {
		r := RevisionName{"shop", s.Revisions[0].Name}
		table.SetMembers(r, pods(r, 2))
		for j, other := range list {
			if now := table.Snapshot(other.Name); (now != before[j]) != (j <= i) {
				t.Fatalf("after SetMembers of %v the snapshot of %v is new: %v", r, other.Name, now != before[j])
			}
		}
		if n := table.Snapshot(s.Name).Revisions[0].Pool.Ready(); n != 2 {
			t.Fatalf("Ready() of %v = %d after SetMembers, want 2", r, n)
		}
	}
}

func TestChangesThatMeetArePublishedTogether(t *testing.T) {
	const callers = 50
	table := NewTable(Options{})
	table.SetServices([]Service{split(100)})
	seen := make(chan *affinity.Snapshot, callers)
	table.publishing.Lock() // as if another publication took long
	first := table.version
	for n := range callers {
		go func() {
			table.SetMembers(demo1, pods(demo1, n+1))
			seen <- table.Snapshot(demo)
		}()
	}
	for made := first; made < first+callers; {
		runtime.Gosched()
		table.mu.Lock()
		made = table.version
		table.mu.Unlock()
	}
	table.publishing.Unlock()
	one := <-seen
	for range callers - 1 {
		if another := <-seen; another != one {
			t.Fatalf("callers that waited together saw the snapshots %p and %p, want one", one, another)
		}
	}
}

func manyServices(n int) []Service {
	list := make([]Service, n)
	for i := range list {
		name := fmt.Sprintf("shop-%05d", i)
		list[i] = Service{
			Name:      affinity.ServiceName{Namespace: "shop", Name: name},
			Revisions: []Revision{{Name: name + "-00001", Weight: 95}, {Name: name + "-00002", Weight: 5}},
		}
	}
	return list
}

func TestReadingAndAcquiringAllocateNothing(t *testing.T) {
	table := started(Options{}, split(100), 4)
	ctx, name := context.Background(), pod(demo1, 3)
	allocations := testing.AllocsPerRun(100, func() {
		e := table.Snapshot(demo).Revisions[0].Pool.Endpoint(name)
		if table.Acquire(ctx, e, 0) != nil || table.Load(e).InFlight != 1 {
			t.Error("Acquire took no place")
		}
		table.Release(e, OutcomeOK)
	})
	if allocations != 0 {
		t.Errorf("allocations = %v, want 0", allocations)
	}
}

func BenchmarkSetMembersOfOneAmong10000Services(b *testing.B) {
	table := NewTable(Options{})
	list := manyServices(10_000)
	table.SetServices(list)
	for _, s := range list {
		for _, r := range s.Revisions {
			name := RevisionName{"shop", r.Name}
			table.SetMembers(name, pods(name, 3))
		}
	}
	table.SetSynced()
	name := RevisionName{"shop", list[5000].Revisions[0].Name}
	sets := [][]Member{pods(name, 3), pods(name, 4)}
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		table.SetMembers(name, sets[i%2])
	}
}

func BenchmarkFirstPublicationOf10000Services(b *testing.B) {
	list := manyServices(10_000)
	for b.Loop() {
		table := NewTable(Options{})
		table.SetServices(list)
		for _, s := range list {
			name := RevisionName{"shop", s.Revisions[0].Name}
			table.SetMembers(name, pods(name, 3))
		}
		table.SetSynced()
	}
}

func BenchmarkSetServicesUnchangedOf10000(b *testing.B) {
	list := manyServices(10_000)
	table := NewTable(Options{})
	table.SetServices(list)
	for b.Loop() {
		table.SetServices(list)
	}
}

func BenchmarkSetMembersOf1000Endpoints(b *testing.B) {
	table := started(Options{}, split(100), 1000)
	sets := [][]Member{pods(demo1, 999), pods(demo1, 1000)}
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		table.SetMembers(demo1, sets[i%2])
	}
}

func BenchmarkSnapshotAmong10000Services(b *testing.B) {
	table := NewTable(Options{})
	list := manyServices(10_000)
	table.SetServices(list)
	b.ReportAllocs()
	b.ResetTimer()
	b.RunParallel(func(pb *testing.PB) {
		for i := 0; pb.Next(); i++ {
			if table.Snapshot(list[i%len(list)].Name) == nil {
				b.Fatal("Snapshot() = nil")
			}
		}
	})
}

func BenchmarkAcquireRelease(b *testing.B) {
	for _, limit := range []int{0, 1000} {
		b.Run(fmt.Sprint("limit ", limit), func(b *testing.B) {
			table := limited(Options{}, 8, limit)
			endpoints := revisionOf(table, "demo-00001").Pool.Endpoints
			ctx := context.Background()
			b.ReportAllocs()
			b.RunParallel(func(pb *testing.PB) {
				for i := 0; pb.Next(); i++ {
					e := &endpoints[i%len(endpoints)]
					if table.Acquire(ctx, e, 0) == nil {
						table.Release(e, OutcomeOK)
					}
				}
			})
		})
	}
}

func BenchmarkLoad(b *testing.B) {
	table := started(Options{}, split(100), 8)
	endpoints := revisionOf(table, "demo-00001").Pool.Endpoints
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		table.Load(&endpoints[i%len(endpoints)])
	}
}

func BenchmarkStatusOf10000Services(b *testing.B) {
	table := NewTable(Options{})
	table.SetServices(manyServices(10_000))
	b.ReportAllocs()
	for b.Loop() {
		table.Status()
	}
}
