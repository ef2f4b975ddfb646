package endpoint

import (
	"context"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/limpet-project/limpet/affinity"
)

func TestAChangeIsSeenWhenTheCallReturns(t *testing.T) {
	table := NewTable(Options{})
	if s := table.Snapshot(demo); s != nil {
		t.Fatalf("Snapshot(%v) = %v, want nil", demo, s)
	}
	table.SetMembers(demo1, pods(demo1, 2))
	table.SetServices([]Service{split(95, 5)})
	if e := endpointOf(table, demo1, 2); e == nil || e.State != affinity.EndpointReady {
		t.Fatalf("Endpoint(%s) = %v, want ready", pod(demo1, 2), e)
	}
	if r := revisionOf(table, "demo-00002"); r == nil || r.Weight != 5 || r.Pool.Ready() != 0 {
		t.Fatalf("Revision(demo-00002) = %v, want weight 5 and no endpoint", r)
	}
	table.SetMembers(demo2, pods(demo2, 1))
	if n := revisionOf(table, "demo-00002").Pool.Ready(); n != 1 {
		t.Fatalf("Ready() = %d, want 1", n)
	}
	table.SetServices(nil)
	if s := table.Snapshot(demo); s != nil {
		t.Fatalf("Snapshot(%v) = %v after it ceased to exist, want nil", demo, s)
	}
}

func TestOfTwoWithOneNameTheFirstCounts(t *testing.T) {
	table := NewTable(Options{})
	twice := split(80)
	twice.Revisions = append(twice.Revisions, Revision{Name: "demo-00001", Weight: 20})
	table.SetServices([]Service{twice, split(1)})
	table.SetMembers(demo1, []Member{{Name: pod(demo1, 1), Address: "10.0.1.1:8080"}, {Name: pod(demo1, 1), Address: "10.0.1.2:8080"}})
	r := revisionOf(table, "demo-00001")
	if r.Weight != 80 || len(r.Pool.Endpoints) != 1 || r.Pool.Endpoints[0].Address != "10.0.1.1:8080" {
		t.Fatalf("Revision(demo-00001) = %+v, want the first of each name", r)
	}
}

func TestServicesThatListARevisionShareItsPool(t *testing.T) {
	table := NewTable(Options{})
	other := Service{Name: affinity.ServiceName{Namespace: "shop", Name: "demo-preview"}, Revisions: []Revision{{Name: "demo-00001"}}}
	table.SetServices([]Service{split(100), other})
	table.SetMembers(demo1, pods(demo1, 3))
	one, two := table.Snapshot(demo).Revision("demo-00001").Pool, table.Snapshot(other.Name).Revision("demo-00001").Pool
	if one == nil || one != two {
		t.Fatalf("pools of one revision in two services are %p and %p, want the same", one, two)
	}
	if got, want := table.Services(), []affinity.ServiceName{demo, other.Name}; !slices.Equal(got, want) {
		t.Fatalf("Services() = %v, want %v", got, want)
	}
}

func TestOtherServicesKeepTheirSnapshotsWhenOnePodChanges(t *testing.T) {
	table := NewTable(Options{})
	other := Service{Name: affinity.ServiceName{Namespace: "bank", Name: "demo"}, Revisions: []Revision{{Name: "demo-00001"}}}
	table.SetServices([]Service{split(100), other})
	before, services := table.Snapshot(other.Name), table.services.Load()
	table.SetMembers(demo1, pods(demo1, 3))
	if table.Snapshot(other.Name) != before || table.services.Load() != services {
		t.Fatal("a pod of shop/demo-00001 rebuilt a service of another namespace")
	}
	published := table.Snapshot(demo)
	table.SetMembers(demo1, pods(demo1, 3))
	table.SetServices([]Service{split(100), other})
	if table.Snapshot(demo) != published {
		t.Fatal("saying the same again published another snapshot")
	}
}

