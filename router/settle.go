package router

import (
	"context"
	"errors"
	"time"

	"github.com/limpet-project/limpet/affinity"
	"github.com/limpet-project/limpet/binding"
	"github.com/limpet-project/limpet/endpoint"
)

// maxRounds bounds how often one request loses a race to bind; after that it goes where the winner says, or unbound.
const maxRounds = 3

// defaultQueueTimeout bounds the wait for a full endpoint where no policy says so.
const defaultQueueTimeout = 10 * time.Second

// settle decides until there is a place at an endpoint: an endpoint that went while the request waited for it is decided again.
func (p *Pick) settle(ctx context.Context) error {
	for {
		if err := p.choose(ctx); err != nil {
			return err
		}
		err := p.enter(ctx)
		if !errors.Is(err, endpoint.ErrGone) {
			return err
		}
		p.decide.Now = time.Now()
	}
}

// choose decides and remembers, flow before session, and leaves the decision in p. A lost race is decided again with the winner.
func (p *Pick) choose(ctx context.Context) error {
	var asked affinity.Reason // why, by the first decision that stood: the later ones find what it made
	first := true
	for lost := 0; ; {
		d, err := p.ponder(ctx)
		if err != nil {
			return err
		}
		if d.Bind != affinity.BindNothing && !p.unbound && !p.bind(ctx, &d) {
			if lost++; lost == maxRounds {
				p.unbound = true
			}
			first = true
			continue
		}
		if first {
			asked, first = d.Reason, false
		}
		if d.Bind == affinity.BindFlow {
			p.decide.FlowMemory = affinity.Memory{Target: affinity.Target{Revision: d.Target.Revision}, Made: p.decide.Now}
			continue
		}
		if d.Endpoint != nil {
			d.Target.Endpoint = d.Endpoint.Name // a session may be bound to less than it goes to
		}
		d.Reason = asked
		if p.full && asked == affinity.ReasonDegraded {
			d.Reason = affinity.ReasonNone
		}
		p.decision = d
		return p.reachable()
	}
}

// reachable returns an error if the decided revision has no endpoint.
func (p *Pick) reachable() error {
	if p.decision.NoEndpoint() {
		return affinity.ErrNoEndpoint
	}
	return nil
}

// ponder decides once, waiting for a target that is unknown here until the snapshot knows it or the wait is over.
func (p *Pick) ponder(ctx context.Context) (affinity.Decision, error) {
	latest := p.decide.Now.Add(time.Duration(p.req.Policy.Settle)) // a clock may say that a binding is made in the future
	for {
		changed := p.r.o.Endpoints.Changed()
		snap := p.r.o.Endpoints.Snapshot(p.req.Service)
		if snap == nil {
			return affinity.Decision{}, ErrUnknownService
		}
		d, err := affinity.Decide(p.req.Policy, snap, p.decide)
		if err != nil || d.WaitUntil.IsZero() {
			return d, err
		}
		if d.WaitUntil.After(latest) {
			d.WaitUntil = latest
		}
		if err := p.await(ctx, changed, d.WaitUntil); err != nil {
			return affinity.Decision{}, err
		}
		p.decide.Now = time.Now()
	}
}

// await waits for a new snapshot, at most until the given time. If too many wait already it does not: unknown then counts as gone.
func (p *Pick) await(ctx context.Context, changed <-chan struct{}, until time.Time) error {
	r := p.r
	n := r.waiters.Add(1)
	defer func() { r.observeWaiters(r.waiters.Add(-1)) }()
	if n > int64(r.o.MaxWaiters) {
		p.decide.Settled = true
		return nil
	}
	r.observeWaiters(n)
	timer := time.NewTimer(time.Until(until))
	defer timer.Stop()
	select {
	case <-changed:
	case <-timer.C:
		p.decide.Settled = true
	case <-ctx.Done():
		return ctx.Err()
	}
	return nil
}

func (r *Router) observeWaiters(n int64) {
	if r.o.Observer != nil {
		r.o.Observer.Waiters(int(n))
	}
}

// bind remembers what d asks for and reports whether d stands. If not, p knows more than before and has to decide again: the
// winner of a race, or that nothing can be remembered now, so that the choice has to be the plain one on which gateways agree.
func (p *Pick) bind(ctx context.Context, d *affinity.Decision) bool {
	if d.Bind == affinity.BindSession && p.req.Policy.Session.Mode == affinity.ModeToken {
		p.sealNew(d)
		return true
	}
	k, h, target := p.decide.Session, &p.session, d.Target
	if d.Bind == affinity.BindFlow {
		k, h, target = p.decide.Flow, &p.flow, affinity.Target{Revision: d.Target.Revision}
	}
	var b binding.Binding
	plain := p.decide.Degraded
	err := p.withStore(ctx, func(ctx context.Context) (err error) {
		b, err = p.r.o.Store.Swap(ctx, k, h.version, target, p.life(k, h))
		return err
	})
	switch {
	case errors.Is(err, binding.ErrConflict):
		p.r.observeConflict(p.req.Service)
		p.remember(k, b)
		return false
	case err != nil:
		p.full = errors.Is(err, binding.ErrFull)
		p.unbound, p.decide.Degraded = true, true
		if p.full {
			p.r.observeFull(p.req.Service)
		}
		return false
	case b.Provisional && !plain: // the store went away just now
		h.version = b.Version
		p.decide.Degraded = true
		return false
	}
	p.remember(k, b)
	return true
}

// life returns how long a binding of k lasts. A re-binding keeps its absolute end.
func (p *Pick) life(k affinity.Key, h *held) binding.Life {
	l := binding.Life{Idle: h.idle, Until: h.until, Quota: p.req.Policy.Quota}
	absolute := time.Duration(0)
	if k.Scope.Kind == affinity.KindSession {
		absolute = time.Duration(p.req.Policy.Session.Absolute)
	} else {
		absolute = time.Duration(p.req.Policy.Revision.Absolute)
	}
	if l.Until.IsZero() && absolute > 0 {
		l.Until = p.decide.Now.Add(p.r.offset() + absolute)
	}
	return l
}

// unavailable reports whether err means that the store cannot be asked, rather than what it said.
func unavailable(err error) bool {
	return errors.Is(err, binding.ErrUnavailable) || errors.Is(err, context.DeadlineExceeded)
}
