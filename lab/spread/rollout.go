package spread

import (
	"math"

	"github.com/limpet-project/limpet/affinity"
)

// A Rollout is how loaded the new pods are after a rollout, oldest first, while every client was active all the time.
type Rollout struct {
	// Shares are the shares of the queries that each new pod has by formula, nil where there is none, and Simulated their means.
	Shares    []float64 `json:"shares,omitempty"`
	Simulated []float64 `json:"simulated"`
	// Errors are half the 95 % confidence intervals of Simulated.
	Errors []float64 `json:"errors"`
	// MaxOverMean is, by formula, the highest of Shares relative to their mean, and, simulated, that of single rollouts, which has the
	// chance of a finite number of clients in it.
	MaxOverMean Figure `json:"maxOverMean"`
}

// rolloutSteps returns which pods are ready after each change of a rolling update: old ones count from 0, new ones from pods on. Pods that
// were created together become ready together, and as many old ones as may go then go together. As in a Deployment a share of a pod is
// rounded up for surge and down for unavailable, and if both are 0 one pod may be unavailable.
func rolloutSteps(pods int, maxSurge, maxUnavailable Count) [][]int {
	surge, unavailable := min(maxSurge.of(pods, true), pods), min(maxUnavailable.of(pods, false), pods)
	if surge == 0 && unavailable == 0 {
		unavailable = 1
	}
	var steps [][]int
	gone, ready, pending := 0, 0, 0
	for {
		pending += min(pods-ready-pending, pods+surge-(pods-gone+ready+pending))
		remove := min(pods-gone, (pods-gone+ready)-(pods-unavailable))
		switch {
		case remove > 0:
			gone += remove
		case pending > 0:
			ready, pending = ready+pending, 0
		default:
			return steps
		}
		steps = append(steps, podsFrom(gone, pods+ready))
	}
}

// podsFrom returns the numbers from first to before end.
func podsFrom(first, end int) []int {
	list := make([]int, end-first)
	for i := range list {
		list[i] = first + i
	}
	return list
}

// RolloutShares returns the shares that the new pods have in the end, oldest first, if clients are active all the time and choose anew, each
// remaining pod alike, only when theirs is gone: kube-proxy's ClientIP affinity, and sockets that are reused.
func RolloutShares(pods int, maxSurge, maxUnavailable Count) []float64 {
	share := make([]float64, 2*pods)
	homeless := 0.0
	for e := range pods {
		share[e] = 1 / float64(pods)
	}
	for _, ready := range rolloutSteps(pods, maxSurge, maxUnavailable) {
		for e := range share {
			if len(ready) == 0 || e < ready[0] {
				homeless += share[e]
				share[e] = 0
			}
		}
		for _, e := range ready {
			share[e] += homeless / float64(len(ready))
		}
		if len(ready) > 0 {
			homeless = 0
		}
	}
	return share[pods:]
}

// A transit is a rollout prepared for simulations.
type transit struct {
	*world
	policy    Policy
	perClient int // units; 0 if each query is placed by itself
	stateless bool
	steps     [][]int
	snapshots []*affinity.Snapshot // of every step
	restless  []float64            // by client: the probability that it chooses anew within a step although its pod is ready
}

func (w *world) transit(p Policy) transit {
	perClient, _ := w.units(p)
	t := transit{world: w, policy: p, perClient: perClient, steps: rolloutSteps(w.Endpoints, w.MaxSurge, w.MaxUnavailable)}
	t.stateless = p == PolicyFlowHash || p == PolicyHash || p == PolicyRendezvous
	if p.limpet() {
		t.addSnapshots()
	}
	t.restless = make([]float64, len(w.Clients))
	if p == PolicyClientIP && w.thrashes() && !w.reused() {
		for i, evicted := range w.evictions() {
			flows := w.share[i] * w.Rate * w.PodReady.Seconds()
			t.restless[i] = 1 - math.Pow(1-evicted, flows)
		}
	}
	return t
}

// addSnapshots adds what gateways see. Where nothing is remembered the last step alone counts, else there is a first one too, with the
// old pods.
func (t *transit) addSnapshots() {
	if t.stateless {
		t.steps = t.steps[len(t.steps)-1:]
	} else {
		t.steps = append([][]int{podsFrom(0, t.Endpoints)}, t.steps...)
	}
	for _, ready := range t.steps {
		t.snapshots = append(t.snapshots, snapshot(ready))
	}
}

