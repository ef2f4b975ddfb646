package activator

import (
	"context"
	"errors"
	"sync"

	"k8s.io/apimachinery/pkg/types"
	activatorhandler "knative.dev/serving/pkg/activator/handler"
	"knative.dev/serving/pkg/queue"

	"github.com/limpet-project/limpet/affinity"
	"github.com/limpet-project/limpet/endpoint"
	"github.com/limpet-project/limpet/router"
)

// maxWaiting bounds the requests of one revision that wait. Serving means the same number, but its queue is as good as unbounded.
const maxWaiting = 10_000

// A throttler finds the place of each request: at the pod of its session, at any pod of a revision whose pods have a limit, and by
// Serving's own Throttler otherwise.
type throttler struct {
	source *Source
	table  *endpoint.Table
	peers  *Peers // nil if this activator is alone
	stock  activatorhandler.Throttler
	queues queues
	views  sync.Map // of *view, by types.NamespacedName
}

var _ activatorhandler.Throttler = (*throttler)(nil)

// Try implements Serving's Throttler.
func (t *throttler) Try(ctx context.Context, revision types.NamespacedName, function func(string, bool) error) error {
	trip := tripOf(ctx)
	switch {
	case trip == nil:
	case trip.take():
		return t.tryPicked(ctx, revision, trip, function)
	default:
		if limit, known := t.source.index.Load().limit(revision); known && limit > 0 {
			return t.trySpread(ctx, trip, &podPlace{throttler: t, key: revision, limit: limit}, function)
		}
	}
	return t.stock.Try(ctx, revision, function)
}

// tryPicked enters where affinity decided. If it can decide no longer, because all revisions of the Route went meanwhile, the request goes
// where it would have gone without.
func (t *throttler) tryPicked(ctx context.Context, key types.NamespacedName, trip *trip, function func(string, bool) error) (err error) {
	trip.outcome = endpoint.OutcomeUnknown
	defer func() { trip.done(err) }()
	limit, known := t.source.index.Load().limit(key)
	if known && limit > 0 && trip.pick.Key().Scope.Kind == affinity.KindFlow {
		err = t.trySpread(ctx, trip, &podPlace{throttler: t, key: key, limit: limit, pick: trip.pick}, function)
		if !errors.Is(err, errUnlisted) {
			return err
		}
	}
	place := &trip.picked
	*place = pickedPlace{throttler: t, trip: trip, namespace: key.Namespace}
	defer place.leave()
	if limit > 0 || !trip.pick.TryEnter(ctx) { // else there is nothing to wait for
		err = t.wait(key, func() error { return place.enter(ctx) })
	}
	switch {
	case errors.Is(err, affinity.ErrNoRevision), errors.Is(err, affinity.ErrNoEndpoint), errors.Is(err, router.ErrUnknownService):
		return t.stock.Try(ctx, key, function)
	case err != nil:
		return trip.busy(err)
	}
	trip.place = place
	return function(place.address(), false)
}

// trySpread takes a place at any pod of a revision whose pods have a limit: that of a request without affinity, or of one whose flow is
// bound to the revision and to no pod.
func (t *throttler) trySpread(ctx context.Context, trip *trip, place *podPlace, function func(string, bool) error) error {
	err := t.wait(place.key, func() error { return place.enter(ctx, "") })
	switch {
	case errors.Is(err, errUnlisted) && place.pick == nil:
		return t.stock.Try(ctx, place.key, function)
	case err != nil:
		return trip.busy(err)
	}
	trip.place, trip.outcome = place, endpoint.OutcomeUnknown
	defer func() { place.leave(trip.outcome) }()
	return function(place.address(), false)
}

// busy makes of a pod's being at its limit what Serving answers 503 to, and says when to come again.
func (t *trip) busy(err error) error {
	if !errors.Is(err, endpoint.ErrBusy) {
		return err
	}
	t.answer.Set("Retry-After", "1") // as Limpet's gateways say
	t.answer.Set(headerReason, "busy")
	return busyError{}
}

// A busyError is a pod's being at its limit.
type busyError struct{}

// Error returns what the client is told.
func (busyError) Error() string { return endpoint.ErrBusy.Error() }

// Is reports whether target is what Serving's handler answers 503 to.
func (busyError) Is(target error) bool { return target == queue.ErrRequestQueueFull }

// wait does what may wait, unless too many requests of the revision do already.
func (t *throttler) wait(key types.NamespacedName, do func() error) error {
	l, listed := t.source.index.Load().revisions[key]
	if !listed {
		return t.queues.wait(key, do)
	}
	defer l.now.waiting.Add(-1)
	if l.now.waiting.Add(1) > maxWaiting {
		return queue.ErrRequestQueueFull
	}
	return do()
}

// queues counts the requests that may have to wait of each revision that no Route lists: sessions may be retained there. The zero queues
// works.
type queues struct {
	mu      sync.Mutex
	waiting map[types.NamespacedName]int
}

// wait does what may wait, unless too many do already.
func (q *queues) wait(key types.NamespacedName, do func() error) error {
	if !q.join(key) {
		return queue.ErrRequestQueueFull
	}
	defer q.leave(key)
	return do()
}

func (q *queues) join(key types.NamespacedName) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.waiting[key] >= maxWaiting {
		return false
	}
	if q.waiting == nil {
		q.waiting = make(map[types.NamespacedName]int)
	}
	q.waiting[key]++
	return true
}

func (q *queues) leave(key types.NamespacedName) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.waiting[key]--; q.waiting[key] == 0 {
		delete(q.waiting, key)
	}
}
