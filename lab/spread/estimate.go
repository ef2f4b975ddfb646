package spread

import (
	"math"
	"math/rand/v2"
	"slices"

	"gonum.org/v1/gonum/stat/distuv"
)

// An Estimate is what a simulation says of a figure.
type Estimate struct {
	Mean float64 `json:"mean"`
	// Low and High are the 95 % confidence interval of the mean: how sure the simulation is. It narrows with more runs.
	Low  float64 `json:"low"`
	High float64 `json:"high"`
	// RMS is the root of the mean square, which formulas of a coefficient of variation speak of, with its 95 % confidence interval.
	RMS     float64 `json:"rms"`
	RMSLow  float64 `json:"rmsLow"`
	RMSHigh float64 `json:"rmsHigh"`
	// P5, P50, P95 and P99 say how single runs differ: what one measurement may show.
	P5   float64 `json:"p5"`
	P50  float64 `json:"p50"`
	P95  float64 `json:"p95"`
	P99  float64 `json:"p99"`
	Runs int     `json:"runs"`

	samples []float64 // sorted
}

// estimate takes ownership of the samples.
func estimate(samples []float64) Estimate {
	slices.Sort(samples)
	e := Estimate{Runs: len(samples), samples: samples}
	var half float64
	e.Mean, half = meanOf(samples, func(x float64) float64 { return x })
	e.Low, e.High = e.Mean-half, e.Mean+half
	square, half := meanOf(samples, func(x float64) float64 { return x * x })
	e.RMS, e.RMSLow, e.RMSHigh = math.Sqrt(square), math.Sqrt(max(0, square-half)), math.Sqrt(square+half)
	e.P5, e.P50, e.P95, e.P99 = e.Quantile(0.05), e.Quantile(0.5), e.Quantile(0.95), e.Quantile(0.99)
	return e
}

// meanOf returns the mean of what value makes of the samples, and half its 95 % confidence interval.
func meanOf(samples []float64, value func(float64) float64) (mean, half float64) {
	n := float64(len(samples))
	for _, x := range samples {
		mean += value(x)
	}
	mean /= n
	if n < 2 {
		return mean, 0
	}
	squares := 0.0
	for _, x := range samples {
		squares += (value(x) - mean) * (value(x) - mean)
	}
	t := distuv.StudentsT{Sigma: 1, Nu: n - 1}.Quantile(0.975)
	return mean, t * math.Sqrt(squares/(n-1)/n)
}

// Quantile returns the value below which that share of the runs is.
func (e *Estimate) Quantile(share float64) float64 {
	if len(e.samples) == 0 {
		return math.NaN()
	}
	at := share * float64(len(e.samples)-1)
	low := int(at)
	if low+1 >= len(e.samples) {
		return e.samples[len(e.samples)-1]
	}
	return e.samples[low] + (at-float64(low))*(e.samples[low+1]-e.samples[low])
}

// Samples returns what each run gave, sorted. It must not be changed.
func (e *Estimate) Samples() []float64 { return e.samples }

// OfRuns returns where the mean of an experiment of n runs lies in 95 % of cases, found by drawing such experiments from the samples. An
// experiment whose mean lies elsewhere contradicts the prediction.
func (e *Estimate) OfRuns(n int, seed uint64) (low, high float64) {
	const experiments = 4000
	rng := rand.New(rand.NewPCG(seed, uint64(n)))
	means := make([]float64, experiments)
	for i := range means {
		for range n {
			means[i] += e.samples[rng.IntN(len(e.samples))] / float64(n)
		}
	}
	drawn := estimate(means)
	return drawn.Quantile(0.025), drawn.Quantile(0.975)
}
