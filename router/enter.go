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
	overflow, wait := p.overflow()
	err := p.r.o.Endpoints.Acquire(ctx, p.decision.Endpoint, wait)
	if errors.Is(err, endpoint.ErrBusy) && overflow == affinity.OverflowSpill {
		return p.spill(ctx)
	}
	p.placed = err == nil
	return err
}

// overflow returns what the request does at an endpoint that is full, and how long it waits there.
func (p *Pick) overflow() (affinity.Overflow, time.Duration) {
	s := p.req.Policy.Session
	switch {
	case s == nil || p.decide.Session.IsZero():
		return affinity.OverflowWait, defaultQueueTimeout
	case s.Overflow != affinity.OverflowWait:
		return s.Overflow, 0
	}
	return s.Overflow, time.Duration(s.QueueTimeout)
}

// elsewhere returns what decides a request that spills from where d sent it: the revision stays.
func (p *Pick) elsewhere(d affinity.Decision) affinity.Request {
	once := p.decide
	once.SessionMemory = affinity.Memory{Target: d.Target, Made: once.Now}
	once.FlowMemory = affinity.Memory{Target: affinity.Target{Revision: d.Target.Revision}, Made: once.Now}
	return once
}

// spill places this request, and no later one, at another endpoint of the same revision. The binding stays.
func (p *Pick) spill(ctx context.Context) error {
	snap := p.r.o.Endpoints.Snapshot(p.req.Service)
	if snap == nil {
		return ErrUnknownService
	}
	once := p.elsewhere(p.decision)
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
