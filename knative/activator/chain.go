package activator

import (
	"context"
	"net/http"
	"time"

	"go.opentelemetry.io/contrib/instrumentation/net/http/otelhttp"
	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/trace"
	"go.uber.org/zap"
	netprobe "knative.dev/networking/pkg/http/probe"
	activatorconfig "knative.dev/serving/pkg/activator/config"
	activatorhandler "knative.dev/serving/pkg/activator/handler"
	apiconfig "knative.dev/serving/pkg/apis/config"
	"knative.dev/serving/pkg/http/handler"

	"github.com/limpet-project/limpet/affinity"
	"github.com/limpet-project/limpet/endpoint"
	"github.com/limpet-project/limpet/proxy"
	"github.com/limpet-project/limpet/router"
)

// Options are what a handler of requests is made of. All but Source, Router, Trust, Peers, Observer and RequestLog are needed, and the context of New
// has Serving's informer of revisions.
type Options struct {
	// Source, Table and Router decide for requests with affinity; a nil Source is Serving's own activator.
	Source *Source
	Table  *endpoint.Table
	Router *router.Router
	// Trust lists the proxies whose word on the client's connection is taken.
	Trust affinity.Trust
	// Peers count the requests at pods with a limit; nil counts them here, as is right for a single activator.
	Peers *Peers
	// Observer is told of the requests with affinity; nil tells nobody.
	Observer proxy.Observer

	Stock     activatorhandler.Throttler // Serving's own, for all other requests
	Transport http.RoundTripper          // to pods; with TLS its connections are made by a dialer of Dial
	Config    *activatorconfig.Store
	Reporter  *activatorhandler.ConcurrencyReporter
	// RequestLog wraps the handler that it logs the requests of; nil logs none.
	RequestLog func(http.Handler) (http.Handler, error)
	Health     func() error
	PodName    string
	// UsePassthroughLb and TLS are Serving's settings of these names.
	UsePassthroughLb, TLS bool
	Log                   *zap.SugaredLogger
	Traces                trace.TracerProvider
	Metrics               metric.MeterProvider
}

// New returns the handler of all requests to an activator: Serving's own chain with our parts at its seams.
func New(ctx context.Context, o Options) (http.Handler, error) {
	place, transport := o.Stock, o.Transport
	if o.Source != nil {
		t := &throttler{source: o.Source, table: o.Table, peers: o.Peers, stock: o.Stock}
		place, transport = t, &roundTripper{next: severed{o.Transport}}
	}
	inner := activatorhandler.New(ctx, place, transport, o.UsePassthroughLb, o.Log, o.TLS, o.Traces, o.Metrics)
	chain, err := o.counted(inner)
	if err != nil {
		return nil, err
	}
	chain = activatorhandler.WrapActivatorHandlerWithFullDuplex(chain, o.Log)
	found := activatorhandler.NewContextHandler(ctx, chain, o.Config)
	if o.Source != nil {
		found = &affine{
			source: o.Source, router: o.Router, trust: o.Trust, watch: o.Observer, config: o.Config, next: found, inner: chain,
		}
	}
	chain = found
	chain = otelhttp.NewHandler(chain, "handle", otelhttp.WithTracerProvider(o.Traces), otelhttp.WithMeterProvider(o.Metrics))
	chain = o.Peers.Handler(chain)
	chain = netprobe.NewHandler(&activatorhandler.ProbeHandler{NextHandler: chain})
	return &activatorhandler.HealthHandler{HealthCheck: o.Health, NextHandler: chain, Logger: o.Log}, nil
}

// counted wraps what serves a request in what bounds its time, tells the autoscaler of it and writes it down.
func (o Options) counted(next http.Handler) (http.Handler, error) {
	if o.Source != nil {
		next = roomy{next}
	}
	next = handler.NewTimeoutHandler(next, "activator request timeout", timeouts, o.Log)
	next = o.Reporter.Handler(next)
	next = activatorhandler.NewTracingAttributeHandler(o.Traces, next)
	if o.RequestLog != nil {
		logged, err := o.RequestLog(next)
		if err != nil {
			return nil, err
		}
		next = logged
	}
	return activatorhandler.NewMetricAttributeHandler(o.PodName, next), nil
}

// timeouts returns those of a request's revision: for the whole, until the response starts, and between two parts of it.
func timeouts(r *http.Request) (whole, start, idle time.Duration) {
	rev := activatorhandler.RevisionFrom(r.Context())
	if rev == nil {
		return apiconfig.DefaultRevisionTimeoutSeconds * time.Second, apiconfig.DefaultRevisionResponseStartTimeoutSeconds * time.Second,
			apiconfig.DefaultRevisionIdleTimeoutSeconds * time.Second
	}
	seconds := func(n *int64, otherwise int64) time.Duration {
		if n == nil {
			return time.Duration(otherwise) * time.Second
		}
		return time.Duration(*n) * time.Second
	}
	return seconds(rev.Spec.TimeoutSeconds, apiconfig.DefaultRevisionTimeoutSeconds), seconds(rev.Spec.ResponseStartTimeoutSeconds, 0),
		seconds(rev.Spec.IdleTimeoutSeconds, 0)
}