func TestWhatWasThereAtTheStartIsSoSinceEver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		table := NewTable(Options{})
		table.SetMembers(demo1, pods(demo1, 1))
		table.SetServices([]Service{split(100)})
		time.Sleep(time.Second)
		table.SetMembers(demo1, pods(demo1, 2))
		if e := endpointOf(table, demo1, 1); !e.Since.IsZero() {
			t.Errorf("Since of an endpoint of the first publication = %v, want always", e.Since)
		}
		if e := endpointOf(table, demo1, 2); !e.Since.Equal(time.Now()) {
			t.Errorf("Since of an endpoint that appeared = %v, want %v", e.Since, time.Now())
		}
		if r := revisionOf(table, "demo-00001"); !r.Since.IsZero() {
			t.Errorf("Since of a revision of the first publication = %v, want always", r.Since)
		}
		table.SetSynced()
		time.Sleep(time.Second)
		table.SetServices([]Service{split(90, 10)})
		table.SetMembers(demo2, pods(demo2, 1))
		if r, e := revisionOf(table, "demo-00002"), endpointOf(table, demo2, 1); !r.Since.Equal(time.Now()) || !e.Since.Equal(time.Now()) {
			t.Errorf("Since of a revision and endpoint that appeared = %v, %v, want %v", r.Since, e.Since, time.Now())
		}
		if s := table.Snapshot(demo); !s.Synced {
			t.Error("Synced = false after SetSynced, want true")
		}
	})
}

func TestARevisionThatBecomesValidOrInvalidSaysSince(t *testing.T) {
	failed := split(100)
	failed.Revisions[0].Failed = true
	removed := Service{Name: demo}
	tests := []struct {
		name     string
		from, to Service
		changes  bool
	}{
		{name: "weight to zero", from: split(100), to: split(0), changes: true},
		{name: "weight from zero", from: split(0), to: split(1), changes: true},
		{name: "another weight", from: split(100), to: split(40)},
		{name: "failed", from: split(100), to: failed, changes: true},
		{name: "failed no longer", from: failed, to: split(100), changes: true},
		{name: "removed", from: split(100), to: removed, changes: true},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				table := NewTable(Options{})
				table.SetServices([]Service{test.from})
				time.Sleep(time.Minute)
				table.SetServices([]Service{test.to})
				if got := revisionOf(table, "demo-00001").Since.Equal(time.Now()); got != test.changes {
					t.Errorf("Since is now = %v, want %v", got, test.changes)
				}
			})
		})
	}
}

func TestAnEndpointThatLeftStaysListedAsGoneForTenMinutes(t *testing.T) {
	bubble(t, func() *Table { return started(Options{}, split(100), 2) }, func(t *testing.T, table *Table) {
		table.SetMembers(demo1, pods(demo1, 1))
		wantState(t, table, demo1, 2, affinity.EndpointGone)
		if e := endpointOf(table, demo1, 2); !e.Since.Equal(time.Now()) {
			t.Errorf("Since = %v, want %v", e.Since, time.Now())
		}
		after(10*time.Minute - time.Second)
		wantState(t, table, demo1, 2, affinity.EndpointGone)
		after(time.Second)
		if e := endpointOf(table, demo1, 2); e != nil {
			t.Errorf("Endpoint(%s) = %v after ten minutes, want nil", pod(demo1, 2), e)
		}
		wantState(t, table, demo1, 1, affinity.EndpointReady)
	})
}

