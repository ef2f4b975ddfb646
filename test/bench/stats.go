package main

import (
	"math"
	"math/rand/v2"
	"slices"
)

// median returns the middle of x, which must not be empty.
func median(x []float64) float64 {
	x = slices.Sorted(slices.Values(x))
	n := len(x)
	if n%2 == 1 {
		return x[n/2]
	}
	return (x[n/2-1] + x[n/2]) / 2
}

// variation returns the standard deviation of x over its mean.
func variation(x []float64) float64 {
	var sum, squares float64
	for _, v := range x {
		sum += v
	}
	mean := sum / float64(len(x))
	for _, v := range x {
		squares += (v - mean) * (v - mean)
	}
	return math.Sqrt(squares/float64(len(x)-1)) / mean
}

// An estimate is a median with the bounds within which it lies with 95 % confidence.
type estimate struct{ median, low, high float64 }

// resamples is the number of samples of a bootstrap; the bounds' own error is then far below what is printed.
const resamples = 20_000

// ratio estimates the median of the ratios x[i]/y[i], by the percentile bootstrap over rounds.
func ratio(rng *rand.Rand, x, y []float64) estimate {
	r := make([]float64, len(x))
	for i := range r {
		r[i] = x[i] / y[i]
	}
	medians, sample := make([]float64, resamples), make([]float64, len(r))
	for i := range medians {
		for j := range sample {
			sample[j] = r[rng.IntN(len(r))]
		}
		medians[i] = median(sample)
	}
	slices.Sort(medians)
	return estimate{median(r), medians[resamples*25/1000], medians[resamples*975/1000]}
}
