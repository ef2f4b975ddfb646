package experiment

import (
	"context"
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/limpet-project/limpet/lab/spread"
	"github.com/limpet-project/limpet/lab/testbed"
)

// The rolling update: three pods, so many clients that chance does not hide what it leaves, each of which asks a few times at each step.
const (
	rolloutPods    = 3
	rolloutClients = 90
	rolloutQueries = 3 * rolloutClients
)

// rolloutSteps are the pods that are ready after each change, with maxSurge 1 and maxUnavailable 0.
func rolloutSteps() [][]int {
	var steps [][]int
	for first := range rolloutPods {
		steps = append(steps, between(first, first+rolloutPods+1), between(first+1, first+rolloutPods+1))
	}
	return steps
}

func between(first, end int) []int { return upTo(end)[first:] }

// rollout measures how loaded the new pods are while every client stays active.
func (l *lab) rollout(ctx context.Context, t Trial) ([]Figure, error) {
	shares, most := make([][]float64, rolloutPods), []float64{}
	for run := range t.Runs {
		load, err := l.rollOut(ctx, t, run)
		if err != nil {
			return nil, err
		}
		_, highest := unevenness(load)
		most = append(most, highest)
		for i, n := range load {
			shares[i] = append(shares[i], n/rolloutQueries)
		}
	}
	s := l.scenario(Cell{Arm: t.Arm, Shape: Shape{Clients: rolloutClients, Weights: Equal}, Endpoints: rolloutPods, Queries: rolloutQueries})
	s.Policies = []spread.Policy{t.policy()}
	s.MaxSurge, s.MaxUnavailable = spread.Count{Number: 1}, spread.Count{}
	p, err := l.predict(ctx, s)
	if err != nil {
		return nil, err
	}
	var figures []Figure
	for i := range shares {
		f := measured(fmt.Sprintf("share of new pod %d", i+1), shares[i]).pod(p.Rollout, i, l.Simulations)
		f.Twin = i == 1 // what the first and the last do not have
		figures = append(figures, f)
	}
	f := measured("max/mean", most).simulated(spread.Figure{Simulated: p.Rollout.MaxOverMean.Simulated}, false, l.Seed)
	f.Twin = true
	return append(figures, f), nil
}

// pod sets beside the figure what the simulated rollouts say of one pod. How single ones differ follows from the confidence of their mean.
func (f Figure) pod(r spread.Rollout, i, simulations int) Figure {
	half := r.Errors[i] * math.Sqrt(float64(simulations)/float64(len(f.Values)))
	f.Theory = &Theory{Value: r.Simulated[i], Low: max(0, r.Simulated[i]-half), High: r.Simulated[i] + half}
	if r.Shares != nil {
		f.Theory.Formula = &r.Shares[i]
	}
	return f
}

// rollOut makes one rolling update and returns the load of the new pods.
func (l *lab) rollOut(ctx context.Context, t Trial, run int) ([]float64, error) {
	s, err := l.serve(ctx, t.Arm, setup{endpoints: upTo(rolloutPods), services: 1})
	if err != nil {
		return nil, err
	}
	defer s.stop()
	queries, err := l.all(ctx, s, run, rolloutClients, rolloutQueries)
	for _, ready := range rolloutSteps() {
		if err == nil {
			err = s.sync(ctx, false, ready...)
		}
		if err == nil {
			queries, err = l.all(ctx, s, run, rolloutClients, rolloutQueries)
		}
	}
	if err != nil {
		return nil, s.explain(err)
	}
	load := make([]float64, rolloutPods)
	for _, q := range queries {
		load[q.Endpoint-rolloutPods]++
	}
	return load, nil
}

// all lets clients ask in turns, each query from a fresh socket, and expects every answer.
func (l *lab) all(ctx context.Context, s server, run, clients, queries int) ([]testbed.Query, error) {
	asked, err := l.bed.Send(ctx, testbed.Load{
		Clients: addresses(run*clients, clients), Turns: true, Queries: queries, Rate: l.Rate, Seed: l.nextSeed(), Port: s.port(0),
	})
	if err != nil {
		return nil, err
	}
	if i := slices.IndexFunc(asked, func(q testbed.Query) bool { return q.Endpoint < 0 }); i >= 0 {
		return nil, fmt.Errorf("query %d of %d was not answered within %s while all endpoints were", i+1, queries, 5*time.Second)
	}
	return asked, nil
}

