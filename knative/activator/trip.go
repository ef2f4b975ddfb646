package activator

import (
	"context"
	"net/http"
	"sync/atomic"
	"time"

	"github.com/limpet-project/limpet/affinity"
	"github.com/limpet-project/limpet/endpoint"
	"github.com/limpet-project/limpet/router"
)

// A trip is what our parts at the seams of Serving's chain know of one request. The handler makes it, the Throttler finds its place, and
// the RoundTripper goes there. Serving's time-out handler may give up on the inner ones and return before they do, so a pick is ended by
// whoever has taken it.
type trip struct {
	pick      *router.Pick // nil if the request has no affinity
	seen      *sight       // of that request; nil if nobody is told
	wait      time.Duration
	forwarded *claim // not nil if another activator has sent the request here, for it to be counted
	local     bool   // not to be forwarded
	answer    http.Header

	taken atomic.Bool
	// What follows is the Throttler's and, while it runs it, the RoundTripper's.
	place   place
	outcome endpoint.Outcome
	status  int // of the answer
}

// A place is one at a pod that was taken for a request.
type place interface {
	// revision, pod and address say where it is.
	revision() string
	pod() string
	address() string
	// another gives the place up because the pod could not be reached, and takes one at another pod.
	another(ctx context.Context) error
	editRequest(h http.Header)
	editResponse(h http.Header)
}

type tripKey struct{}

func (t *trip) in(ctx context.Context) context.Context { return context.WithValue(ctx, tripKey{}, t) }

// tripOf returns the trip of a request, nil if it did not come by our handler.
func tripOf(ctx context.Context) *trip {
	t, _ := ctx.Value(tripKey{}).(*trip)
	return t
}

// take reports whether the pick is there for the caller to end.
func (t *trip) take() bool { return t.pick != nil && t.taken.CompareAndSwap(false, true) }

// end ends a pick that nobody took.
func (t *trip) end() {
	if t.take() {
		t.done(nil)
	}
}

// done ends the pick, by whoever has taken it. err is why it found no place.
func (t *trip) done(err error) {
	if t.seen != nil {
		t.seen.end(t, err)
	}
	t.pick.Done(t.outcome)
}

// A picked place is one that affinity decided.
type pickedPlace struct{ *router.Pick }

func (p pickedPlace) revision() string                  { return p.Target().Revision }
func (p pickedPlace) pod() string                       { return p.Target().Endpoint }
func (p pickedPlace) address() string                   { return p.Address() }
func (p pickedPlace) another(ctx context.Context) error { return p.Another(ctx) }
func (p pickedPlace) editRequest(h http.Header)         { p.EditRequest(headers{h}) }
func (p pickedPlace) editResponse(h http.Header)        { p.EditResponse(headers{h}) }

// headers are an http.Header as a pick edits it.
type headers struct{ http.Header }

// A pod place is one at a pod of a revision that has no affinity to the request.
type podPlace struct {
	name string
	e    *affinity.Endpoint
	next func(ctx context.Context, not string) (*affinity.Endpoint, error) // nil: no other one will do
}

func (p *podPlace) revision() string         { return p.name }
func (p *podPlace) pod() string              { return p.e.Name }
func (p *podPlace) address() string          { return p.e.Address }
func (p *podPlace) editRequest(http.Header)  {}
func (p *podPlace) editResponse(http.Header) {}

func (p *podPlace) another(ctx context.Context) error {
	if p.next == nil {
		return endpoint.ErrGone
	}
	e, err := p.next(ctx, p.e.Name)
	if err == nil {
		p.e = e
	}
	return err
}
