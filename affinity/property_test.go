package affinity

import (
	"fmt"
	"reflect"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// A drawn case is any call of Decide: any policy, snapshot, keys and memories, of targets that exist and of some that do not.
type drawn struct {
	policy   *Policy
	snapshot *Snapshot
	request  Request
}

func drawRevision(t *rapid.T, name string) Revision {
	r := Revision{
		Name:   name,
		Weight: rapid.IntRange(0, 100).Draw(t, "weight"),
		State:  RevisionState(rapid.SampledFrom([]int{0, 0, 0, 0, 1, 2}).Draw(t, "revision state")),
		Since:  drawTime(t, "revision since"),
	}
	if rapid.IntRange(0, 3).Draw(t, "tagged") == 0 {
		r.Tags = []string{"canary"}
	}
	endpoints := pods(name, rapid.IntRange(0, 6).Draw(t, "pods"))
	for i := range endpoints {
		e := &endpoints[i]
		e.State = EndpointState(rapid.SampledFrom([]int{0, 0, 0, 1, 2, 3}).Draw(t, "state"))
		e.Since = drawTime(t, "since")
		if e.State == EndpointDraining {
			e.Until = drawTime(t, "until")
		}
		e.Limit = rapid.IntRange(0, 3).Draw(t, "limit")
	}
	r.Pool = NewPool(endpoints)
	return r
}

func drawTime(t *rapid.T, label string) time.Time {
	if s := rapid.IntRange(-6000, 600).Draw(t, label); s > -5900 {
		return noon.Add(time.Duration(s) * time.Second)
	}
	return time.Time{}
}

func drawMemory(t *rapid.T, label string, kind Kind) Memory {
	m := Memory{
		Made:        drawTime(t, label+" made"),
		Expired:     rapid.IntRange(0, 9).Draw(t, label+" expired") == 0,
		Provisional: rapid.IntRange(0, 9).Draw(t, label+" provisional") == 0,
	}
	if n := rapid.IntRange(0, 4).Draw(t, label+" revision"); n > 0 {
		m.Target.Revision = fmt.Sprintf("demo-%05d", n)
		if kind == KindSession {
			m.Target.Endpoint = pod(m.Target.Revision, rapid.IntRange(0, 6).Draw(t, label+" pod"))
		}
	}
	return m
}

func draw(t *rapid.T) drawn {
	p := Policy{
		Session: &SessionAffinity{
			Mode:  rapid.SampledFrom([]SessionMode{ModeBound, ModeHash, ModeToken}).Draw(t, "mode"),
			Place: rapid.SampledFrom([]Placement{PlaceBoundedLoad, PlaceLeastLoaded}).Draw(t, "place"),
		},
		Revision: &RevisionAffinity{Mode: rapid.SampledFrom([]RevisionMode{ModePinned, ModeProportional}).Draw(t, "revision mode")},
		Retain:   Duration(rapid.IntRange(0, 1000).Draw(t, "retain")) * Duration(time.Second),
	}
	var list []Revision
	for n := range rapid.IntRange(0, 3).Draw(t, "revisions") {
		list = append(list, drawRevision(t, fmt.Sprintf("demo-%05d", n+1)))
	}
	counters := newLoads(8)
	for i := range counters.bound {
		counters.bound[i].Store(int64(rapid.IntRange(0, 20).Draw(t, "bound")))
		counters.inFlight[i].Store(int64(rapid.IntRange(0, 4).Draw(t, "in flight")))
	}
	r := Request{Now: noon, Loads: counters, Random: rapid.Uint64().Draw(t, "random")}
	if rapid.Bool().Draw(t, "has session") {
		r.Session = sessionKey(rapid.IntRange(0, 1000).Draw(t, "session"))
		r.SessionMemory = drawMemory(t, "session", KindSession)
	}
	if rapid.Bool().Draw(t, "has flow") {
		r.Flow = flowKey(rapid.IntRange(0, 1000).Draw(t, "flow"))
		r.FlowMemory = drawMemory(t, "flow", KindFlow)
	}
	if rapid.IntRange(0, 3).Draw(t, "has tag") == 0 {
		r.Tag = "canary"
	}
	r.Degraded = rapid.Bool().Draw(t, "degraded")
	r.Settled = rapid.Bool().Draw(t, "settled")
	if rapid.IntRange(0, 3).Draw(t, "avoids") == 0 {
		r.Avoid = []string{pod("demo-00001", 0), pod("demo-00002", 1)}
	}
	return drawn{p.WithDefaults(), NewSnapshot(demo, list, rapid.Bool().Draw(t, "synced")), r}
}

func TestEqualArgumentsGiveEqualDecisionsAndStayAsTheyAre(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		c := draw(t)
		policy, snapshot, avoid := *c.policy, copySnapshot(c.snapshot), slices.Clone(c.request.Avoid)
		first, err := Decide(c.policy, c.snapshot, c.request)
		again, errAgain := Decide(c.policy, c.snapshot, c.request)
		if first != again || err != errAgain {
			t.Fatalf("Decide = %+v, %v, then %+v, %v", first, err, again, errAgain)
		}
		same, _ := Decide(c.policy, snapshot, c.request) // another gateway with an equal snapshot
		if same.Target != first.Target || same.Reason != first.Reason || same.Bind != first.Bind {
			t.Fatalf("Decide = %+v here and %+v on another gateway", first, same)
		}
		if !reflect.DeepEqual(policy, *c.policy) || !reflect.DeepEqual(snapshot, c.snapshot) || !slices.Equal(avoid, c.request.Avoid) {
			t.Fatalf("Decide changed its arguments")
		}
	})
}

