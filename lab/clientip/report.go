package clientip

import (
	"net/netip"

	"github.com/limpet-project/limpet/affinity"
)

// A Report is what Explain found.
type Report struct {
	Services []ServiceReport `json:"services"`
	Notes    []string        `json:"notes,omitempty"` // what could not be read
}

// A ServiceReport says how one port of a Service sticks.
type ServiceReport struct {
	ServicePort
	Mode      Mode              `json:"mode"`
	Family    string            `json:"family"` // IPv4 or IPv6
	Fronts    []Front           `json:"fronts"`
	Timeout   affinity.Duration `json:"timeout,omitempty"` // absent without affinity
	Endpoints []EndpointReport  `json:"endpoints"`
	Warnings  []string          `json:"warnings,omitempty"`
	Stale     int               `json:"stale,omitempty"`      // UDP flows to what is not an endpoint
	Flows     []Flow            `json:"staleFlows,omitempty"` // the first hundred of them
	Split     int               `json:"split,omitempty"`      // clients that another protocol of the same address and port sends elsewhere
	SplitSome []SplitClient     `json:"splitClients,omitempty"`
	Next      []Next            `json:"next,omitempty"` // for the client that was asked for
}

// An EndpointReport says who is stuck to an endpoint.
type EndpointReport struct {
	Address  netip.AddrPort     `json:"address"`
	Pod      string             `json:"pod,omitempty"`
	State    string             `json:"state,omitempty"`    // as EndpointSlices have it; unknown if they do not have it
	Clients  int                `json:"clients"`            // go here with their next connection
	Live     int                `json:"live"`               // entries that have not expired, those of earlier rules' clients included
	Entries  int                `json:"entries"`            // all
	Limit    int                `json:"limit,omitempty"`    // of entries
	FirstEnd *affinity.Duration `json:"firstEnd,omitempty"` // when the first client that goes here is free again
	LastEnd  *affinity.Duration `json:"lastEnd,omitempty"`
	Held     []HeldClient       `json:"held,omitempty"` // if asked for
}

// A HeldClient is stuck to an endpoint.
type HeldClient struct {
	Client netip.Addr         `json:"client"`
	Ends   *affinity.Duration `json:"ends,omitempty"` // absent if unknown
}

// A SplitClient is stuck to other pods by another protocol.
type SplitClient struct {
	Client   netip.Addr     `json:"client"`
	Endpoint netip.AddrPort `json:"endpoint"`
	Other    ServicePort    `json:"other"`
	To       netip.AddrPort `json:"to"`
}

// Next says where a client's next connection goes, by one chain of a Service.
type Next struct {
	Client   netip.Addr         `json:"client"`
	Chain    string             `json:"chain"`
	Fronts   []string           `json:"fronts"`            // the addresses of the Service for which the chain decides
	Endpoint netip.AddrPort     `json:"endpoint,omitzero"` // absent if it is drawn by lot
	Rule     *Rule              `json:"rule,omitempty"`    // that decides
	Ends     *affinity.Duration `json:"ends,omitempty"`    // when the client would be free if it made no connection
	Unknown  bool               `json:"unknown,omitempty"` // whether the entry has expired, or what is in a list, is not known
	Odds     []Odds             `json:"odds,omitempty"`    // if it is drawn, or may be
	Refused  bool               `json:"refused,omitempty"` // there is no endpoint
}

// Odds are the chance of an endpoint.
type Odds struct {
	Endpoint    netip.AddrPort `json:"endpoint"`
	Probability float64        `json:"probability"`
	Rule        Rule           `json:"rule"`
}
