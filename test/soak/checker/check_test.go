package checker

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"strings"
	"testing"
	"time"
)

const (
	podA = "demo-00001-a"
	podB = "demo-00001-b"
	podC = "demo-00002-c"
	podD = "demo-00001-d" // which the setup does not list
)

// s gives the moment of n seconds, ms of n milliseconds.
func s(n float64) time.Duration { return time.Duration(n * float64(time.Second)) }

func revisionOf(pod string) string { return pod[:len(pod)-2] }

var allowances = Allowances{Reload: s(1), Detect: s(1), Recover: s(1), Settle: s(2), Cache: s(0.1)}

// setup lists the three pods and both revisions and gateways, long before the run.
func setup(more ...Event) []Event {
	long := -time.Hour
	events := []Event{
		{From: long, To: long, Kind: Weighted, Revision: "demo-00001", Weight: 90},
		{From: long, To: long, Kind: Weighted, Revision: "demo-00002", Weight: 10},
		{From: long, To: long, Kind: GatewayUp, Gateway: "gw1"},
		{From: long, To: long, Kind: GatewayUp, Gateway: "gw2"},
	}
	for _, pod := range []string{podA, podB, podC} {
		events = append(events, Event{From: long, To: long, Kind: Added, Endpoint: pod, Revision: revisionOf(pod)})
	}
	return append(events, more...)
}

// on returns an event that began and ended at one moment.
func on(at float64, k Kind, e Event) Event {
	e.From, e.To, e.Kind = s(at), s(at), k
	return e
}

// ask is one request of session alice: through gw from start to end, answered by pod ("" for not at all).
func ask(gw string, start, end float64, pod string) Observation {
	o := Observation{Session: "alice", Gateway: gw, Start: s(start), End: s(end), Status: 200}
	if pod == "" {
		o.Status = 502
		return o
	}
	o.Endpoint, o.Revision = pod, revisionOf(pod)
	return o
}

type verdict struct {
	name   string
	events []Event
	asked  []Observation
	want   int    // misroutes
	why    string // part of the reason of the first
}