func TestARemovedRevisionKeepsItsEndpointsWhileItIsRetained(t *testing.T) {
	service := split(100, 0)
	service.Retain = 30 * time.Minute
	service.Ejection = &Ejection{Consecutive: 1}
	bubble(t, func() *Table { return started(Options{}, service, 2) }, func(t *testing.T, table *Table) {
		without := service
		without.Revisions = service.Revisions[1:]
		table.SetServices([]Service{without})
		table.ForgetMembers(demo1)
		r := revisionOf(table, "demo-00001")
		if r == nil || r.State != affinity.RevisionRemoved || r.Weight != 0 || !r.Since.Equal(time.Now()) {
			t.Fatalf("Revision(demo-00001) = %+v, want removed now", r)
		}
		after(20 * time.Minute)
		without.Revisions = []Revision{{Name: "demo-00002", Weight: 100}}
		table.SetServices([]Service{without})
		after(10*time.Minute - time.Second)
		wantState(t, table, demo1, 1, affinity.EndpointReady)
		fail(t, table, endpointOf(table, demo1, 1), 1)
		wantState(t, table, demo1, 1, affinity.EndpointDown)
		after(time.Second)
		if r := revisionOf(table, "demo-00001"); r != nil {
			t.Errorf("Revision(demo-00001) = %v after retain, want nil", r)
		}
		if table.pools[demo1] != nil {
			t.Error("the pool of a revision that was forgotten outlives its retention")
		}
	})
}

func TestARemovedRevisionThatIsNotRetainedIsATombstoneForTenMinutes(t *testing.T) {
	bubble(t, func() *Table { return started(Options{}, split(50, 50), 1) }, func(t *testing.T, table *Table) {
		without := split(50, 50)
		without.Revisions = without.Revisions[1:]
		table.SetServices([]Service{without})
		after(10*time.Minute - time.Second)
		if r := revisionOf(table, "demo-00001"); r == nil || r.State != affinity.RevisionRemoved {
			t.Fatalf("Revision(demo-00001) = %v, want removed", r)
		}
		after(time.Second)
		if r := revisionOf(table, "demo-00001"); r != nil {
			t.Fatalf("Revision(demo-00001) = %v after ten minutes, want nil", r)
		}
		table.SetServices([]Service{split(50, 50)}) // listed again, its source has not said anything else of its endpoints
		wantState(t, table, demo1, 1, affinity.EndpointReady)
	})
}

// Defect 30: identity is a name, not an address.
func TestANewEndpointAtAnOldAddressIsAnotherEndpoint(t *testing.T) {
	table := started(Options{}, split(100), 1)
	old := endpointOf(table, demo1, 1)
	table.SetMembers(demo1, []Member{{Name: pod(demo1, 2), Address: old.Address}})
	wantState(t, table, demo1, 1, affinity.EndpointGone)
	if e := endpointOf(table, demo1, 2); e.Slot == old.Slot {
		t.Fatalf("Slot of the new endpoint = %d, that of the one whose address it took", e.Slot)
	}
	table.Count(demo, affinity.Target{Revision: "demo-00001", Endpoint: pod(demo1, 1)}, 3)
	if load := table.Load(endpointOf(table, demo1, 2)); load.Bound != 0 {
		t.Fatalf("Load(new).Bound = %d, want 0: its sessions are another's", load.Bound)
	}
}

// Defect 30, the reverse.
func TestAnEndpointThatChangesItsAddressKeepsItsIdentityAndCounters(t *testing.T) {
	table := started(Options{}, split(100), 1)
	old := endpointOf(table, demo1, 1)
	if err := table.Acquire(context.Background(), old, 0); err != nil {
		t.Fatalf("Acquire() = %v, want nil", err)
	}
	table.SetMembers(demo1, []Member{{Name: pod(demo1, 1), Address: "10.0.9.9:8080"}})
	e := endpointOf(table, demo1, 1)
	if e.Address != "10.0.9.9:8080" || e.Slot != old.Slot || !e.Since.IsZero() {
		t.Fatalf("Endpoint = %+v, want the same slot and since at the new address", e)
	}
	if load := table.Load(e); load.InFlight != 1 {
		t.Fatalf("Load().InFlight = %d, want 1", load.InFlight)
	}
	table.Release(old, OutcomeOK)
	if load := table.Load(e); load.InFlight != 0 {
		t.Fatalf("Load().InFlight = %d, want 0", load.InFlight)
	}
}

