package experiment

import (
	"context"

	"github.com/limpet-project/limpet/lab/testbed"
)

// dnsperf measures a cell whose load is dnsperf, as it is usually run. It does not tell who answered, so the endpoints' counts are compared.
func (l *lab) dnsperf(ctx context.Context, c Cell) (CellResult, error) {
	if err := testbed.MissingDNSPerf(); err != nil {
		return CellResult{}, err
	}
	s, err := l.serve(ctx, c.Arm, setup{endpoints: upTo(c.Endpoints), services: c.Runs, reuse: true})
	if err != nil {
		return CellResult{}, err
	}
	defer s.stop()
	tallies := make([]tally, c.Runs)
	for run := range tallies {
		answered, err := l.bed.DNSPerf(ctx, addresses(run*c.Clients, c.Clients), c.Queries/c.Clients, s.port(run))
		if err != nil {
			return CellResult{}, s.explain(err)
		}
		tallies[run] = countAnswers(answered[:c.Endpoints], c.Queries)
	}
	r := c.result(tallies)
	r.Moved = nil // nobody knows
	return r, l.addTheory(ctx, &r)
}

// countAnswers sums up a run of which only the endpoints' loads are known.
func countAnswers(answered []int64, queries int) tally {
	load, sum := make([]float64, len(answered)), 0
	for i, n := range answered {
		load[i] = float64(n)
		sum += int(n)
	}
	t := tally{lost: max(0, queries-sum)}
	t.variation, t.maxOverMean = unevenness(load)
	return t
}
