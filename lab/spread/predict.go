package spread

import (
	"context"
	"fmt"
	"slices"

	"github.com/limpet-project/limpet/affinity"
)

// A Prediction is what a scenario leads to.
type Prediction struct {
	Scenario Scenario `json:"scenario"`
	// Clients is their number, and Effective how many equal ones would spread as unevenly.
	Clients   int            `json:"clients"`
	Effective float64        `json:"effectiveClients"`
	Policies  []PolicyResult `json:"policies"`
	Cliff     Cliff          `json:"cliff"`
	Conntrack Conntrack      `json:"conntrack"`
	// Warnings are sentences about what would surprise.
	Warnings []string `json:"warnings,omitempty"`
}

// A PolicyResult is what one policy leads to.
type PolicyResult struct {
	Policy  Policy  `json:"policy"`
	Spread  Spread  `json:"spread"`
	Rollout Rollout `json:"rollout"`
	Outage  Outage  `json:"outage"`
}

// Predict says what the scenario leads to. It takes as long as its simulations, and ends early with the context's error. Progress may be nil.
// What is wrong with the scenario is a *[FieldError].
func Predict(ctx context.Context, s Scenario, progress *Progress) (*Prediction, error) {
	if err := s.Validate(); err != nil {
		return nil, err
	}
	if progress == nil {
		progress = &Progress{}
	}
	w := newWorld(&s)
	j := &job{ctx: ctx, seed: s.Seed, progress: progress}
	progress.total.Store(int64(len(s.Policies)*3+len(curveAt)+1) * stepsPerSimulation)
	p, err := w.predict(j)
	if err != nil {
		return nil, fmt.Errorf("simulating: %w", err)
	}
	progress.done.Store(progress.total.Load())
	return p, nil
}

func (w *world) predict(j *job) (*Prediction, error) {
	p := &Prediction{Scenario: *w.Scenario, Clients: len(w.Clients), Effective: w.ceff, Cliff: w.cliff()}
	for _, policy := range w.Policies {
		r := PolicyResult{Policy: policy}
		var err error
		if r.Spread, err = w.spread(j, policy); err != nil {
			return nil, err
		}
		if r.Rollout, err = w.rollout(j, policy); err != nil {
			return nil, err
		}
		if r.Outage, err = w.outage(j, policy); err != nil {
			return nil, err
		}
		p.Policies = append(p.Policies, r)
	}
	var err error
	if p.Conntrack, err = w.conntrack(j); err != nil {
		return nil, err
	}
	if p.Cliff.Curve, err = w.curve(j); err != nil {
		return nil, err
	}
	p.Warnings = p.warnings()
	return p, nil
}

// warnings says what would surprise.
func (p *Prediction) warnings() []string {
	var list []string
	add := func(format string, args ...any) { list = append(list, fmt.Sprintf(format, args...)) }
	s := &p.Scenario
	clientIP := slices.Contains(s.Policies, PolicyClientIP)
	switch c := p.Cliff; {
	case !clientIP:
	case c.Reached && s.Mode == ModeIPTables && s.Sockets != 1:
		add("ClientIP affinity does not hold: a node has %d clients and its lists hold %d addresses; %.0f %% of new flows reach another "+
			"endpoint than the one before. Load xt_recent with a larger ip_list_tot, or use nftables mode.", c.Clients, c.Capacity, 100*c.MovedFlows)
	case c.Reached:
		add("A node has %d clients and its lists hold %d addresses: not all are remembered.", c.Clients, c.Capacity)
	case c.Near:
		add("A node has %d clients and its lists hold %d addresses: some lists are full already, and some clients move.", c.Clients, c.Capacity)
	}
	if clientIP && s.Window > s.Timeout {
		add("A client that is silent for longer than %s chooses anew; the formulas leave that out.", s.Timeout)
	}
	if c := p.Conntrack; c.Fill > 0.8 {
		add("Connection tracking is %.0f %% full: %.0f entries of %d.", 100*c.Fill, c.Expected, c.Max)
	}
	if s.Endpoints == 1 {
		add("There is one endpoint: nothing spreads.")
	}
	return list
}

// snapshotsOf returns the service as each zone's gateway has it.
func snapshotsOf(w *world) []*affinity.Snapshot {
	list := make([]*affinity.Snapshot, len(w.local))
	for z, endpoints := range w.local {
		list[z] = snapshot(endpoints)
	}
	return list
}
