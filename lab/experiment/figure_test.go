package experiment

import (
	"math"
	"math/rand/v2"
	"testing"

	"github.com/limpet-project/limpet/lab/testbed"
)

func near(a, b float64) bool { return math.Abs(a-b) < 1e-9 }

func TestFiguresHaveTheirMeanAndItsInterval(t *testing.T) {
	f := measured("load", []float64{1, 2, 3, 4})
	// Student's t for three degrees of freedom is 3.182, and the standard error is sqrt(5/3)/2.
	if half := 3.182446305 * math.Sqrt(5./3) / 2; !near(f.Mean, 2.5) || math.Abs(*f.High-2.5-half) > 1e-6 || math.Abs(*f.Low-2.5+half) > 1e-6 {
		t.Errorf("measured(1 2 3 4) = %v in %v to %v, want 2.5 ± %v", f.Mean, *f.Low, *f.High, half)
	}
	if want := math.Sqrt(7.5); !near(f.RMS, want) {
		t.Errorf("RMS = %v, want %v", f.RMS, want)
	}
	if one := measured("load", []float64{1}); one.Low != nil || one.High != nil {
		t.Errorf("one run has the interval %v to %v, want none", one.Low, one.High)
	}
}

func TestTheIntervalsOfSharesHoldWhatTheyPromise(t *testing.T) {
	const experiments, runs, clients, p = 4000, 8, 30, 1. / 3
	rng := rand.New(rand.NewPCG(1, 2))
	inside := 0
	for range experiments {
		values := make([]float64, runs)
		for i := range values {
			for range clients {
				if rng.Float64() < p {
					values[i] += 1. / clients
				}
			}
		}
		f := measured("share", values).share(p, clients)
		if f.Inside() {
			inside++
		}
	}
	// 4.5 standard deviations are 1.6 %, and what is counted lies on a grid of 1/240, which is worth up to 1 %.
	if got := float64(inside) / experiments; math.Abs(got-0.95) > 0.026 {
		t.Errorf("%.3f of experiments lie inside, want 0.95", got)
	}
}

func TestFiguresAgreeOrNot(t *testing.T) {
	formula := 2.0
	tests := []struct {
		name    string
		figure  Figure
		inside  bool
		certain bool
		ratio   float64
	}{
		{"within", Figure{Values: []float64{2}, Mean: 2, RMS: 3, Theory: &Theory{Value: 2.5, Low: 1, High: 3}}, true, false, 0.8},
		{"below", Figure{Values: []float64{0}, Mean: 0.9, Theory: &Theory{Value: 1, Low: 1, High: 3}}, false, false, 0.9},
		{"above", Figure{Values: []float64{4}, Mean: 4, Theory: &Theory{Value: 2, Low: 1, High: 3}}, false, false, 2},
		{"root mean squares go with formulas of them", Figure{Mean: 2, RMS: 3, Theory: &Theory{Value: 2, Low: 1, High: 3, Formula: &formula, RMS: true}}, true, false, 1.5},
		{"nothing is to move and nothing does", measured("moved", []float64{0, 0}).share(0, 10), true, true, math.NaN()},
		{"nothing is to move and one does", measured("moved", []float64{0, 0.1}).share(0, 10), false, true, math.NaN()},
		{"a bound that all keep", measured("seconds", []float64{1, 2}).atMost(2), true, true, math.NaN()},
		{"a bound that one breaks", measured("seconds", []float64{0, 2.1}).atMost(2), false, true, math.NaN()},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := tt.figure.Inside(); got != tt.inside {
				t.Errorf("Inside() = %t, want %t", got, tt.inside)
			}
			if got := tt.figure.Theory.Certain; got != tt.certain {
				t.Errorf("Certain = %t, want %t", got, tt.certain)
			}
			if got := tt.figure.Ratio(); got != tt.ratio && !(math.IsNaN(got) && math.IsNaN(tt.ratio)) {
				t.Errorf("Ratio() = %v, want %v", got, tt.ratio)
			}
		})
	}
	if f := (Figure{Mean: 5}); !f.Inside() || !math.IsNaN(f.Ratio()) {
		t.Errorf("a figure without theory: Inside() = %t, Ratio() = %v, want true, NaN", f.Inside(), f.Ratio())
	}
}

func TestQueriesAreCounted(t *testing.T) {
	queries := []testbed.Query{{Client: 0, Endpoint: 0}, {Client: 0, Endpoint: 1}, {Client: 1, Endpoint: 1}, {Client: 1, Endpoint: 1}, {Client: 2, Endpoint: -1}}
	got := count(queries, 4, 2)
	if want := (tally{variation: 0.5, maxOverMean: 1.5, moved: 0.25, lost: 1}); got != want {
		t.Errorf("count() = %+v, want %+v", got, want)
	}
	if got := count(nil, 1, 3); got.variation != 0 || got.maxOverMean != 1 {
		t.Errorf("count() of nothing = %+v, want no unevenness", got)
	}
	if got := countAnswers([]int64{3, 1}, 5); !near(got.variation, 0.5) || got.lost != 1 {
		t.Errorf("countAnswers(3 1) of 5 = %+v, want 0.5 and 1 lost", got)
	}
}

func TestMovesAreBetweenTheLastAndTheFirst(t *testing.T) {
	before := []testbed.Query{{Client: 0, Endpoint: 2}, {Client: 0, Endpoint: 1}, {Client: 1, Endpoint: 1}}
	after := []testbed.Query{{Client: 1, Endpoint: 0}, {Client: 0, Endpoint: 1}, {Client: 0, Endpoint: 2}}
	if got := changed(before, after); got != 0.5 {
		t.Errorf("changed() = %v, want 0.5", got)
	}
}
