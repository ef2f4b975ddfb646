package experiment

import (
	"fmt"
	"math"
	"slices"

	"gonum.org/v1/gonum/stat/distuv"
)

// A Verdict is whether measurements agree with the theory.
type Verdict struct {
	On string `json:"on"` // "kube-proxy" or "Limpet"
	// Given is false where there is too little to tell.
	Given  bool `json:"given"`
	Agrees bool `json:"agrees"`
	// Figures is how many were compared that have chance in them, and Inside how many lie in their 95 % intervals: of those that agree 1 in 20
	// lies outside by chance.
	Figures int `json:"figures"`
	Inside  int `json:"inside"`
	// Promises is how many figures have no chance in them, such as that no client moves, and Broken which were not kept.
	Promises int      `json:"promises"`
	Broken   []string `json:"broken,omitempty"`
	// LowestRatio and HighestRatio are those of measured to predicted coefficients of variation, 0 without any.
	LowestRatio  float64 `json:"lowestRatio,omitempty"`
	HighestRatio float64 `json:"highestRatio,omitempty"`
	// Chance is the probability that as many or more figures lie outside although all agree.
	Chance float64 `json:"chance"`
	// Invalid is how many cells lost queries.
	Invalid int      `json:"invalid"`
	Text    []string `json:"text"`
}

// What a verdict needs, and what agrees.
const (
	MinRuns     = 8
	leastInside = 0.9
	lowestRatio = 0.75
	highest     = 1.33
)

// judge gives a verdict on kube-proxy's arms and one on Limpet's.
func (r *Result) judge() {
	for _, limpet := range []bool{false, true} {
		part := Result{
			Cells: ofFamily(r.Cells, limpet), Cliff: ofFamily(r.Cliff, limpet), DNSPerf: ofFamily(r.DNSPerf, limpet),
			Trials: slices.DeleteFunc(slices.Clone(r.Trials), func(t TrialResult) bool { return (t.Mode == Limpet) != limpet }),
		}
		if len(part.Cells)+len(part.Cliff)+len(part.DNSPerf)+len(part.Trials) == 0 {
			continue
		}
		on := "kube-proxy"
		if limpet {
			on = "Limpet"
		}
		r.Verdicts = append(r.Verdicts, part.verdict(on))
	}
}

func ofFamily(cells []CellResult, limpet bool) []CellResult {
	return slices.DeleteFunc(slices.Clone(cells), func(c CellResult) bool { return (c.Mode == Limpet) != limpet })
}

// verdict compares all that was measured with the theory.
func (r *Result) verdict(on string) Verdict {
	v := Verdict{On: on, LowestRatio: math.Inf(1)}
	fewest := MaxRuns
	for _, c := range slices.Concat(r.Cells, r.Cliff, r.DNSPerf) {
		fewest = min(fewest, c.Runs)
		if !c.Valid() {
			v.Invalid++
			continue
		}
		v.add(c.Cell, &c.Variation, !c.Turns)
		if c.Moved != nil {
			v.add(c.Cell, c.Moved, false)
		}
	}
	for _, t := range r.Trials {
		fewest = min(fewest, t.Runs)
		for i := range t.Figures {
			v.add(t.Trial, &t.Figures[i], false)
		}
	}
	if v.HighestRatio == 0 {
		v.LowestRatio = 0
	}
	v.decide(fewest)
	return v
}

// add counts a figure of something.
func (v *Verdict) add(of fmt.Stringer, f *Figure, ratio bool) {
	switch {
	case f.Theory == nil:
		return
	case f.Theory.Certain:
		v.Promises++
		if !f.Inside() {
			v.Broken = append(v.Broken, fmt.Sprintf("%s: %s", of, f.Name))
		}
		return
	}
	if !f.Twin {
		v.Figures++
	}
	if !f.Twin && f.Inside() {
		v.Inside++
	}
	if q := f.Ratio(); ratio && !math.IsNaN(q) {
		v.LowestRatio, v.HighestRatio = min(v.LowestRatio, q), max(v.HighestRatio, q)
	}
}

// decide writes what it comes to.
func (v *Verdict) decide(runs int) {
	outside := v.Figures - v.Inside
	v.Chance = 1
	if outside > 0 {
		v.Chance = 1 - distuv.Binomial{N: float64(v.Figures), P: 0.05}.CDF(float64(outside-1))
	}
	say := func(format string, args ...any) { v.Text = append(v.Text, fmt.Sprintf(format, args...)) }
	if v.Invalid > 0 {
		say("%d cells lost queries and do not count; a lower --qps may help.", v.Invalid)
	}
	if runs < MinRuns {
		say("%s: no verdict. Some figures come from %d runs, and fewer than %d are a toss of a coin.", v.On, runs, MinRuns)
		return
	}
	if v.Figures+v.Promises == 0 {
		say("%s: no verdict. Nothing was compared.", v.On)
		return
	}
	v.Given = true
	ratios := v.HighestRatio == 0 || v.LowestRatio >= lowestRatio && v.HighestRatio <= highest
	v.Agrees = float64(v.Inside) >= leastInside*float64(v.Figures) && ratios && len(v.Broken) == 0
	word := "agree"
	if !v.Agrees {
		word = "do not agree"
	}
	say("%s: measurement and theory %s.", v.On, word)
	if v.Figures > 0 {
		say("%d of %d figures lie in their 95 %% intervals (%.0f %%); by chance alone as many or more lie outside in %.0f %% of experiments.",
			v.Inside, v.Figures, 100*float64(v.Inside)/float64(v.Figures), 100*v.Chance)
	}
	if v.Promises > 0 {
		say("%d of %d figures that leave nothing to chance are as they should be.", v.Promises-len(v.Broken), v.Promises)
	}
	for _, b := range v.Broken {
		say("Not so: %s.", b)
	}
	if v.HighestRatio > 0 {
		say("Measured coefficients of variation are %.2f to %.2f of the predicted ones.", v.LowestRatio, v.HighestRatio)
	}
}
