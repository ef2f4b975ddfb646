package activator

import (
	"context"
	"errors"
	"net/http"
	"time"

	"github.com/limpet-project/limpet/affinity"
	"github.com/limpet-project/limpet/endpoint"
	"github.com/limpet-project/limpet/proxy"
)

// A sight is what an observer is told of one request with affinity, as a gateway tells of its own. The zero sight is of a request of
// which nobody is told.
type sight struct {
	observer proxy.Observer
	ctx      context.Context
	seen     proxy.Observed
}

// look begins to observe a request.
func (s *sight) look(o proxy.Observer, r *http.Request, service affinity.ServiceName) {
	s.observer, s.ctx = o, o.Start(r.Context(), r)
	s.seen = proxy.Observed{Service: service, Method: r.Method, Protocol: r.Proto, Begin: time.Now()}
}

// end tells how the request ended. What Serving answers after the pod did, such as a time-out, is in its own metrics.
func (s *sight) end(t *trip, err error) {
	if s.observer == nil {
		return
	}
	o := &s.seen
	o.Picked, o.Target, o.Reason = true, t.pick.Target(), t.pick.Reason()
	o.Status, o.Duration, o.Err = t.status, time.Since(o.Begin), err
	digest := t.pick.Key().Digest
	copy(o.Key[:], digest[:])
	switch {
	case err == nil || t.status != 0:
	case errors.Is(err, endpoint.ErrBusy), errors.Is(err, busyError{}):
		o.Status, o.Cause = http.StatusServiceUnavailable, "busy"
	case errors.Is(err, context.Canceled):
		o.Status, o.Cause = proxy.StatusClientGone, "client-gone"
	default:
		o.Status, o.Cause = http.StatusServiceUnavailable, "no-endpoint"
	}
	s.observer.End(s.ctx, o)
}
