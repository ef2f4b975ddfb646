package experiment

import (
	"math"

	"gonum.org/v1/gonum/stat/distuv"

	"github.com/limpet-project/limpet/lab/spread"
)

// A Figure is what was measured, with the theory beside it.
type Figure struct {
	Name   string    `json:"name"`
	Values []float64 `json:"values"` // one for each run
	Mean   float64   `json:"mean"`
	// Low and High are the 95 % confidence interval of Mean, nil with one run.
	Low  *float64 `json:"low,omitempty"`
	High *float64 `json:"high,omitempty"`
	// RMS is the root of the mean square, which formulas of a coefficient of variation speak of.
	RMS    float64 `json:"rms"`
	Theory *Theory `json:"theory,omitempty"`
	// Twin says that it goes with another figure, so that a verdict does not count it for another witness.
	Twin bool `json:"twin,omitempty"`
}

// A Theory is what a figure should be.
type Theory struct {
	Value float64 `json:"value"`
	// Low and High are where the mean of so many runs lies in 95 % of cases. A mean that lies elsewhere contradicts the theory.
	Low  float64 `json:"low"`
	High float64 `json:"high"`
	// Formula is by formula, where there is one, and stands for the root mean square if RMS is set. With AtMost every run is at most that.
	Formula *float64 `json:"formula,omitempty"`
	RMS     bool     `json:"rms,omitempty"`
	AtMost  bool     `json:"atMost,omitempty"`
	// Certain says that chance has no part in it: a bound, or what no client may do.
	Certain bool `json:"certain,omitempty"`
}

// measured returns the figure of some runs.
func measured(name string, values []float64) Figure {
	f := Figure{Name: name, Values: values}
	n := float64(len(values))
	squares := 0.0
	for _, v := range values {
		f.Mean += v / n
		squares += v * v / n
	}
	f.RMS = math.Sqrt(squares)
	if len(values) < 2 {
		return f
	}
	deviation := 0.0
	for _, v := range values {
		deviation += (v - f.Mean) * (v - f.Mean)
	}
	half := distuv.StudentsT{Sigma: 1, Nu: n - 1}.Quantile(0.975) * math.Sqrt(deviation/(n-1)/n)
	low, high := f.Mean-half, f.Mean+half
	f.Low, f.High = &low, &high
	return f
}

// simulated sets a simulation beside the figure.
func (f Figure) simulated(by spread.Figure, rms bool, seed uint64) Figure {
	low, high := by.Simulated.OfRuns(len(f.Values), seed)
	t := Theory{Value: by.Simulated.Mean, Low: low, High: high, Formula: by.Formula, RMS: rms}
	t.Certain = by.Simulated.P99 == 0 && by.Simulated.Mean == 0
	if by.UpTo {
		t.Formula = nil // it does not say how much
	}
	f.Theory = &t
	return f
}

// share sets a probability beside the figure, that of each of so many clients or queries in a run, independent of each other.
func (f Figure) share(p float64, each int) Figure {
	half := 1.96 * math.Sqrt(p*(1-p)/float64(each*len(f.Values)))
	f.Theory = &Theory{Value: p, Low: max(0, p-half), High: min(1, p+half), Formula: &p, Certain: p == 0}
	return f
}

// atMost sets a bound beside the figure, which every run has to keep.
func (f Figure) atMost(bound float64) Figure {
	f.Theory = &Theory{Value: bound, High: bound, Formula: &bound, AtMost: true, Certain: true}
	return f
}

// rounding is how far from an exact value a figure may be.
const rounding = 1e-9

// Inside reports whether the measurement agrees with the theory: its mean lies where the mean of so many runs lies in 95 % of cases, or every
// run keeps the bound. Without a theory it is true.
func (f *Figure) Inside() bool {
	switch {
	case f.Theory == nil:
		return true
	case f.Theory.AtMost:
		for _, v := range f.Values {
			if v > f.Theory.High+rounding {
				return false
			}
		}
		return true
	}
	return f.Mean >= f.Theory.Low-rounding && f.Mean <= f.Theory.High+rounding
}

// Ratio returns the measurement relative to the theory: of root mean squares to the formula, where that stands for one, else of means. It is NaN
// where there is none, or the theory is 0 or a bound.
func (f *Figure) Ratio() float64 {
	switch {
	case f.Theory == nil || f.Theory.AtMost:
		return math.NaN()
	case f.Theory.RMS && f.Theory.Formula != nil && *f.Theory.Formula > 0:
		return f.RMS / *f.Theory.Formula
	case f.Theory.Value > 0:
		return f.Mean / f.Theory.Value
	}
	return math.NaN()
}
