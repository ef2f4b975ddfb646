package telemetry

import "github.com/prometheus/client_golang/prometheus"

// Gauge adds a metric that is read at each scrape: read calls yield with each value and the values of its labels, in the order of
// labels. It may be called by several scrapes at once and must not block. No combination of labels may come twice in one call.
// Gauge panics if a metric of that name is there already: names are the program's own.
func (m *Metrics) Gauge(name, help string, labels []string, read func(yield func(value float64, values ...string))) {
	m.registry.MustRegister(&readGauge{prometheus.NewDesc(name, help, labels, nil), read})
}

// A readGauge is a gauge whose values are somebody else's.
type readGauge struct {
	desc *prometheus.Desc
	read func(yield func(float64, ...string))
}

// Describe implements prometheus.Collector.
func (g *readGauge) Describe(descs chan<- *prometheus.Desc) { descs <- g.desc }

// Collect implements prometheus.Collector.
func (g *readGauge) Collect(metrics chan<- prometheus.Metric) {
	g.read(func(value float64, values ...string) {
		metrics <- prometheus.MustNewConstMetric(g.desc, prometheus.GaugeValue, value, values...)
	})
}
