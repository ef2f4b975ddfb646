package router

import (
	"context"
	"math/rand/v2"
	"time"

	"github.com/limpet-project/limpet/affinity"
	"github.com/limpet-project/limpet/binding"
	"github.com/limpet-project/limpet/endpoint"
)

// A Header is the part of http.Header that a pick edits. Names are in canonical form.
type Header interface {
	Values(name string) []string
	Set(name, value string)
	Add(name, value string)
	Del(name string)
}

// A Pick is the choice for one request. It belongs to one request and is not safe for concurrent use. Done must be called once.
type Pick struct {
	r        *Router
	req      Request
	decide   affinity.Request // what Decide is told; carries the memories across rounds
	session  held             // the session's place in the store or token
	flow     held
	decision affinity.Decision
	token    *tokenState   // nil unless the policy has tokens
	spent    time.Duration // of the store timeout
	unbound  bool          // nothing more can be remembered for this request
	full     bool          // because the store takes no more bindings
	spilled  []string      // endpoints that were full
	placed   bool          // holds a place at decision.Endpoint
	flight   flight        // in the list of requests in flight
}

// held is what a pick knows of one key's binding.
type held struct {
	version binding.Version
	until   time.Time // absolute end, the store's clock
	ends    time.Time // end unless renewed, our clock; zero: unknown or not in the store
	idle    time.Duration
}

// Pick chooses the target of one request and takes a place there: it waits, up to the policy's limits, for an endpoint that is
// unknown here or full. A failing store does not fail the request.
func (r *Router) Pick(ctx context.Context, req *Request) (*Pick, error) {
	p := &Pick{r: r, req: *req}
	if err := p.begin(ctx); err != nil {
		return nil, err
	}
	if err := p.entered(p.settle(ctx)); err != nil {
		return nil, err
	}
	return p, nil
}

// begin knows the request's keys and what is remembered for them.
func (p *Pick) begin(ctx context.Context) error {
	if p.req.Policy == nil {
		p.req.Policy = &noAffinity
	}
	p.decide.Now = time.Now()
	p.decide.Loads = p.r.o.Endpoints
	p.decide.Random = rand.Uint64()
	p.decide.Tag = p.req.Tag
	if err := p.r.checkTag(&p.req); err != nil {
		return err
	}
	if err := p.identify(); err != nil {
		return err
	}
	p.recall(ctx)
	return nil
}

// checkTag refuses a tag that no revision carries before a key is made of it: the value of a tag header is the client's to choose,
// and neither the store nor a cache shall remember names of its choice.
func (r *Router) checkTag(req *Request) error {
	if req.Tag == "" {
		return nil
	}
	snap := r.o.Endpoints.Snapshot(req.Service)
	switch {
	case snap == nil:
		return ErrUnknownService
	case !snap.HasTag(req.Tag):
		return affinity.ErrUnknownTag
	}
	return nil
}

// noAffinity is the policy of a route without one; it is never written.
var noAffinity affinity.Policy

// Address returns the host:port to connect to, "" if there is no endpoint. It changes with Another.
func (p *Pick) Address() string {
	if p.decision.Endpoint == nil {
		return ""
	}
	return p.decision.Endpoint.Address
}

// Target returns the revision and endpoint chosen. It changes with Another.
func (p *Pick) Target() affinity.Target { return p.decision.Target }

// Reason returns why. It changes with Another.
func (p *Pick) Reason() affinity.Reason { return p.decision.Reason }

// Key returns the key that decided, for logs: the session's, else the flow's, else the zero Key.
func (p *Pick) Key() affinity.Key {
	if !p.decide.Session.IsZero() {
		return p.decide.Session
	}
	return p.decide.Flow
}

// Another gives up the picked endpoint, to which no connection could be established, and picks another one. The binding follows.
// It returns an error if there is none; the pick must still be Done.
func (p *Pick) Another(ctx context.Context) error {
	p.r.flights.remove(p)
	p.decide.Avoid = append(p.decide.Avoid, p.decision.Target.Endpoint)
	p.leave(endpoint.OutcomeFailed)
	p.decide.Now = time.Now()
	err := p.settle(ctx)
	p.renewStart()
	return err
}

// Done ends the request with its outcome at the last picked endpoint.
func (p *Pick) Done(o endpoint.Outcome) {
	p.leave(o)
	p.renewEnd()
}

// leave gives the place at the endpoint back.
func (p *Pick) leave(o endpoint.Outcome) {
	if p.placed {
		p.placed = false
		p.r.o.Endpoints.Release(p.decision.Endpoint, o)
	}
}
