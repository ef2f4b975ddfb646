package experiment

import (
	"context"
	"fmt"
	"math"
	"net/netip"

	"github.com/limpet-project/limpet/lab/testbed"
)

// A Cell is one measurement of a table: a shape of load on an arm.
type Cell struct {
	Arm   `json:"arm"`
	Shape `json:"shape"`
	// Endpoints is how many there are, Queries how many all clients send in one run, and Rate how many a second while the machine keeps up.
	Endpoints int     `json:"endpoints"`
	Queries   int     `json:"queries"`
	Rate      float64 `json:"qps"`
	// Turns lets the clients ask one after the other in a fixed order, as load generators do.
	Turns bool `json:"turns,omitempty"`
	Runs  int  `json:"runs"`
}

// String returns the arm and the shape.
func (c Cell) String() string { return c.Arm.String() + ": " + c.Shape.String() }

// A CellResult is what was measured in a cell.
type CellResult struct {
	Cell
	// Variation is the coefficient of variation of the endpoints' load, and MaxOverMean what the fullest has relative to the mean.
	Variation   Figure `json:"variation"`
	MaxOverMean Figure `json:"maxOverMean"`
	// Moved is the share of clients that more than one endpoint answered, where that is not to be.
	Moved *Figure `json:"moved,omitempty"`
	// Tracked is how many flows the node's kernel tracked for each run.
	Tracked float64 `json:"tracked"`
	// Lost is how many queries were not answered. With any the cell is not valid.
	Lost int `json:"lost"`
}

// Valid reports whether no query was lost.
func (r *CellResult) Valid() bool { return r.Lost == 0 }

// A tally is what one run of a cell showed.
type tally struct {
	variation, maxOverMean, moved float64
	lost                          int
}

// count sums up the queries of a run.
func count(queries []testbed.Query, clients, endpoints int) tally {
	load := make([]float64, endpoints)
	first, moved := make([]int, clients), make([]bool, clients)
	var t tally
	for _, q := range queries {
		if q.Endpoint < 0 || q.Endpoint >= endpoints {
			t.lost++
			continue
		}
		load[q.Endpoint]++
		if first[q.Client] != 0 && first[q.Client] != q.Endpoint+1 {
			moved[q.Client] = true
		}
		first[q.Client] = q.Endpoint + 1
	}
	t.variation, t.maxOverMean = unevenness(load)
	for _, m := range moved {
		if m {
			t.moved += 1 / float64(clients)
		}
	}
	return t
}

// unevenness returns the coefficient of variation of the loads, and the highest relative to their mean.
func unevenness(load []float64) (variation, maxOverMean float64) {
	sum, most := 0.0, 0.0
	for _, l := range load {
		sum += l
		most = max(most, l)
	}
	if sum == 0 {
		return 0, 1
	}
	mean, squares := sum/float64(len(load)), 0.0
	for _, l := range load {
		squares += (l - mean) * (l - mean)
	}
	return math.Sqrt(squares/float64(len(load))) / mean, most / mean
}

// load returns the load of one run. Each run has clients of its own, so that what is remembered of others does not matter.
func (c Cell) load(run int, seed uint64) testbed.Load {
	l := testbed.Load{
		Clients: addresses(run*c.Clients, c.Clients), Reuse: c.Reuse, Turns: c.Turns, Queries: c.Queries, Rate: c.Rate, Seed: seed,
	}
	if c.Turns {
		l.InFlight = 1 // the order is exact: where lists are just full, it decides
	} else {
		l.Begin = testbed.Before
	}
	for _, client := range c.clients() {
		l.Weights = append(l.Weights, client.Weight)
	}
	return l
}

func addresses(first, n int) []netip.Addr {
	list := make([]netip.Addr, n)
	for i := range list {
		list[i] = testbed.Client((first + i) % testbed.MaxClients)
	}
	return list
}

// cell measures a cell.
func (l *lab) cell(ctx context.Context, c Cell) (CellResult, error) {
	s, err := l.serve(ctx, c.Arm, setup{endpoints: upTo(c.Endpoints), services: c.Runs, reuse: c.Reuse})
	if err != nil {
		return CellResult{}, err
	}
	defer s.stop()
	tallies := make([]tally, c.Runs)
	for run := range tallies {
		load := c.load(run, l.nextSeed())
		load.Port = s.port(run)
		queries, err := l.bed.Send(ctx, load)
		if err != nil {
			return CellResult{}, s.explain(err)
		}
		tallies[run] = count(queries, c.Clients, c.Endpoints)
		if err := s.ended(); err != nil {
			return CellResult{}, err
		}
	}
	flows, err := l.bed.Flows(ctx)
	if err != nil {
		return CellResult{}, err
	}
	r := c.result(tallies)
	r.Tracked = float64(flows) / float64(c.Runs)
	return r, l.addTheory(ctx, &r)
}

// result puts the runs of a cell together.
func (c Cell) result(tallies []tally) CellResult {
	r := CellResult{Cell: c}
	pick := func(name string, of func(tally) float64) Figure {
		values := make([]float64, len(tallies))
		for i, t := range tallies {
			values[i] = of(t)
		}
		return measured(name, values)
	}
	r.Variation = pick("coefficient of variation", func(t tally) float64 { return t.variation })
	r.MaxOverMean = pick("max/mean", func(t tally) float64 { return t.maxOverMean })
	if c.Affinity || c.Reuse {
		moved := pick("clients that moved", func(t tally) float64 { return t.moved })
		r.Moved = &moved
	}
	for _, t := range tallies {
		r.Lost += t.lost
	}
	return r
}

// upTo returns 0 to n-1.
func upTo(n int) []int {
	list := make([]int, n)
	for i := range list {
		list[i] = i
	}
	return list
}

// check refuses what cannot be measured.
func (c Cell) check() error {
	if c.Clients < 1 || c.Clients > maxClients || c.Endpoints < 1 || c.Endpoints > testbed.MaxEndpoints || c.Runs < 1 || c.Runs > MaxRuns {
		return fmt.Errorf("cell %s: expected 1 to %d clients, 1 to %d endpoints and 1 to %d runs", c, maxClients, testbed.MaxEndpoints, MaxRuns)
	}
	return nil
}
