package spread

import (
	"math"
)

// Conntrack is how many connections the kernel tracks for the clients' flows, on the node that has most.
type Conntrack struct {
	// Entries is the rate of fresh sockets times the time that an entry lives, plus the sockets that are reused.
	Entries float64 `json:"entries"`
	// Expected takes into account that a client has 28232 ports by default and uses one again by chance, which makes no new entry.
	Expected  float64  `json:"expected"`
	Simulated Estimate `json:"simulated"`
	Max       int      `json:"max"`
	Fill      float64  `json:"fill"` // Expected relative to Max
}

// ephemeralPorts is the size of net.ipv4.ip_local_port_range by default: 32768 to 60999.
const ephemeralPorts = 28_232

// conntrack predicts the entries of the node with the most. They are the same under every policy: an entry is a flow.
func (w *world) conntrack(j *job) (Conntrack, error) {
	plain, expected := make([]float64, w.Nodes), make([]float64, w.Nodes)
	for i, p := range w.share {
		live := p * w.Rate * w.FlowTimeout.Seconds()
		distinct := ephemeralPorts * -math.Expm1(-live/ephemeralPorts)
		if w.reused() {
			live, distinct = float64(w.Sockets), float64(w.Sockets)
		}
		plain[w.Clients[i].Node] += live
		expected[w.Clients[i].Node] += distinct
	}
	worst := 0
	for n := range expected {
		if expected[n] > expected[worst] {
			worst = n
		}
	}
	samples := make([]float64, w.Runs)
	err := j.run(w.Runs, func(run int, c chance, _ *room) { samples[run] = w.tracked(c, worst) })
	return Conntrack{
		Entries: plain[worst], Expected: expected[worst], Simulated: estimate(samples),
		Max: w.ConntrackMax, Fill: expected[worst] / float64(w.ConntrackMax),
	}, err
}

// tracked draws a node's entries at one moment: a port of a client has one if the client used it within the time that an entry lives.
func (w *world) tracked(c chance, node int) float64 {
	entries := 0
	for i, p := range w.share {
		switch {
		case w.Clients[i].Node != node:
		case w.reused():
			entries += w.Sockets
		default:
			live := p * w.Rate * w.FlowTimeout.Seconds()
			entries += c.binomial(ephemeralPorts, -math.Expm1(-live/ephemeralPorts))
		}
	}
	return float64(entries)
}
