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

// A sight is what an observer is told of one request with affinity, as a gateway tells of its own.
type sight struct {
	observer         proxy.Observer
	ctx              context.Context
	begin            time.Time
	service          affinity.ServiceName
	method, protocol string
}

// look begins to observe a request.
func look(o proxy.Observer, r *http.Request, service affinity.ServiceName) *sight {
	return &sight{o, o.Start(r.Context(), r), time.Now(), service, r.Method, r.Proto}
}

// end tells how the request ended. What Serving answers after the pod did, such as a time-out, is in its own metrics.
func (s *sight) end(t *trip, err error) {
	o := proxy.Observed{
		Service: s.service, Picked: true, Target: t.pick.Target(), Reason: t.pick.Reason(), Method: s.method, Protocol: s.protocol,
		Status: t.status, Begin: s.begin, Duration: time.Since(s.begin), Err: err,
	}
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
	s.observer.End(s.ctx, &o)
}
