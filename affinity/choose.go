package affinity

import "math"

// kept returns the revision that the request was given before, nil if there is none or it may not be chosen any longer.
func (c choice) kept() *Revision {
	if c.request.Kept == "" {
		return nil
	}
	if r := c.snapshot.Revision(c.request.Kept); r != nil && c.chooses(r) {
		return r
	}
	return nil
}

// split chooses a revision by weighted rendezvous hashing of the flow, else of the session, else of the random key. It returns
// nil if no revision takes new traffic. Revisions that carry an addressed tag weigh the same.
func (c choice) split() *Revision {
	h := c.revisionHash()
	var best *Revision
	var most float64
	for i := range c.snapshot.Revisions {
		r := &c.snapshot.Revisions[i]
		if !c.chooses(r) {
			continue
		}
		weight := r.Weight
		if c.request.Tag != "" {
			weight = 1
		}
		if w := weigh(mix(h^r.seed), weight); best == nil || w > most {
			best, most = r, w
		}
	}
	return best
}

func (c choice) revisionHash() uint64 {
	switch {
	case !c.request.Flow.IsZero():
		return c.request.Flow.hash(domainRevision)
	case !c.request.Session.IsZero():
		return c.request.Session.hash(domainRevision)
	}
	return hashRandom(c.request.Random, domainRevision)
}

// placeSession chooses the endpoint of a session that will be bound to it, nil if there is none.
func (c choice) placeSession(p *Pool) *Endpoint {
	switch {
	case c.request.Degraded:
		return c.plain(p)
	case c.policy != nil && c.policy.Session != nil && c.policy.Session.Place == PlaceLeastLoaded:
		return c.better(p, p.candidates(), c.request.Session.hash(domainEndpoint))
	case c.request.Loads == nil:
		return c.plain(p) // nothing is loaded, so nothing is passed over
	}
	return c.bounded(p)
}

// plain chooses by rendezvous hashing of the session alone, nil if there is no endpoint.
func (c choice) plain(p *Pool) *Endpoint { return c.rendezvous(p, p.candidates()) }

// rendezvous chooses one of the candidates, which are p's, by rendezvous hashing of the session.
func (c choice) rendezvous(p *Pool, candidates []candidate) *Endpoint {
	h := c.request.Session.hash(domainEndpoint)
	var first leader
	for _, n := range candidates {
		if score := mix(h ^ n.seed); first.beatenBy(score) {
			if e := &p.Endpoints[n.at]; !c.avoids(e.Name) {
				first = leader{e, score}
			}
		}
	}
	return first.endpoint
}

// A leader is the endpoint with the highest score so far. The zero leader is none.
type leader struct {
	endpoint *Endpoint
	score    uint64
}

// beatenBy reports whether an endpoint with that score that comes later by name takes the lead.
func (l leader) beatenBy(score uint64) bool { return l.endpoint == nil || score > l.score }

// bounded chooses by rendezvous hashing of the session, passing over endpoints above the bound. If all are above it, it chooses
// among those below their own limits as if there were no bound, and if all are at their limits, among all.
func (c choice) bounded(p *Pool) *Endpoint {
	h, bound := c.request.Session.hash(domainEndpoint), c.bound(p)
	var within, below, any leader
	for _, n := range p.candidates() {
		score := mix(h ^ n.seed)
		if !within.beatenBy(score) {
			continue
		}
		e := &p.Endpoints[n.at]
		if c.avoids(e.Name) {
			continue
		}
		load := c.request.Loads.Load(e)
		if any.beatenBy(score) {
			any = leader{e, score}
		}
		if full(e, load) {
			continue
		}
		if below.beatenBy(score) {
			below = leader{e, score}
		}
		if load.Bound < bound.Bound && load.InFlight < bound.InFlight {
			within = leader{e, score}
		}
	}
	switch {
	case within.endpoint != nil:
		return within.endpoint
	case below.endpoint != nil:
		return below.endpoint
	}
	return any.endpoint
}

// bound returns how much an endpoint may carry, the new session included: the load factor times the mean, rounded up.
func (c choice) bound(p *Pool) Load {
	var total Load
	for _, n := range p.candidates() {
		load := c.request.Loads.Load(&p.Endpoints[n.at])
		total.Bound += load.Bound
		total.InFlight += load.InFlight
	}
	factor := defaultLoadFactor
	if c.policy != nil && c.policy.Session != nil && c.policy.Session.LoadFactor >= 1 {
		factor = c.policy.Session.LoadFactor
	}
	share := func(total int64) int64 {
		return int64(math.Ceil(factor * float64(total+1) / float64(len(p.candidates()))))
	}
	return Load{Bound: share(total.Bound), InFlight: share(total.InFlight)}
}

func full(e *Endpoint, load Load) bool { return e.Limit > 0 && load.InFlight >= int64(e.Limit) }

// spread chooses the endpoint of a request without a session. Nothing will be bound and no other gateway has to agree, so it
// is the better of two random ones, whatever the size of the pool.
func (c choice) spread(p *Pool) *Endpoint {
	return c.better(p, p.candidates(), hashRandom(c.request.Random, domainEndpoint))
}

// reserve chooses an endpoint that stands by, nil if there is none. The requests of a session meet at the same one: it may keep
// them together where this gateway cannot.
func (c choice) reserve(p *Pool) *Endpoint {
	if c.request.Session.IsZero() {
		return c.better(p, p.reserves(), hashRandom(c.request.Random, domainEndpoint))
	}
	return c.rendezvous(p, p.reserves())
}

// better chooses the less loaded of two candidates of p that h names, by requests in flight, then by bound sessions. It looks
// further while it finds only endpoints that are avoided or full.
func (c choice) better(p *Pool, ready []candidate, h uint64) *Endpoint {
	if len(ready) == 0 {
		return nil
	}
	first := int(h % uint64(len(ready)))
	step := 1
	if len(ready) > 2 {
		step += int(mix(h) % uint64(len(ready)-1))
	}
	second := (first + step) % len(ready)
	best := c.lighter(c.option(p, ready[first]), c.option(p, ready[second]))
	for i := 0; i < len(ready) && (best.endpoint == nil || best.full); i++ {
		best = c.lighter(best, c.option(p, ready[(first+i)%len(ready)]))
	}
	return best.endpoint
}

// An option is one of the endpoints that better compares. The zero option is none.
type option struct {
	endpoint *Endpoint
	load     Load
	full     bool
}

func (c choice) option(p *Pool, n candidate) option {
	e := &p.Endpoints[n.at]
	if c.avoids(e.Name) {
		return option{}
	}
	o := option{endpoint: e}
	if c.request.Loads != nil {
		o.load = c.request.Loads.Load(e)
	}
	o.full = full(e, o.load)
	return o
}

// lighter returns the better of two options, a if they are equal.
func (c choice) lighter(a, b option) option {
	switch {
	case b.endpoint == nil:
		return a
	case a.endpoint == nil:
		return b
	case a.full != b.full:
		if a.full {
			return b
		}
		return a
	case b.load.InFlight < a.load.InFlight:
		return b
	case b.load.InFlight == a.load.InFlight && b.load.Bound < a.load.Bound:
		return b
	}
	return a
}
