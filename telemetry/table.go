package telemetry

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/limpet-project/limpet/affinity"
	"github.com/limpet-project/limpet/endpoint"
)

// watched is what is read when a scrape asks, not counted when it happens.
type watched struct {
	table *endpoint.Table
	store func() StoreStatus
}

// A StoreStatus is what a store tells of itself. What it does not know is -1.
type StoreStatus struct {
	Away        bool  // the breaker is open: nothing is asked of the store
	Bindings    int64 // held by this gateway, or by the shared store
	LastKnown   int64 // kept from before the store went away
	Provisional int64 // made while the store is away
	Evicted     int64 // since the start, because of a bound
	Expired     int64 // since the start
}

// Watch makes the state of endpoints and of the store visible from now on, and lets the series of services that are not in the table
// end. Both may be nil. status is called for each scrape and must not wait.
func (m *Metrics) Watch(t *endpoint.Table, status func() StoreStatus) {
	m.watched.Store(&watched{table: t, store: status})
}

// prune deletes the series of services and revisions that the table does not have. Requests without a service keep theirs.
func (m *Metrics) prune() {
	w := m.watched.Load()
	if w == nil || w.table == nil {
		return
	}
	listed := map[affinity.ServiceName]map[string]bool{{}: {}}
	for _, s := range w.table.Status() {
		listed[s.Name] = map[string]bool{}
		for _, r := range s.Revisions {
			listed[s.Name][r.Name] = true
		}
	}
	m.targets.prune(func(t target) bool {
		return t.revision == "" && listed[t.service] != nil || listed[t.service][t.revision]
	},
		func(t target) {
			gone := prometheus.Labels{"service": t.service.String(), "revision": t.revision}
			for _, v := range []*prometheus.CounterVec{m.requests, m.transport.connections, m.transport.flows} {
				v.DeletePartialMatch(gone)
			}
		})
	m.services.prune(func(s affinity.ServiceName) bool { return listed[s] != nil }, m.forget)
}

// forget deletes what is counted for a service as a whole.
func (m *Metrics) forget(s affinity.ServiceName) {
	service := prometheus.Labels{"service": s.String()}
	m.durations.DeletePartialMatch(service)
	for _, v := range append(m.transport.all(), m.bytes, m.answers, m.moved, m.full, m.conflicts) {
		v.DeletePartialMatch(service)
	}
}

var (
	weightDesc = describe("revision_weight_ratio", "Share of new requests that a revision should get by its weight.", "service", "revision")
	stateDesc  = describe("endpoint_state", "State that an endpoint is in: always 1.", "service", "revision", "endpoint", "state")
	flightDesc = describe("endpoint_in_flight", "Requests at an endpoint, by this gateway.", "service", "revision", "endpoint")
	queueDesc  = describe("endpoint_queued", "Requests that wait for an endpoint that is at its limit.", "service", "revision", "endpoint")
	boundDesc  = describe("endpoint_bound_sessions", "Sessions bound to an endpoint, as far as this gateway knows.", "service", "revision", "endpoint")
	syncedDesc = describe("endpoints_synced", "Whether the sources have told everything once: 1, or 0.")

	storeAwayDesc   = describe("store_away", "Whether the store is away and requests do without it: 1, or 0.")
	bindingsDesc    = describe("bindings", "Bindings in the store, as far as this gateway knows.")
	lastKnownDesc   = describe("bindings_last_known", "Bindings kept from before the store went away.")
	provisionalDesc = describe("bindings_provisional", "Bindings made while the store is away.")
	evictedDesc     = describe("bindings_evicted_total", "Bindings that were dropped because of a bound.")
	expiredDesc     = describe("bindings_expired_total", "Bindings that ended by their time.")
)

func describe(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc("limpet_"+name, help, labels, nil)
}

// tableCollector makes metrics of the table and the store at each scrape, so that what is gone leaves nothing behind.
type tableCollector struct{ m *Metrics }

// Describe sends nothing: which series there are depends on the sources.
func (tableCollector) Describe(chan<- *prometheus.Desc) {}

// Collect sends the state of endpoints and of the store.
func (c tableCollector) Collect(out chan<- prometheus.Metric) {
	w := c.m.watched.Load()
	if w == nil {
		return
	}
	if w.table != nil {
		collectTable(w.table, out)
	}
	if w.store != nil {
		collectStore(w.store(), out)
	}
}

func collectTable(t *endpoint.Table, out chan<- prometheus.Metric) {
	send(out, syncedDesc, number(t.Synced()))
	for _, s := range t.Status() {
		service, total := s.Name.String(), 0
		for _, r := range s.Revisions {
			total += r.Weight
		}
		for _, r := range s.Revisions {
			if r.State == affinity.RevisionRemoved {
				continue
			}
			send(out, weightDesc, float64(r.Weight)/float64(max(total, 1)), service, r.Name)
			collectEndpoints(r, out, service)
		}
	}
}

func collectEndpoints(r endpoint.RevisionStatus, out chan<- prometheus.Metric, service string) {
	for _, e := range r.Endpoints {
		if e.State == affinity.EndpointGone {
			continue
		}
		send(out, stateDesc, 1, service, r.Name, e.Name, e.State.String())
		send(out, flightDesc, float64(e.InFlight), service, r.Name, e.Name)
		send(out, queueDesc, float64(e.Queued), service, r.Name, e.Name)
		send(out, boundDesc, float64(e.Bound), service, r.Name, e.Name)
	}
}

func collectStore(s StoreStatus, out chan<- prometheus.Metric) {
	send(out, storeAwayDesc, number(s.Away))
	for _, v := range []struct {
		desc *prometheus.Desc
		kind prometheus.ValueType
		n    int64
	}{
		{bindingsDesc, prometheus.GaugeValue, s.Bindings},
		{lastKnownDesc, prometheus.GaugeValue, s.LastKnown},
		{provisionalDesc, prometheus.GaugeValue, s.Provisional},
		{evictedDesc, prometheus.CounterValue, s.Evicted},
		{expiredDesc, prometheus.CounterValue, s.Expired},
	} {
		if v.n >= 0 {
			out <- prometheus.MustNewConstMetric(v.desc, v.kind, float64(v.n))
		}
	}
}

func send(out chan<- prometheus.Metric, d *prometheus.Desc, v float64, labels ...string) {
	out <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
}

func number(yes bool) float64 {
	if yes {
		return 1
	}
	return 0
}
