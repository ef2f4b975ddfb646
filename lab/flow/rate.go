package flow

import (
	"cmp"
	"maps"
	"math"
	"slices"

	"github.com/limpet-project/limpet/affinity"
	"github.com/limpet-project/limpet/lab/spread"
)

// rate says what was seen of a Service in an interval of some seconds.
func (s *service) rate(seconds float64, weights []float64) ServiceRate {
	v := ServiceRate{
		ServicePort: s.report.ServicePort, Mode: s.report.Mode, Family: s.report.Family, Timeout: affinity.Duration(s.timeout),
		Rate: float64(s.current) / seconds, Flows: s.flows, Moved: s.moved, Moves: s.moves, Endpoints: []EndpointRate{},
	}
	all := 0.0
	for _, e := range s.endpoints {
		all += float64(e.window.sum)
	}
	for _, e := range slices.SortedFunc(maps.Values(s.endpoints), before) {
		if e.place < 0 && e.window.sum == 0 {
			continue
		}
		v.Endpoints = append(v.Endpoints, EndpointRate{
			Address: e.address, Rate: float64(e.current) / seconds, Share: float64(e.window.sum) / max(all, 1), Flows: e.flows,
			Live: e.live, List: e.list, Out: e.place < 0,
		})
	}
	v.Spread = s.spread(weights)
	return v
}

// before sorts endpoints: those of the rules in their order, then the others.
func before(a, b *endpoint) int {
	outside := func(e *endpoint) int { return min(e.place, 0) }
	return cmp.Or(cmp.Compare(outside(b), outside(a)), cmp.Compare(a.place, b.place), a.address.Compare(b.address))
}

// spread measures the flows of the window over the endpoints that rules have.
func (s *service) spread(weights []float64) *Spread {
	var loads []float64
	sum, most := 0.0, 0.0
	for _, e := range s.endpoints {
		if e.place >= 0 {
			load := float64(e.window.sum)
			loads, sum, most = append(loads, load), sum+load, max(most, load)
		}
	}
	if sum == 0 || len(weights) == 0 {
		return nil
	}
	mean, squares := sum/float64(len(loads)), 0.0
	for _, l := range loads {
		squares += (l - mean) * (l - mean)
	}
	v := &Spread{
		Variation: math.Sqrt(squares/float64(len(loads))) / mean, MaxOverMean: most / mean, Effective: spread.Effective(weights),
	}
	if s.timeout > 0 {
		v.Expected = spread.Variation(len(loads), v.Effective)
	}
	return v
}
