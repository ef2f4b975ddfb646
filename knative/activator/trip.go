package activator

import (
	"context"
	"errors"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"k8s.io/apimachinery/pkg/types"
	v1 "knative.dev/serving/pkg/apis/serving/v1"

	"github.com/limpet-project/limpet/affinity"
	"github.com/limpet-project/limpet/endpoint"
	"github.com/limpet-project/limpet/router"
)

// A trip is what our parts at the seams of Serving's chain know of one request. The handler makes it, the Throttler finds its place, and
// the RoundTripper goes there. Serving's time-out handler may give up on the inner ones and return before they do, so a pick is ended by
// whoever has taken it.
type trip struct {
	pick     *router.Pick // nil if the request has no affinity
	seen     sight        // of that request
	overflow affinity.Overflow
	wait     time.Duration // for a place at a pod that is full
	answer   http.Header
	revision *v1.Revision // of the pick

	taken, over atomic.Bool // the pick has an owner, which is done with it
	// What follows is the Throttler's and, while it runs it, the RoundTripper's.
	place   place
	outcome endpoint.Outcome
	status  int // of the answer

	// What pick and place point to, mostly.
	own    router.Pick
	picked pickedPlace
}

// trips has such as nobody knows any longer, so that a request with affinity allocates no more than one without.
var trips = sync.Pool{New: func() any { return new(trip) }}

// newTrip returns a trip of a request that is answered by w.
func newTrip(w http.ResponseWriter) *trip {
	t, _ := trips.Get().(*trip)
	t.answer = w.Header()
	return t
}

// forget lets the trip be used for another request. The caller is the only one that knows it.
func (t *trip) forget() {
	*t = trip{}
	trips.Put(t)
}

// A place is one at a pod that was taken for a request.
type place interface {
	address() string
	// another gives the place up because the pod could not be reached, and takes one at another pod.
	another(ctx context.Context) error
	editsRequest() bool // whether editRequest may change something
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

// end ends a pick that nobody took: it is called when the handlers further in have returned, or were given up. One that was may still come
// for the pick, so only a trip on which they have been is forgotten.
func (t *trip) end() {
	switch {
	case t.take():
		t.done(nil)
	case t.over.Load():
		t.forget()
	}
}

// done ends the pick, by whoever has taken it. err is why it found no place.
func (t *trip) done(err error) {
	t.seen.end(t, err)
	t.pick.Done(t.outcome)
	t.over.Store(true)
}

// A picked place is one that affinity decided.
type pickedPlace struct {
	throttler *throttler
	trip      *trip
	namespace string
	seat      *seat // where the requests at the pod are counted
}

func (p *pickedPlace) address() string            { return p.trip.pick.Address() }
func (p *pickedPlace) editsRequest() bool         { return p.trip.pick.EditsRequest() }
func (p *pickedPlace) editRequest(h http.Header)  { p.trip.pick.EditRequest(headers{h}) }
func (p *pickedPlace) editResponse(h http.Header) { p.trip.pick.EditResponse(headers{h}) }
func (p *pickedPlace) leave()                     { p.seat.leave() }

// enter takes the place.
func (p *pickedPlace) enter(ctx context.Context) error {
	begin, cold := time.Now(), p.trip.pick.Target().Endpoint == ""
	if err := p.trip.pick.Enter(ctx); err != nil {
		return err
	}
	wait := p.trip.wait
	if !cold { // else it waited for a pod, not at one
		wait -= time.Since(begin)
	}
	return p.sit(ctx, wait)
}

func (p *pickedPlace) another(ctx context.Context) error {
	p.leave()
	if err := p.trip.pick.Another(ctx); err != nil {
		return err
	}
	return p.sit(ctx, p.trip.wait)
}

// maxSpills bounds the pods that one request is offered to when its own is full.
const maxSpills = 64

// grace is what even a request that does not wait waits where its pod is counted: as long as the end of the request before it takes to get
// there, which may have come by another activator.
const grace = 25 * time.Millisecond

// sit takes the place where all requests at the pod are counted, or one at another pod if the policy says so.
func (p *pickedPlace) sit(ctx context.Context, wait time.Duration) (err error) {
	if p.trip.overflow != affinity.OverflowWait {
		wait = grace
	}
	for range maxSpills {
		target := p.trip.pick.Target()
		limit, _ := p.throttler.source.index.Load().limit(types.NamespacedName{Namespace: p.namespace, Name: target.Revision})
		p.seat, err = p.throttler.peers.seat(ctx, target.Endpoint, limit, wait)
		if !errors.Is(err, endpoint.ErrBusy) || p.trip.overflow != affinity.OverflowSpill {
			return err
		}
		if err := p.trip.pick.Spill(ctx); err != nil {
			return err
		}
	}
	return endpoint.ErrBusy
}

// headers are an http.Header as a pick edits it.
type headers struct{ http.Header }
