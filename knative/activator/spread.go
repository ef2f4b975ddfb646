package activator

import (
	"context"
	"errors"
	"math/rand/v2"
	"slices"
	"time"

	"k8s.io/apimachinery/pkg/types"

	"github.com/limpet-project/limpet/affinity"
	"github.com/limpet-project/limpet/endpoint"
)

// patience is how long a request that any pod may serve waits in the queue of one before it looks at the others again.
const patience = 50 * time.Millisecond

// trySpread takes a place at any pod of a revision whose pods have a limit. Those of this activator come first, so that it is counted here.
func (t *throttler) trySpread(ctx context.Context, key types.NamespacedName, trip *trip, function func(string, bool) error) error {
	var e *affinity.Endpoint
	trip.wait = untilCanceled
	err := t.queues.wait(key, func() (err error) {
		e, err = t.enterAny(ctx, key, "")
		return err
	})
	if err != nil {
		return trip.busy(err)
	}
	place := &podPlace{name: key.Name, e: e}
	place.next = func(ctx context.Context, not string) (*affinity.Endpoint, error) {
		if len(t.candidates(key, not)) == 0 {
			return nil, affinity.ErrNoEndpoint
		}
		next, err := t.enterAny(ctx, key, not)
		if err == nil {
			t.table.Release(place.e, endpoint.OutcomeFailed)
		}
		return next, err
	}
	trip.place, trip.outcome = place, endpoint.OutcomeUnknown
	defer func() { t.table.Release(place.e, trip.outcome) }()
	return function(place.address(), false)
}

// enterAny takes a place at a pod of the revision other than not, waiting for one until ctx ends.
func (t *throttler) enterAny(ctx context.Context, key types.NamespacedName, not string) (*affinity.Endpoint, error) {
	for {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		changed := t.table.Changed()
		pods := t.candidates(key, not)
		if len(pods) == 0 {
			select {
			case <-changed:
			case <-ctx.Done():
				return nil, ctx.Err()
			}
			continue
		}
		e, err := t.enterOne(ctx, pods)
		if err == nil || !errors.Is(err, endpoint.ErrBusy) && !errors.Is(err, endpoint.ErrGone) {
			return e, err
		}
		if errors.Is(err, endpoint.ErrGone) {
			pause(ctx, changed) // the snapshot is about to say so
		}
	}
}

// pause waits for a change, a little at most.
func pause(ctx context.Context, changed <-chan struct{}) {
	timer := time.NewTimer(patience)
	defer timer.Stop()
	select {
	case <-changed:
	case <-timer.C:
	case <-ctx.Done():
	}
}

// enterOne takes a free place at one of the pods, or waits a little at the one that has the fewest requests of two.
func (t *throttler) enterOne(ctx context.Context, pods []*affinity.Endpoint) (*affinity.Endpoint, error) {
	first := rand.IntN(len(pods))
	for i := range pods {
		e := pods[(first+i)%len(pods)]
		if err := t.table.Acquire(ctx, e, 0); err == nil {
			return e, nil
		}
	}
	e, other := pods[first], pods[rand.IntN(len(pods))]
	if t.table.Load(other).InFlight < t.table.Load(e).InFlight {
		e = other
	}
	return e, t.table.Acquire(ctx, e, patience)
}

// A view is the pods of a revision that take any request, as of one moment. It is immutable.
type view struct {
	pool  *affinity.Pool
	peers *[]peer
	pods  []*affinity.Endpoint
}

// candidates returns the pods of a revision, other than not, that take any request: those that this activator counts for, or all if there
// are none.
func (t *throttler) candidates(key types.NamespacedName, not string) []*affinity.Endpoint {
	pool, peers := t.pool(key), t.peers.all()
	if pool == nil {
		t.views.Delete(key)
		return nil
	}
	v, _ := t.views.Load(key)
	known, is := v.(*view)
	if !is || known.pool != pool || known.peers != peers {
		known = &view{pool, peers, t.look(pool)}
		t.views.Store(key, known)
	}
	if not == "" {
		return known.pods
	}
	return slices.DeleteFunc(slices.Clone(known.pods), func(e *affinity.Endpoint) bool { return e.Name == not })
}

// look returns the pods that take any request.
func (t *throttler) look(pool *affinity.Pool) []*affinity.Endpoint {
	var own, all []*affinity.Endpoint
	for i := range pool.Endpoints {
		e := &pool.Endpoints[i]
		if e.State != affinity.EndpointReady || e.Standby {
			continue
		}
		all = append(all, e)
		if t.peers.counts(e.Name) {
			own = append(own, e)
		}
	}
	if len(own) > 0 {
		return own
	}
	return all
}

// pool returns the pods of a revision, nil if the table does not have it.
func (t *throttler) pool(key types.NamespacedName) *affinity.Pool {
	service, listed := t.source.index.Load().revisions[key]
	if !listed {
		return nil
	}
	snapshot := t.table.Snapshot(service)
	if snapshot == nil {
		return nil
	}
	if r := snapshot.Revision(key.Name); r != nil {
		return r.Pool
	}
	return nil
}

// tryForwarded takes a place at the pod that another activator asks for. It tells that one, in the answer, if there is none.
func (t *throttler) tryForwarded(ctx context.Context, key types.NamespacedName, trip *trip, function func(string, bool) error) error {
	e := t.pool(key).Endpoint(trip.forwarded.Pod)
	if e == nil {
		trip.answer.Set(headerForward, forwardGone)
		return busyError{}
	}
	err := t.queues.wait(key, func() error { return t.table.Acquire(ctx, e, trip.forwarded.Wait) })
	switch {
	case errors.Is(err, endpoint.ErrGone):
		trip.answer.Set(headerForward, forwardGone)
		return busyError{}
	case err != nil:
		trip.answer.Set(headerForward, forwardBusy)
		return trip.busy(err)
	}
	trip.place, trip.outcome = &podPlace{name: key.Name, e: e}, endpoint.OutcomeUnknown
	defer func() { t.table.Release(e, trip.outcome) }()
	return function(e.Address, false)
}