func TestCheckTellsMisroutesFromMoves(t *testing.T) {
	removeA, killA := on(10, Removed, Event{Endpoint: podA}), on(10, Killed, Event{Endpoint: podA})
	addA, startA := on(20, Added, Event{Endpoint: podA, Revision: "demo-00001"}), on(20, Started, Event{Endpoint: podA})
	drainA := on(10, Draining, Event{Endpoint: podA, Until: s(20)})
	drop1 := on(10, Weighted, Event{Revision: "demo-00001", Weight: 0})
	raise1 := on(20, Weighted, Event{Revision: "demo-00001", Weight: 50})
	tests := []verdict{
		{name: "one replica answers all", asked: []Observation{ask("gw1", 1, 2, podA), ask("gw2", 3, 4, podA), ask("gw1", 5, 6, podA)}},
		{
			name: "another replica answers for no reason", want: 1, why: podA + "] holds it",
			asked: []Observation{ask("gw1", 1, 2, podA), ask("gw1", 3, 4, podB)},
		},
		{
			name: "each change for no reason counts", want: 2,
			asked: []Observation{ask("gw1", 1, 2, podA), ask("gw1", 3, 4, podB), ask("gw1", 5, 6, podA)},
		},
		{
			name: "two gateways disagree on a new session", want: 1,
			asked: []Observation{ask("gw1", 1, 2, podA), ask("gw2", 1.5, 1.9, podB)},
		},
		{name: "two that overlap agree", asked: []Observation{ask("gw1", 1, 2, podA), ask("gw2", 1.5, 1.9, podA)}},
		{name: "removed", events: []Event{removeA}, asked: []Observation{ask("gw1", 1, 2, podA), ask("gw1", 12, 13, podB)}},
		{
			name: "removed later than the move", events: []Event{removeA}, want: 1,
			asked: []Observation{ask("gw1", 1, 2, podA), ask("gw1", 8, 9, podB)},
		},
		{
			name: "removed while the request was under way", events: []Event{removeA},
			asked: []Observation{ask("gw1", 1, 2, podA), ask("gw1", 9, 10.5, podB)},
		},
		{
			name: "still held within the allowance", events: []Event{removeA},
			asked: []Observation{ask("gw1", 1, 2, podA), ask("gw1", 10.5, 10.8, podA), ask("gw1", 10.9, 11.2, podB)},
		},
		{
			name: "answers although it was removed", events: []Event{removeA}, want: 1, why: "not valid",
			asked: []Observation{ask("gw1", 1, 2, podA), ask("gw1", 12, 13, podA)},
		},
		{
			name: "moves back for no reason", events: []Event{removeA, addA}, want: 1,
			asked: []Observation{ask("gw1", 1, 2, podA), ask("gw1", 12, 13, podB), ask("gw1", 30, 31, podA)},
		},
		{
			name: "absence that no request saw moves nobody", events: []Event{removeA, addA}, want: 1,
			asked: []Observation{ask("gw1", 1, 2, podA), ask("gw1", 30, 31, podB)},
		},
		{
			name: "a request that failed in the absence may have moved it", events: []Event{removeA, addA},
			asked: []Observation{ask("gw1", 1, 2, podA), ask("gw1", 12, 13, ""), ask("gw1", 30, 31, podB)},
		},
		{
			name: "a request that failed moves nobody from a valid replica", want: 1,
			asked: []Observation{ask("gw1", 1, 2, podA), ask("gw1", 12, 13, ""), ask("gw1", 30, 31, podB)},
		},
		{
			name: "killed", events: []Event{killA, startA},
			asked: []Observation{ask("gw1", 1, 2, podA), ask("gw1", 10, 10.1, ""), ask("gw2", 10.2, 10.3, podB), ask("gw1", 30, 31, podB)},
		},
		{
			name: "killed and back, never asked for between", events: []Event{killA, startA}, want: 1,
			asked: []Observation{ask("gw1", 1, 2, podA), ask("gw1", 25, 26, podB)},
		},
		{name: "a drain keeps its sessions", events: []Event{drainA}, asked: []Observation{ask("gw1", 1, 2, podA), ask("gw1", 15, 16, podA)}},
		{
			name: "a drain moves nobody before its deadline", events: []Event{drainA}, want: 1,
			asked: []Observation{ask("gw1", 1, 2, podA), ask("gw1", 15, 16, podB)},
		},
		{
			name: "a drain takes no new session", events: []Event{drainA}, want: 1, why: "takes no new",
			asked: []Observation{ask("gw1", 15, 16, podA)},
		},
		{name: "the deadline moves it", events: []Event{drainA}, asked: []Observation{ask("gw1", 1, 2, podA), ask("gw1", 22, 23, podB)}},
		{
			name: "past the deadline it may not stay", events: []Event{drainA}, want: 1, why: "not valid",
			asked: []Observation{ask("gw1", 1, 2, podA), ask("gw1", 22, 23, podA)},
		},
		{
			name: "an ended drain has no deadline", events: []Event{drainA, on(15, Added, Event{Endpoint: podA, Revision: "demo-00001"})}, want: 1,
			asked: []Observation{ask("gw1", 1, 2, podA), ask("gw1", 22, 23, podB)},
		},
		{
			name: "weight 0 moves it to the other revision", events: []Event{drop1},
			asked: []Observation{ask("gw1", 1, 2, podA), ask("gw1", 12, 13, podC)},
		},
		{
			name: "weight 0 moves it even to another replica of no use", events: []Event{drop1}, want: 1, why: "not valid",
			asked: []Observation{ask("gw1", 1, 2, podA), ask("gw1", 12, 13, podB)},
		},
		{
			name: "weight 0 and back, never asked for between", events: []Event{drop1, raise1}, want: 1,
			asked: []Observation{ask("gw1", 1, 2, podA), ask("gw1", 30, 31, podC)},
		},
		{
			name: "a lower weight moves nobody", events: []Event{on(10, Weighted, Event{Revision: "demo-00001", Weight: 1})}, want: 1,
			asked: []Observation{ask("gw1", 1, 2, podA), ask("gw1", 12, 13, podC)},
		},
		{
			name: "a lost replica keeps the revision", events: []Event{removeA}, want: 1, why: "revision is valid",
			asked: []Observation{ask("gw1", 1, 2, podA), ask("gw1", 12, 13, podC)},
		},
		{
			name: "a cache that has not heard of the move answers late", events: []Event{removeA},
			asked: []Observation{ask("gw1", 1, 2, podA), ask("gw1", 10.1, 10.2, podB), ask("gw2", 10.25, 10.3, podA), ask("gw2", 10.6, 10.7, podB)},
		},
		{
			name: "a cache that is later than its allowance", events: []Event{removeA}, want: 1,
			asked: []Observation{ask("gw1", 1, 2, podA), ask("gw1", 10.1, 10.2, podB), ask("gw2", 10.5, 10.6, podA)},
		},
		{
			name: "the gateway that moved it has no excuse", events: []Event{removeA}, want: 1,
			asked: []Observation{ask("gw1", 1, 2, podA), ask("gw1", 10.1, 10.2, podB), ask("gw1", 10.25, 10.3, podA)},
		},
		{name: "a replica that nobody listed", want: 1, why: "not valid", asked: []Observation{ask("gw1", 1, 2, "demo-00009-x")}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) { checkVerdict(t, tt) })
	}
}

