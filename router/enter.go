package router

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/limpet-project/limpet/affinity"
	"github.com/limpet-project/limpet/endpoint"
)

// enter takes a place at the decided endpoint. When it is full a bound request waits, spills or is rejected, as its policy says.
func (p *Pick) enter(ctx context.Context) error {
	overflow, wait := affinity.OverflowWait, defaultQueueTimeout
	if s := p.req.Policy.Session; s != nil && !p.decide.Session.IsZero() {
		overflow, wait = s.Overflow, time.Duration(s.QueueTimeout)
	}
	if overflow != affinity.OverflowWait {
		wait = 0
	}
	err := p.r.o.Endpoints.Acquire(ctx, p.decision.Endpoint, wait)
	if errors.Is(err, endpoint.ErrBusy) && overflow == affinity.OverflowSpill {
		return p.spill(ctx)
	}
	p.placed = err == nil
	return err
}

// spill places this request, and no later one, at another endpoint of the same revision. The binding stays.
func (p *Pick) spill(ctx context.Context) error {
	snap := p.r.o.Endpoints.Snapshot(p.req.Service)
	if snap == nil {
		return ErrUnknownService
	}
	once := p.decide
	once.SessionMemory = affinity.Memory{Target: p.decision.Target, Made: once.Now}
	once.FlowMemory = affinity.Memory{Target: affinity.Target{Revision: p.decision.Target.Revision}, Made: once.Now}
	for {
		p.spilled = append(p.spilled, p.decision.Target.Endpoint)
		once.Avoid = slices.Concat(p.decide.Avoid, p.spilled)
		d, err := affinity.Decide(p.req.Policy, snap, once)
		if err != nil || d.Endpoint == nil {
			return endpoint.ErrBusy
		}
		d.Bind, d.Reason = affinity.BindNothing, affinity.ReasonOverflow
		p.decision = d
		err = p.r.o.Endpoints.Acquire(ctx, d.Endpoint, 0)
		if p.placed = err == nil; p.placed || !retriable(err) {
			return err
		}
	}
}

// retriable reports whether err is about one endpoint rather than about the request.
func retriable(err error) bool {
	return errors.Is(err, endpoint.ErrBusy) || errors.Is(err, endpoint.ErrGone)
}
