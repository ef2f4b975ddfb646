package admin

import (
	"net/http"
	"time"

	"github.com/limpet-project/limpet/affinity"
	"github.com/limpet-project/limpet/endpoint"
)

// A ServiceView is one service as the API shows it.
type ServiceView struct {
	ServiceRef
	Synced bool `json:"synced"`
	// Listeners are those for TCP and UDP that lead to the service. Those for HTTP lead wherever routes say.
	Listeners []ListenerView `json:"listeners,omitempty"`
	Revisions []RevisionView `json:"revisions"`
}

// A RevisionView is one revision as the API shows it.
type RevisionView struct {
	Name      string         `json:"name"`
	Weight    int            `json:"weight"`
	Tags      []string       `json:"tags,omitempty"`
	State     string         `json:"state"`
	Since     time.Time      `json:"since,omitzero"`
	Relayed   bool           `json:"relayed,omitempty"`
	Endpoints []EndpointView `json:"endpoints"`
}

// An EndpointView is one endpoint as the API shows it.
type EndpointView struct {
	Name         string    `json:"name"`
	Address      string    `json:"address"`
	State        string    `json:"state"`
	Since        time.Time `json:"since,omitzero"`
	Cause        string    `json:"cause,omitempty"`
	ProbeError   string    `json:"probeError,omitempty"`
	EjectedUntil time.Time `json:"ejectedUntil,omitzero"`
	Draining     bool      `json:"draining,omitempty"`
	DrainUntil   time.Time `json:"drainUntil,omitzero"`
	Limit        int       `json:"limit,omitempty"`
	Standby      bool      `json:"standby,omitempty"`
	InFlight     int64     `json:"inFlight"`
	Queued       int64     `json:"queued"`
	Sessions     int64     `json:"sessions"`
}

// services answers GET /services.
func (a api) services(w http.ResponseWriter, _ *http.Request) {
	list := []ServiceView{}
	leading := map[affinity.ServiceName][]ListenerView{}
	for _, l := range a.listeners() {
		leading[l.Service] = append(leading[l.Service], l.view())
	}
	for _, s := range a.o.Endpoints.Status() {
		v := ServiceView{
			ServiceRef: ServiceRef{s.Name.Namespace, s.Name.Name}, Synced: s.Synced,
			Listeners: leading[s.Name], Revisions: []RevisionView{},
		}
		for _, r := range s.Revisions {
			v.Revisions = append(v.Revisions, revisionView(r))
		}
		list = append(list, v)
	}
	reply(w, list)
}

func revisionView(r endpoint.RevisionStatus) RevisionView {
	v := RevisionView{
		Name: r.Name, Weight: r.Weight, Tags: r.Tags, State: r.State.String(), Since: r.Since, Relayed: r.Relayed,
		Endpoints: make([]EndpointView, 0, len(r.Endpoints)),
	}
	for _, e := range r.Endpoints {
		v.Endpoints = append(v.Endpoints, EndpointView{
			Name: e.Name, Address: e.Address, State: e.State.String(), Since: e.Since, Cause: string(e.Cause),
			ProbeError: e.ProbeError, EjectedUntil: e.EjectedUntil, Draining: e.Draining, DrainUntil: e.DrainUntil,
			Limit: e.Limit, Standby: e.Standby, InFlight: e.InFlight, Queued: e.Queued, Sessions: e.Bound,
		})
	}
	return v
}