func TestCheckExcusesOnlyWhatALostStoreExplains(t *testing.T) {
	lost := on(10, StoreLost, Event{})
	back, emptied := on(20, StoreRecovered, Event{}), on(20, StoreRecovered, Event{Emptied: true})
	restart := []Event{on(5, GatewayDown, Event{Gateway: "gw1"}), on(6, GatewayUp, Event{Gateway: "gw1"})}
	tests := []verdict{
		{
			name: "known there, so it stays", events: []Event{lost, back}, want: 1,
			asked: []Observation{ask("gw1", 1, 2, podA), ask("gw1", 12, 13, podB)},
		},
		{
			name: "unknown there, so it may move", events: []Event{lost, back},
			asked: []Observation{ask("gw1", 1, 2, podA), ask("gw2", 12, 13, podB)},
		},
		{name: "each gateway keeps to its own view", events: []Event{lost, back}, asked: []Observation{
			ask("gw1", 1, 2, podA), ask("gw2", 12, 13, podB), ask("gw1", 14, 15, podA), ask("gw2", 16, 17, podB),
		}},
		{name: "a gateway breaks its own view", events: []Event{lost, back}, want: 1, asked: []Observation{
			ask("gw1", 1, 2, podA), ask("gw2", 12, 13, podB), ask("gw2", 16, 17, podA),
		}},
		{name: "one view wins", events: []Event{lost, emptied}, asked: []Observation{
			ask("gw1", 1, 2, podA), ask("gw2", 12, 13, podB), ask("gw2", 30, 31, podA), ask("gw1", 32, 33, podA),
		}},
		{name: "the other view wins", events: []Event{lost, emptied}, asked: []Observation{
			ask("gw1", 1, 2, podA), ask("gw2", 12, 13, podB), ask("gw1", 30, 31, podB), ask("gw2", 32, 33, podB),
		}},
		{name: "two views that never agree", events: []Event{lost, emptied}, want: 1, asked: []Observation{
			ask("gw1", 1, 2, podA), ask("gw2", 12, 13, podB), ask("gw1", 30, 31, podA), ask("gw2", 32, 33, podB),
		}},
		{name: "a third place wins", events: []Event{lost, emptied}, want: 1, asked: []Observation{
			ask("gw1", 1, 2, podA), ask("gw2", 12, 13, podA), ask("gw1", 30, 31, podB),
		}},
		{
			name: "not asked for in the outage, so it stays", events: []Event{lost, emptied}, want: 1,
			asked: []Observation{ask("gw1", 1, 2, podA), ask("gw2", 30, 31, podB)},
		},
		{
			name: "unknown until the store has settled", events: []Event{lost, emptied},
			asked: []Observation{ask("gw1", 1, 2, podA), ask("gw2", 21, 21.5, podB)},
		},
		{
			name: "no excuse before the loss", events: []Event{lost, back}, want: 1,
			asked: []Observation{ask("gw1", 1, 2, podA), ask("gw2", 8, 9, podB)},
		},
		{
			name: "a gateway that was started anew knows nobody", events: append(restart, lost, back),
			asked: []Observation{ask("gw1", 1, 2, podA), ask("gw1", 12, 13, podB)},
		},
		{
			name: "what a gateway learnt anew it knows", events: append(restart, lost, back), want: 1,
			asked: []Observation{ask("gw1", 1, 2, podA), ask("gw1", 7, 8, podA), ask("gw1", 12, 13, podB)},
		},
		{
			name: "a gateway that saw only an older holder does not know it", events: []Event{on(3, Removed, Event{Endpoint: podA}), lost, back},
			asked: []Observation{ask("gw2", 1, 2, podA), ask("gw1", 6, 7, podB), ask("gw2", 12, 13, podC)},
		},
		{
			name: "forgotten by all", events: append(restart, lost, emptied),
			asked: []Observation{ask("gw1", 1, 2, podA), ask("gw1", 30, 31, podB)},
		},
		{
			name: "forgotten by all but the store", events: append(restart, lost, back), want: 1,
			asked: []Observation{ask("gw1", 1, 2, podA), ask("gw1", 30, 31, podB)},
		},
		{name: "gone in the outage: each gateway moves it by itself", events: []Event{
			on(5, Added, Event{Endpoint: podD, Revision: "demo-00001"}), lost, on(11, Removed, Event{Endpoint: podA}), back,
			on(40, Added, Event{Endpoint: podA, Revision: "demo-00001"}),
		}, asked: []Observation{
			ask("gw1", 1, 2, podA), ask("gw2", 3, 4, podA), ask("gw1", 12.5, 13, podB), ask("gw2", 13, 13.5, podD),
			ask("gw1", 30, 31, podB), ask("gw2", 32, 33, podB),
		}},
		{
			name: "gone in the outage: the place found then lasts", events: []Event{lost, on(11, Removed, Event{Endpoint: podA}), back}, want: 1,
			asked: []Observation{ask("gw1", 1, 2, podA), ask("gw1", 12.5, 13, podB), ask("gw1", 30, 31, podC)},
		},
		{name: "new in the outage and placed twice", events: []Event{lost, on(11, Removed, Event{Endpoint: podC}), emptied}, asked: []Observation{
			ask("gw1", 11.5, 12.5, podA), ask("gw2", 13, 14, podB), ask("gw1", 30, 31, podB), ask("gw2", 33, 34, podB),
		}},
		{name: "new in the outage, then neither place", events: []Event{lost, emptied}, want: 1, asked: []Observation{
			ask("gw1", 12, 13, podA), ask("gw2", 13, 14, podA), ask("gw1", 30, 31, podB),
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) { checkVerdict(t, tt) })
	}
}

