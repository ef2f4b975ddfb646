package telemetry

import (
	"context"
	"errors"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/trace"

	"github.com/limpet-project/limpet/affinity"
	"github.com/limpet-project/limpet/binding"
)

// ObserveStore returns a store that does what s does and counts how often, how long and with which result; within a request that is
// traced each operation is a span. It is a [binding.Restorer], [binding.Lister] or [binding.Invalidator] only if s is one. It always is a
// [binding.Peeker], a [binding.Clock] and a [binding.Pinger], which for a store that is none knows nothing, has no offset, and deletes
// a key that does not exist. Peek and Offset are not counted: they do no more than look.
func (m *Metrics) ObserveStore(s binding.Store) binding.Store {
	o := &observedStore{
		store: s, get: m.operation("get"), swap: m.operation("swap"), touch: m.operation("touch"), delete: m.operation("delete"),
		restore: m.operation("restore"), list: m.operation("list"), ping: m.operation("ping"),
	}
	r, restores := s.(binding.Restorer)
	l, lists := s.(binding.Lister)
	i, invalidates := s.(binding.Invalidator)
	return o.with(restorer{o, r}, restores, lister{o, l}, lists, i, invalidates)
}

// with adds abilities. A type claims an interface by its methods, so each set of abilities needs a type of its own.
func (o *observedStore) with(r restorer, restores bool, l lister, lists bool, i binding.Invalidator, invalidates bool) binding.Store {
	type invalidator = binding.Invalidator
	switch [3]bool{restores, lists, invalidates} {
	case [3]bool{false, false, true}:
		return struct {
			*observedStore
			invalidator
		}{o, i}
	case [3]bool{false, true, false}:
		return struct {
			*observedStore
			lister
		}{o, l}
	case [3]bool{false, true, true}:
		return struct {
			*observedStore
			lister
			invalidator
		}{o, l, i}
	case [3]bool{true, false, false}:
		return struct {
			*observedStore
			restorer
		}{o, r}
	case [3]bool{true, false, true}:
		return struct {
			*observedStore
			restorer
			invalidator
		}{o, r, i}
	case [3]bool{true, true, false}:
		return struct {
			*observedStore
			restorer
			lister
		}{o, r, l}
	case [3]bool{true, true, true}:
		return struct {
			*observedStore
			restorer
			lister
			invalidator
		}{o, r, l, i}
	}
	return o
}

// results are what an operation can come to.
var results = [...]string{"ok", "conflict", "full", "unavailable", "cancelled", "error"}

func resultOf(err error) int {
	switch {
	case err == nil:
		return 0
	case errors.Is(err, binding.ErrConflict):
		return 1
	case errors.Is(err, binding.ErrFull):
		return 2
	case errors.Is(err, binding.ErrUnavailable), errors.Is(err, context.DeadlineExceeded):
		return 3
	case errors.Is(err, context.Canceled):
		return 4
	}
	return 5
}

// An operation is what is counted for one operation of a store.
type operation struct {
	name    string
	results [len(results)]prometheus.Counter
	latency prometheus.Observer
}

func (m *Metrics) operation(name string) *operation {
	o := &operation{name: name, latency: m.latencies.WithLabelValues(name)}
	for i, result := range results {
		o.results[i] = m.operations.WithLabelValues(name, result)
	}
	return o
}

// begin starts the clock and, within a traced request, a span.
func (o *operation) begin(ctx context.Context) (context.Context, trace.Span, time.Time) {
	span := trace.SpanFromContext(ctx)
	if span.IsRecording() {
		ctx, span = span.TracerProvider().Tracer(tracerName).Start(ctx, "store "+o.name, trace.WithSpanKind(trace.SpanKindClient))
	} else {
		span = nil
	}
	return ctx, span, time.Now()
}

func (o *operation) end(span trace.Span, begin time.Time, err error) {
	o.latency.Observe(time.Since(begin).Seconds())
	result := resultOf(err)
	o.results[result].Inc()
	if span == nil {
		return
	}
	span.SetAttributes(attribute.String("limpet.store.result", results[result]))
	if result >= 3 {
		span.SetStatus(codes.Error, results[result])
	}
	span.End()
}

// An observedStore counts the operations of a store; those that only some stores have are put beside it.
type observedStore struct {
	store                                         binding.Store
	get, swap, touch, delete, restore, list, ping *operation
}

func (s *observedStore) Get(ctx context.Context, k affinity.Key) (binding.Binding, error) {
	ctx, span, begin := s.get.begin(ctx)
	b, err := s.store.Get(ctx, k)
	s.get.end(span, begin, err)
	return b, err
}

func (s *observedStore) Swap(
	ctx context.Context, k affinity.Key, old binding.Version, t affinity.Target, life binding.Life,
) (binding.Binding, error) {
	ctx, span, begin := s.swap.begin(ctx)
	b, err := s.store.Swap(ctx, k, old, t, life)
	s.swap.end(span, begin, err)
	return b, err
}

func (s *observedStore) Touch(ctx context.Context, renewals []binding.Renewal) error {
	ctx, span, begin := s.touch.begin(ctx)
	err := s.store.Touch(ctx, renewals)
	s.touch.end(span, begin, err)
	return err
}

func (s *observedStore) Delete(ctx context.Context, k affinity.Key, v binding.Version) error {
	ctx, span, begin := s.delete.begin(ctx)
	err := s.store.Delete(ctx, k, v)
	s.delete.end(span, begin, err)
	return err
}

func (s *observedStore) Peek(k affinity.Key) (binding.Binding, bool) {
	if p, ok := s.store.(binding.Peeker); ok {
		return p.Peek(k)
	}
	return binding.Binding{}, false
}

func (s *observedStore) Offset() time.Duration {
	if c, ok := s.store.(binding.Clock); ok {
		return c.Offset()
	}
	return 0
}

// pingKey is never bound: no service's name begins with a dot.
var pingKey = affinity.Key{Scope: affinity.Scope{Service: affinity.ServiceName{Name: ".ping"}, Kind: affinity.KindFlow}}

func (s *observedStore) Ping(ctx context.Context) error {
	ctx, span, begin := s.ping.begin(ctx)
	var err error
	if p, ok := s.store.(binding.Pinger); ok {
		err = p.Ping(ctx)
	} else {
		err = s.store.Delete(ctx, pingKey, binding.Version{})
	}
	s.ping.end(span, begin, err)
	return err
}

type restorer struct {
	s     *observedStore
	inner binding.Restorer
}

func (r restorer) Restore(ctx context.Context, entries []binding.Entry) ([]binding.Binding, error) {
	ctx, span, begin := r.s.restore.begin(ctx)
	b, err := r.inner.Restore(ctx, entries)
	r.s.restore.end(span, begin, err)
	return b, err
}

type lister struct {
	s     *observedStore
	inner binding.Lister
}

func (l lister) List(ctx context.Context, service affinity.ServiceName, cursor string, n int) ([]binding.Entry, string, error) {
	ctx, span, begin := l.s.list.begin(ctx)
	entries, next, err := l.inner.List(ctx, service, cursor, n)
	l.s.list.end(span, begin, err)
	return entries, next, err
}
