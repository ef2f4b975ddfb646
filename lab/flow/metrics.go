package flow

import (
	"net/http"
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// Metrics shows the last Interval to Prometheus. Labels name Services and endpoints, and never clients. A series ends with the Service or the
// endpoint that it is of. It is safe for concurrent use.
type Metrics struct {
	registry *prometheus.Registry
	last     atomic.Pointer[Interval]
}

// NewMetrics returns Metrics that show nothing yet.
func NewMetrics() *Metrics {
	m := &Metrics{registry: prometheus.NewRegistry()}
	m.registry.MustRegister(m)
	return m
}

// Set takes the last Interval, which must not change.
func (m *Metrics) Set(v Interval) { m.last.Store(&v) }

// Handler serves the metrics.
func (m *Metrics) Handler() http.Handler {
	return promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{})
}

var (
	ofService  = []string{"service", "protocol", "family"}
	ofEndpoint = append(ofService[:3:3], "endpoint")
	ofMove     = append(ofService[:3:3], "cause")
)

func describe(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc("limpet_clientip_"+name, help, labels, nil)
}

var (
	flowsDesc    = describe("new_flows_total", "New flows to an endpoint since the watch began.", ofEndpoint...)
	rateDesc     = describe("new_flows_per_second", "New flows to an endpoint in the last interval.", ofEndpoint...)
	listDesc     = describe("list_entries", "Clients in the list of an endpoint, those whose affinity has ended included.", ofEndpoint...)
	limitDesc    = describe("list_limit", "How many clients the list of an endpoint remembers.", ofEndpoint...)
	varianceDesc = describe("flows_variation", "Standard deviation over mean of the flows of endpoints in the window.", ofService...)
	maxDesc      = describe("flows_max_over_mean", "The fullest endpoint's flows over the mean in the window.", ofService...)
	effectDesc   = describe("effective_clients", "So many equal clients would spread alike.", ofService...)
	movesDesc    = describe("moves_total", "Flows of clients that left their endpoint before their affinity ended, by cause.", ofMove...)
	movedDesc    = describe("moved_clients", "Clients that left their endpoint in the last interval before their affinity ended.", ofService...)

	entriesDesc   = describe("conntrack_entries", "Connections that the kernel knows in this network namespace.")
	maximumDesc   = describe("conntrack_limit", "Connections that the kernel may know.")
	trackedDesc   = describe("tracked_clients", "Clients that are remembered, of all Services together.")
	forgottenDesc = describe("forgotten_clients_total", "Clients that had to go for others while it mattered.")
	overrunsDesc  = describe("event_overruns_total", "Times that the kernel dropped events of new flows.")
)

// Describe sends nothing: which series there are is known when they are collected.
func (m *Metrics) Describe(chan<- *prometheus.Desc) {}

// Collect sends the metrics of the last Interval.
func (m *Metrics) Collect(to chan<- prometheus.Metric) {
	v := m.last.Load()
	if v == nil {
		return
	}
	send := sender(to)
	send.gauge(entriesDesc, float64(v.Conntrack.Entries))
	send.gauge(maximumDesc, float64(v.Conntrack.Limit))
	send.gauge(trackedDesc, float64(v.Clients.Tracked))
	send.counter(forgottenDesc, v.Clients.Forgotten)
	send.counter(overrunsDesc, v.Overruns)
	for _, s := range v.Services {
		send.service(s)
	}
}

// A sender sends metrics.
type sender chan<- prometheus.Metric

func (to sender) gauge(d *prometheus.Desc, value float64, labels ...string) {
	to <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, value, labels...)
}

func (to sender) counter(d *prometheus.Desc, value uint64, labels ...string) {
	to <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(value), labels...)
}

func (to sender) service(s ServiceRate) {
	labels := []string{s.ServicePort.String(), s.Protocol, s.Family}
	with := func(more string) []string { return append(labels[:3:3], more) }
	to.gauge(movedDesc, float64(s.Moved), labels...)
	to.counter(movesDesc, s.Moves.Gone, with("endpoint-gone")...)
	to.counter(movesDesc, s.Moves.Lost, with("forgotten")...)
	if s.Spread != nil {
		to.gauge(varianceDesc, s.Spread.Variation, labels...)
		to.gauge(maxDesc, s.Spread.MaxOverMean, labels...)
		to.gauge(effectDesc, s.Spread.Effective, labels...)
	}
	for _, e := range s.Endpoints {
		address := with(e.Address.String())
		to.counter(flowsDesc, e.Flows, address...)
		to.gauge(rateDesc, e.Rate, address...)
		if s.Timeout > 0 && !e.Out {
			to.gauge(listDesc, float64(e.List.Entries), address...)
			to.gauge(limitDesc, float64(e.List.Limit), address...)
		}
	}
}
