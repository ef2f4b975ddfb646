package experiment

import (
	"context"
	"fmt"
	"time"

	"github.com/limpet-project/limpet/lab/spread"
)

const defaultSimulations = 2000

// recentList is how many addresses a list of xt_recent holds.
const recentList = 100

// A theoryKey names what the theory of a cell depends on.
type theoryKey struct {
	policy    spread.Policy
	mode      spread.Mode
	shape     Shape
	endpoints int
	queries   int
	turns     bool
}

// scenario returns a cell as package spread has it.
func (l *lab) scenario(c Cell) spread.Scenario {
	s := spread.DefaultScenario()
	s.Clients, s.Endpoints, s.Policies = c.clients(), c.Endpoints, []spread.Policy{c.policy()}
	if c.Reuse {
		s.Sockets = 1
	}
	if c.Mode == NFTables || c.Clients <= recentList { // lists that cannot be full are all alike, and large ones need no curve of how they fill
		s.Mode = spread.ModeNFTables
	}
	if c.Turns {
		s.Arrivals = spread.ArrivalsInTurns
	}
	s.Rate, s.Window, s.Timeout = float64(c.Queries), time.Second, affinityTimeout
	s.Detect, s.QueryTimeout = time.Millisecond, time.Millisecond // what an outage does is another matter
	s.Runs, s.Seed = l.Simulations, l.Seed
	return s
}

// predict returns what the theory says of one policy.
func (l *lab) predict(ctx context.Context, s spread.Scenario) (spread.PolicyResult, error) {
	p, err := spread.Predict(ctx, s, nil)
	if err != nil {
		return spread.PolicyResult{}, fmt.Errorf("predicting: %w", err)
	}
	return p.Policies[0], nil
}

// addTheory sets the theory beside what was measured in a cell.
func (l *lab) addTheory(ctx context.Context, r *CellResult) error {
	s := l.scenario(r.Cell)
	key := theoryKey{r.policy(), s.Mode, r.Shape, r.Endpoints, r.Queries, r.Turns}
	if key.policy != spread.PolicyClientIP {
		key.mode = "" // nothing else depends on it
	}
	p, known := l.theories[key]
	if !known {
		var err error
		if p, err = l.predict(ctx, s); err != nil {
			return err
		}
		l.theories[key] = p
	}
	r.Variation = r.Variation.simulated(p.Spread.Variation, true, l.Seed)
	r.MaxOverMean = r.MaxOverMean.simulated(p.Spread.MaxOverMean, false, l.Seed)
	switch moved := p.Spread.MovedClients; {
	case r.Moved == nil:
	case moved != nil:
		*r.Moved = r.Moved.simulated(spread.Figure{Simulated: *moved}, false, l.Seed)
	default: // a socket stays where it is, and a session of Limpet
		*r.Moved = r.Moved.share(0, r.Clients)
	}
	return nil
}
