package telemetry

import (
	"context"
	"encoding/hex"
	"log/slog"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/limpet-project/limpet/transport"
)

// Transport joins what observes connections and flows into one. Each may be nil, which is off; with both off the result is nil.
func Transport(m *Metrics, l *AccessLog) transport.Observer {
	if m == nil && l == nil {
		return nil
	}
	return transportObserver{m, l}
}

type transportObserver struct {
	m *Metrics
	l *AccessLog
}

// Picked counts a connection or flow.
func (t transportObserver) Picked(o *transport.Observed) {
	if t.m != nil {
		t.m.transport.picked(t.m, o)
	}
}

// Carried counts bytes.
func (t transportObserver) Carried(o *transport.Observed, in, out int64) {
	if t.m != nil {
		t.m.transport.carried(t.m, o, in, out)
	}
}

// End counts how a connection or flow ended, and writes its line.
func (t transportObserver) End(o *transport.Observed) {
	if t.m != nil {
		t.m.transport.ended(t.m, o)
	}
	if t.l != nil {
		t.l.transport(o)
	}
}

// Drop counts a datagram.
func (t transportObserver) Drop(listener string, cause transport.Cause) {
	if t.m != nil {
		t.m.transport.refused.WithLabelValues(listener, string(cause)).Inc()
	}
}

// transportMetrics count connections and flows. All their labels are closed lists or names of the configuration.
type transportMetrics struct {
	connections, flows *prometheus.CounterVec
	endings            *prometheus.CounterVec
	bytes              *prometheus.CounterVec
	refused            *prometheus.CounterVec
}

func newTransportMetrics() transportMetrics {
	return transportMetrics{
		connections: counters("connections_total", "TCP connections that got an endpoint, by what they were sent to and why.",
			"listener", "service", "revision", "reason"),
		flows: counters("flows_total", "UDP flows that got an endpoint, by what they were sent to and why; one that moves counts again.",
			"listener", "service", "revision", "reason"),
		endings: counters("transport_endings_total", "TCP connections and UDP flows that ended, by how.", "listener", "service", "ending"),
		bytes: counters("transport_bytes_total", "Bytes of TCP connections and UDP flows, in from clients and out to them.",
			"listener", "service", "direction"),
		refused: counters("transport_refused_total", "TCP connections that were refused and datagrams that were dropped.", "listener", "cause"),
	}
}

// all lists the metrics by service.
func (t *transportMetrics) all() []*prometheus.CounterVec {
	return []*prometheus.CounterVec{t.connections, t.flows, t.endings, t.bytes}
}

func (t *transportMetrics) collectors() []prometheus.Collector {
	return []prometheus.Collector{t.connections, t.flows, t.endings, t.bytes, t.refused}
}

func (t *transportMetrics) picked(m *Metrics, o *transport.Observed) {
	service := o.Service.String()
	// These know what ends when the service or the revision does.
	m.targets.get(target{o.Service, o.Target.Revision}, newTargetSeries)
	m.services.get(o.Service, m.newServiceSeries)
	v := t.connections
	if o.Protocol == "udp" {
		v = t.flows
	}
	v.WithLabelValues(o.Listener, service, o.Target.Revision, o.Reason.String()).Inc()
	if o.Reason.Moved() {
		m.moved.WithLabelValues(service, o.Reason.String()).Inc()
	}
}

func (t *transportMetrics) carried(m *Metrics, o *transport.Observed, in, out int64) {
	m.services.get(o.Service, m.newServiceSeries)
	service := o.Service.String()
	if in > 0 {
		t.bytes.WithLabelValues(o.Listener, service, "in").Add(float64(in))
	}
	if out > 0 {
		t.bytes.WithLabelValues(o.Listener, service, "out").Add(float64(out))
	}
}

func (t *transportMetrics) ended(m *Metrics, o *transport.Observed) {
	if o.Cause != "" {
		t.refused.WithLabelValues(o.Listener, string(o.Cause)).Inc()
		return
	}
	m.services.get(o.Service, m.newServiceSeries)
	t.endings.WithLabelValues(o.Listener, o.Service.String(), string(o.Ending)).Inc()
}

// transport writes the line of a connection or flow that has ended.
func (l *AccessLog) transport(o *transport.Observed) {
	word := "connection"
	if o.Protocol == "udp" {
		word = "flow"
	}
	r := slog.NewRecord(o.Begin, slog.LevelInfo, word, 0)
	r.AddAttrs(slog.String("protocol", o.Protocol), slog.String("listener", o.Listener), slog.String("service", o.Service.String()))
	if o.Picked {
		r.AddAttrs(slog.String("revision", o.Target.Revision), slog.String("endpoint", o.Target.Endpoint),
			slog.String("address", o.Address), slog.String("reason", o.Reason.String()))
	}
	if o.Key != [8]byte{} {
		r.AddAttrs(slog.String("key", hex.EncodeToString(o.Key[:])))
	}
	r.AddAttrs(slog.Int64("bytesIn", o.BytesIn), slog.Int64("bytesOut", o.BytesOut))
	if o.Protocol == "udp" {
		r.AddAttrs(slog.Int64("datagramsIn", o.DatagramsIn), slog.Int64("datagramsOut", o.DatagramsOut))
	}
	r.AddAttrs(slog.Float64("duration", seconds(o.Duration)))
	l.addTransport(&r, o)
	_ = l.handler.Handle(context.Background(), r) // the queue's Write has no errors
}

// addTransport adds what not every connection has.
func (l *AccessLog) addTransport(r *slog.Record, o *transport.Observed) {
	if o.Connect > 0 {
		r.AddAttrs(slog.Float64("connect", seconds(o.Connect)))
	}
	if o.Attempts > 1 {
		r.AddAttrs(slog.Int("attempts", o.Attempts))
	}
	if l.peer {
		r.AddAttrs(slog.String("peer", o.Client.String()))
	}
	if o.Ending != "" {
		r.AddAttrs(slog.String("ending", string(o.Ending)))
	}
	if o.Cause != "" {
		r.AddAttrs(slog.String("cause", string(o.Cause)))
	}
	if o.Err != nil {
		r.AddAttrs(slog.String("error", o.Err.Error()))
	}
}
