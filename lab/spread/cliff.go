package spread

import (
	"math"
	"slices"
	"time"
)

// A Cliff says whether ClientIP affinity can remember all clients. A node keeps a list of client addresses for each endpoint, and lists are
// of a fixed size. Once the clients of a node are more than all lists hold, iptables mode forgets addresses before they come back, and
// affinity ends for nearly all of them, without a trace in any log; nftables mode does not remember new ones.
type Cliff struct {
	Capacity int     `json:"capacity"` // addresses that the lists of a node hold together
	Clients  int     `json:"clients"`  // of the node that is fullest
	Fill     float64 `json:"fill"`     // Clients relative to Capacity
	// Near says that more than 85 % are used: some lists are full, as clients do not fall evenly, and some clients move until they fit.
	Near bool `json:"near"`
	// Reached says that the clients do not fit.
	Reached bool `json:"reached"`
	// MovedFlows is the share of new flows that then reach another endpoint than the one before, by formula.
	MovedFlows float64 `json:"movedFlows"`
	// Curve says what would be with fewer and more clients of equal weight on one node.
	Curve []CliffPoint `json:"curve,omitempty"`
}

// A CliffPoint is the share of clients that more than one endpoint saw in the time of 20 flows of each.
type CliffPoint struct {
	Clients int      `json:"clients"`
	Moved   Estimate `json:"moved"`
}

// nearCliff is the share of the capacity from which lists are likely to be full.
const nearCliff = 0.85

// cliff compares the clients of every node with what its lists hold.
func (w *world) cliff() Cliff {
	var worst Cliff
	zones := w.zonesOfNodes()
	for n, clients := range w.crowd {
		capacity := w.listSize() * len(w.local[zones[n]])
		if fill := float64(clients) / float64(capacity); fill >= worst.Fill {
			worst = Cliff{Capacity: capacity, Clients: clients, Fill: fill, Near: fill > nearCliff, Reached: fill > 1}
		}
	}
	if w.Sockets != 1 {
		evicted := w.evictions()
		for i, p := range w.share {
			m := float64(len(w.endpointsOf(i)))
			worst.MovedFlows += p * evicted[i] * (1 - 1/m)
		}
	}
	return worst
}

// zonesOfNodes returns the zone of each node, which its clients name.
func (w *world) zonesOfNodes() []int {
	zones := make([]int, w.Nodes)
	for _, c := range w.Clients {
		zones[c.Node] = c.Zone
	}
	return zones
}

// thrashes reports whether affinity does not hold for all clients: their addresses do not fit, and they come again.
func (w *world) thrashes() bool { return w.Sockets != 1 && w.cliff().Reached }

// evictions returns for each client the probability that its address is forgotten between two flows. The clients of a node share lists
// that keep the latest addresses, so there is a time after which an address that was not used is forgotten; it is the one in which as many
// clients are expected to send as the lists hold. (This is the characteristic time of an LRU cache, after Che, Tung and Wang.)
func (w *world) evictions() []float64 {
	evicted := make([]float64, len(w.Clients))
	byNode := make([][]int, w.Nodes)
	for i, c := range w.Clients {
		byNode[c.Node] = append(byNode[c.Node], i)
	}
	for _, clients := range byNode {
		if len(clients) == 0 {
			continue
		}
		capacity := w.listSize() * len(w.endpointsOf(clients[0]))
		if len(clients) <= capacity {
			continue
		}
		t := w.characteristicTime(clients, float64(capacity))
		for _, i := range clients {
			switch {
			case w.Mode == ModeNFTables: // which do not fit is chance
				evicted[i] = 1 - float64(capacity)/float64(len(clients))
			case w.Arrivals == ArrivalsInTurns: // each comes back after all others
				evicted[i] = 1
			default:
				evicted[i] = math.Exp(-w.share[i] * t)
			}
		}
	}
	return evicted
}

// characteristicTime returns in how many of all clients' queries so many of these clients are expected to send at least one.
func (w *world) characteristicTime(clients []int, capacity float64) float64 {
	senders := func(t float64) float64 {
		sum := 0.0
		for _, i := range clients {
			sum -= math.Expm1(-w.share[i] * t)
		}
		return sum
	}
	low, high := 0.0, 1.0
	for senders(high) < capacity {
		high *= 2
	}
	for range 60 {
		if mid := (low + high) / 2; senders(mid) < capacity {
			low = mid
		} else {
			high = mid
		}
	}
	return high
}

// The curve of the cliff.
const (
	curveFlows = 20  // of each client
	curveWork  = 1e5 // flows in all, by point
	curveMost  = 20_000
)

// curveAt are the points of the curve, relative to the capacity.
var curveAt = [...]float64{0.25, 0.5, 0.75, 0.85, 0.95, 1, 1.05, 1.1, 1.2, 1.35, 1.5, 2}

// curve simulates the cliff. Where the lists of a node hold tens of thousands, and where ClientIP affinity is not asked for, it returns
// nothing.
func (w *world) curve(j *job) ([]CliffPoint, error) {
	capacity := w.cliff().Capacity
	if capacity*2 > curveMost || !slices.Contains(w.Policies, PolicyClientIP) {
		return nil, nil
	}
	var points []CliffPoint
	for _, at := range curveAt {
		clients := int(math.Round(at * float64(capacity)))
		moved, err := w.crowded(j, max(1, clients), capacity/w.listSize())
		if err != nil {
			return nil, err
		}
		points = append(points, CliffPoint{max(1, clients), moved})
	}
	return points, nil
}

// crowded simulates so many clients of equal weight on one node.
func (w *world) crowded(j *job, clients, endpoints int) (Estimate, error) {
	s := *w.Scenario
	s.Clients, s.Endpoints, s.Nodes, s.Zones, s.Sockets = Equal(clients), endpoints, 1, 1, 0
	s.Rate = float64(clients) * curveFlows
	s.Window = time.Second
	s.Timeout = time.Hour // nothing expires: this is about room
	crowd := newWorld(&s)
	runs := max(3, min(w.Runs, int(curveWork/s.Rate), 40))
	shares := make([]float64, runs)
	err := j.run(runs, func(run int, c chance, r *room) {
		r.reset(crowd, PolicyClientIP)
		shares[run] = crowd.followFlows(c, r).movedClients
	})
	return estimate(shares), err
}
