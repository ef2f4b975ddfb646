package spread

import (
	"math"
	"slices"

	"github.com/limpet-project/limpet/affinity"
)

// An Outage is what clients notice while one endpoint, any of them, does not answer and is not yet known to be broken.
type Outage struct {
	// ClientsOut is the share of clients none of whose queries is answered in that time, and FailedQueries that of all queries that fail, with
	// all their retries.
	ClientsOut    Figure `json:"clientsOut"`
	FailedQueries Figure `json:"failedQueries"`
}

// ejectAfter is the number of failures in a row after which a gateway leaves an endpoint out: the default of package endpoint.
const ejectAfter = 5

// outageQueries is how many queries all clients send until the endpoint is known to be broken.
func (w *world) outageQueries() float64 { return w.Rate * w.Detect.Seconds() }

// followedQueries is how many of them are followed where lists overflow: more would say the same.
func (w *world) followedQueries() float64 { return min(w.outageQueries(), 1e6) }

// outageFormula returns the share of clients in total outage and of queries that fail; none where affinity is half lost.
//
// A client whose zone has m of the M endpoints is concerned in m of M cases. Then an attempt from a new flow meets the broken one with
// probability 1/m, a client that sticks always or never. Limpet leaves the endpoint out after some failures, that is, after as many queries
// of its clients and one time-out; retries that come later are answered.
func (w *world) outageFormula(p Policy) (clientsOut, failed float64, known bool) {
	if p == PolicyClientIP && w.thrashes() {
		return 0, 0, false
	}
	all := float64(w.Endpoints)
	for i, share := range w.share {
		m := float64(len(w.endpointsOf(i)))
		n := max(1, share*w.outageQueries())
		out, fails := 1.0, 1.0 // of a client that is concerned
		switch {
		case p.limpet():
			fails = w.unseen(w.Rate/all) / w.Detect.Seconds()
			out = 0
			if fails >= 1 {
				out = 1
			}
			out, fails = out/m, min(1, fails)/m
		case !p.perFlow():
			out, fails = 1/m, 1/m
		case w.reused():
			out, fails = math.Pow(1/m, float64(w.Sockets)), w.allSocketsFail(m)
		default:
			fails = math.Pow(1/m, float64(1+w.Retries))
			out = math.Pow(fails, n)
		}
		clientsOut += out * m / all / float64(len(w.share))
		failed += fails * m / all * share
	}
	return clientsOut, failed, true
}

// allSocketsFail returns the probability that a query and its retries, each over one of the client's sockets, all meet the broken one of m
// endpoints.
func (w *world) allSocketsFail(m float64) float64 {
	sum := 0.0
	for broken := 1; broken <= w.Sockets; broken++ {
		share := float64(broken) / float64(w.Sockets)
		sum += binomial(w.Sockets, broken, 1/m) * math.Pow(share, float64(1+w.Retries))
	}
	return sum
}

// unseen returns for how many seconds queries that Limpet sends to the broken endpoint fail for good: until enough failed that it is left
// out, less the time that retries take.
func (w *world) unseen(rate float64) float64 {
	timeout := w.QueryTimeout.Seconds()
	return min(w.Detect.Seconds(), max(0, (ejectAfter-1)/rate+timeout-float64(w.Retries)*timeout))
}

// outage simulates a broken endpoint under one policy.
func (w *world) outage(j *job, p Policy) (Outage, error) {
	follow := p == PolicyClientIP && w.thrashes()
	runs := w.Runs
	if follow {
		runs = boundedRuns(runs, w.followedQueries()*float64(1+w.Retries))
	}
	out := make([][2]float64, runs) // clients, queries
	snapshots := snapshotsOf(w)
	err := j.run(runs, func(run int, c chance, r *room) {
		r.reset(w, p)
		broken := c.IntN(w.Endpoints)
		switch {
		case follow:
			out[run] = w.failFollowed(c, broken)
		case p.limpet():
			out[run] = w.failSessions(c, r, snapshots, broken)
		default:
			out[run] = w.failUnits(p, c, broken)
		}
	})
	if err != nil {
		return Outage{}, err
	}
	clients, failed, known := w.outageFormula(p)
	o := Outage{
		ClientsOut:    figure(0, false, pick(out, func(o [2]float64) float64 { return o[0] })),
		FailedQueries: figure(0, false, pick(out, func(o [2]float64) float64 { return o[1] })),
	}
	if known { // 0 is a figure here
		o.ClientsOut.Formula, o.FailedQueries.Formula = &clients, &failed
	}
	return o, nil
}