func checkVerdict(t *testing.T, v verdict) {
	t.Helper()
	r := Check(setup(v.events...), v.asked, allowances)
	if r.Misrouted != v.want {
		t.Errorf("Check(%v) = %d misroutes, want %d\n%s", v.asked, r.Misrouted, v.want, r)
	}
	if v.want > 0 && len(r.Misroutes) > 0 && !strings.Contains(r.Misroutes[0].Why, v.why) {
		t.Errorf("first misroute is %q, want it to say %q", r.Misroutes[0].Why, v.why)
	}
	if r.OK() != (v.want == 0) {
		t.Errorf("OK() = %t with %d misroutes", r.OK(), r.Misrouted)
	}
}

func TestFlowsKeepTheirRevision(t *testing.T) {
	flow := func(session string, start float64, pod string) Observation {
		o := ask("gw1", start, start+0.5, pod)
		o.Session, o.Flow = session, "checkout"
		return o
	}
	drop1 := on(10, Weighted, Event{Revision: "demo-00001", Weight: 0})
	tests := []verdict{
		{name: "another replica of the revision", asked: []Observation{flow("", 1, podA), flow("", 3, podB)}},
		{name: "another revision for no reason", want: 1, why: "[demo-00001] holds it", asked: []Observation{flow("", 1, podA), flow("", 3, podC)}},
		{name: "another revision when its weight is 0", events: []Event{drop1}, asked: []Observation{flow("", 1, podA), flow("", 13, podC)}},
		{name: "a new session takes the flow's revision", want: 1, asked: []Observation{flow("", 1, podA), flow("bob", 3, podC)}},
		{name: "a known session does not rewrite the flow", asked: []Observation{
			{Session: "bob", Gateway: "gw1", Start: s(1), End: s(2), Status: 200, Endpoint: podC, Revision: "demo-00002"},
			flow("", 3, podA), flow("bob", 4, podC), flow("", 5, podA),
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) { checkVerdict(t, tt) })
	}
}

