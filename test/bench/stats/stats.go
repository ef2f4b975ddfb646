// Package stats holds the figures that measurements are made of: medians and their intervals, and the processor time of a process.
//
// Ratios are taken within rounds, so that what the machine does beside falls on both sides alike, and their intervals are those of the
// noise that was there.
package stats

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

// Median returns the middle of x, which must not be empty.
func Median(x []float64) float64 {
	x = slices.Sorted(slices.Values(x))
	n := len(x)
	if n%2 == 1 {
		return x[n/2]
	}
	return (x[n/2-1] + x[n/2]) / 2
}

// Variation returns the standard deviation of x over its mean.
func Variation(x []float64) float64 {
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

// An Estimate is a median with the bounds within which it lies with 95 % confidence.
type Estimate struct{ Median, Low, High float64 }

// String returns, for example, "1.020 [1.000 1.040]".
func (e Estimate) String() string { return fmt.Sprintf("%.3f [%.3f %.3f]", e.Median, e.Low, e.High) }

// resamples is the number of samples of a bootstrap; the bounds' own error is then far below what is printed.
const resamples = 20_000

// Ratio estimates the median of the ratios x[i]/y[i], by the percentile bootstrap over rounds.
func Ratio(rng *rand.Rand, x, y []float64) Estimate {
	r := make([]float64, len(x))
	for i := range r {
		r[i] = x[i] / y[i]
	}
	medians, sample := make([]float64, resamples), make([]float64, len(r))
	for i := range medians {
		for j := range sample {
			sample[j] = r[rng.IntN(len(r))]
		}
		medians[i] = Median(sample)
	}
	slices.Sort(medians)
	return Estimate{Median(r), medians[resamples*25/1000], medians[resamples*975/1000]}
}

// CPUTime returns the user and system time of a process, in nanoseconds where /proc counts in hundredths of a second: the clock
// id of a process is made from its pid as clock_getcpuclockid(3) does.
func CPUTime(pid int) (time.Duration, error) {
	var ts unix.Timespec
	if err := unix.ClockGettime(int32(^pid<<3|2), &ts); err != nil {
		return 0, fmt.Errorf("reading the processor time of process %d: %w", pid, err)
	}
	return time.Duration(ts.Nano()), nil
}