func TestASlotIsReusedOnlyAfterTheTombstoneAndTheLastRequest(t *testing.T) {
	bubble(t, func() *Table { return started(Options{}, split(100), 1) }, func(t *testing.T, table *Table) {
		old := endpointOf(table, demo1, 1)
		if err := table.Acquire(t.Context(), old, 0); err != nil {
			t.Fatalf("Acquire() = %v, want nil", err)
		}
		table.SetMembers(demo1, nil)
		after(9 * time.Minute)
		var members []Member
		appear := func() { members = pods(demo1, max(2, len(members)+1)); table.SetMembers(demo1, members[1:]) }
		appear()
		after(2 * time.Minute)
		appear()
		after(5 * time.Minute)
		appear()
		for n := range 3 {
			if e := endpointOf(table, demo1, n+2); e.Slot == old.Slot {
				t.Fatalf("Slot of %s = %d while a request is at its former owner", e.Name, e.Slot)
			}
		}
		table.Release(old, OutcomeFailed)
		for range chunkSize + 2 {
			after(time.Minute)
			appear()
			if e := endpointOf(table, demo1, len(members)); e.Slot == old.Slot {
				if load := table.Load(e); load != (affinity.Load{}) {
					t.Fatalf("Load() of a reused slot = %+v, want zero", load)
				}
				if err := table.Acquire(t.Context(), old, 0); err != ErrGone {
					t.Fatalf("Acquire() with an endpoint of an old snapshot = %v, want ErrGone", err)
				}
				return
			}
		}
		t.Fatalf("slot %d was never used again", old.Slot)
	})
}

func TestASlotRestsAWhileAfterItsTombstone(t *testing.T) {
	bubble(t, func() *Table { return started(Options{}, split(100), 1) }, func(t *testing.T, table *Table) {
		old := endpointOf(table, demo1, 1)
		table.SetMembers(demo1, nil)
		after(10*time.Minute + slotRest/2)
		table.SetMembers(demo1, pods(demo1, 2)[1:])
		if e := endpointOf(table, demo1, 2); e.Slot == old.Slot {
			t.Errorf("Slot = %d half a minute after the tombstone of its owner, want another", e.Slot)
		}
	})
}

func TestAnEndpointThatComesBackHasItsSlotAndSessionsAgain(t *testing.T) {
	bubble(t, func() *Table { return started(Options{}, split(100), 1) }, func(t *testing.T, table *Table) {
		target := affinity.Target{Revision: "demo-00001", Endpoint: pod(demo1, 1)}
		slot := endpointOf(table, demo1, 1).Slot
		table.Count(demo, target, 5)
		table.SetMembers(demo1, nil)
		after(10 * time.Minute)
		table.Count(demo, target, -2) // not listed now
		after(30 * time.Second)
		table.SetMembers(demo1, pods(demo1, 1))
		e := endpointOf(table, demo1, 1)
		if e.Slot != slot {
			t.Errorf("Slot = %d, want %d", e.Slot, slot)
		}
		table.Count(demo, target, 1)
		if load := table.Load(e); load.Bound != 4 {
			t.Errorf("Load().Bound = %d, want 4", load.Bound)
		}
	})
}

func TestSessionsOfAnEndpointThatIsNotListedYetAreCounted(t *testing.T) {
	table := NewTable(Options{})
	table.Count(demo, affinity.Target{Revision: "demo-00001", Endpoint: pod(demo1, 1)}, 7)
	table.Count(demo, affinity.Target{Revision: "demo-00001"}, 1)
	table.SetMembers(demo1, pods(demo1, 1))
	table.Count(demo, affinity.Target{Revision: "demo-00001", Endpoint: pod(demo1, 1)}, 1)
	table.SetServices([]Service{split(100)})
	if load := table.Load(endpointOf(table, demo1, 1)); load.Bound != 8 {
		t.Fatalf("Load().Bound = %d, want 8", load.Bound)
	}
	if load := table.Load(&affinity.Endpoint{Name: pod(demo1, 1)}); load != (affinity.Load{}) {
		t.Fatalf("Load(no slot) = %+v, want zero", load)
	}
}

