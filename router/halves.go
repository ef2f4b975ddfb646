package router

import (
	"context"
	"errors"
	"time"

	"github.com/limpet-project/limpet/affinity"
	"github.com/limpet-project/limpet/endpoint"
)

// Choose is the first half of Pick, for a data plane that waits for a place elsewhere than it asks for the revision. It settles and
// remembers the target and takes no place there. If no endpoint of the revision is ready, Target is the revision alone, and the session
// is not bound yet. Enter is the second half; a request that ends without it calls Done all the same.
func (r *Router) Choose(ctx context.Context, req *Request) (*Pick, error) {
	p := &Pick{r: r, req: *req}
	if err := p.begin(ctx); err != nil {
		return nil, err
	}
	if err := p.chooseFirst(ctx); err != nil {
		return nil, err
	}
	return p, nil
}

// ChooseKeyed is Choose for a data plane that places requests without a session and without a flow itself: of such a request it reports
// false, and has chosen nothing. The pick is made in p, which may be part of something larger; p is overwritten, so no request may have it
// still. It is to be done with only if ChooseKeyed reports true.
func (r *Router) ChooseKeyed(ctx context.Context, p *Pick, req *Request) (keyed bool, err error) {
	*p = Pick{r: r, req: *req}
	if err := p.begin(ctx); err != nil || p.Key().IsZero() {
		return false, err
	}
	err = p.chooseFirst(ctx)
	return err == nil, err
}

// chooseFirst chooses; that no endpoint is ready is no error yet.
func (p *Pick) chooseFirst(ctx context.Context) error {
	if err := p.choose(ctx); err != nil && !errors.Is(err, affinity.ErrNoEndpoint) {
		return err
	}
	p.decide.Kept = p.decision.Target.Revision
	return nil
}

// TryEnter is Enter as far as nothing has to be waited for: it takes a place at the chosen endpoint if there is one now, and reports whether
// it did. If not, nothing has changed, and Enter does what is left.
func (p *Pick) TryEnter(ctx context.Context) bool {
	if p.decision.Endpoint == nil || p.r.o.Endpoints.Acquire(ctx, p.decision.Endpoint, 0) != nil {
		return false
	}
	p.placed = true
	p.renewStart()
	return true
}

// Enter takes a place at the chosen endpoint, once. It waits for an endpoint if the revision has none, until ctx ends, and for a place as
// the policy says. An endpoint that went meanwhile is replaced by another one of the revision; only if the revision is valid no longer
// Target names another one.
func (p *Pick) Enter(ctx context.Context) error {
	if p.decision.Endpoint != nil {
		if err := p.enter(ctx); !errors.Is(err, endpoint.ErrGone) {
			return p.entered(err)
		}
	}
	for {
		changed, before := p.r.o.Endpoints.Changed(), p.decision
		p.decide.Now = time.Now()
		err := p.settle(ctx)
		if before.Endpoint == nil && p.decision.Target.Revision == before.Target.Revision {
			p.decision.Reason = before.Reason // it found what Choose has made
		}
		if !errors.Is(err, affinity.ErrNoEndpoint) {
			return p.entered(err)
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// entered begins to renew what the request uses, if it has a place.
func (p *Pick) entered(err error) error {
	if err == nil {
		p.renewStart()
	}
	return err
}

// Spill gives up the place at the endpoint, which turned out to be full where all its requests are counted, and takes one elsewhere in the
// revision for this request only: at once, or it returns endpoint.ErrBusy. The binding stays, and the reason is overflow.
func (p *Pick) Spill(ctx context.Context) error {
	p.r.flights.remove(p)
	p.leave(endpoint.OutcomeUnknown)
	err := p.spill(ctx)
	p.renewStart()
	return err
}

// Adopt notes that the data plane has found a place itself, at an endpoint of the chosen revision, for a request that is bound to no
// endpoint. It stands for Enter and Another; the place is the data plane's to give back.
func (p *Pick) Adopt(e *affinity.Endpoint) {
	p.r.flights.remove(p)
	p.leave(endpoint.OutcomeUnknown)
	p.decision.Endpoint, p.decision.Target.Endpoint = e, e.Name
	p.decide.Now = time.Now()
	p.renewStart()
}
