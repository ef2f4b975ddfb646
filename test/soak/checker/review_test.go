package checker

import "testing"

// Each history is what a product with one fault would leave behind, or the nearest one that a product without it may.
func TestCheckFindsPlausibleFaults(t *testing.T) {
	removeA, killA := on(10, Removed, Event{Endpoint: podA}), on(10, Killed, Event{Endpoint: podA})
	drainB := on(5, Draining, Event{Endpoint: podB})
	drop1 := on(10, Weighted, Event{Revision: "demo-00001", Weight: 0})
	tests := []verdict{
		{
			name: "moves when a weight changes", want: 1,
			events: []Event{on(2.5, Weighted, Event{Revision: "demo-00001", Weight: 10}), on(2.5, Weighted, Event{Revision: "demo-00002", Weight: 90})},
			asked:  []Observation{ask("gw1", 1, 2, podA), ask("gw1", 2.6, 2.7, podC)},
		},
		{
			name: "moves when another gateway serves it", want: 1,
			asked: []Observation{ask("gw1", 1, 2, podA), ask("gw2", 3, 4, podB)},
		},
		{
			name: "moves when an endpoint is added", want: 1,
			events: []Event{on(2.5, Added, Event{Endpoint: podD, Revision: "demo-00001"})},
			asked:  []Observation{ask("gw1", 1, 2, podA), ask("gw1", 10, 11, podD)},
		},
		{
			name: "lost when a gateway is started anew and the store is well", want: 1,
			events: []Event{on(5, GatewayDown, Event{Gateway: "gw1"}), on(6, GatewayUp, Event{Gateway: "gw1"})},
			asked:  []Observation{ask("gw1", 1, 2, podA), ask("gw1", 7, 8, podB)},
		},
		{
			name: "two racing first requests go to one that drains", events: []Event{drainB}, want: 1, why: "takes no new",
			asked: []Observation{ask("gw1", 15, 16, podB), ask("gw2", 15.5, 15.8, podB)},
		},
		{
			name: "moves from a dead one to one that drains, two at once", events: []Event{killA, drainB}, want: 1, why: "takes no new",
			asked: []Observation{ask("gw1", 1, 2, podA), ask("gw1", 12, 13, podB), ask("gw2", 12.5, 12.8, podB)},
		},
		{
			name: "moves to one that drains after a request that failed", events: []Event{killA, drainB}, want: 1, why: "takes no new",
			asked: []Observation{ask("gw1", 1, 2, podA), ask("gw1", 10, 10.1, ""), ask("gw1", 15, 16, podB)},
		},
		{
			name: "moved to it by a request that failed, before it drained", events: []Event{killA, on(20, Draining, Event{Endpoint: podB})},
			asked: []Observation{ask("gw1", 1, 2, podA), ask("gw1", 10, 10.1, ""), ask("gw1", 25, 26, podB)},
		},
		{
			name: "leaves its revision after a request that failed", events: []Event{killA}, want: 1, why: "revision is valid",
			asked: []Observation{ask("gw1", 1, 2, podA), ask("gw1", 10, 10.1, ""), ask("gw1", 15, 16, podC)},
		},
		{
			name: "leaves its revision with another request under way", events: []Event{removeA}, want: 1, why: "revision is valid",
			asked: []Observation{ask("gw1", 1, 2, podA), ask("gw1", 12, 13, podC), ask("gw2", 12.5, 12.8, podC)},
		},
		{
			name: "leaves its revision without a store where it is known", want: 1, why: "revision is valid",
			events: []Event{on(5, StoreLost, Event{}), removeA, on(20, StoreRecovered, Event{})},
			asked:  []Observation{ask("gw1", 1, 2, podA), ask("gw1", 14, 15, podC)},
		},
		{
			name: "a drain's deadline is a time of day", events: []Event{on(5, Draining, Event{Endpoint: podA, Until: s(20)})}, want: 1,
			why:   "not valid",
			asked: []Observation{ask("gw1", 1, 2, podA), ask("gw1", 20.1, 20.2, podA)},
		},
		{
			name: "new and on one of a revision of weight 0", events: []Event{drop1}, want: 1, why: "not valid",
			asked: []Observation{ask("gw1", 15, 16, podA)},
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) { checkVerdict(t, tt) })
	}
}