func TestChangedWakesThoseWhoWaitForASnapshot(t *testing.T) {
	table := NewTable(Options{})
	changed := table.Changed()
	select {
	case <-changed:
		t.Fatal("Changed() is closed before anything changed")
	default:
	}
	table.SetServices([]Service{split(100)})
	select {
	case <-changed:
	default:
		t.Fatal("Changed() is open after a service was published")
	}
	again := table.Changed()
	table.SetServices([]Service{split(100)})
	select {
	case <-again:
		t.Fatal("Changed() is closed although nothing changed")
	default:
	}
}

func TestPoolsThatNoServiceListsAreBounded(t *testing.T) {
	table := NewTable(Options{})
	for n := range maxIdlePools + 10 {
		table.SetMembers(RevisionName{"shop", "demo-" + pod(demo1, n)}, pods(demo1, 1))
	}
	if len(table.pools) != maxIdlePools || table.idle.Len() != maxIdlePools {
		t.Fatalf("pools = %d, idle = %d, want %d", len(table.pools), table.idle.Len(), maxIdlePools)
	}
}

func TestTombstonesAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		table := started(Options{}, split(100), maxTombstones)
		time.Sleep(time.Second)
		table.SetMembers(demo1, nil)
		time.Sleep(time.Second)
		table.SetMembers(demo1, []Member{{Name: "demo-00001-late", Address: "10.0.2.1:8080"}})
		table.SetMembers(demo1, pods(demo2, 10)) // any other ten
		table.SetMembers(demo1, nil)
		table.SetMembers(demo1, pods(demo2, 1))
		pool := revisionOf(table, "demo-00001").Pool
		if n := len(pool.Endpoints); n > maxTombstones+1 {
			t.Errorf("endpoints = %d, want at most %d", n, maxTombstones+1)
		}
		if e := pool.Endpoint("demo-00001-late"); e == nil || e.State != affinity.EndpointGone {
			t.Errorf("Endpoint(demo-00001-late) = %v, want gone: older ones end first", e)
		}
	})
}

func TestRunEndsWithItsContextAndRunsOnceAtATime(t *testing.T) {
	bubble(t, func() *Table { return NewTable(Options{}) }, func(t *testing.T, table *Table) {
		if err := table.Run(t.Context()); err == nil {
			t.Error("Run() while it runs = nil, want an error")
		}
	})
}

func TestStatusTellsStatesCausesAndCounters(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		service := split(90, 10)
		service.Revisions[0].Tags = []string{"stable"}
		service.Ejection = &Ejection{Consecutive: 1}
		table := NewTable(Options{})
		table.SetServices([]Service{service})
		members := pods(demo1, 5)
		members[0].NotReady = true
		members[1].Draining, members[1].DrainUntil, members[1].Limit = true, time.Now().Add(time.Minute), 1
		table.SetMembers(demo1, members)
		table.SetSynced()
		table.Count(demo, affinity.Target{Revision: "demo-00001", Endpoint: pod(demo1, 2)}, 2)
		if err := table.Acquire(t.Context(), endpointOf(table, demo1, 2), 0); err != nil {
			t.Fatalf("Acquire() = %v, want nil", err)
		}
		fail(t, table, endpointOf(table, demo1, 3), 1)
		table.SetMembers(demo1, members[:4])

		endpoint := func(n int, state affinity.EndpointState) EndpointStatus {
			return EndpointStatus{Name: members[n-1].Name, Address: members[n-1].Address, State: state}
		}
		want := []EndpointStatus{
			endpoint(1, affinity.EndpointDown), endpoint(2, affinity.EndpointDraining), endpoint(3, affinity.EndpointDown),
			endpoint(4, affinity.EndpointReady), endpoint(5, affinity.EndpointGone),
		}
		want[0].Cause = CauseSource
		want[1].Draining, want[1].DrainUntil, want[1].Limit = true, time.Now().Add(time.Minute), 1
		want[1].InFlight, want[1].Bound = 1, 2
		want[2].Cause, want[2].EjectedUntil, want[2].Since = CauseEjected, time.Now().Add(10*time.Second), time.Now()
		want[4].Since = time.Now()
		got := table.Status()
		if diff := cmp.Diff([]ServiceStatus{{Name: demo, Synced: true, Revisions: []RevisionStatus{
			{Name: "demo-00001", Weight: 90, Tags: []string{"stable"}, Endpoints: want},
			{Name: "demo-00002", Weight: 10, Endpoints: []EndpointStatus{}},
		}}}, got); diff != "" {
			t.Errorf("Status() differs (-want +got):\n%s", diff)
		}
	})
}

