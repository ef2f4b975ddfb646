package transport

import (
	"testing"
	"time"

	"github.com/limpet-project/limpet/affinity"
	"github.com/limpet-project/limpet/endpoint"
)

func TestWhatHoldsAFlow(t *testing.T) {
	now := time.Now()
	a := endpoint.Member{Name: "coredns-a", Address: "10.0.0.7:53"}
	edited := func(edit func(*endpoint.Member)) []endpoint.Member { m := a; edit(&m); return []endpoint.Member{m} }
	revision := endpoint.Revision{Name: corednsRevision, Weight: 1}
	retain := &affinity.Policy{Retain: affinity.Duration(time.Hour)}
	tests := []struct {
		name     string
		revision endpoint.Revision
		members  []endpoint.Member
		policy   *affinity.Policy
		holds    bool
		until    bool // not for ever
	}{
		{name: "an endpoint that is ready", revision: revision, members: []endpoint.Member{a}, holds: true},
		{name: "one that is down", revision: revision, members: edited(func(m *endpoint.Member) { m.NotReady = true })},
		{name: "one that is not listed", revision: revision},
		{name: "one at another address", revision: revision, members: edited(func(m *endpoint.Member) { m.Address = "10.0.0.8:53" })},
		{name: "one that drains", revision: revision, members: edited(func(m *endpoint.Member) { m.Draining = true }), holds: true},
		{name: "one that drains for an hour", revision: revision, members: edited(func(m *endpoint.Member) {
			m.Draining, m.DrainUntil = true, now.Add(time.Hour)
		}), holds: true, until: true},
		{name: "one whose drain is over", revision: revision, members: edited(func(m *endpoint.Member) {
			m.Draining, m.DrainUntil = true, now.Add(-time.Second)
		}), until: true},
		{name: "a revision that has failed", revision: endpoint.Revision{Name: corednsRevision, Weight: 1, Failed: true}, members: []endpoint.Member{a}},
		{name: "a revision without weight", revision: endpoint.Revision{Name: corednsRevision}, members: []endpoint.Member{a}},
		{
			name: "a revision without weight that is retained", revision: endpoint.Revision{Name: corednsRevision}, members: []endpoint.Member{a},
			policy: retain, holds: true, until: true,
		},
		{name: "a revision that is not listed", revision: endpoint.Revision{Name: "coredns-00002", Weight: 1}, members: []endpoint.Member{a}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			table := endpoint.NewTable(endpoint.Options{})
			service := endpoint.Service{Name: coredns, Revisions: []endpoint.Revision{revision}}
			if test.policy != nil {
				service.Retain = time.Duration(test.policy.Retain)
			}
			table.SetServices([]endpoint.Service{service})
			table.SetSynced()
			service.Revisions = []endpoint.Revision{test.revision}
			table.SetServices([]endpoint.Service{service})
			table.SetMembers(endpoint.RevisionName{Namespace: coredns.Namespace, Name: corednsRevision}, test.members)
			at := affinity.Target{Revision: corednsRevision, Endpoint: a.Name}
			until, holds := holding(table.Snapshot(coredns), test.policy, at, a.Address, now)
			if holds != test.holds || until.IsZero() == test.until {
				t.Errorf("holding() = %v, %v, want %v with an end: %v", until, holds, test.holds, test.until)
			}
		})
	}
	if _, holds := holding(nil, nil, affinity.Target{}, "", now); holds {
		t.Error("holding() = true without the service, want false")
	}
}
