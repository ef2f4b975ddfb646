package affinity

import (
	"math"
	"testing"
)

// place decides for new sessions one after another, each bound to where it was placed, and returns how many each pod got.
func place(t *testing.T, p *Policy, s *Snapshot, counters *loads, from, count int) map[string]int {
	t.Helper()
	counts := map[string]int{}
	for n := from; n < from+count; n++ {
		d := decide(t, p, s, Request{Session: sessionKey(n), Loads: counters, Now: noon})
		if d.Bind != BindSession {
			t.Fatalf("Decide(session %d) = %+v, want it to bind the session", n, d)
		}
		counts[d.Target.Endpoint]++
		counters.bound[d.Endpoint.Slot].Add(1)
	}
	return counts
}

func onePool(endpoints []Endpoint) *Snapshot {
	return NewSnapshot(demo, []Revision{{Name: "demo-00001", Weight: 1, Pool: NewPool(endpoints)}}, true)
}

func TestBoundedLoadKeepsEveryPodWithinTheFactorOfTheMean(t *testing.T) {
	for _, factor := range []float64{1, 1.05, 1.25, 2} {
		p := Policy{Session: &SessionAffinity{LoadFactor: factor}}.WithDefaults()
		counts := place(t, p, onePool(pods("demo-00001", 10)), newLoads(10), 0, 1000)
		for name, n := range counts {
			if most := int(math.Ceil(factor * 100)); n > most {
				t.Errorf("with factor %v pod %s holds %d of 1000 sessions, want at most %d", factor, name, n, most)
			}
		}
	}
}

// Ten pods hold 100 sessions each. With a factor of 1.05 an eleventh gets all until the bound, 1.05 times a mean of 91 that
// grows, reaches 100 at 1047 sessions.
func TestNewReplicaFillsUp(t *testing.T) {
	p := Policy{Session: &SessionAffinity{LoadFactor: 1.05}}.WithDefaults()
	endpoints, counters := pods("demo-00001", 11), newLoads(11)
	for slot := range 10 {
		counters.bound[slot].Store(100)
	}
	if got := place(t, p, onePool(endpoints), counters, 0, 47)[endpoints[10].Name]; got != 47 {
		t.Errorf("the new pod got %d of the first 47 sessions, want all", got)
	}
	if got := place(t, p, onePool(endpoints), counters, 47, 1000)[endpoints[10].Name]; got > 200 {
		t.Errorf("the new pod got %d of the next 1000 sessions, want about its share", got)
	}
}

func TestBoundedLoadPassesOverPodsThatAreBusy(t *testing.T) {
	p, endpoints := Policy{}.WithDefaults(), pods("demo-00001", 4)
	for busy := range endpoints {
		counters := newLoads(4)
		counters.inFlight[busy].Store(100)
		for n := range 200 {
			d := decide(t, p, onePool(endpoints), Request{Session: sessionKey(n), Loads: counters, Now: noon})
			if d.Target.Endpoint == endpoints[busy].Name {
				t.Fatalf("Decide(session %d) = %v, which has all 100 requests in flight", n, d.Target)
			}
		}
	}
}

func TestPodAtItsLimitGetsNoSessionWhileAnotherIsBelow(t *testing.T) {
	for _, place := range []Placement{PlaceBoundedLoad, PlaceLeastLoaded} {
		p := Policy{Session: &SessionAffinity{Place: place}}.WithDefaults()
		endpoints, counters := pods("demo-00001", 5), newLoads(5)
		for i := range endpoints {
			endpoints[i].Limit = 2
			counters.inFlight[i].Store(2)
		}
		endpoints[3].Limit = 10 // it is the busiest, yet not full
		free := endpoints[3]
		counters.inFlight[3].Store(9)
		counters.bound[3].Store(1000) // far above the bound
		for n := range 200 {
			if d := decide(t, p, onePool(endpoints), Request{Session: sessionKey(n), Loads: counters, Now: noon}); d.Target.Endpoint != free.Name {
				t.Fatalf("%s: Decide(session %d) = %v, want %s, the only pod below its limit", place, n, d.Target, free.Name)
			}
		}
		for n := range 200 {
			d := decide(t, p, onePool(endpoints), Request{Random: mix(uint64(n)), Loads: counters, Now: noon})
			if d.Target.Endpoint != free.Name {
				t.Fatalf("Decide(request %d without an id) = %v, want %s, the only pod below its limit", n, d.Target, free.Name)
			}
		}
	}
}

func TestIfAllPodsAreAboveTheBoundPlainRendezvousDecides(t *testing.T) {
	p, endpoints, counters := Policy{}.WithDefaults(), pods("demo-00001", 2), newLoads(2)
	counters.bound[0].Store(100) // the one is above the bound of sessions, the other above that of requests
	counters.inFlight[1].Store(100)
	hash := Policy{Session: &SessionAffinity{Mode: ModeHash}}.WithDefaults()
	for n := range 200 {
		r := Request{Session: sessionKey(n), Loads: counters, Now: noon}
		got, want := decide(t, p, onePool(endpoints), r), decide(t, hash, onePool(endpoints), r)
		if got.Target != want.Target {
			t.Fatalf("Decide(session %d) = %v, want %v", n, got.Target, want.Target)
		}
	}
}

