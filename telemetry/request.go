package telemetry

import (
	"context"
	"net/http"
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/limpet-project/limpet/affinity"
	"github.com/limpet-project/limpet/proxy"
)

// codeClasses are the classes of status; the last is for what is no status.
var codeClasses = [...]string{"1xx", "2xx", "3xx", "4xx", "5xx", "other"}

// notPicked is the place of requests without a reason: none was picked for them.
const (
	notPicked   = 0
	reasonSlots = 16 // more than there are reasons, and one
)

// A target names where a request went, as a label. The zero target is that of requests that matched no route.
type target struct {
	service  affinity.ServiceName
	revision string
}

// targetSeries holds the counters of one target. They are made when they first count.
type targetSeries struct {
	requests [reasonSlots][len(codeClasses)]atomic.Pointer[prometheus.Counter]
}

// serviceSeries holds what is counted once a request whatever its target.
type serviceSeries struct {
	duration prometheus.Observer
	in, out  prometheus.Counter
}

// Start implements proxy.Observer.
func (m *Metrics) Start(ctx context.Context, _ *http.Request) context.Context {
	m.inFlight.Inc()
	return ctx
}

// Forward implements proxy.Observer.
func (m *Metrics) Forward(context.Context, http.Header) {}

// End implements proxy.Observer: it counts the request.
func (m *Metrics) End(_ context.Context, o *proxy.Observed) {
	m.inFlight.Dec()
	t := target{service: o.Service}
	slot := notPicked
	if o.Picked {
		t.revision = o.Target.Revision
		slot = 1 + int(o.Reason)
	}
	m.requestCounter(t, o, slot).Inc()
	s := m.services.get(o.Service, m.newServiceSeries)
	s.duration.Observe(o.Duration.Seconds())
	s.in.Add(float64(o.BytesIn))
	s.out.Add(float64(o.BytesOut))
	if o.Picked && o.Reason.Moved() {
		m.moved.WithLabelValues(o.Service.String(), o.Reason.String()).Inc()
	}
	if o.Cause != "" {
		m.answers.WithLabelValues(o.Service.String(), o.Cause).Inc()
	}
}

func (m *Metrics) requestCounter(t target, o *proxy.Observed, slot int) prometheus.Counter {
	code := codeIndex(o.Status)
	place := &m.targets.get(t, newTargetSeries).requests[slot][code]
	if c := place.Load(); c != nil {
		return *c
	}
	reason := ""
	if o.Picked {
		reason = o.Reason.String()
	}
	c := m.requests.WithLabelValues(t.service.String(), t.revision, reason, codeClasses[code])
	place.Store(&c)
	return c
}

func newTargetSeries(target) *targetSeries { return &targetSeries{} }

func (m *Metrics) newServiceSeries(s affinity.ServiceName) *serviceSeries {
	name := s.String()
	return &serviceSeries{
		duration: m.durations.WithLabelValues(name),
		in:       m.bytes.WithLabelValues(name, "in"),
		out:      m.bytes.WithLabelValues(name, "out"),
	}
}

func codeIndex(status int) int {
	if class := status/100 - 1; class >= 0 && class < len(codeClasses)-1 {
		return class
	}
	return len(codeClasses) - 1
}