// The zone: two of six endpoints.
const (
	zoneEndpoints = 6
	zoneLocal     = 2
	zoneClients   = 60
	zoneQueries   = 3 * zoneClients
)

// zoneHints measures how many clients move when the list shrinks to the zone's endpoints, and how many go back when it grows again.
func (l *lab) zoneHints(ctx context.Context, t Trial) ([]Figure, error) {
	var moved, needless, returned, others []float64
	for run := range t.Runs {
		seen, err := l.flip(ctx, t, run)
		if err != nil {
			return nil, err
		}
		inside := slices.DeleteFunc(slices.Clone(seen[0]), func(q testbed.Query) bool { return q.Endpoint >= zoneLocal })
		moved = append(moved, changed(seen[0], seen[1]))
		needless = append(needless, changed(inside, seen[1]))
		returned = append(returned, changed(seen[1], seen[2]))
		outside := 0.0
		for _, q := range seen[2] {
			if q.Endpoint >= zoneLocal {
				outside += 1. / zoneQueries
			}
		}
		others = append(others, outside)
	}
	const outside = float64(zoneEndpoints-zoneLocal) / zoneEndpoints
	if !t.Affinity {
		return []Figure{measured("load outside the zone in the end", others).share(outside, zoneQueries)}, nil
	}
	return []Figure{
		measured("clients that hints moved", moved).share(outside, zoneClients),
		measured("clients of the zone that hints moved", needless).share(0, zoneClients),
		measured("clients that moved when they ended", returned).share(0, zoneClients),
		measured("load outside the zone in the end", others).share(0, zoneClients),
	}, nil
}

// flip returns what clients saw before the hints, with them and after them.
func (l *lab) flip(ctx context.Context, t Trial, run int) (seen [3][]testbed.Query, err error) {
	s, err := l.serve(ctx, t.Arm, setup{endpoints: upTo(zoneEndpoints), services: 1})
	if err != nil {
		return seen, err
	}
	defer s.stop()
	for i, n := range []int{zoneEndpoints, zoneLocal, zoneEndpoints} {
		if i > 0 && err == nil {
			err = s.sync(ctx, false, upTo(n)...)
		}
		if err == nil {
			seen[i], err = l.all(ctx, s, run, zoneClients, zoneQueries)
		}
	}
	if err != nil {
		err = s.explain(err)
	}
	return seen, err
}

// changed returns the share of the clients that asked before whose last endpoint then is not their first after.
func changed(before, after []testbed.Query) float64 {
	last, first := map[int]int{}, map[int]int{}
	for _, q := range before {
		last[q.Client] = q.Endpoint
	}
	for _, q := range slices.Backward(after) {
		first[q.Client] = q.Endpoint
	}
	n := 0
	for client, e := range last {
		if first[client] != e {
			n++
		}
	}
	return float64(n) / float64(max(1, len(last)))
}

// atOnceClients is how many clients send two queries at once in a run.
const atOnceClients = 200

// atOnce measures how many clients see two endpoints when they begin with two queries at once, from two sockets. kube-proxy's rules look for a
// client and remember it in two steps, and nothing says how often others come between them: there is no theory of that.
func (l *lab) atOnce(ctx context.Context, t Trial) ([]Figure, error) {
	s, err := l.serve(ctx, t.Arm, setup{endpoints: upTo(faultEndpoints), services: t.Runs})
	if err != nil {
		return nil, err
	}
	defer s.stop()
	parted := make([]float64, t.Runs)
	for run := range parted {
		load := testbed.Load{Turns: true, Begin: testbed.Together, Queries: 2 * atOnceClients, Rate: l.Rate, Seed: l.nextSeed(), Port: s.port(run)}
		for _, a := range addresses(run*atOnceClients, atOnceClients) {
			load.Clients = append(load.Clients, a, a)
		}
		queries, err := l.bed.Send(ctx, load)
		if err != nil {
			return nil, s.explain(err)
		}
		for i := 0; i < len(queries); i += 2 {
			if queries[i].Endpoint != queries[i+1].Endpoint {
				parted[run] += 1. / atOnceClients
			}
		}
	}
	f := measured("clients whose queries parted", parted)
	switch {
	case t.Mode == Limpet:
		f = f.share(0, atOnceClients)
	case !t.Affinity:
		f = f.share(1-1./faultEndpoints, atOnceClients)
	}
	return []Figure{f}, s.ended()
}