func TestCheckFindsFaultsThatALostStoreDoesNotExplain(t *testing.T) {
	lost := on(10, StoreLost, Event{})
	back, emptied := on(20, StoreRecovered, Event{}), on(20, StoreRecovered, Event{Emptied: true})
	restart := func(gw string, at float64) []Event {
		return []Event{on(at, GatewayDown, Event{Gateway: gw}), on(at+0.5, GatewayUp, Event{Gateway: gw})}
	}
	tests := []verdict{
		{
			name: "wrong one after the store is back although nobody died", events: []Event{lost, back}, want: 1,
			asked: []Observation{ask("gw1", 1, 2, podA), ask("gw2", 12, 13, podB), ask("gw1", 30, 31, podB)},
		},
		{
			name: "a binding made without the store does not yield to the store's", events: []Event{lost, back}, want: 1,
			asked: []Observation{ask("gw1", 1, 2, podA), ask("gw2", 12, 13, podB), ask("gw2", 30, 31, podB)},
		},
		{
			name: "a gateway that knows it takes over what yields", events: []Event{lost, back}, want: 1,
			asked: []Observation{ask("gw1", 1, 2, podA), ask("gw2", 12, 13, podB), ask("gw1", 20.5, 20.6, podB)},
		},
		{
			name: "a binding made without the store yields", events: []Event{lost, back},
			asked: []Observation{ask("gw1", 1, 2, podA), ask("gw2", 12, 13, podB), ask("gw2", 21, 21.1, podA), ask("gw2", 30, 31, podA)},
		},
		{
			name:   "moved without the store and yet the old one is gone, so it stays where it moved",
			events: []Event{lost, on(11, Removed, Event{Endpoint: podA}), back},
			asked:  []Observation{ask("gw1", 1, 2, podA), ask("gw1", 13, 14, podB), ask("gw2", 30, 31, podB)},
		},
		{
			name:   "what yields, yields to a binding to what is gone, and moves on from there",
			events: append(restart("gw2", 5), on(3, Removed, Event{Endpoint: podA}), lost, back),
			asked:  []Observation{ask("gw1", 1, 2, podA), ask("gw2", 12, 13, podC), ask("gw2", 21, 21.1, podB), ask("gw1", 30, 31, podB)},
		},
		{
			name:   "the same, by a request that is under way when the store is back",
			events: append(restart("gw2", 5), on(3, Removed, Event{Endpoint: podA}), lost, back),
			asked:  []Observation{ask("gw1", 1, 2, podA), ask("gw2", 12, 13, podC), ask("gw2", 19.9, 20.3, podB), ask("gw1", 30, 31, podB)},
		},
		{
			name: "a gateway that will be started anew later still knows it", events: append(restart("gw1", 21), lost, back), want: 1,
			asked: []Observation{ask("gw1", 1, 2, podA), ask("gw1", 12, 13, podB)},
		},
		{
			name: "the same, emptied", events: append(restart("gw1", 21), lost, emptied), want: 1,
			asked: []Observation{ask("gw1", 1, 2, podA), ask("gw1", 12, 13, podB)},
		},
		{
			name: "under way when all have settled and answered by a third one", events: []Event{lost, emptied}, want: 1,
			asked: []Observation{ask("gw1", 1, 2, podA), ask("gw1", 21.9, 22.5, podB)},
		},
		{
			name: "under way when all have settled and answered by the place of its gateway", events: []Event{lost, emptied},
			asked: []Observation{ask("gw1", 1, 2, podA), ask("gw2", 12, 13, podB), ask("gw2", 21.9, 22.5, podB), ask("gw1", 30, 31, podA)},
		},
		{
			name: "forgotten by all and placed where it drains", want: 1, why: "takes no new",
			events: append(restart("gw1", 5), lost, emptied, on(24, Draining, Event{Endpoint: podB})),
			asked:  []Observation{ask("gw1", 1, 2, podA), ask("gw1", 30, 31, podB)},
		},
		{
			name: "new without the store, and placed by two gateways that know the same", events: []Event{lost, emptied}, want: 1,
			why:   "from the same endpoints",
			asked: []Observation{ask("gw1", 12, 13, podA), ask("gw2", 13, 14, podB)},
		},
		{
			name:   "new without the store, and placed by two gateways that do not know the same",
			events: []Event{lost, on(11.5, Weighted, Event{Revision: "demo-00001", Weight: 50}), emptied},
			asked:  []Observation{ask("gw1", 12, 13, podA), ask("gw2", 13, 14, podB)},
		},
		{
			name: "new when the store is back, and placed by one gateway that knows of it", events: []Event{lost, emptied},
			asked: []Observation{ask("gw1", 18, 19, podA), ask("gw2", 20.1, 20.2, podB)},
		},
		{
			name: "known by a gateway that took part in its beginning only", events: []Event{lost, back}, want: 1,
			asked: []Observation{ask("gw1", 9.8, 9.9, podA), ask("gw2", 9.85, 9.95, podA), ask("gw2", 12, 13, podB)},
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) { checkVerdict(t, tt) })
	}
}

