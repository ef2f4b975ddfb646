package stats

import (
	"math"
	"math/rand/v2"
	"os"
	"runtime"
	"testing"
	"time"
)

func TestMedianAndVariation(t *testing.T) {
	if got := Median([]float64{5, 1, 3}); got != 3 {
		t.Errorf("median(5, 1, 3) = %v, want 3", got)
	}
	if got := Median([]float64{4, 1, 3, 2}); got != 2.5 {
		t.Errorf("median(4, 1, 3, 2) = %v, want 2.5", got)
	}
	if got := Variation([]float64{9, 10, 11}); math.Abs(got-0.1) > 1e-9 {
		t.Errorf("variation(9, 10, 11) = %v, want 0.1", got)
	}
}

// The interval of a ratio of 1.2 with 5 % noise covers 1.2 in about 38 of 40 measurements: fewer than 31 (5 standard deviations)
// would mean that it is too narrow, an always-covering one is wider than 0.2.
func TestIntervalsCoverTheTruth(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 1))
	covered := 0
	for range 40 {
		x, y := make([]float64, 12), make([]float64, 12)
		for i := range x {
			machine := 1 + rng.Float64() // falls on both alike
			x[i] = 1.2 * machine * (1 + 0.05*rng.NormFloat64())
			y[i] = machine
		}
		e := Ratio(rng, x, y)
		if e.Low <= 1.2 && 1.2 <= e.High {
			covered++
		}
		if e.High-e.Low > 0.2 {
			t.Fatalf("ratio = %v, want an interval of at most 0.2", e)
		}
	}
	if covered < 31 {
		t.Errorf("%d of 40 intervals cover the truth, want at least 31", covered)
	}
}

func TestProcessorTimeGrowsWithWork(t *testing.T) {
	before, err := CPUTime(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	var spent time.Duration
	for n := 0; spent <= 0 && n < 1_000_000; n++ {
		runtime.Gosched()
		after, err := CPUTime(os.Getpid())
		if err != nil {
			t.Fatal(err)
		}
		spent = after - before
	}
	if spent <= 0 || spent > time.Hour {
		t.Errorf("processor time spent = %v, want a little", spent)
	}
}