func copySnapshot(s *Snapshot) *Snapshot {
	list := slices.Clone(s.Revisions)
	slices.Reverse(list) // the order in which a source lists them does not matter
	for i := range list {
		endpoints := slices.Clone(list[i].Pool.Endpoints)
		slices.Reverse(endpoints)
		list[i].Pool = NewPool(endpoints)
	}
	return NewSnapshot(s.Service, list, s.Synced)
}

func TestDecisionsKeepTheirPromises(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		c := draw(t)
		d, err := Decide(c.policy, c.snapshot, c.request)
		switch {
		case err != nil:
			if d != (Decision{}) {
				t.Fatalf("Decide = %+v with the error %v, want the zero Decision", d, err)
			}
			return
		case !d.WaitUntil.IsZero():
			if d != (Decision{WaitUntil: d.WaitUntil}) || c.request.Settled || !d.WaitUntil.After(noon) {
				t.Fatalf("Decide = %+v, want to wait only for what is not settled, until later, and nothing else", d)
			}
			return
		}
		r := c.snapshot.Revision(d.Target.Revision)
		if r == nil || r.State == RevisionFailed {
			t.Fatalf("Decide = %+v, whose revision is %+v", d, r)
		}
		if c.request.Tag != "" && !slices.Contains(r.Tags, c.request.Tag) {
			t.Fatalf("Decide = %+v, whose revision does not carry the addressed tag", d)
		}
		checkEndpoint(t, c, d, r)
		checkBind(t, c, d)
	})
}

func checkEndpoint(t *rapid.T, c drawn, d Decision, r *Revision) {
	if d.Endpoint == nil {
		if d.Target.Endpoint != "" || d.Bind == BindSession {
			t.Fatalf("Decide = %+v, want no endpoint in Target and none bound", d)
		}
		return
	}
	if d.Endpoint != r.Pool.Endpoint(d.Target.Endpoint) || slices.Contains(c.request.Avoid, d.Endpoint.Name) {
		t.Fatalf("Decide = %+v, want an endpoint of the chosen revision that is not avoided", d)
	}
	held := d.Target == c.request.SessionMemory.Target && d.Endpoint.State == EndpointDraining
	if d.Endpoint.State != EndpointReady && !held {
		t.Fatalf("Decide = %+v, whose endpoint is %v", d, d.Endpoint.State)
	}
}

