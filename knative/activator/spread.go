package activator

import (
	"context"
	"errors"
	"math/rand/v2"
	"net/http"
	"slices"
	"time"

	"k8s.io/apimachinery/pkg/types"

	"github.com/limpet-project/limpet/affinity"
	"github.com/limpet-project/limpet/endpoint"
	"github.com/limpet-project/limpet/router"
)

// How long a request that any pod may serve waits at one before it looks at the others again: a little where this activator counts, longer
// where that costs a question to another one, of which it asks so many at most at a time.
const (
	patience    = 50 * time.Millisecond
	farPatience = time.Second
	maxFar      = 4
)

// A pod place is one at any pod of a revision whose pods have a limit.
type podPlace struct {
	throttler *throttler
	key       types.NamespacedName
	limit     int
	pick      *router.Pick       // of a request that is bound to the revision; nil if it is to nothing
	e         *affinity.Endpoint // nil: no place yet
	seat      *seat
}

func (p *podPlace) address() string { return p.e.Address }

func (p *podPlace) editsRequest() bool { return p.pick != nil && p.pick.EditsRequest() }

func (p *podPlace) editRequest(h http.Header) {
	if p.pick != nil {
		p.pick.EditRequest(headers{h})
	}
}

func (p *podPlace) editResponse(h http.Header) {
	if p.pick != nil {
		p.pick.EditResponse(headers{h})
	}
}

func (p *podPlace) leave(o endpoint.Outcome) {
	if p.e != nil {
		p.seat.leave()
		p.throttler.table.Release(p.e, o)
	}
}

// another takes a place at another pod, if there is one, before it gives the first up.
func (p *podPlace) another(ctx context.Context) error {
	if len(p.throttler.candidates(p.key, p.e.Name)) == 0 {
		return affinity.ErrNoEndpoint
	}
	next := &podPlace{throttler: p.throttler, key: p.key, limit: p.limit, pick: p.pick}
	if err := next.enter(ctx, p.e.Name); err != nil {
		return err
	}
	p.leave(endpoint.OutcomeFailed)
	p.e, p.seat = next.e, next.seat
	return nil
}

// errUnlisted means that no Route has the revision any longer.
var errUnlisted = errors.New("the revision is of no Route")

// enter takes a place at a pod of the revision other than not, waiting for one until ctx ends. Those of this activator come first, so that
// it is counted here.
func (p *podPlace) enter(ctx context.Context, not string) error {
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		changed := p.throttler.table.Changed()
		pods := p.throttler.candidates(p.key, not)
		if len(pods) == 0 {
			if p.throttler.pool(p.key) == nil {
				return errUnlisted
			}
			select {
			case <-changed:
			case <-ctx.Done():
				return ctx.Err()
			}
			continue
		}
		err := p.enterOne(ctx, pods)
		switch {
		case err == nil:
			if p.pick != nil {
				p.pick.Adopt(p.e)
			}
			return nil
		case errors.Is(err, endpoint.ErrGone):
			pause(ctx, changed) // the snapshot is about to say so
		case !errors.Is(err, endpoint.ErrBusy):
			return err
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
func (p *podPlace) enterOne(ctx context.Context, pods []*affinity.Endpoint) error {
	first, far := rand.IntN(len(pods)), 0
	for i := range pods {
		e := pods[(first+i)%len(pods)]
		if !p.throttler.peers.counts(e.Name) {
			if far++; far > maxFar {
				break
			}
		}
		if err := p.take(ctx, e, 0); err == nil || ctx.Err() != nil {
			return err
		}
	}
	e, other := pods[first], pods[rand.IntN(len(pods))]
	if p.throttler.table.Load(other).InFlight < p.throttler.table.Load(e).InFlight {
		e = other
	}
	if p.throttler.peers.counts(e.Name) {
		return p.take(ctx, e, patience)
	}
	return p.take(ctx, e, farPatience)
}

// take takes a place at one pod.
func (p *podPlace) take(ctx context.Context, e *affinity.Endpoint, wait time.Duration) error {
	if err := p.throttler.table.Acquire(ctx, e, wait); err != nil {
		return err
	}
	s, err := p.throttler.peers.seat(ctx, e.Name, p.limit, wait)
	if err != nil {
		p.throttler.table.Release(e, endpoint.OutcomeUnknown)
		return err
	}
	p.e, p.seat = e, s
	return nil
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
	l, listed := t.source.index.Load().revisions[key]
	if !listed {
		return nil
	}
	snapshot := t.table.Snapshot(l.service)
	if snapshot == nil {
		return nil
	}
	if r := snapshot.Revision(key.Name); r != nil {
		return r.Pool
	}
	return nil
}
