// Package router decides one request: it takes the snapshot, asks the store what was remembered, lets affinity decide, and
// remembers the decision.
//
// A failing store never fails a request, and all waits of one request for the store together stay within StoreTimeout. A
// request of a known session over a warm cache takes no network hop. The router does not forward: it tells a data plane where
// to go ([Router.Pick]) and is told how it went ([Pick.Done]).
//
// Start with [Router.Pick].
package router

import (
	"context"
	"errors"
	"sync/atomic"
	"time"

	"github.com/limpet-project/limpet/affinity"
	"github.com/limpet-project/limpet/binding"
	"github.com/limpet-project/limpet/endpoint"
	"github.com/limpet-project/limpet/token"
)

// ErrUnknownService means that no source lists the requested service. Besides it Pick returns *affinity.IDError (the client's
// fault), affinity.ErrUnknownTag, affinity.ErrNoRevision, affinity.ErrNoEndpoint and endpoint.ErrBusy (try again later), and the
// error of its context.
var ErrUnknownService = errors.New("unknown service")

// Defaults of Options.
const (
	DefaultStoreTimeout = 50 * time.Millisecond
	DefaultMaxWaiters   = 1024
)

// A Request is what the data plane knows before a pick.
type Request struct {
	Service affinity.ServiceName
	Tag     string           // the tag that the client addressed by host or header, "" for none
	Policy  *affinity.Policy // filled in and validated; nil is no affinity
	Message affinity.Message
	// Secure says that the client's connection is TLS, or that a trusted proxy says so.
	Secure bool
}

// Options configure a Router. Endpoints is required; Store and a digester are where a policy remembers.
type Options struct {
	Endpoints *endpoint.Table
	// Store remembers bindings. If it is a binding.Peeker, sessions known here cost no wait; if it is a binding.Clock, its clock is
	// allowed to differ from this process's.
	Store binding.Store
	// Tokens seals and opens the tokens of mode token; nil where no policy uses it.
	Tokens *token.Keys
	// Keys finds and digests ids.
	Keys affinity.Keyer
	// StoreTimeout bounds all waits of one request for the store together; default 50 ms.
	StoreTimeout time.Duration
	// MaxWaiters bounds the requests that wait at once for a target that is unknown here; more do not wait. Default 1024.
	MaxWaiters int
	// Observer may be nil.
	Observer Observer
}

// An Observer is told what does not show in a single pick. Its methods do not block and are called concurrently.
type Observer interface {
	// StoreFull says that a new session or flow was placed by hash because the store took no more bindings.
	StoreFull(s affinity.ServiceName)
	// Conflict says that another gateway bound the same key first.
	Conflict(s affinity.ServiceName)
	// Waiters reports how many requests wait for an unknown target now.
	Waiters(n int)
	// RenewalsDropped says that renewals were lost because the store was away or too slow.
	RenewalsDropped(n int)
}

// A Router picks targets. It is safe for concurrent use. Make one with New and keep Run running.
type Router struct {
	o        Options
	peeker   binding.Peeker // nil if the store is none
	clock    binding.Clock  // nil if the store has none
	waiters  atomic.Int64
	renewals renewals
	flights  flights
	sealed   sealed
}

// New returns a router. Renewals are sent and long requests are renewed while Run runs.
func New(o Options) *Router {
	if o.StoreTimeout <= 0 {
		o.StoreTimeout = DefaultStoreTimeout
	}
	if o.MaxWaiters <= 0 {
		o.MaxWaiters = DefaultMaxWaiters
	}
	r := &Router{o: o}
	r.peeker, _ = o.Store.(binding.Peeker)
	r.clock, _ = o.Store.(binding.Clock)
	return r
}

// Run renews bindings in batches until ctx ends, then sends what is left and returns nil.
func (r *Router) Run(ctx context.Context) error {
	tick := time.NewTicker(renewEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			r.flush(context.WithoutCancel(ctx))
			return nil
		case now := <-tick.C:
			r.flights.renew(r, now)
			r.sealed.expire(now, r.o.Endpoints.Count)
			r.flush(ctx)
		}
	}
}

// offset returns how far the store's clock is ahead of ours.
func (r *Router) offset() time.Duration {
	if r.clock == nil {
		return 0
	}
	return r.clock.Offset()
}

func (r *Router) observeFull(s affinity.ServiceName) {
	if r.o.Observer != nil {
		r.o.Observer.StoreFull(s)
	}
}

func (r *Router) observeConflict(s affinity.ServiceName) {
	if r.o.Observer != nil {
		r.o.Observer.Conflict(s)
	}
}
