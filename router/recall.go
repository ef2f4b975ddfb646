package router

import (
	"context"
	"sync"
	"time"

	"github.com/limpet-project/limpet/affinity"
	"github.com/limpet-project/limpet/binding"
)

// minBudget is the least that is worth asking the store for: with less left, a healthy store would look like one that is away.
const minBudget = 2 * time.Millisecond

// identify finds the keys of the request, and the token where the policy has one.
func (p *Pick) identify() error {
	pol := p.req.Policy
	if pol.Session == nil && pol.Revision == nil {
		return nil
	}
	session, flow, err := p.r.o.Keys.Keys(pol, p.req.Service, p.req.Tag, p.req.Message)
	if err != nil {
		return err
	}
	p.decide.Session, p.decide.Flow = session, flow
	if pol.Session != nil {
		p.session.idle = time.Duration(pol.Session.Idle)
	}
	if pol.Revision != nil {
		p.flow.idle = time.Duration(pol.Revision.Idle)
	}
	if pol.Session != nil && pol.Session.Mode == affinity.ModeToken {
		p.openToken()
	}
	return nil
}

// storesSession reports whether the session's binding is kept in the store.
func (p *Pick) storesSession() bool {
	return !p.decide.Session.IsZero() && p.req.Policy.Session.Mode == affinity.ModeBound
}

// storesFlow reports whether the flow's binding is kept in the store.
func (p *Pick) storesFlow() bool {
	return !p.decide.Flow.IsZero() && p.req.Policy.Revision.Mode == affinity.ModePinned
}

// recall asks the store what was remembered for the keys: what is known here at no wait, the rest in one round trip.
func (p *Pick) recall(ctx context.Context) {
	askSession, askFlow := p.storesSession(), p.storesFlow()
	if r := p.r; r.peeker != nil {
		askSession = askSession && !p.peek(p.decide.Session)
		askFlow = askFlow && !p.peek(p.decide.Flow)
	}
	if !askSession && !askFlow {
		return
	}
	p.withStore(ctx, func(ctx context.Context) error { return p.ask(ctx, askSession, askFlow) })
}

// peek remembers k if the store knows it without waiting.
func (p *Pick) peek(k affinity.Key) bool {
	b, ok := p.r.peeker.Peek(k)
	if ok {
		p.remember(k, b)
	}
	return ok
}

// ask gets one or both bindings from the store, both at the same time.
func (p *Pick) ask(ctx context.Context, session, flow bool) error {
	if !session || !flow {
		k := p.decide.Flow
		if session {
			k = p.decide.Session
		}
		b, err := p.r.o.Store.Get(ctx, k)
		p.remember(k, b)
		return err
	}
	var wg sync.WaitGroup
	var fb binding.Binding
	var ferr error
	wg.Go(func() { fb, ferr = p.r.o.Store.Get(ctx, p.decide.Flow) })
	sb, serr := p.r.o.Store.Get(ctx, p.decide.Session)
	wg.Wait()
	p.remember(p.decide.Session, sb)
	p.remember(p.decide.Flow, fb)
	if serr != nil {
		return serr
	}
	return ferr
}

// remember notes k's binding, which may be none, as what Decide is told and as what a swap replaces.
func (p *Pick) remember(k affinity.Key, b binding.Binding) {
	m := affinity.Memory{Target: b.Target, Provisional: b.Provisional}
	if b.Bound() {
		m.Made = time.UnixMicro(b.Version.Made).Add(-p.r.offset())
		m.Expired = !b.Until.IsZero() && p.decide.Now.Add(p.r.offset()).After(b.Until)
	}
	h, mem := &p.session, &p.decide.SessionMemory
	if k.Scope.Kind == affinity.KindFlow {
		h, mem = &p.flow, &p.decide.FlowMemory
	}
	h.version, h.until, h.ends = b.Version, b.Until, b.Ends
	if m.Expired {
		h.until = time.Time{}
	}
	*mem = m
}

// withStore calls f with what is left of the request's time for the store; if that is nothing, with a context that has ended, in which a
// store that can remember by itself does so. An unavailable store makes the request a degraded one.
func (p *Pick) withStore(ctx context.Context, f func(context.Context) error) error {
	left := p.r.o.StoreTimeout - p.spent
	if left < minBudget {
		left, p.decide.Degraded = 0, true
	}
	start := time.Now()
	ctx, cancel := context.WithTimeout(ctx, left)
	defer cancel()
	err := f(ctx)
	p.spent += time.Since(start)
	if unavailable(err) {
		p.decide.Degraded = true
	}
	return err
}
