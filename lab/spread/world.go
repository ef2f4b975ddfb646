package spread

// A world is a scenario prepared: what its formulas and its simulations read. It is not changed.
type world struct {
	*Scenario
	share []float64 // of all queries, by client
	local [][]int   // the endpoints that clients of a zone are sent to
	ceff  float64
	crowd []int   // clients by node
	seat  []int32 // of a client among those of its node
	wheel wheel
}

func newWorld(s *Scenario) *world {
	w := &world{Scenario: s, share: make([]float64, len(s.Clients)), crowd: make([]int, s.Nodes), seat: make([]int32, len(s.Clients))}
	total := 0.0
	for _, c := range s.Clients {
		total += c.Weight
	}
	for i, c := range s.Clients {
		w.share[i] = c.Weight / total
		w.seat[i] = int32(w.crowd[c.Node])
		w.crowd[c.Node]++
	}
	w.ceff = Effective(w.share)
	w.wheel = newWheel(w.share)
	w.local = zonesOf(s.Endpoints, s.Zones)
	return w
}

// zonesOf returns the endpoints that each zone's clients are sent to.
func zonesOf(endpoints, zones int) [][]int {
	all := make([]int, endpoints)
	local := make([][]int, zones)
	for e := range all {
		all[e] = e
		local[e%zones] = append(local[e%zones], e)
	}
	for z := range local {
		if len(local[z]) == 0 {
			local[z] = all
		}
	}
	return local
}

// endpointsOf returns the endpoints that a client is sent to.
func (w *world) endpointsOf(client int) []int { return w.local[w.Clients[client].Zone] }

// units returns what is placed as a whole under a policy, as the share of the queries that each of its client's units has, and how many
// units a client has. With fresh sockets and a policy that places each flow there are as many units as queries: perQuery is true.
func (w *world) units(p Policy) (perClient int, perQuery bool) {
	switch {
	case !p.perFlow():
		return 1, false
	case !w.reused():
		return 0, true
	}
	return w.Sockets, false
}

// listsHold reports whether no list of client addresses can lose one within a time: no endpoint's list on a node can be full, and
// no client can be silent for longer than the timeout.
func (w *world) listsHold() bool {
	most := 0
	for _, n := range w.crowd {
		most = max(most, n)
	}
	if most > w.listSize() {
		return false
	}
	return w.reused() || w.Window <= w.Timeout
}