func TestWhatWasNeverReadyHereHasNotStoppedToBe(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		table := NewTable(Options{})
		table.SetServices([]Service{{Name: demo, Revisions: []Revision{{Name: "demo-00001", Weight: 1}}}})
		table.SetMembers(demo1, []Member{{Name: "demo-00001-a", Address: "10.0.0.1:80"}})
		table.SetSynced()
		time.Sleep(time.Hour)
		table.SetMembers(demo1, []Member{
			{Name: "demo-00001-a", Address: "10.0.0.1:80"}, {Name: "demo-00001-b", Address: "10.0.0.2:80", NotReady: true},
		})
		if e := table.Snapshot(demo).Revision("demo-00001").Pool.Endpoint("demo-00001-b"); !e.Since.IsZero() {
			t.Errorf("Since of an endpoint that appeared not ready = %v, want unknown: a gateway that saw it ready may have bound to it", e.Since)
		}
		table.SetServices([]Service{{Name: demo, Revisions: []Revision{{Name: "demo-00001", Weight: 1}, {Name: "demo-00002"}}}})
		if r := table.Snapshot(demo).Revision("demo-00002"); !r.Since.IsZero() {
			t.Errorf("Since of a revision that appeared with weight 0 = %v, want unknown", r.Since)
		}
		time.Sleep(time.Minute)
		table.SetMembers(demo1, []Member{{Name: "demo-00001-a", Address: "10.0.0.1:80"}, {Name: "demo-00001-b", Address: "10.0.0.2:80"}})
		time.Sleep(time.Minute)
		table.SetMembers(demo1, []Member{
			{Name: "demo-00001-a", Address: "10.0.0.1:80"}, {Name: "demo-00001-b", Address: "10.0.0.2:80", NotReady: true},
		})
		if e := table.Snapshot(demo).Revision("demo-00001").Pool.Endpoint("demo-00001-b"); !e.Since.Equal(time.Now()) {
			t.Errorf("Since of an endpoint that stopped to be ready = %v, want %v", e.Since, time.Now())
		}
	})
}

func TestStandbyAndRelayedReachTheSnapshot(t *testing.T) {
	table := NewTable(Options{})
	services := []Service{{Name: demo, Revisions: []Revision{{Name: "demo-00001", Weight: 1}}}}
	table.SetServices(services)
	table.SetMembers(demo1, []Member{{Name: "activator", Address: "10.0.0.9:8012", Standby: true}})
	table.SetSynced()
	r := table.Snapshot(demo).Revision("demo-00001")
	if e := r.Pool.Endpoint("activator"); r.Relayed || r.Pool.Ready() != 0 || !e.Standby || e.State != affinity.EndpointReady {
		t.Errorf("snapshot = relayed %v, %d ready, %+v, want an endpoint that stands by alone", r.Relayed, r.Pool.Ready(), e)
	}
	services[0].Revisions[0].Relayed = true
	table.SetServices(services)
	if r := table.Snapshot(demo).Revision("demo-00001"); !r.Relayed {
		t.Errorf("Relayed = %v, want true", r.Relayed)
	}
	table.SetMembers(demo1, []Member{{Name: "activator", Address: "10.0.0.9:8012"}})
	if r := table.Snapshot(demo).Revision("demo-00001"); r.Pool.Ready() != 1 {
		t.Errorf("ready endpoints = %d, want the one that no longer stands by", r.Pool.Ready())
	}
}