func checkBind(t *rapid.T, c drawn, d Decision) {
	r := c.request
	switch d.Bind {
	case BindFlow:
		if r.Flow.IsZero() || c.policy.Revision.Mode == ModeProportional || d.Target.Endpoint != "" || d.Target == r.FlowMemory.Target && !r.FlowMemory.Expired {
			t.Fatalf("Decide = %+v for %+v, want a flow bound to another revision than before", d, r)
		}
	case BindSession:
		if r.Session.IsZero() || c.policy.Session.Mode == ModeHash || d.Target == r.SessionMemory.Target && !r.SessionMemory.Expired {
			t.Fatalf("Decide = %+v for %+v, want a session bound to another endpoint than before", d, r)
		}
	}
}

func TestValidSessionNeverMoves(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		c := draw(t)
		c.policy.Session.Mode = ModeBound
		if len(c.snapshot.Revisions) == 0 {
			t.Skip()
		}
		r := &c.snapshot.Revisions[0]
		if r.State != RevisionActive || r.Weight == 0 || r.Pool.Ready() == 0 || c.request.Tag != "" {
			t.Skip()
		}
		held := r.Pool.Endpoints[r.Pool.ready[0].at].Name
		if slices.Contains(c.request.Avoid, held) {
			t.Skip()
		}
		c.request.Session = sessionKey(1)
		c.request.SessionMemory = Memory{Target: Target{Revision: r.Name, Endpoint: held}, Made: drawTime(t, "made")}
		d, err := Decide(c.policy, c.snapshot, c.request)
		if err != nil || d.Target.Revision != r.Name || d.Bind == BindSession || d.Bind == BindNothing && d.Target.Endpoint != held {
			t.Fatalf("Decide = %+v, %v, want %s/%s", d, err, r.Name, held)
		}
	})
}

// Whatever two gateways know, a request is decided in at most three rounds of remembering.
func TestRoundsAreFew(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		c := draw(t)
		c.request.Settled = true
		for range 3 {
			d, err := Decide(c.policy, c.snapshot, c.request)
			if err != nil || d.Bind == BindNothing {
				return
			}
			m := &c.request.FlowMemory
			if d.Bind == BindSession {
				m = &c.request.SessionMemory
			}
			*m = Memory{Target: d.Target, Made: noon}
		}
		t.Fatalf("Decide still asks to bind in the third round")
	})
}

func TestChangeOfTwoWeightsMovesFlowsOneWayOnly(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		weights := rapid.SliceOfN(rapid.IntRange(1, 1000), 4, 4).Draw(t, "weights")
		before, after := split(weights[0], weights[1]), split(weights[2], weights[3])
		grows := "demo-00001"
		if weights[3]*weights[0] > weights[1]*weights[2] {
			grows = "demo-00002"
		}
		p := Policy{Revision: &RevisionAffinity{Mode: ModeProportional}}.WithDefaults()
		first := rapid.IntRange(0, 1<<30).Draw(t, "first flow")
		for n := range 200 {
			r := Request{Flow: flowKey(first + n), Now: noon}
			from, _ := Decide(p, before, r)
			to, _ := Decide(p, after, r)
			if from.Target.Revision != to.Target.Revision && to.Target.Revision != grows {
				t.Fatalf("weights %v: flow %d went from %v to %v, whose share shrank", weights, first+n, from.Target, to.Target)
			}
		}
	})
}

func TestOnlySessionsOfARemovedPodMoveInModeHash(t *testing.T) {
	p := Policy{Session: &SessionAffinity{Mode: ModeHash}}.WithDefaults()
	rapid.Check(t, func(t *rapid.T) {
		endpoints := pods("demo-00001", rapid.IntRange(2, 20).Draw(t, "pods"))
		gone := rapid.IntRange(0, len(endpoints)-1).Draw(t, "gone")
		before := onePool(endpoints)
		after := onePool(slices.Delete(slices.Clone(endpoints), gone, gone+1))
		first := rapid.IntRange(0, 1<<30).Draw(t, "first session")
		for n := range 100 {
			r := Request{Session: sessionKey(first + n), Now: noon}
			from, _ := Decide(p, before, r)
			to, _ := Decide(p, after, r)
			if from.Target != to.Target && from.Target.Endpoint != endpoints[gone].Name {
				t.Fatalf("session %d went from %v to %v though %s was removed", first+n, from.Target, to.Target, endpoints[gone].Name)
			}
		}
	})
}
