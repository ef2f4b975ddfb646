package spread

import (
	"math"
	"time"

	"github.com/limpet-project/limpet/affinity"
)

// A Spread is how evenly the endpoints are loaded under one policy.
type Spread struct {
	// Variation is the coefficient of variation of the endpoints' load: its deviation relative to its mean.
	Variation Figure `json:"variation"`
	// MaxOverMean is what the fullest endpoint carries relative to the mean.
	MaxOverMean Figure `json:"maxOverMean"`
	// MovedClients is the share of clients that more than one endpoint saw within the window, and MovedFlows that of flows that reached
	// another endpoint than the one before. Both are for ClientIP affinity, which promises 0.
	MovedClients *Estimate `json:"movedClients,omitempty"`
	MovedFlows   *Estimate `json:"movedFlows,omitempty"`
}

// A Figure is one figure, by both ways.
type Figure struct {
	// Formula is nil where there is no formula. With UpTo the true figure is at most that.
	Formula   *float64 `json:"formula,omitempty"`
	UpTo      bool     `json:"upTo,omitempty"`
	Simulated Estimate `json:"simulated"`
}

func figure(formula float64, upTo bool, samples []float64) Figure {
	f := Figure{UpTo: upTo, Simulated: estimate(samples)}
	if formula > 0 && !math.IsNaN(formula) {
		f.Formula = &formula
	}
	return f
}

// A room is what one run works in; a worker uses its own again and again.
type room struct {
	load    []float64 // by endpoint
	queries []int     // by client
	last    []int32   // by client: the endpoint of its last flow, -1 for none
	moved   []bool    // by client
	order   []int32
	gateway *gateway
}

// An outcome is what one run measured.
type outcome struct{ variation, maxOverMean, movedClients, movedFlows float64 }

// spread simulates one policy.
func (w *world) spread(j *job, p Policy) (Spread, error) {
	follow := p == PolicyClientIP && !w.listsHold()
	runs := w.Runs
	if follow {
		runs = boundedRuns(runs, w.socketsOpened())
	}
	snapshots := snapshotsOf(w)
	out := make([]outcome, runs)
	err := j.run(runs, func(run int, c chance, r *room) {
		r.reset(w, p)
		switch {
		case follow:
			out[run] = w.followFlows(c, r)
		case p.limpet():
			w.placeSessions(c, r, snapshots)
		default:
			w.placeUnits(p, c, r)
		}
		out[run].variation, out[run].maxOverMean = unevenness(r.load)
	})
	if err != nil {
		return Spread{}, err
	}
	f := w.forecast(p)
	s := Spread{
		Variation:   figure(f.variation, f.upTo, pick(out, func(o outcome) float64 { return o.variation })),
		MaxOverMean: figure(f.maxOverMean, f.upTo, pick(out, func(o outcome) float64 { return o.maxOverMean })),
	}
	if p == PolicyClientIP {
		clients := estimate(pick(out, func(o outcome) float64 { return o.movedClients }))
		flows := estimate(pick(out, func(o outcome) float64 { return o.movedFlows }))
		s.MovedClients, s.MovedFlows = &clients, &flows
	}
	return s, nil
}

// pick returns one figure of every outcome.
func pick[T any](all []T, figure func(T) float64) []float64 {
	list := make([]float64, len(all))
	for i, o := range all {
		list[i] = figure(o)
	}
	return list
}

func (r *room) reset(w *world, p Policy) {
	if r.load == nil {
		r.load, r.queries = make([]float64, w.Endpoints), make([]int, len(w.Clients))
		r.last, r.moved = make([]int32, len(w.Clients)), make([]bool, len(w.Clients))
		r.order = make([]int32, len(w.Clients))
	}
	clear(r.load)
	clear(r.queries)
	clear(r.moved)
	for i := range r.last {
		r.last[i], r.order[i] = -1, int32(i)
	}
	if p.limpet() {
		r.gateway = newGateway(p, w.Endpoints)
	}
}

// unevenness returns the coefficient of variation of the loads and the highest relative to their mean.
func unevenness(load []float64) (variation, maxOverMean float64) {
	sum, squares, most := 0.0, 0.0, 0.0
	for _, l := range load {
		sum += l
		most = max(most, l)
	}
	if sum == 0 {
		return 0, 1
	}
	mean := sum / float64(len(load))
	for _, l := range load {
		squares += (l - mean) * (l - mean)
	}
	return math.Sqrt(squares/float64(len(load))) / mean, most / mean
}

// drawQueries draws how many of the window's queries each client sends.
func (w *world) drawQueries(c chance, r *room) {
	n := int(math.Round(w.flows()))
	switch {
	case w.Arrivals == ArrivalsInTurns:
		for i := range r.queries {
			r.queries[i] = n / len(r.queries)
			if i < n%len(r.queries) {
				r.queries[i]++
			}
		}
	case n < 32*len(r.queries): // cheaper one by one
		for range n {
			r.queries[w.wheel.draw(c)]++
		}
	default:
		c.divide(n, w.share, r.queries)
	}
}

