package affinity

import (
	"fmt"
	"math"
	"testing"
)

// The golden values were computed from the text at the head of hash.go by another program, with logarithms of 50 digits.
func TestHashIsTheSameOnEveryGateway(t *testing.T) {
	seeds := map[string]uint64{
		"":                                     0xf52a15e9a9b5e89b,
		"demo-00001":                           0x21dae3043435e048,
		"demo-00002":                           0x21780aa0e1f2189d,
		"7c1c6a0e-5b1e-4f0b-9a55-0d3a1c9b2f11": 0xfd4aa44fec32e869,
	}
	for name, want := range seeds {
		if got := seed(name); got != want {
			t.Errorf("seed(%q) = %#x, want %#x", name, got, want)
		}
	}
	golden := []struct {
		first            byte // of the digest; the others count up
		revision, domain uint64
	}{
		{0, 0xf1c78ba0bfe3322e, 0x76bf4bf65001b1fd},
		{16, 0x86496c6e413b6ea0, 0x347407cc904ab9c6},
		{32, 0x223ffe6b9f6fcf20, 0x6fbc3c6d90b23838},
		{48, 0x038cd36890a1b5de, 0xdc3ebd9819960d46},
	}
	for _, g := range golden {
		k := countingKey(g.first)
		if got := mix(k.hash(domainRevision) ^ seed("demo-00001")); got != g.revision {
			t.Errorf("score of demo-00001 as a revision for %x = %#x, want %#x", k.Digest, got, g.revision)
		}
		if got := mix(k.hash(domainEndpoint) ^ seed("demo-00001")); got != g.domain {
			t.Errorf("score of demo-00001 as an endpoint for %x = %#x, want %#x", k.Digest, got, g.domain)
		}
	}
}

func countingKey(first byte) Key {
	k := Key{Scope: Scope{Service: demo, Kind: KindSession}}
	for i := range k.Digest {
		k.Digest[i] = first + byte(i)
	}
	return k
}

func TestChoiceIsTheSameOnEveryGateway(t *testing.T) {
	var endpoints []Endpoint
	for _, name := range []string{
		"demo-00001-7d9f6-abcde", "demo-00001-7d9f6-bcdef", "demo-00001-7d9f6-cdefg", "7c1c6a0e-5b1e-4f0b-9a55-0d3a1c9b2f11",
	} {
		endpoints = append(endpoints, Endpoint{Name: name})
	}
	pool := NewPool(endpoints)
	s := NewSnapshot(demo, []Revision{
		{Name: "demo-00001", Weight: 50, Pool: pool}, {Name: "demo-00002", Weight: 30, Pool: pool}, {Name: "demo-00003", Weight: 20, Pool: pool},
	}, true)
	p := Policy{Session: &SessionAffinity{Mode: ModeHash}}.WithDefaults()
	for i, want := range []Target{
		{"demo-00001", "demo-00001-7d9f6-cdefg"},
		{"demo-00003", "demo-00001-7d9f6-abcde"},
		{"demo-00002", "7c1c6a0e-5b1e-4f0b-9a55-0d3a1c9b2f11"},
		{"demo-00003", "demo-00001-7d9f6-abcde"},
		{"demo-00003", "demo-00001-7d9f6-abcde"},
		{"demo-00002", "demo-00001-7d9f6-abcde"},
		{"demo-00002", "demo-00001-7d9f6-bcdef"},
		{"demo-00002", "7c1c6a0e-5b1e-4f0b-9a55-0d3a1c9b2f11"},
	} {
		k := countingKey(byte(16 * i))
		if d := decide(t, p, s, Request{Session: k, Now: noon}); d.Target != want {
			t.Errorf("Decide(%x) = %v, want %v", k.Digest, d.Target, want)
		}
	}
}

func TestLogarithmIsExactEnough(t *testing.T) {
	for _, u := range []float64{0.5, 0.25, 1 - 1.0/(1<<53), 1.0 / (1 << 53), 0.1, math.Sqrt2 / 2, 0.9999, 0.70710678, 1e-9} {
		if got, want := ln(u), math.Log(u); math.Abs(got-want) > 1e-13*math.Max(1, math.Abs(want)) {
			t.Errorf("ln(%v) = %v, want %v", u, got, want)
		}
	}
	for _, score := range []uint64{0, math.MaxUint64} {
		if w := weigh(score, 1); !(w > 0) || math.IsInf(w, 0) {
			t.Errorf("weigh(%#x, 1) = %v, want a positive number", score, w)
		}
	}
}

// flows is the number of keys over which distributions are measured. The standard deviation of a share is at most
// √(0.25/200000), 0.11 points, so that half a point is more than four of them.
const flows = 200_000

const halfPoint = 0.005

// chosen returns the index of the revision that each flow gets by the split, without memory.
func chosen(t *testing.T, weights ...int) []int {
	t.Helper()
	s := split(weights...)
	index := map[string]int{}
	for i, r := range s.Revisions {
		index[r.Name] = i
	}
	p := Policy{Revision: &RevisionAffinity{Mode: ModeProportional}}.WithDefaults()
	out := make([]int, flows)
	for n := range out {
		d := decide(t, p, s, Request{Flow: flowKey(n), Now: noon})
		out[n] = index[d.Target.Revision]
	}
	return out
}

