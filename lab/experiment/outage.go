package experiment

import (
	"context"
	"time"
)

// blackHole measures what clients notice of an endpoint that drops everything.
func (l *lab) blackHole(ctx context.Context, t Trial) ([]Figure, error) {
	window := faultWindow
	if t.Mode == Limpet {
		window *= 2 // it recovers meanwhile, and has to be seen to stay so
	}
	var failed, out, recovery []float64
	for run := range t.Runs {
		s, err := l.serve(ctx, t.Arm, setup{endpoints: upTo(faultEndpoints), services: 1, probe: probeInterval})
		if err != nil {
			return nil, err
		}
		after, at, err := l.during(ctx, l.faultLoad(s, run, false), window, func() error { return l.bed.Silence(ctx, run%faultEndpoints) })
		err = s.explain(err)
		s.stop()
		if err == nil {
			err = l.bed.Heal(ctx, run%faultEndpoints)
		}
		if err != nil {
			return nil, err
		}
		share, clients, last := failures(after)
		failed, out = append(failed, share), append(out, clients)
		recovery = append(recovery, max(0, last.Sub(at).Seconds()))
	}
	return l.outageTheory(ctx, t, measured("queries that failed", failed), measured("clients without any answer", out),
		measured("recovery, seconds", recovery))
}

// outageTheory sets the theory beside a black hole. With Limpet queries fail until the probe that is due next has failed.
func (l *lab) outageTheory(ctx context.Context, t Trial, failed, out, recovery Figure) ([]Figure, error) {
	if t.Mode == Limpet {
		const sessions = 13. / faultClients // bounded load gives an endpoint 1.25 times the mean at most, rounded up
		known := (probeInterval + probeTimeout + slack).Seconds()
		most := sessions * known / (2 * faultWindow).Seconds()
		return []Figure{failed.atMost(most), out.share(0, faultClients), recovery.atMost(known)}, nil
	}
	s := l.scenario(Cell{Arm: t.Arm, Shape: Shape{Clients: faultClients, Weights: Equal}, Endpoints: faultEndpoints, Queries: 1})
	s.Rate, s.Detect, s.QueryTimeout, s.Retries = faultRate, faultWindow, faultTimeout, 0
	p, err := l.predict(ctx, s)
	if err != nil {
		return nil, err
	}
	failed, out = failed.simulated(p.Outage.FailedQueries, false, l.Seed), out.simulated(p.Outage.ClientsOut, false, l.Seed)
	out.Twin = t.Affinity
	return []Figure{failed, out}, nil
}

// slack is how late a loaded machine may be.
const slack = 250 * time.Millisecond

// removed measures what clients notice who keep their sockets when an endpoint ends and is taken from the list.
func (l *lab) removed(ctx context.Context, t Trial) ([]Figure, error) {
	var lost, stuck []float64
	for run := range t.Runs {
		s, err := l.serve(ctx, t.Arm, setup{endpoints: upTo(faultEndpoints), services: 1, reuse: true, probe: probeInterval})
		if err != nil {
			return nil, err
		}
		gone := run % faultEndpoints
		rest := append(upTo(gone), upTo(faultEndpoints)[gone+1:]...)
		after, at, err := l.during(ctx, l.faultLoad(s, run, true), faultWindow, func() error {
			if err := l.bed.Silence(ctx, gone); err != nil {
				return err
			}
			return s.sync(ctx, t.Fault == StaleFlows, rest...)
		})
		err = s.explain(err)
		s.stop()
		if err == nil {
			err = l.bed.Heal(ctx, gone)
		}
		if err != nil {
			return nil, err
		}
		share, _, _ := failures(after)
		_, clients, _ := failures(since(after, at.Add(faultWindow/2)))
		lost, stuck = append(lost, share), append(stuck, clients)
	}
	p := 0.0
	if t.Fault == StaleFlows {
		p = 1. / faultEndpoints
	}
	failed := measured("queries that failed after it", lost).share(p, faultClients)
	failed.Twin = true
	return []Figure{failed, measured("clients that stay stuck", stuck).share(p, faultClients)}, nil
}
