package router

import (
	"testing"

	"github.com/limpet-project/limpet/affinity"
	"github.com/limpet-project/limpet/binding"
	"github.com/limpet-project/limpet/endpoint"
)

// sleep leaves revision n only the endpoint that wakes it.
func (g gateway) sleep(n int, pods ...endpoint.Member) {
	m := append(pods, endpoint.Member{Name: "activator", Address: "activator.example.com:8012", Standby: true})
	g.table.SetMembers(endpoint.RevisionName{Namespace: demo.Namespace, Name: revisionName(n)}, m)
}

func (g gateway) weigh(first, second int) {
	g.table.SetServices([]endpoint.Service{{Name: demo, Revisions: []endpoint.Revision{
		{Name: revisionName(1), Weight: first}, {Name: revisionName(2), Weight: second},
	}}})
}

func TestSessionThatWakesARevisionStaysThereAndGetsTheFirstPod(t *testing.T) {
	for _, mode := range []affinity.SessionMode{affinity.ModeBound, affinity.ModeToken} {
		t.Run(string(mode), func(t *testing.T) {
			g, _ := sealing(t)
			g.fill(100, 0)
			g.sleep(1)
			p := policy(t, affinity.Policy{Session: &affinity.SessionAffinity{Mode: mode}})
			m := from("K-Session", "s-1")
			visit := func() (affinity.Target, affinity.Reason) {
				pick := g.pick(t, p, m)
				pick.EditResponse(m.header)
				m.header["Cookie"] = m.header["Set-Cookie"]
				pick.Done(endpoint.OutcomeOK)
				return pick.Target(), pick.Reason()
			}
			want := affinity.Target{Revision: "demo-00001", Endpoint: "activator"}
			if got, reason := visit(); got != want || reason != affinity.ReasonNew {
				t.Errorf("first visit = %v, %v, want %v, %v", got, reason, want, affinity.ReasonNew)
			}
			g.weigh(1, 99)
			if got, reason := visit(); got != want || reason != affinity.ReasonBound {
				t.Errorf("visit while asleep, after the weights changed = %v, %v, want %v, %v", got, reason, want, affinity.ReasonBound)
			}
			g.sleep(1, endpoint.Member{Name: "demo-00001-a", Address: "demo-00001-a.example.com:8012"})
			want.Endpoint = "demo-00001-a"
			for range 2 {
				if got, reason := visit(); got != want || reason != affinity.ReasonBound {
					t.Errorf("visit once awake = %v, %v, want %v, %v", got, reason, want, affinity.ReasonBound)
				}
			}
		})
	}
}

func TestRelayedSessionIsCompletedByTheNextHop(t *testing.T) {
	store := binding.NewMemory(binding.MemoryOptions{})
	ingress, activator := newGateway(t, store), newGateway(t, store)
	ingress.fill(50, 50)
	activator.fill(50, 50)
	pods := []endpoint.Member{{Name: "demo-00001-a", Address: "a.example.com:8012"}, {Name: "demo-00001-b", Address: "b.example.com:8012"}}
	for n := 1; n <= 2; n++ {
		ingress.sleep(n, pods...)
	}
	ingress.table.SetServices([]endpoint.Service{{Name: demo, Revisions: []endpoint.Revision{
		{Name: revisionName(1), Weight: 50, Relayed: true}, {Name: revisionName(2), Weight: 50, Relayed: true},
	}}})
	p := policy(t, affinity.Policy{Session: &affinity.SessionAffinity{}})
	m := from("K-Session", "s-1")
	relayed, _ := ingress.visit(t, p, m)
	settled, _ := activator.visit(t, p, m)
	if relayed.Endpoint != "activator" || settled.Revision != relayed.Revision || settled.Endpoint == "activator" {
		t.Errorf("first visit = %v at the ingress, %v at the activator, want one revision, and the activator's own choice of a pod", relayed, settled)
	}
	for range 3 {
		again, reason := ingress.visit(t, p, m)
		if at, _ := activator.visit(t, p, m); again != relayed || reason != affinity.ReasonBound || at != settled {
			t.Errorf("later visit = %v, %v, then %v, want %v, %v, then %v", again, reason, at, relayed, affinity.ReasonBound, settled)
		}
	}
}