// shares returns what the formula says, nil if there is none.
func (t *transit) shares() []float64 {
	switch {
	case t.policy == PolicyBound, t.policy == PolicyClientIP && t.thrashes():
		return nil
	case t.stateless, t.perClient == 0:
		even := make([]float64, t.Endpoints)
		for i := range even {
			even[i] = 1 / float64(t.Endpoints)
		}
		return even
	}
	return RolloutShares(t.Endpoints, t.MaxSurge, t.MaxUnavailable)
}

// rollout simulates a rollout under one policy. Zones play no part in it.
func (w *world) rollout(j *job, p Policy) (Rollout, error) {
	t := w.transit(p)
	most := make([]float64, w.Runs)
	loads := make([][]float32, w.Runs)
	err := j.run(w.Runs, func(run int, c chance, r *room) {
		load := make([]float64, w.Endpoints)
		t.pass(c, r, load)
		_, most[run] = unevenness(load)
		loads[run] = make([]float32, len(load))
		for e, l := range load {
			loads[run][e] = float32(l)
		}
	})
	if err != nil {
		return Rollout{}, err
	}
	out := Rollout{Shares: t.shares()}
	for e := range w.Endpoints {
		est := estimate(pick(loads, func(l []float32) float64 { return float64(l[e]) }))
		out.Simulated = append(out.Simulated, est.Mean)
		out.Errors = append(out.Errors, est.High-est.Mean)
	}
	highest := 0.0
	for _, share := range out.Shares {
		highest = max(highest, share*float64(w.Endpoints))
	}
	out.MaxOverMean = figure(highest, false, most)
	return out, nil
}

// pass simulates one rollout and adds up the load of the new pods.
func (t *transit) pass(c chance, r *room, load []float64) {
	switch {
	case t.perClient == 0:
		n := int(math.Round(t.flows()))
		t.addEvenly(c, n, load)
	case t.policy.limpet():
		t.passSessions(c, r, load)
	default:
		t.passUnits(c, load)
	}
}

// addEvenly places queries from fresh sockets.
func (t *transit) addEvenly(c chance, n int, load []float64) {
	c.evenly(n, podsFrom(0, t.Endpoints), load)
	for e := range load {
		load[e] /= float64(n)
	}
}

// passUnits moves every client's units when their pods go.
func (t *transit) passUnits(c chance, load []float64) {
	for i, p := range t.share {
		for range t.perClient {
			e := t.endOfUnit(c, i)
			load[e-t.Endpoints] += p / float64(t.perClient)
		}
	}
}

// endOfUnit returns the pod that has a unit of a client in the end.
func (t *transit) endOfUnit(c chance, client int) int {
	if t.stateless {
		return t.Endpoints + c.IntN(t.Endpoints)
	}
	at := c.IntN(t.Endpoints)
	for _, ready := range t.steps {
		if len(ready) > 0 && (at < ready[0] || t.restless[client] > 0 && c.Float64() < t.restless[client]) {
			at = ready[c.IntN(len(ready))]
		}
	}
	return at
}

// passSessions lets Limpet place each session, and again whenever its pod goes or, where nothing is remembered, in the end.
func (t *transit) passSessions(c chance, r *room, load []float64) {
	r.reset(t.world, t.policy)
	r.gateway = newGateway(t.policy, 2*t.Endpoints)
	sessions := make([]affinity.Key, len(t.Clients))
	for i := range sessions {
		sessions[i] = r.gateway.session(c)
	}
	for k, ready := range t.steps {
		r.shuffle(c)
		t.moveSessions(r, sessions, ready, t.snapshots[k])
	}
	for i, e := range r.last {
		load[int(e)-t.Endpoints] += t.share[i]
	}
}

// moveSessions places the sessions whose pods are gone.
func (t *transit) moveSessions(r *room, sessions []affinity.Key, ready []int, s *affinity.Snapshot) {
	if len(ready) == 0 {
		return
	}
	for i, e := range r.last {
		if e >= 0 && int(e) < ready[0] {
			r.gateway.bound[e]--
			r.last[i] = -1
		}
	}
	for _, i := range r.order {
		if r.last[i] < 0 {
			r.last[i] = int32(r.gateway.place(s, sessions[i]))
		}
	}
}
