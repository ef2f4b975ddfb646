package affinity

import (
	"fmt"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// activator returns the name of the n-th endpoint that stands by.
func activator(n int) string { return fmt.Sprintf("activator-%d", n) }

// withActivators adds two endpoints that stand by to every revision.
func withActivators(v *view) {
	for i := range v.pods {
		for n := range 2 {
			v.pods[i] = append(v.pods[i], Endpoint{
				Name: activator(n), Address: fmt.Sprintf("10.244.9.%d:8012", n+1), Slot: int32(100 + 10*i + n), Standby: true,
			})
		}
	}
}

// asleep leaves a revision only the endpoints that stand by.
func asleep(i int) func(*view) { return edits(scaledToZero(i), withActivators) }

func relayed(i int) func(*view) { return func(v *view) { v.revisions[i].Relayed = true } }

// activatorOf returns the endpoint that stands by and that rendezvous gives to the first session.
func activatorOf() string {
	k := sessionKey(1)
	if h := k.hash(domainEndpoint); mix(h^seed(activator(1))) > mix(h^seed(activator(0))) {
		return activator(1)
	}
	return activator(0)
}

func TestStandbyEndpointsTakeWhatNoOtherEndpointCan(t *testing.T) {
	first := plainPod("demo-00001").Endpoint
	ownGone := endpointState(0, 0, EndpointGone, noon.Add(-1))
	down := edits(endpointState(0, 0, EndpointDown, longAgo), endpointState(0, 1, EndpointDown, longAgo), endpointState(0, 2, EndpointDown, longAgo))
	only := avoid(pod("demo-00001", 0), pod("demo-00001", 1), pod("demo-00001", 2))
	for _, s := range []struct {
		name    string
		edit    func(*view)
		policy  Policy
		request func(*Request)
		target  Target
		goes    string // endpoint
		reason  Reason
		bind    Bind
	}{
		{"a new session takes a pod while there is one", withActivators, Policy{}, session(none), Target{"demo-00001", first}, first, ReasonNew, BindSession},
		{"a known session stays at its pod", withActivators, Policy{}, session(firstPod), firstPod, firstPod.Endpoint, ReasonBound, BindNothing},
		{"a new session of a sleeping revision is bound to the revision", asleep(0), Policy{}, session(none), flowHome, activatorOf(), ReasonNew, BindSession},
		{"and is not bound again by the next request", asleep(0), Policy{}, session(flowHome), Target{"demo-00001", activatorOf()}, activatorOf(), ReasonBound, BindNothing},
		{"and gets its pod as soon as there is one", withActivators, Policy{}, session(flowHome), Target{"demo-00001", first}, first, ReasonBound, BindSession},
		{"and keeps its revision when the weights change", edits(asleep(0), weight(0, 1, longAgo), weight(1, 99, longAgo)), Policy{}, session(flowHome), Target{"demo-00001", activatorOf()}, activatorOf(), ReasonBound, BindNothing},
		{"and leaves its revision with the split", edits(asleep(0), weight(0, 0, noon.Add(-1))), Policy{}, session(flowHome), Target{"demo-00002", plainPod("demo-00002").Endpoint}, plainPod("demo-00002").Endpoint, ReasonRevisionGone, BindSession},
		{"a session that is expired is bound anew", asleep(0), Policy{}, all(session(firstPod), expiredSession), flowHome, activatorOf(), ReasonExpired, BindSession},
		{"a session whose pods are all down keeps its binding", edits(down, withActivators), Policy{}, session(firstPod), Target{"demo-00001", activatorOf()}, activatorOf(), ReasonEndpointGone, BindNothing},
		{"a session whose pod is gone takes another one first", edits(ownGone, withActivators), Policy{}, session(firstPod), plainPod("demo-00001", firstPod.Endpoint), plainPod("demo-00001", firstPod.Endpoint).Endpoint, ReasonEndpointGone, BindSession},
		{"a session none of whose pods could be reached", withActivators, Policy{}, all(session(firstPod), only), Target{"demo-00001", activatorOf()}, activatorOf(), ReasonEndpointGone, BindNothing},
		{"a flow is bound first", asleep(0), Policy{}, all(session(none), flow(none)), flowHome, "", ReasonNew, BindFlow},
		{"mode hash remembers nothing there either", asleep(0), Policy{Session: &SessionAffinity{Mode: ModeHash}}, session(none), Target{"demo-00001", activatorOf()}, activatorOf(), ReasonNone, BindNothing},
		{"nobody is bound to what stands by", withActivators, Policy{}, session(Target{"demo-00001", activator(0)}), Target{"demo-00001", first}, first, ReasonEndpointGone, BindSession},

		{"a new session of a relayed revision is bound to the revision", edits(withActivators, relayed(0)), Policy{}, session(none), flowHome, activatorOf(), ReasonNew, BindSession},
		{"a relayed session's pod is the next hop's to know", edits(withActivators, relayed(0)), Policy{}, session(firstPod), Target{"demo-00001", activatorOf()}, activatorOf(), ReasonBound, BindNothing},
		{"also if it is unknown here", edits(withActivators, relayed(0), unlistPod(0, 0)), Policy{}, all(session(firstPod), boundJustNow), Target{"demo-00001", activatorOf()}, activatorOf(), ReasonBound, BindNothing},
		{"relayed without anybody who stands by goes to the pods", relayed(0), Policy{}, session(firstPod), firstPod, firstPod.Endpoint, ReasonBound, BindNothing},
		{"relayed where nobody who stands by could be reached goes to the pods", edits(withActivators, relayed(0)), Policy{}, all(session(none), avoid(activator(0), activator(1))), Target{"demo-00001", first}, first, ReasonNew, BindSession},
	} {
		t.Run(s.name, func(t *testing.T) {
			v := demoView()
			s.edit(v)
			r := Request{Now: noon, Random: 7}
			s.request(&r)
			got, err := Decide(s.policy.WithDefaults(), v.snapshot(), r)
			if err != nil {
				t.Fatalf("Decide = %v, want no error", err)
			}
			goes := ""
			if got.Endpoint != nil {
				goes = got.Endpoint.Name
			}
			got.Endpoint = nil
			want := Decision{Target: s.target, Reason: s.reason, Bind: s.bind}
			if diff := cmp.Diff(want, got); diff != "" || goes != s.goes {
				t.Errorf("Decide goes to %q, want %q (-want +got):\n%s", goes, s.goes, diff)
			}
		})
	}
}

func TestRequestsWithoutASessionSpreadOverWhatStandsBy(t *testing.T) {
	v := demoView()
	asleep(0)(v)
	asleep(1)(v)
	snapshot, seen := v.snapshot(), map[string]int{}
	for i := range 1000 {
		d, err := Decide(nil, snapshot, Request{Now: noon, Random: uint64(i) * 0x9e3779b97f4a7c15})
		if err != nil || d.Endpoint == nil || d.Bind != BindNothing {
			t.Fatalf("Decide = %+v, %v, want an endpoint that stands by", d, err)
		}
		seen[d.Endpoint.Name]++
	}
	// Half each, within five standard deviations of a fair coin: 5·√(1000/4) = 79.
	if n := seen[activator(0)]; n < 500-79 || n > 500+79 {
		t.Errorf("requests at the two that stand by = %v, want about half each", seen)
	}
}
