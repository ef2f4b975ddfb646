package experiment

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/limpet-project/limpet/affinity"
	"github.com/limpet-project/limpet/lab/spread"
	"github.com/limpet-project/limpet/lab/testbed"
)

// Options say how a plan is carried out.
type Options struct {
	Program string // limpet, for the arm that runs it
	Seed    uint64
	Rate    float64 // queries a second of loads that nothing bounds otherwise; default 8000
	// Simulations is how often the theory is simulated; default 2000, which is often beside the tens of runs that are measured.
	Simulations int
	// Progress is told before each measurement, may be nil.
	Progress func(done, total int, next string)
}

// A Result is what an experiment showed.
type Result struct {
	Seed    uint64            `json:"seed"`
	Began   time.Time         `json:"began"`
	Took    affinity.Duration `json:"took"`
	Kernel  string            `json:"kernel"`
	Cells   []CellResult      `json:"cells,omitempty"`
	Cliff   []CellResult      `json:"cliff,omitempty"`
	DNSPerf []CellResult      `json:"dnsperf,omitempty"`
	Trials  []TrialResult     `json:"trials,omitempty"`
	// Verdicts are on kube-proxy's arms and on Limpet's, as far as they were measured.
	Verdicts []Verdict `json:"verdicts"`
}

// A lab carries out one plan.
type lab struct {
	Options
	bed      *testbed.Testbed
	theories map[theoryKey]spread.PolicyResult
	seeds    uint64 // given away so far
}

// nextSeed returns the seed of the next load.
func (l *lab) nextSeed() uint64 {
	l.seeds++
	return l.Seed<<24 + l.seeds
}

// Run carries out a plan on a testbed of its own, of which nothing is left when it returns.
func Run(ctx context.Context, p Plan, o Options) (*Result, error) {
	if err := p.Check(); err != nil {
		return nil, err
	}
	if o.Rate == 0 {
		o.Rate = DefaultRate
	}
	if o.Simulations == 0 {
		o.Simulations = defaultSimulations
	}
	if o.Progress == nil {
		o.Progress = func(int, int, string) {}
	}
	if err := testbed.Missing(); err != nil {
		return nil, err
	}
	bed, err := testbed.New(ctx, p.endpoints())
	if err != nil {
		return nil, fmt.Errorf("making the testbed: %w", err)
	}
	defer bed.Close()
	l := &lab{Options: o, bed: bed, theories: map[theoryKey]spread.PolicyResult{}}
	r := &Result{Seed: o.Seed, Began: time.Now().UTC(), Kernel: testbed.Kernel()}
	if err := l.carryOut(ctx, p, r); err != nil {
		return nil, err
	}
	r.Took = affinity.Duration(time.Since(r.Began).Round(time.Second))
	r.judge()
	return r, nil
}

// DefaultRate is how many queries a second are sent: what two processors do beside other work.
const DefaultRate = 8000

// endpoints returns how many endpoints a plan needs.
func (p Plan) endpoints() int {
	n := 3
	for _, c := range append(append([]Cell{}, p.Cells...), p.DNSPerf...) {
		n = max(n, c.Endpoints)
	}
	if len(p.Trials) > 0 {
		n = max(n, zoneEndpoints, 2*rolloutPods)
	}
	return n
}

func (l *lab) carryOut(ctx context.Context, p Plan, r *Result) error {
	done, total := 0, len(p.Cells)+len(p.Cliff)+len(p.DNSPerf)+len(p.Trials)
	tell := func(next string) {
		l.Progress(done, total, next)
		done++
	}
	for _, part := range []struct {
		cells   []Cell
		measure func(context.Context, Cell) (CellResult, error)
		results *[]CellResult
	}{{p.Cells, l.cell, &r.Cells}, {p.Cliff, l.cell, &r.Cliff}, {p.DNSPerf, l.dnsperf, &r.DNSPerf}} {
		for _, c := range part.cells {
			tell(c.String())
			one, err := part.measure(ctx, c)
			if err != nil {
				return measuring(ctx, c, err)
			}
			*part.results = append(*part.results, one)
		}
	}
	for _, t := range p.Trials {
		tell(t.String())
		one, err := l.trial(ctx, t)
		if err != nil {
			return measuring(ctx, t, err)
		}
		r.Trials = append(r.Trials, one)
	}
	return nil
}

// measuring says what was measured when something went wrong.
func measuring(ctx context.Context, what fmt.Stringer, err error) error {
	if ctx.Err() != nil {
		return errors.New("interrupted; nothing is left of the testbed")
	}
	return fmt.Errorf("measuring %s: %w", what, err)
}
