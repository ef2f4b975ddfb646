package telemetry

import (
	"context"
	"fmt"
	"net/http"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracehttp"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"

	"github.com/limpet-project/limpet/proxy"
)

const tracerName = "github.com/limpet-project/limpet"

// Tracing makes spans of requests: one for the request, below it one for the pick, with those of the store, and one for each attempt
// to forward. It takes the trace of a client that sends traceparent (W3C Trace Context) and hands its own on to the endpoint. Spans
// hold no ids, no paths and no queries. Make one with [NewTracing] or [NewTracingTo].
type Tracing struct {
	provider   *sdktrace.TracerProvider
	tracer     trace.Tracer
	propagator propagation.TraceContext
}

// NewTracing returns tracing that sends spans to an OTLP/HTTP receiver, such as http://localhost:4318/v1/traces. ratio is the share of
// requests that are traced where the client does not say. It does not connect; a receiver that is away loses spans, not requests.
func NewTracing(ctx context.Context, endpoint string, ratio float64) (*Tracing, error) {
	exporter, err := otlptracehttp.New(ctx, otlptracehttp.WithEndpointURL(endpoint))
	if err != nil {
		return nil, fmt.Errorf("exporting spans to %s: %w", endpoint, err)
	}
	return NewTracingTo(exporter, ratio), nil
}

// NewTracingTo is NewTracing with another exporter. The exporter belongs to the result.
func NewTracingTo(exporter sdktrace.SpanExporter, ratio float64) *Tracing {
	provider := sdktrace.NewTracerProvider(
		sdktrace.WithBatcher(exporter),
		sdktrace.WithSampler(sdktrace.ParentBased(sdktrace.TraceIDRatioBased(ratio))),
		sdktrace.WithResource(resource.NewSchemaless(attribute.String("service.name", "limpet"))),
	)
	return &Tracing{provider: provider, tracer: provider.Tracer(tracerName)}
}

// Close sends what is waiting until ctx ends, and ends the exporter.
func (t *Tracing) Close(ctx context.Context) error { return t.provider.Shutdown(ctx) }

// spans are those of one request. The request's goroutine alone uses them.
type spans struct {
	request trace.Span
	child   trace.Span // the pick, then the attempt under way
	parent  context.Context
}

type spansKey struct{}

// Start implements proxy.Observer.
func (t *Tracing) Start(ctx context.Context, r *http.Request) context.Context {
	ctx = t.propagator.Extract(ctx, propagation.HeaderCarrier(r.Header))
	ctx, request := t.tracer.Start(ctx, "request", trace.WithSpanKind(trace.SpanKindServer))
	s := &spans{request: request, parent: ctx}
	if request.IsRecording() {
		ctx, s.child = t.tracer.Start(ctx, "pick")
	}
	return context.WithValue(ctx, spansKey{}, s)
}

// Forward implements proxy.Observer: the pick or the attempt before has ended, and an attempt begins.
func (t *Tracing) Forward(ctx context.Context, h http.Header) {
	s, _ := ctx.Value(spansKey{}).(*spans)
	if s == nil {
		return
	}
	forward := s.parent
	if s.child != nil {
		s.child.End()
		forward, s.child = t.tracer.Start(s.parent, "forward", trace.WithSpanKind(trace.SpanKindClient))
	}
	t.propagator.Inject(forward, propagation.HeaderCarrier(h))
}

// End implements proxy.Observer.
func (t *Tracing) End(ctx context.Context, o *proxy.Observed) {
	s, _ := ctx.Value(spansKey{}).(*spans)
	if s == nil {
		return
	}
	if s.child != nil {
		s.child.End()
		describeSpan(s.request, o)
	}
	s.request.End()
}

func describeSpan(span trace.Span, o *proxy.Observed) {
	span.SetName(o.Method + " " + o.Route)
	span.SetAttributes(
		attribute.String("http.request.method", o.Method),
		attribute.String("http.route", o.Route),
		attribute.Int("http.response.status_code", o.Status),
		attribute.String("limpet.service", o.Service.String()),
		attribute.Int("limpet.attempts", o.Attempts),
	)
	if o.Picked {
		span.SetAttributes(
			attribute.String("limpet.revision", o.Target.Revision),
			attribute.String("limpet.endpoint", o.Target.Endpoint),
			attribute.String("server.address", o.Address),
			attribute.String("limpet.reason", o.Reason.String()),
		)
	}
	if o.Status >= 500 {
		span.SetStatus(codes.Error, o.Cause)
	}
}
