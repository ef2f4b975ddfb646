package affinity

import (
	"errors"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestSessionStaysWhileItsTargetIsValid(t *testing.T) {
	bound := Decision{Target: firstPod, Reason: ReasonBound}
	draining := func(until time.Time) func(*view) {
		return func(v *view) {
			e := &v.pods[0][0]
			e.State, e.Since, e.Until = EndpointDraining, noon.Add(-time.Minute), until
		}
	}
	runAll(t, []scene{
		{name: "a known session goes where it was", request: session(firstPod), want: bound},
		{name: "a session of the canary stays in the canary", request: session(canaryPod), want: Decision{Target: canaryPod, Reason: ReasonBound}},
		{name: "weights do not matter as long as there is one", edit: weight(0, 1, justNow), request: session(firstPod), want: bound},
		{name: "draining keeps its sessions", edit: draining(time.Time{}), request: session(firstPod), want: bound},
		{name: "draining keeps its sessions until the deadline", edit: draining(noon.Add(1)), request: session(firstPod), want: bound},
		{
			name: "at the drain deadline sessions move within the revision", edit: draining(noon), request: session(firstPod),
			want: Decision{Target: plainPod("demo-00001", firstPod.Endpoint), Reason: ReasonEndpointGone, Bind: BindSession},
		},
		{name: "before the first synchronisation what is listed is valid", edit: unsynced, request: session(firstPod), want: bound},
		{
			name: "a provisional memory counts but is degraded", request: all(session(firstPod), provisional),
			want: Decision{Target: firstPod, Reason: ReasonDegraded},
		},
		{name: "a memory that is confirmed is bound, even while the store is away", request: all(session(firstPod), degraded), want: bound},
	})
}

func TestSessionMovesWithinItsRevisionIfItsEndpointIsGone(t *testing.T) {
	moved := Decision{Target: plainPod("demo-00001", firstPod.Endpoint), Reason: ReasonEndpointGone, Bind: BindSession}
	lost := func(s EndpointState) func(*view) { return endpointState(0, 0, s, noon.Add(-time.Minute)) }
	runAll(t, []scene{
		{name: "replica down", edit: lost(EndpointDown), request: session(firstPod), want: moved},
		{name: "replica gone", edit: lost(EndpointGone), request: session(firstPod), want: moved},
		{name: "replica forgotten, binding old", edit: unlistPod(0, 0), request: session(firstPod), want: moved},
		{name: "replica that could not be reached", request: all(session(firstPod), avoid(firstPod.Endpoint)), want: moved},
		{name: "the flow's other revision does not matter", edit: lost(EndpointGone), request: all(session(firstPod), flow(flowAway)), want: moved},
		{
			name: "a new flow is bound to the session's revision first", edit: edits(lost(EndpointGone), weight(0, 1, longAgo)),
			request: all(session(firstPod), flow(none)), want: Decision{Target: flowHome, Reason: ReasonEndpointGone, Bind: BindFlow},
		},
		{
			name: "revision scaled to zero is waited for", edit: scaledToZero(0), request: session(firstPod),
			want: Decision{Target: flowHome, Reason: ReasonEndpointGone},
		},
		{
			name:    "all replicas of the revision could not be reached",
			request: all(session(firstPod), avoid(pod("demo-00001", 0), pod("demo-00001", 1), pod("demo-00001", 2))),
			want:    Decision{Target: flowHome, Reason: ReasonEndpointGone},
		},
	})
}

// Protects against prototype defect 26: a revision is no valid target just because the object exists.
func TestRevisionWithoutWeightFailedOrRemovedIsLeft(t *testing.T) {
	left := Decision{Target: plainPod("demo-00001"), Reason: ReasonRevisionGone, Bind: BindSession}
	since := noon.Add(-time.Minute)
	runAll(t, []scene{
		{name: "weight 0", edit: weight(1, 0, since), request: session(canaryPod), want: left},
		{name: "failed", edit: state(1, RevisionFailed, since), request: session(canaryPod), want: left},
		{name: "removed", edit: state(1, RevisionRemoved, since), request: session(canaryPod), want: left},
		{name: "forgotten, binding old", edit: unlist(1), request: session(canaryPod), want: left},
		{
			name: "the flow's revision comes first", edit: state(1, RevisionRemoved, since),
			request: all(session(canaryPod), flow(flowHome)), want: left,
		},
		{
			name: "the flow is bound anew first", edit: state(1, RevisionRemoved, since), request: all(session(canaryPod), flow(flowAway)),
			want: Decision{Target: flowHome, Reason: ReasonRevisionGone, Bind: BindFlow},
		},
		{
			name: "weight 0 for a flow", edit: weight(1, 0, since), request: flow(flowAway),
			want: Decision{Target: flowHome, Reason: ReasonRevisionGone, Bind: BindFlow},
		},
		{
			name: "no other revision", edit: edits(state(1, RevisionRemoved, since), weight(0, 0, longAgo)), request: session(canaryPod),
			err: ErrNoRevision,
		},
		{
			name: "no revision for a request without ids", edit: edits(weight(0, 0, longAgo), weight(1, 0, longAgo)), request: session(none),
			err: ErrNoRevision,
		},
	})
}

// Protects against prototype defect 20's cause: a target that this gateway has not seen yet is no reason to move a session.
func TestUnknownIsNotGone(t *testing.T) {
	fresh := all(session(firstPod), boundJustNow)
	moved := Decision{Target: plainPod("demo-00001", firstPod.Endpoint), Reason: ReasonEndpointGone, Bind: BindSession}
	canary := all(session(canaryPod), boundJustNow)
	split := Decision{Target: plainPod("demo-00001"), Reason: ReasonRevisionGone, Bind: BindSession}
	runAll(t, []scene{
		{name: "a fresh session's endpoint that was never listed here", edit: unlistPod(0, 0), request: fresh, want: waits},
		{name: "a fresh session's endpoint that went before it was bound", edit: endpointState(0, 0, EndpointGone, hourAgo), request: fresh, want: waits},
		{name: "a fresh session's endpoint that is not ready here yet", edit: endpointState(0, 0, EndpointDown, time.Time{}), request: fresh, want: waits},
		{name: "a fresh session's endpoint that went after it was bound", edit: endpointState(0, 0, EndpointGone, noon), request: fresh, want: moved},
		{name: "a fresh session's endpoint that went the moment it was bound", edit: endpointState(0, 0, EndpointGone, justNow), request: fresh, want: waits},
		{name: "a drain that ended after the session was bound", edit: func(v *view) {
			e := &v.pods[0][0]
			e.State, e.Since, e.Until = EndpointDraining, hourAgo, justNow.Add(1)
		}, request: fresh, want: moved},
		{
			name: "before the first synchronisation nothing is gone", edit: edits(unsynced, endpointState(0, 0, EndpointGone, noon)),
			request: fresh, want: waits,
		},
		{name: "after the wait the endpoint is gone", edit: unlistPod(0, 0), request: all(fresh, settled), want: moved},
		{
			name: "when settle is over the endpoint is gone", edit: unlistPod(0, 0),
			request: all(fresh, func(r *Request) { r.Now = waits.WaitUntil }), want: moved,
		},
		{name: "a fresh session's revision that was never listed here", edit: unlist(1), request: canary, want: waits},
		{name: "a fresh session's revision whose weight came after all", edit: weight(1, 0, hourAgo), request: canary, want: waits},
		{name: "a fresh session's revision whose weight went", edit: weight(1, 0, noon), request: canary, want: split},
		{name: "after the wait the revision is gone", edit: unlist(1), request: all(canary, settled), want: split},
		{name: "a fresh flow's revision", edit: unlist(1), request: all(flow(flowAway), boundJustNow), want: waits},
		{name: "a new session waits for its fresh flow", edit: unlist(1), request: all(session(none), flow(flowAway), boundJustNow), want: waits},
		{
			name: "a valid session does not wait for its fresh flow and leaves it", edit: unlist(1),
			request: all(session(firstPod), flow(flowAway), boundJustNow), want: Decision{Target: firstPod, Reason: ReasonBound},
		},
		{name: "a drain that ended before the session was bound", edit: func(v *view) {
			e := &v.pods[0][0]
			e.State, e.Since, e.Until = EndpointDraining, longAgo, hourAgo
		}, request: fresh, want: waits},
		{name: "an endpoint that could not be reached is not waited for", request: all(fresh, avoid(firstPod.Endpoint)), want: moved},
	})
}

func TestSessionAndFlowInOneRequest(t *testing.T) {
	runAll(t, []scene{
		{
			name: "a valid session decides and leaves a valid flow", request: all(session(firstPod), flow(flowAway)),
			want: Decision{Target: firstPod, Reason: ReasonBound},
		},
		{
			name: "a new flow beside a valid session is bound to the session's revision", request: all(session(canaryPod), flow(none)),
			want: Decision{Target: flowAway, Reason: ReasonBound, Bind: BindFlow},
		},
		{
			name: "an expired flow beside a valid session too", request: all(session(canaryPod), flow(flowHome), expiredFlow),
			want: Decision{Target: flowAway, Reason: ReasonBound, Bind: BindFlow},
		},
		{
			name: "a new session takes the revision of its flow", request: all(session(none), flow(flowAway)),
			want: Decision{Target: plainPod("demo-00002"), Reason: ReasonNew, Bind: BindSession},
		},
		{
			name: "both new: the flow is bound first", request: all(session(none), flow(none)),
			want: Decision{Target: flowHome, Reason: ReasonNew, Bind: BindFlow},
		},
		{
			name: "both expired: the flow is bound first", request: all(session(canaryPod), expiredSession, flow(flowAway), expiredFlow),
			want: Decision{Target: flowHome, Reason: ReasonExpired, Bind: BindFlow},
		},
		{
			name: "an expired session takes the revision of its flow", request: all(session(firstPod), expiredSession, flow(flowAway)),
			want: Decision{Target: plainPod("demo-00002"), Reason: ReasonExpired, Bind: BindSession},
		},
	})
}

func TestFlowStaysOnItsRevision(t *testing.T) {
	random := func(revision string) Target {
		v := demoView()
		e := choice{request: &Request{Random: 7}}.spread(v.snapshot().Revision(revision).Pool)
		return Target{Revision: revision, Endpoint: e.Name}
	}
	runAll(t, []scene{
		{name: "a new flow is bound to a revision alone", request: flow(none), want: Decision{Target: flowHome, Reason: ReasonNew, Bind: BindFlow}},
		{name: "a known flow goes to any pod of its revision", request: flow(flowAway), want: Decision{Target: random("demo-00002"), Reason: ReasonBound}},
		{
			name: "an expired flow is bound anew", request: all(flow(flowAway), expiredFlow),
			want: Decision{Target: flowHome, Reason: ReasonExpired, Bind: BindFlow},
		},
		{
			name: "a revision scaled to zero is valid", edit: scaledToZero(1), request: flow(flowAway),
			want: Decision{Target: flowAway, Reason: ReasonBound},
		},
		{
			name: "a new flow may be bound to a revision scaled to zero", edit: scaledToZero(0), request: flow(none),
			want: Decision{Target: flowHome, Reason: ReasonNew, Bind: BindFlow},
		},
		{
			name: "while the store is away a new flow is degraded", request: all(flow(none), degraded),
			want: Decision{Target: flowHome, Reason: ReasonDegraded, Bind: BindFlow},
		},
		{
			name: "a provisional flow is degraded", request: all(flow(flowAway), provisional),
			want: Decision{Target: random("demo-00002"), Reason: ReasonDegraded},
		},
	})
}

func TestNewSessionIsPlacedAndBound(t *testing.T) {
	runAll(t, []scene{
		{
			name: "by rendezvous while nothing is loaded", request: session(none),
			want: Decision{Target: plainPod("demo-00001"), Reason: ReasonNew, Bind: BindSession},
		},
		{name: "not on a draining pod", edit: func(v *view) {
			for i := range v.pods[0] {
				if v.pods[0][i].Name != secondPod.Endpoint {
					v.pods[0][i].State = EndpointDraining
				}
			}
		}, request: session(none), want: Decision{Target: secondPod, Reason: ReasonNew, Bind: BindSession}},
		{
			name: "a revision scaled to zero is waited for, nothing is bound", edit: scaledToZero(0), request: session(none),
			want: Decision{Target: flowHome, Reason: ReasonNew},
		},
		{
			name: "while the store is away it is degraded", request: all(session(none), degraded),
			want: Decision{Target: plainPod("demo-00001"), Reason: ReasonDegraded, Bind: BindSession},
		},
		{
			name: "an expired session says so", request: all(session(canaryPod), expiredSession),
			want: Decision{Target: plainPod("demo-00001"), Reason: ReasonExpired, Bind: BindSession},
		},
		{
			name: "an expired session says so even while the store is away", request: all(session(canaryPod), expiredSession, degraded),
			want: Decision{Target: plainPod("demo-00001"), Reason: ReasonExpired, Bind: BindSession},
		},
		{
			name: "in mode token as in mode bound", policy: Policy{Session: &SessionAffinity{Mode: ModeToken}}, request: session(none),
			want: Decision{Target: plainPod("demo-00001"), Reason: ReasonNew, Bind: BindSession},
		},
	})
}

func TestModeHashRemembersNothing(t *testing.T) {
	hash := Policy{Session: &SessionAffinity{Mode: ModeHash}, Revision: &RevisionAffinity{}}
	runAll(t, []scene{
		{name: "the session's own hash decides", policy: hash, request: session(none), want: Decision{Target: plainPod("demo-00001"), Reason: ReasonNone}},
		{
			name: "a memory of before the mode was set does not count", policy: hash, request: session(canaryPod),
			want: Decision{Target: plainPod("demo-00001"), Reason: ReasonNone},
		},
		{
			name: "the revision is the flow's", policy: hash, request: all(session(none), flow(flowAway)),
			want: Decision{Target: plainPod("demo-00002"), Reason: ReasonBound},
		},
		{
			name: "a new flow is bound first", policy: hash, request: all(session(none), flow(none)),
			want: Decision{Target: flowHome, Reason: ReasonNew, Bind: BindFlow},
		},
		{
			name: "a pod that could not be reached is passed over", policy: hash, request: all(session(none), avoid(plainPod("demo-00001").Endpoint)),
			want: Decision{Target: plainPod("demo-00001", plainPod("demo-00001").Endpoint), Reason: ReasonNone},
		},
		{
			name: "a store that is away does not matter", policy: hash, request: all(session(none), degraded),
			want: Decision{Target: plainPod("demo-00001"), Reason: ReasonNone},
		},
	})
}

// Protects against prototype defect 27: weight changes reach flows.
func TestProportionalGovernsFlowsAndNewSessionsOnly(t *testing.T) {
	proportional := Policy{Session: &SessionAffinity{}, Revision: &RevisionAffinity{Mode: ModeProportional}}
	promoted := edits(weight(0, 0, justNow), weight(1, 100, justNow))
	runAll(t, []scene{
		{
			name: "a flow follows the weights and nothing is bound", policy: proportional, edit: scaledToZero(0), request: flow(none),
			want: Decision{Target: flowHome, Reason: ReasonNone},
		},
		{
			name: "a promotion moves flows at once", policy: proportional, edit: edits(promoted, scaledToZero(1)), request: flow(flowHome),
			want: Decision{Target: flowAway, Reason: ReasonNone},
		},
		{
			name: "a new session takes the flow's revision", policy: proportional, edit: promoted, request: all(session(none), flow(none)),
			want: Decision{Target: plainPod("demo-00002"), Reason: ReasonNew, Bind: BindSession},
		},
		{
			name: "a valid session stays, and no flow is bound", policy: proportional, request: all(session(canaryPod), flow(none)),
			want: Decision{Target: canaryPod, Reason: ReasonBound},
		},
	})
}

// Protects against prototype defect 28: a request to a tag is answered by the tag's revision.
func TestTagIsNeverOverridden(t *testing.T) {
	canary := tag("canary")
	runAll(t, []scene{
		{name: "a request without ids", edit: scaledToZero(1), request: canary, want: Decision{Target: flowAway, Reason: ReasonTag}},
		{
			name: "a new session is bound within the tag's revision", request: all(canary, session(none)),
			want: Decision{Target: plainPod("demo-00002"), Reason: ReasonNew, Bind: BindSession},
		},
		{
			name: "a session bound elsewhere does not count", request: all(canary, session(firstPod)),
			want: Decision{Target: plainPod("demo-00002"), Reason: ReasonRevisionGone, Bind: BindSession},
		},
		{
			name: "a flow bound elsewhere does not count", request: all(canary, flow(flowHome)),
			want: Decision{Target: flowAway, Reason: ReasonRevisionGone, Bind: BindFlow},
		},
		{name: "a session of the tag stays", request: all(canary, session(canaryPod)), want: Decision{Target: canaryPod, Reason: ReasonBound}},
		{
			name: "the weight of a tag's revision does not matter", edit: weight(1, 0, longAgo), request: all(canary, session(canaryPod)),
			want: Decision{Target: canaryPod, Reason: ReasonBound},
		},
		{
			name: "in mode hash the tag decides", policy: Policy{Session: &SessionAffinity{Mode: ModeHash}}, request: all(canary, session(none)),
			want: Decision{Target: plainPod("demo-00002"), Reason: ReasonTag},
		},
		{
			name: "retain does not hold against a tag that moved", policy: Policy{Retain: Duration(time.Hour)},
			edit: edits(weight(1, 5, noon.Add(-time.Minute)), func(v *view) {
				v.revisions[0].Tags, v.revisions[1].Tags = []string{"canary"}, nil
			}),
			request: all(canary, session(canaryPod)), want: Decision{Target: plainPod("demo-00001"), Reason: ReasonRevisionGone, Bind: BindSession},
		},
		{name: "a tag that nobody carries", request: tag("blue"), err: ErrUnknownTag},
		{name: "a tag that only a removed revision carries", edit: state(1, RevisionRemoved, justNow), request: canary, err: ErrUnknownTag},
		{name: "a tag that a failed revision carries", edit: state(1, RevisionFailed, justNow), request: canary, err: ErrNoRevision},
	})
}

func TestRevisionsOfOneTagShareItsTrafficEqually(t *testing.T) {
	v := demoView()
	v.revisions[0].Tags = []string{"canary"}
	s, counts := v.snapshot(), map[string]int{}
	for n := range 20_000 {
		counts[decide(t, nil, s, Request{Tag: "canary", Random: mix(uint64(n)), Now: noon}).Target.Revision]++
	}
	if n := counts["demo-00001"]; n < 9_600 || n > 10_400 { // five standard deviations are 354
		t.Errorf("demo-00001 gets %d of 20000 requests to the tag, want half", n)
	}
}

func TestRetainKeepsWhatIsBoundForABoundedTime(t *testing.T) {
	retain := Policy{Retain: Duration(10 * time.Minute)}
	within, over := noon.Add(-10*time.Minute+1), noon.Add(-10*time.Minute)
	bound := Decision{Target: canaryPod, Reason: ReasonBound}
	left := Decision{Target: plainPod("demo-00001"), Reason: ReasonRevisionGone, Bind: BindSession}
	runAll(t, []scene{
		{name: "weight 0", policy: retain, edit: weight(1, 0, within), request: session(canaryPod), want: bound},
		{name: "removed", policy: retain, edit: state(1, RevisionRemoved, within), request: session(canaryPod), want: bound},
		{name: "weight 0 for longer than that", policy: retain, edit: weight(1, 0, over), request: session(canaryPod), want: left},
		{name: "removed for longer than that", policy: retain, edit: state(1, RevisionRemoved, over), request: session(canaryPod), want: left},
		{name: "failed at once", policy: retain, edit: state(1, RevisionFailed, within), request: session(canaryPod), want: left},
		{
			name: "a flow too", policy: retain, edit: edits(weight(1, 0, within), scaledToZero(1)), request: flow(flowAway),
			want: Decision{Target: flowAway, Reason: ReasonBound},
		},
		{
			name: "nothing new", policy: retain, edit: weight(0, 0, within), request: session(none),
			want: Decision{Target: plainPod("demo-00002"), Reason: ReasonNew, Bind: BindSession},
		},
		{
			name: "a session whose pod went stays in the revision", policy: retain,
			edit: edits(state(1, RevisionRemoved, within), endpointState(1, 0, EndpointGone, within)), request: session(canaryPod),
			want: Decision{Target: plainPod("demo-00002", canaryPod.Endpoint), Reason: ReasonEndpointGone, Bind: BindSession},
		},
	})
}

// Protects against prototype defect 30: an address that is used again by another pod is no reason to send it the session.
func TestEndpointIsAnIdentityNotAnAddress(t *testing.T) {
	scene{
		edit: func(v *view) {
			v.pods[0][0].State, v.pods[0][0].Since = EndpointGone, noon.Add(-time.Minute)
			v.pods[0] = append(v.pods[0], Endpoint{Name: pod("demo-00001", 99), Address: v.pods[0][0].Address, State: EndpointDown})
		},
		request: session(firstPod),
		want:    Decision{Target: plainPod("demo-00001", firstPod.Endpoint), Reason: ReasonEndpointGone, Bind: BindSession},
	}.run(t)
}

func TestNoEndpointTellsWaitingFromServing(t *testing.T) {
	p := Policy{}.WithDefaults()
	empty := NewSnapshot(demo, []Revision{{Name: "demo-00001", Weight: 1}}, true)
	for _, c := range []struct {
		name    string
		s       *Snapshot
		request func(*Request)
		want    bool
	}{
		{"a session of a revision scaled to zero", empty, session(none), true},
		{"a request without ids to a revision scaled to zero", empty, all(), true},
		{"a flow that has to be bound first", empty, flow(none), false},
		{"a session that has a pod", split(1), session(none), false},
		{"a fresh session whose target is unknown", split(1), all(session(canaryPod), boundJustNow), false},
	} {
		r := Request{Now: noon}
		c.request(&r)
		if d := decide(t, p, c.s, r); d.NoEndpoint() != c.want {
			t.Errorf("%s: NoEndpoint() of %+v = %v, want %v", c.name, d, d.NoEndpoint(), c.want)
		}
	}
	if (Decision{}).NoEndpoint() {
		t.Errorf("NoEndpoint() of the zero Decision = true, want false")
	}
}

func TestDecideWithoutASnapshotHasNoRevision(t *testing.T) {
	if _, err := Decide(nil, nil, Request{}); !errors.Is(err, ErrNoRevision) {
		t.Errorf("Decide(nil, nil) = %v, want %v", err, ErrNoRevision)
	}
}

// A caller keeps the reason of the first decision that asked to bind; the last one finds what was bound.
func TestRoundsEndWithWhatWasBound(t *testing.T) {
	p, s := Policy{}.WithDefaults(), demoView().snapshot()
	r := Request{Now: noon, Session: sessionKey(1), Flow: flowKey(1)}
	var binds []Bind
	var reasons []Reason
	for range 3 {
		d := decide(t, p, s, r)
		binds, reasons = append(binds, d.Bind), append(reasons, d.Reason)
		switch d.Bind {
		case BindFlow:
			r.FlowMemory = Memory{Target: d.Target, Made: noon}
		case BindSession:
			r.SessionMemory = Memory{Target: d.Target, Made: noon}
		}
	}
	if diff := cmp.Diff([]Bind{BindFlow, BindSession, BindNothing}, binds); diff != "" {
		t.Errorf("binds (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]Reason{ReasonNew, ReasonNew, ReasonBound}, reasons); diff != "" {
		t.Errorf("reasons (-want +got):\n%s", diff)
	}
}