// placeUnits places each unit of each client on an endpoint at random. Queries from fresh sockets are placed by zone, not one by one.
func (w *world) placeUnits(p Policy, c chance, r *room) {
	w.drawQueries(c, r)
	perClient, perQuery := w.units(p)
	if perQuery {
		zones := make([]int, len(w.local))
		for i, n := range r.queries {
			zones[w.Clients[i].Zone] += n
		}
		for z, n := range zones {
			c.evenly(n, w.local[z], r.load)
		}
		return
	}
	for i, n := range r.queries {
		endpoints := w.endpointsOf(i)
		for left := perClient; left > 0 && n > 0; left-- {
			k := c.binomial(n, 1/float64(left))
			r.load[endpoints[c.IntN(len(endpoints))]] += float64(k)
			n -= k
		}
	}
}

// placeSessions places each client as a session, in any order.
func (w *world) placeSessions(c chance, r *room, snapshots []*affinity.Snapshot) {
	w.drawQueries(c, r)
	r.shuffle(c)
	for _, i := range r.order {
		if e := r.gateway.place(snapshots[w.Clients[i].Zone], r.gateway.session(c)); e >= 0 {
			r.load[e] += float64(r.queries[i])
		}
	}
}

func (r *room) shuffle(c chance) {
	c.Shuffle(len(r.order), func(i, j int) { r.order[i], r.order[j] = r.order[j], r.order[i] })
}

// socketsOpened is how many flows a run has to follow where lists may overflow.
func (w *world) socketsOpened() float64 {
	if w.reused() {
		return float64(len(w.Clients) * w.Sockets)
	}
	return w.flows()
}

// boundedRuns returns how many runs there is time for that follow so many flows each: at most as asked, at least 30, else about 20 million
// flows in all.
func boundedRuns(runs int, flows float64) int {
	return min(runs, max(30, int(maxFlows/max(1, flows))))
}

// nodes returns every node with nothing remembered.
func (w *world) nodes() []*node {
	nodes := make([]*node, w.Nodes)
	for i := range nodes {
		nodes[i] = newNode(w.crowd[i], w.Endpoints, w.listSize(), w.Mode, w.Timeout)
	}
	return nodes
}

// followFlows lets one flow after the other pass the rules of its node.
func (w *world) followFlows(c chance, r *room) outcome {
	if w.reused() {
		return w.followSockets(c, r)
	}
	nodes, clients := w.nodes(), len(w.Clients)
	n := int(math.Round(w.flows()))
	repeated, moved := 0, 0
	for k := range n {
		i := k % clients
		if w.Arrivals == ArrivalsRandom {
			i = w.wheel.draw(c)
		}
		e := nodes[w.Clients[i].Node].route(w.seat[i], w.timeOf(k), w.endpointsOf(i), c)
		r.load[e]++
		repeated, moved = r.sees(i, e, repeated, moved)
	}
	return r.outcome(repeated, moved)
}

// timeOf returns when a query is sent, counted from 0.
func (w *world) timeOf(query int) time.Duration {
	return time.Duration(float64(query) / w.Rate * float64(time.Second))
}

// followSockets opens every client's sockets, in any order within the window, and spreads its queries over them.
func (w *world) followSockets(c chance, r *room) outcome {
	w.drawQueries(c, r)
	nodes := w.nodes()
	repeated, moved := 0, 0
	for left := w.Sockets; left > 0; left-- {
		r.shuffle(c)
		for k, i := range r.order {
			at := (float64(w.Sockets-left) + float64(k)/float64(len(r.order))) / float64(w.Sockets)
			now := time.Duration(at * float64(w.Window))
			e := nodes[w.Clients[i].Node].route(w.seat[i], now, w.endpointsOf(int(i)), c)
			queries := c.binomial(r.queries[i], 1/float64(left))
			r.queries[i] -= queries
			r.load[e] += float64(queries)
			repeated, moved = r.sees(int(i), e, repeated, moved)
		}
	}
	return r.outcome(repeated, moved)
}

// sees counts a client's flow that reaches an endpoint.
func (r *room) sees(client, endpoint, repeated, moved int) (int, int) {
	if r.last[client] >= 0 {
		repeated++
		if r.last[client] != int32(endpoint) {
			moved++
			r.moved[client] = true
		}
	}
	r.last[client] = int32(endpoint)
	return repeated, moved
}

func (r *room) outcome(repeated, moved int) outcome {
	clients := 0
	for _, m := range r.moved {
		if m {
			clients++
		}
	}
	return outcome{
		movedClients: float64(clients) / float64(len(r.moved)),
		movedFlows:   float64(moved) / float64(max(1, repeated)),
	}
}
