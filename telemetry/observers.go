package telemetry

import (
	"context"
	"net/http"

	"github.com/limpet-project/limpet/proxy"
)

// Observers joins what observes requests into one. Each may be nil, which is off; with all of them off the result is nil.
func Observers(m *Metrics, l *AccessLog, t *Tracing) proxy.Observer {
	var all observers
	if t != nil {
		all = append(all, t)
	}
	if m != nil {
		all = append(all, m)
	}
	if l != nil {
		all = append(all, l)
	}
	switch len(all) {
	case 0:
		return nil
	case 1:
		return all[0]
	}
	return all
}

// observers are told one after the other.
type observers []proxy.Observer

func (all observers) Start(ctx context.Context, r *http.Request) context.Context {
	for _, o := range all {
		ctx = o.Start(ctx, r)
	}
	return ctx
}

func (all observers) Forward(ctx context.Context, h http.Header) {
	for _, o := range all {
		o.Forward(ctx, h)
	}
}

func (all observers) End(ctx context.Context, o *proxy.Observed) {
	for _, observer := range all {
		observer.End(ctx, o)
	}
}