// Plain FNV in rendezvous hashing turns 95/5 between names that differ in the last digit into 100/0.
func TestSplitFollowsTheWeights(t *testing.T) {
	for _, weights := range [][]int{{95, 5}, {60, 40}, {50, 30, 20}, {1, 1, 1, 1, 1, 1, 1, 1, 1, 1}, {100, 0}, {99, 1}} {
		t.Run(fmt.Sprint(weights), func(t *testing.T) {
			counts, total := make([]int, len(weights)), 0
			for _, i := range chosen(t, weights...) {
				counts[i]++
			}
			for _, w := range weights {
				total += w
			}
			for i, w := range weights {
				got, want := float64(counts[i])/flows, float64(w)/float64(total)
				if math.Abs(got-want) > halfPoint || w == 0 && got != 0 {
					t.Errorf("demo-%05d gets %.4f of the flows, want %.4f", i+1, got, want)
				}
			}
		})
	}
}

func TestGrowingCanaryMovesItsShareAndSendsNobodyBack(t *testing.T) {
	before, after := chosen(t, 95, 5), chosen(t, 90, 10)
	forth, back := moved(before, after, 0, 1), moved(before, after, 1, 0)
	if math.Abs(float64(forth)/flows-0.05) > halfPoint || back != 0 {
		t.Errorf("95/5 to 90/10 moved %d forth and %d back of %d, want 5%% ± 0.5 and 0", forth, back, flows)
	}
}

func TestOnlyTheRatioOfTheWeightsCounts(t *testing.T) {
	before, again := chosen(t, 95, 5), chosen(t, 190, 10)
	for n := range before {
		if before[n] != again[n] {
			t.Fatalf("flow %d gets demo-%05d by 95/5 and demo-%05d by 190/10", n, before[n]+1, again[n]+1)
		}
	}
}

// With three revisions rendezvous moves a little more than the tenth that has to move.
func TestChangeOfThreeWeightsMovesNearTheOptimum(t *testing.T) {
	before, after := chosen(t, 50, 30, 20), chosen(t, 60, 30, 10)
	all := 0
	for n := range before {
		if before[n] != after[n] {
			all++
		}
	}
	if got := float64(all) / flows; got < 0.10-halfPoint || got > 0.15 {
		t.Errorf("50/30/20 to 60/30/10 moved %.4f of the flows, want 0.10 to 0.15", got)
	}
	if n := moved(before, after, 0, 1) + moved(before, after, 0, 2); n != 0 {
		t.Errorf("%d flows left the revision whose share grew most", n)
	}
}

func moved(before, after []int, from, to int) int {
	count := 0
	for n := range before {
		if before[n] == from && after[n] == to {
			count++
		}
	}
	return count
}

func TestRevisionAndEndpointOfOneKeyAreIndependent(t *testing.T) {
	endpoints := []Endpoint{{Name: "demo-00001"}, {Name: "demo-00002"}} // named like the revisions on purpose
	pool := NewPool(endpoints)
	s := NewSnapshot(demo, []Revision{{Name: "demo-00001", Weight: 1, Pool: pool}, {Name: "demo-00002", Weight: 1, Pool: pool}}, true)
	p := Policy{Session: &SessionAffinity{Mode: ModeHash}}.WithDefaults()
	same := 0
	for n := range flows {
		if d := decide(t, p, s, Request{Session: sessionKey(n), Now: noon}); d.Target.Revision == d.Target.Endpoint {
			same++
		}
	}
	if got := float64(same) / flows; math.Abs(got-0.5) > halfPoint {
		t.Errorf("revision and endpoint of one name meet in %.4f of the sessions, want 0.5", got)
	}
}

func TestHashSpreadsSessionsEvenlyOverPods(t *testing.T) {
	s := NewSnapshot(demo, []Revision{revision("demo-00001", 1, 10)}, true)
	p := Policy{Session: &SessionAffinity{Mode: ModeHash}}.WithDefaults()
	counts := map[string]int{}
	for n := range flows {
		counts[decide(t, p, s, Request{Session: sessionKey(n), Now: noon}).Target.Endpoint]++
	}
	for _, e := range s.Revisions[0].Pool.Endpoints {
		if got := float64(counts[e.Name]) / flows; math.Abs(got-0.1) > halfPoint {
			t.Errorf("pod %s gets %.4f of the sessions, want 0.1", e.Name, got)
		}
	}
}

func TestRequestsWithoutAnIDFollowTheWeights(t *testing.T) {
	s := split(95, 5)
	second := 0
	for n := range flows {
		d := decide(t, nil, s, Request{Random: mix(uint64(n)), Now: noon})
		if d.Target.Revision == "demo-00002" {
			second++
		}
	}
	if got := float64(second) / flows; math.Abs(got-0.05) > halfPoint {
		t.Errorf("demo-00002 gets %.4f of the requests, want 0.05", got)
	}
}