func TestARequestThatReachedAReplicaTwiceIsCounted(t *testing.T) {
	asked := []Observation{ask("gw1", 1, 2, podA), ask("gw1", 3, 4, podA), ask("gw1", 5, 6, podA)}
	for i, count := range []int{1, 2, 4} {
		asked[i].Instance, asked[i].Count = "100", count
	}
	if r := Check(setup(), asked, allowances); r.Repeated != 1 || r.OK() {
		t.Errorf("Check = %d repeated, OK %t, want 1 and not OK", r.Repeated, r.OK())
	}
	asked[2].Count = 3
	if r := Check(setup(), asked, allowances); !r.OK() {
		t.Errorf("Check of counts 1, 2, 3 = %s, want OK", r)
	}
}

func TestMovesAreCountedByCause(t *testing.T) {
	events := setup(on(10, Removed, Event{Endpoint: podA}), on(20, Weighted, Event{Revision: "demo-00001", Weight: 0}))
	asked := []Observation{ask("gw1", 1, 2, podA), ask("gw1", 12, 13, podB), ask("gw1", 22, 23, podC)}
	r := Check(events, asked, allowances)
	want := map[Cause]int{CauseRemoved: 1, CauseWeight: 1}
	if !maps.Equal(r.Moves, want) || !r.OK() {
		t.Errorf("Moves = %v, want %v\n%s", r.Moves, want, r)
	}
}

// A model that obeys the rule is never flagged, however its requests overlap, and one answer changed at random always is.
func TestCheckFindsTheOneWrongAnswerAmongMany(t *testing.T) {
	for seed := range uint64(200) {
		t.Run(fmt.Sprintf("seed %d", seed), func(t *testing.T) {
			rng := rand.New(rand.NewPCG(seed, 1))
			events, asked := model(rng)
			if r := Check(events, asked, allowances); !r.OK() {
				t.Fatalf("Check of a correct run = %s", r)
			}
			// Long after the last event every holder is valid, so any other answer there is wrong.
			i := len(asked) - 1 - rng.IntN(20)
			asked[i] = ask(asked[i].Gateway, asked[i].Start.Seconds(), asked[i].End.Seconds(), other(asked[i].Endpoint))
			if r := Check(events, asked, allowances); r.OK() {
				t.Fatalf("Check with answer %d changed to %s = OK, want a misroute", i, asked[i].Endpoint)
			}
		})
	}
}

func other(pod string) string {
	if pod == podA {
		return podB
	}
	return podA
}

// model runs one session against replicas that are removed and listed in turns, with requests that overlap.
func model(rng *rand.Rand) ([]Event, []Observation) {
	events := setup()
	var asked []Observation
	listed := map[string]bool{podA: true, podB: true}
	holder := podA
	for step := range 60 {
		t := float64(step)
		if gone := []string{podA, podB}[rng.IntN(2)]; step < 30 && listed[other(gone)] && step%5 == 4 {
			listed[gone] = !listed[gone]
			kind := Removed
			if listed[gone] {
				kind = Added
			}
			events = append(events, on(t, kind, Event{Endpoint: gone, Revision: "demo-00001"}))
			continue
		}
		if step%5 < 2 {
			continue // the change is still on its way: a model of that is what the table is for
		}
		if !listed[holder] {
			holder = other(holder)
		}
		for n := range 1 + rng.IntN(3) {
			start := t + 0.1*float64(n)
			asked = append(asked, ask([]string{"gw1", "gw2"}[rng.IntN(2)], start, start+0.05+0.3*rng.Float64(), holder))
		}
	}
	return events, asked
}
