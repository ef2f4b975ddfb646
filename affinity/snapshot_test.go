package affinity

import (
	"slices"
	"testing"
)

func TestSnapshotSortsACopyAndSharesPools(t *testing.T) {
	list := []Revision{revision("demo-00002", 5, 3), revision("demo-00001", 95, 3), {Name: "demo-00002", Weight: 7}}
	given := slices.Clone(list)
	s := NewSnapshot(demo, list, true)
	if len(s.Revisions) != 2 || s.Revisions[0].Name != "demo-00001" || s.Revisions[1].Name != "demo-00002" {
		t.Errorf("NewSnapshot lists %v, want demo-00001 and demo-00002", s.Revisions)
	}
	for i := range list {
		if list[i].Name != given[i].Name || list[i].Pool != given[i].Pool {
			t.Errorf("NewSnapshot changed its argument to %v", list)
		}
	}
	if r := s.Revision("demo-00002"); r.Pool != given[0].Pool || r.Weight != 5 {
		t.Errorf("Revision(demo-00002) = %v, want the first of that name with its pool", r)
	}
	if r := s.Revision("demo-00003"); r != nil {
		t.Errorf("Revision(demo-00003) = %v, want nil", r)
	}
	list[0].Weight = 50
	if s.Revision("demo-00002").Weight != 5 {
		t.Errorf("a change of the argument reached the snapshot")
	}
}

// 10,000 services do not read 10,000 endpoints each because one pod changed.
func TestSnapshotCostsNoMoreForALargePool(t *testing.T) {
	allocs := func(endpoints int) float64 {
		list := []Revision{revision("demo-00001", 95, endpoints)}
		return testing.AllocsPerRun(100, func() { NewSnapshot(demo, list, true) })
	}
	if small, large := allocs(1), allocs(5000); small != large {
		t.Errorf("NewSnapshot allocates %v times for a pool of 1 and %v times for one of 5000, want the same", small, large)
	}
}

func TestPoolFindsEveryEndpointByName(t *testing.T) {
	list := pods("demo-00001", 1000)
	list[17].State, list[18].State, list[19].State = EndpointDraining, EndpointDown, EndpointGone
	given := slices.Clone(list)
	p := NewPool(append(list, Endpoint{Name: list[0].Name, Address: "10.9.9.9:80"}))
	if p.Ready() != 997 || len(p.Endpoints) != 1000 {
		t.Errorf("NewPool has %d ready of %d, want 997 of 1000", p.Ready(), len(p.Endpoints))
	}
	for _, want := range given {
		if e := p.Endpoint(want.Name); e == nil || *e != want {
			t.Errorf("Endpoint(%s) = %v, want %v", want.Name, e, want)
		}
	}
	if e := p.Endpoint(pod("demo-00002", 1)); e != nil {
		t.Errorf("Endpoint of another revision = %v, want nil", e)
	}
	if !slices.Equal(list, given) {
		t.Errorf("NewPool changed its argument")
	}
}

func TestNilPoolIsEmpty(t *testing.T) {
	var p *Pool
	if p.Ready() != 0 || p.Endpoint("demo-00001") != nil {
		t.Errorf("a nil pool has %d ready endpoints, want 0", p.Ready())
	}
	if p := NewPool(nil); p.Ready() != 0 || p.Endpoint("") != nil {
		t.Errorf("an empty pool has %d ready endpoints, want 0", p.Ready())
	}
}

func TestWordsOfTheStates(t *testing.T) {
	for want, got := range map[string]string{
		"active": RevisionActive.String(), "failed": RevisionFailed.String(), "removed": RevisionRemoved.String(),
		"ready": EndpointReady.String(), "draining": EndpointDraining.String(), "down": EndpointDown.String(), "gone": EndpointGone.String(),
		"nothing": BindNothing.String(), "flow": BindFlow.String(), "session": BindSession.String(),
	} {
		if got != want {
			t.Errorf("String() = %q, want %q", got, want)
		}
	}
	words := map[string]bool{}
	for _, r := range Reasons() {
		words[r.String()] = true
	}
	if len(words) != int(ReasonTag)+1 || words["unknown"] {
		t.Errorf("Reasons() has the words %v, want %d different ones", words, ReasonTag+1)
	}
}