// carry is a request of a flow, with a session unless that is "", which takes half a second.
func carry(gw, session string, start float64, pod string) Observation {
	o := ask(gw, start, start+0.5, pod)
	o.Session, o.Flow = session, "checkout"
	return o
}

// Gateways that know different flows place the sessions that bring them differently.
func TestNewSessionsThatFollowFlowsNeedNotBePlacedAlike(t *testing.T) {
	events := setup(on(10, StoreLost, Event{}), on(20, StoreRecovered, Event{Emptied: true}))
	asked := []Observation{carry("gw1", "", 1, podA), carry("gw1", "bob", 12, podA), carry("gw2", "bob", 13, podC)}
	if r := Check(events, asked, allowances); !r.OK() {
		t.Errorf("Check = %s, want OK", r)
	}
}

func TestCheckFindsFaultsOfFlows(t *testing.T) {
	weigh := func(at float64, revision string, weight int) Event {
		return on(at, Weighted, Event{Revision: revision, Weight: weight})
	}
	bob := ask("gw1", 1, 2, podC)
	bob.Session = "bob"
	carol := ask("gw1", 1, 2, podA)
	carol.Session = "carol"
	lost, back := on(10, StoreLost, Event{}), on(20, StoreRecovered, Event{})
	emptied := on(20, StoreRecovered, Event{Emptied: true})
	tests := []verdict{
		{
			name: "goes back after a canary grew", want: 1,
			events: []Event{weigh(5, "demo-00001", 50), weigh(5, "demo-00002", 50), weigh(10, "demo-00001", 10), weigh(10, "demo-00002", 90)},
			asked:  []Observation{carry("gw1", "", 1, podC), carry("gw1", "", 7, podC), carry("gw1", "", 12, podA)},
		},
		{
			name:   "a session that lost its revision takes the flow's",
			events: []Event{weigh(10, "demo-00002", 0)},
			asked:  []Observation{bob, carry("gw1", "", 3, podA), carry("gw1", "bob", 13, podB)},
		},
		{
			name: "a session that lost its revision leaves its flow's", want: 1, why: "[demo-00001] holds it",
			events: []Event{weigh(0, "demo-00003", 10), on(0, Added, Event{Endpoint: "demo-00003-e", Revision: "demo-00003"}), weigh(10, "demo-00002", 0)},
			asked:  []Observation{bob, carry("gw1", "", 3, podA), carry("gw1", "bob", 13, "demo-00003-e")},
		},
		{
			name: "bound to neither its own revision nor the session's that brought it", want: 1,
			events: []Event{
				weigh(0, "demo-00003", 10), on(0, Added, Event{Endpoint: "demo-00003-e", Revision: "demo-00003"}),
				weigh(10, "demo-00001", 0), weigh(15, "demo-00001", 50),
			},
			asked: []Observation{bob, carry("gw1", "", 3, podA), carry("gw1", "bob", 12, podC), carry("gw1", "", 20, "demo-00003-e")},
		},
		{
			name:   "bound to the session's that brought it",
			events: []Event{weigh(10, "demo-00001", 0), weigh(15, "demo-00001", 50)},
			asked:  []Observation{bob, carry("gw1", "", 3, podA), carry("gw1", "bob", 12, podC), carry("gw1", "", 20, podC)},
		},
		{
			name: "new and brought by a known session, then elsewhere", want: 1,
			asked: []Observation{bob, carry("gw1", "bob", 3, podC), carry("gw1", "", 5, podA)},
		},
		{
			name: "a gateway that placed it without the store lets a session rewrite it", events: []Event{lost, back}, want: 1,
			asked: []Observation{
				bob, carol, carry("gw1", "", 3, podA), carry("gw2", "", 12, podA), carry("gw2", "bob", 14, podC), carry("gw2", "", 16, podC),
			},
		},
		{
			name: "a gateway that did not know it binds it to the session's", events: []Event{lost, emptied},
			asked: []Observation{bob, carry("gw1", "", 3, podA), carry("gw2", "bob", 12, podC), carry("gw2", "", 14, podC)},
		},
		{
			name: "known where a session brought it", events: []Event{lost, back}, want: 1,
			asked: []Observation{bob, carry("gw1", "", 3, podA), carry("gw2", "bob", 5, podC), carry("gw2", "", 12, podC)},
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) { checkVerdict(t, tt) })
	}
}

