package telemetry

import (
	"net/http"
	"runtime"
	"runtime/debug"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/limpet-project/limpet/affinity"
)

// requestBuckets reach from a warm session in the same rack to a slow report.
var requestBuckets = []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30, 60}

// storeBuckets are finer below the usual store timeout of 50 ms.
var storeBuckets = []float64{.00005, .0001, .00025, .0005, .001, .0025, .005, .01, .025, .05, .1, .25, 1}

// Metrics holds the metrics of one gateway. Make one with [NewMetrics]. It is safe for concurrent use.
type Metrics struct {
	registry *prometheus.Registry

	requests  *prometheus.CounterVec
	durations *prometheus.HistogramVec
	bytes     *prometheus.CounterVec
	answers   *prometheus.CounterVec
	moved     *prometheus.CounterVec
	full      *prometheus.CounterVec
	conflicts *prometheus.CounterVec
	inFlight  prometheus.Gauge
	waiters   prometheus.Gauge
	renewals  prometheus.Counter
	logDrops  prometheus.Counter

	operations *prometheus.CounterVec
	latencies  *prometheus.HistogramVec

	changes       *prometheus.CounterVec
	missed        prometheus.Counter
	reloads       *prometheus.CounterVec
	reloaded      prometheus.Gauge
	configuration prometheus.Gauge

	transport transportMetrics

	targets  series[target, targetSeries]
	services series[affinity.ServiceName, serviceSeries]
	watched  atomic.Pointer[watched]
}

// NewMetrics returns metrics in a registry of their own.
func NewMetrics() *Metrics {
	m := &Metrics{
		registry:  prometheus.NewRegistry(),
		requests:  counters("requests_total", "Requests that ended, by what they were sent to and why.", "service", "revision", "reason", "code"),
		durations: histograms("request_duration_seconds", "Time from a request's head to the end of its response.", requestBuckets, "service"),
		bytes:     counters("bytes_total", "Bytes of bodies, in from clients and out to them.", "service", "direction"),
		answers:   counters("answers_total", "Answers that the gateway itself made, by their Limpet-Reason.", "service", "cause"),
		moved:     counters("moved_total", "Sessions and flows that left the target that they were bound to.", "service", "reason"),
		full:      counters("bindings_refused_total", "New sessions and flows placed by hash because the store took no more.", "service"),
		conflicts: counters("binding_conflicts_total", "Bindings that another gateway made first.", "service"),
		inFlight:  gauge("requests_in_flight", "Requests under way in this gateway."),
		waiters:   gauge("unknown_target_waiters", "Requests that wait for a target of which this gateway has not heard."),
		renewals:  counter("renewals_dropped_total", "Renewals of bindings that were lost: the store was away or too slow."),
		logDrops:  counter("access_log_dropped_total", "Lines of the access log that could not be written in time."),

		operations: counters("store_operations_total", "Operations of the store of bindings.", "op", "result"),
		latencies:  histograms("store_duration_seconds", "Time that an operation of the store took.", storeBuckets, "op"),

		changes:       counters("endpoint_changes_total", "Changes of state of endpoints.", "to", "cause"),
		missed:        counter("endpoint_events_missed_total", "Changes of endpoints that came faster than they could be told."),
		reloads:       counters("config_reloads_total", "Configurations read since the start.", "result"),
		reloaded:      gauge("config_last_reload_success_timestamp_seconds", "When the configuration in force was read."),
		configuration: gauge("config_last_reload_successful", "Whether the configuration read last was right: 1, or 0."),
	}
	m.registry.MustRegister(m.requests, m.durations, m.bytes, m.answers, m.moved, m.full, m.conflicts, m.inFlight, m.waiters, m.renewals,
		m.logDrops, m.operations, m.latencies, m.changes, m.missed, m.reloads, m.reloaded, m.configuration, buildInfo(),
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}), tableCollector{m})
	m.transport = newTransportMetrics()
	m.registry.MustRegister(m.transport.collectors()...)
	m.Reloaded(nil) // a gateway runs only with a configuration
	return m
}

// Handler answers a scrape.
func (m *Metrics) Handler() http.Handler {
	scrape := promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{MaxRequestsInFlight: 4})
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		m.prune()
		scrape.ServeHTTP(w, r)
	})
}

// Reloaded says that a configuration was read again, and with err that it was refused.
func (m *Metrics) Reloaded(err error) {
	if err != nil {
		m.reloads.WithLabelValues("refused").Inc()
		m.configuration.Set(0)
		return
	}
	m.reloads.WithLabelValues("accepted").Inc()
	m.configuration.Set(1)
	m.reloaded.Set(float64(time.Now().UnixMilli()) / 1000)
}

// buildInfo is a metric whose labels say what runs.
func buildInfo() prometheus.Collector {
	version, revision := "unknown", "unknown"
	if b, ok := debug.ReadBuildInfo(); ok {
		version = b.Main.Version
		for _, s := range b.Settings {
			if s.Key == "vcs.revision" {
				revision = s.Value
			}
		}
	}
	info := prometheus.NewGauge(prometheus.GaugeOpts{
		Name: "limpet_build_info", Help: "What runs: always 1.",
		ConstLabels: prometheus.Labels{"version": version, "revision": revision, "goversion": runtime.Version()},
	})
	info.Set(1)
	return info
}

func counters(name, help string, labels ...string) *prometheus.CounterVec {
	return prometheus.NewCounterVec(prometheus.CounterOpts{Name: "limpet_" + name, Help: help}, labels)
}

func counter(name, help string) prometheus.Counter {
	return prometheus.NewCounter(prometheus.CounterOpts{Name: "limpet_" + name, Help: help})
}

func gauge(name, help string) prometheus.Gauge {
	return prometheus.NewGauge(prometheus.GaugeOpts{Name: "limpet_" + name, Help: help})
}

func histograms(name, help string, buckets []float64, labels ...string) *prometheus.HistogramVec {
	return prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: "limpet_" + name, Help: help, Buckets: buckets}, labels)
}
