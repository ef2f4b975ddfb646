package telemetry

import (
	"github.com/limpet-project/limpet/affinity"
	"github.com/limpet-project/limpet/endpoint"
	"github.com/limpet-project/limpet/router"
)

// Endpoints returns the observer of changes of endpoints.
func (m *Metrics) Endpoints() endpoint.Observer { return endpointObserver{m} }

type endpointObserver struct{ m *Metrics }

func (o endpointObserver) EndpointChanged(e endpoint.Event) {
	o.m.changes.WithLabelValues(e.To.String(), string(e.Cause)).Inc()
}

func (o endpointObserver) Missed(events int) { o.m.missed.Add(float64(events)) }

// Router returns the observer of the router.
func (m *Metrics) Router() router.Observer { return routerObserver{m} }

// routerObserver counts what does not show in a single request.
type routerObserver struct{ m *Metrics }

func (o routerObserver) StoreFull(s affinity.ServiceName) {
	o.m.services.get(s, o.m.newServiceSeries)
	o.m.full.WithLabelValues(s.String()).Inc()
}

func (o routerObserver) Conflict(s affinity.ServiceName) {
	o.m.services.get(s, o.m.newServiceSeries)
	o.m.conflicts.WithLabelValues(s.String()).Inc()
}

func (o routerObserver) Waiters(n int)         { o.m.waiters.Set(float64(n)) }
func (o routerObserver) RenewalsDropped(n int) { o.m.renewals.Add(float64(n)) }