func TestARequestThatReachedTwoReplicasIsCounted(t *testing.T) {
	asked := []Observation{ask("gw1", 1, 2, podA), ask("gw1", 12, 13, podB), ask("gw1", 14, 15, podB)}
	for i, o := range []struct {
		instance string
		count    int
	}{{"100", 1}, {"200", 2}, {"200", 3}} {
		asked[i].Instance, asked[i].Count = o.instance, o.count
	}
	events := setup(on(10, Removed, Event{Endpoint: podA}))
	if r := Check(events, asked, allowances); r.Repeated != 2 || r.OK() {
		t.Errorf("Check of counts 1 here and 2, 3 there = %d repeated, OK %t, want 2 and not OK", r.Repeated, r.OK())
	}
	failed := append(asked, ask("gw1", 11, 11.5, ""))
	if r := Check(events, failed, allowances); r.Repeated != 0 {
		t.Errorf("Check with a request that failed before = %d repeated, want 0: it may have been there", r.Repeated)
	}
}

func TestSessionsThatAreOutvotedAreCounted(t *testing.T) {
	events := setup(on(10, StoreLost, Event{}), on(20, StoreRecovered, Event{Emptied: true}))
	asked := []Observation{ask("gw1", 1, 2, podA), ask("gw2", 12, 13, podB), ask("gw1", 30, 31, podB)}
	if r := Check(events, asked, allowances); r.Outvoted != 1 || !r.OK() {
		t.Errorf("Check = %d outvoted, OK %t, want 1 and OK", r.Outvoted, r.OK())
	}
	asked[2] = ask("gw1", 30, 31, podA)
	if r := Check(events, asked, allowances); r.Outvoted != 0 || !r.OK() {
		t.Errorf("Check of one that came back = %d outvoted, OK %t, want 0 and OK", r.Outvoted, r.OK())
	}
}