// failUnits lets every client of the broken endpoint's zone meet it by chance, with each attempt, socket or once for all.
func (w *world) failUnits(p Policy, c chance, broken int) [2]float64 {
	clients, failed := 0.0, 0.0
	perClient, _ := w.units(p)
	for i, share := range w.share {
		endpoints := w.endpointsOf(i)
		if !slices.Contains(endpoints, broken) {
			continue
		}
		m := float64(len(endpoints))
		n := max(1, int(math.Round(share*w.outageQueries())))
		fails := math.Pow(1/m, float64(1+w.Retries))
		if perClient > 0 {
			met := float64(c.binomial(perClient, 1/m)) / float64(perClient)
			fails = math.Pow(met, float64(1+w.Retries))
		}
		k := c.binomial(n, fails)
		if k == n {
			clients++
		}
		failed += share * float64(k) / float64(n)
	}
	return [2]float64{clients / float64(len(w.share)), failed}
}

// failSessions lets Limpet place the clients. Those of the broken endpoint fail until enough of their queries did.
func (w *world) failSessions(c chance, r *room, snapshots []*affinity.Snapshot, broken int) [2]float64 {
	var concerned []int
	rate := 0.0
	r.shuffle(c)
	for _, i := range r.order {
		if r.gateway.place(snapshots[w.Clients[i].Zone], r.gateway.session(c)) == broken {
			concerned = append(concerned, int(i))
			rate += w.share[i] * w.Rate
		}
	}
	if len(concerned) == 0 {
		return [2]float64{}
	}
	timeout, end := w.QueryTimeout.Seconds(), w.Detect.Seconds()
	seen := timeout
	for range ejectAfter {
		seen += c.ExpFloat64() / rate
	}
	until := min(end, max(0, seen-float64(w.Retries)*timeout))
	clients, failed := 0.0, 0.0
	for _, i := range concerned {
		n := w.share[i] * w.outageQueries()
		lost, answered := c.poisson(n*until/end), c.poisson(n*(1-until/end))
		if lost > 0 && answered == 0 {
			clients++
		}
		failed += float64(lost)
	}
	return [2]float64{clients / float64(len(w.share)), min(1, failed/max(1, w.outageQueries()))}
}

// failFollowed lets every attempt pass the rules of its node, where lists overflow.
func (w *world) failFollowed(c chance, broken int) [2]float64 {
	nodes := w.nodes()
	queries, failures := make([]int, len(w.Clients)), make([]int, len(w.Clients))
	n := int(math.Round(w.followedQueries()))
	clients, failed, senders := 0, 0, 0
	for k := range n {
		i := k % len(queries)
		if w.Arrivals == ArrivalsRandom {
			i = w.wheel.draw(c)
		}
		fails := true
		for attempt := 0; attempt <= w.Retries && fails; attempt++ {
			e := nodes[w.Clients[i].Node].route(w.seat[i], w.timeOf(k), w.endpointsOf(i), c)
			fails = e == broken
		}
		queries[i]++
		if fails {
			failures[i]++
			failed++
		}
	}
	for i, sent := range queries {
		if sent > 0 {
			senders++
			if failures[i] == sent {
				clients++
			}
		}
	}
	return [2]float64{float64(clients) / float64(max(1, senders)), float64(failed) / float64(max(1, n))}
}
