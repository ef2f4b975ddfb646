package endpoint

import (
	"maps"
	"testing"

	"github.com/limpet-project/limpet/affinity"
)

func TestSessionsAreCountedByEndpoint(t *testing.T) {
	table := NewTable(Options{})
	revision := RevisionName{Namespace: "shop", Name: "demo-00001"}
	service := affinity.ServiceName{Namespace: "shop", Name: "demo"}
	pods := func(names ...string) {
		var list []Member
		for _, name := range names {
			list = append(list, Member{Name: name, Address: "10.0.0.1:8012"})
		}
		table.SetMembers(revision, list)
	}
	count := func(pod string, n int) {
		table.Count(service, affinity.Target{Revision: "demo-00001", Endpoint: pod}, n)
	}
	table.SetServices([]Service{{Name: service, Revisions: []Revision{{Name: "demo-00001", Weight: 100}}}})
	pods("demo-00001-a", "demo-00001-b", "demo-00001-c")
	count("demo-00001-a", 3)
	count("demo-00001-b", 2)
	count("demo-00001-c", 1)
	for _, step := range []struct {
		name string
		do   func()
		want map[string]int64
	}{
		{"each pod has its own", func() {}, map[string]int64{"demo-00001-a": 3, "demo-00001-b": 2, "demo-00001-c": 1}},
		{"one ends", func() { count("demo-00001-c", -1) }, map[string]int64{"demo-00001-a": 3, "demo-00001-b": 2}},
		{"a pod goes", func() { pods("demo-00001-b", "demo-00001-c") }, map[string]int64{"demo-00001-b": 2}},
		{"it comes back", func() { pods("demo-00001-a", "demo-00001-b", "demo-00001-c") }, map[string]int64{"demo-00001-a": 3, "demo-00001-b": 2}},
	} {
		step.do()
		if got := table.Sessions(revision); !maps.Equal(got, step.want) {
			t.Errorf("%s: Sessions(%v) = %v, want %v", step.name, revision, got, step.want)
		}
	}
	if got := table.Sessions(RevisionName{Namespace: "bank", Name: "demo-00001"}); len(got) != 0 {
		t.Errorf("Sessions of another tenant's revision = %v, want none", got)
	}
}