func TestIfAllPodsAreAtTheirLimitsPlainRendezvousDecides(t *testing.T) {
	endpoints, counters := pods("demo-00001", 3), newLoads(3)
	for i := range endpoints {
		endpoints[i].Limit = 1
		counters.inFlight[i].Store(int64(10 + i))
	}
	p, hash := Policy{}.WithDefaults(), Policy{Session: &SessionAffinity{Mode: ModeHash}}.WithDefaults()
	for n := range 200 {
		r := Request{Session: sessionKey(n), Loads: counters, Now: noon}
		got, want := decide(t, p, onePool(endpoints), r), decide(t, hash, onePool(endpoints), r)
		if got.Target != want.Target {
			t.Fatalf("Decide(session %d) = %v, want %v", n, got.Target, want.Target)
		}
	}
}

// Gateways see different loads; hashing and a failed store must not depend on them.
func TestHashAndDegradedDoNotLookAtLoads(t *testing.T) {
	s, counters := onePool(pods("demo-00001", 10)), newLoads(10)
	for i := range counters.bound {
		counters.bound[i].Store(int64(i * i * 50))
		counters.inFlight[i].Store(int64(i * 7))
	}
	hash := Policy{Session: &SessionAffinity{Mode: ModeHash}}.WithDefaults()
	least := Policy{Session: &SessionAffinity{Place: PlaceLeastLoaded}}.WithDefaults()
	for n := range 500 {
		want := decide(t, hash, s, Request{Session: sessionKey(n), Now: noon}).Target
		for name, got := range map[string]Decision{
			"mode hash":             decide(t, hash, s, Request{Session: sessionKey(n), Loads: counters, Now: noon}),
			"degraded":              decide(t, Policy{}.WithDefaults(), s, Request{Session: sessionKey(n), Loads: counters, Now: noon, Degraded: true}),
			"degraded, leastLoaded": decide(t, least, s, Request{Session: sessionKey(n), Loads: counters, Now: noon, Degraded: true}),
		} {
			if got.Target != want {
				t.Fatalf("%s: Decide(session %d) = %v, want %v", name, n, got.Target, want)
			}
		}
	}
}

// The most loaded of 10 pods after 1000 sessions with two choices is above the mean by about log log 10, less than two; by
// hashing alone the standard deviation is 9.5.
func TestLeastLoadedEvensOut(t *testing.T) {
	p := Policy{Session: &SessionAffinity{Place: PlaceLeastLoaded}}.WithDefaults()
	counts := place(t, p, onePool(pods("demo-00001", 10)), newLoads(10), 0, 1000)
	for name, n := range counts {
		if n < 90 || n > 106 {
			t.Errorf("pod %s got %d of 1000 sessions, want 90 to 106", name, n)
		}
	}
}

func TestLeastLoadedComparesRequestsInFlightBeforeSessions(t *testing.T) {
	p := Policy{Session: &SessionAffinity{Place: PlaceLeastLoaded}}.WithDefaults()
	endpoints, counters := pods("demo-00001", 2), newLoads(2)
	counters.inFlight[0].Store(1)
	counters.bound[1].Store(100)
	if got := place(t, p, onePool(endpoints), counters, 0, 50)[endpoints[1].Name]; got != 50 {
		t.Errorf("the pod without requests in flight got %d of 50 sessions, want all", got)
	}
}

func TestRequestsWithoutAnIDAvoidBusyPods(t *testing.T) {
	endpoints, counters := pods("demo-00001", 10), newLoads(10)
	counters.inFlight[4].Store(50)
	got := 0
	for n := range 10_000 {
		d := decide(t, nil, onePool(endpoints), Request{Random: mix(uint64(n)), Loads: counters, Now: noon})
		if d.Target.Endpoint == endpoints[4].Name {
			got++
		}
		if d.Bind != BindNothing || d.Reason != ReasonNone {
			t.Fatalf("Decide(no id) = %+v, want nothing to be bound", d)
		}
	}
	if got != 0 {
		t.Errorf("the busy pod got %d of 10000 requests, want 0: one of two candidates is always better", got)
	}
}

func TestRequestsWithoutAnIDSpreadEvenly(t *testing.T) {
	for _, size := range []int{1, 2, 3, 10} {
		counts := map[string]int{}
		s := onePool(pods("demo-00001", size))
		for n := range 100_000 {
			counts[decide(t, nil, s, Request{Random: mix(uint64(n)), Now: noon}).Target.Endpoint]++
		}
		for name, n := range counts {
			if share := float64(n) / 100_000; math.Abs(share-1/float64(size)) > 0.01 {
				t.Errorf("of %d pods, %s got %.3f of the requests", size, name, share)
			}
		}
		if len(counts) != size {
			t.Errorf("%d of %d pods got requests", len(counts), size)
		}
	}
}

func TestAvoidedPodsArePassedOverByEveryPlacement(t *testing.T) {
	endpoints := pods("demo-00001", 4)
	only := endpoints[2].Name
	var names []string
	for _, e := range endpoints {
		if e.Name != only {
			names = append(names, e.Name)
		}
	}
	for _, a := range []*SessionAffinity{{}, {Mode: ModeHash}, {Mode: ModeToken}, {Place: PlaceLeastLoaded}} {
		p := Policy{Session: a, Revision: &RevisionAffinity{}}.WithDefaults()
		for n := range 100 {
			for _, r := range []Request{
				{Session: sessionKey(n)},
				{Random: mix(uint64(n))},
				{Session: sessionKey(n), Degraded: true},
				{Flow: flowKey(n), FlowMemory: Memory{Target: flowHome, Made: hourAgo}},
			} {
				r.Now, r.Avoid, r.Loads = noon, names, newLoads(4)
				if d := decide(t, p, onePool(endpoints), r); d.Target.Endpoint != only {
					t.Fatalf("Decide(%+v) = %v, want %s", r, d.Target, only)
				}
			}
		}
	}
}
