package flow

import (
	"net/netip"
	"time"

	"github.com/limpet-project/limpet/affinity"
	"github.com/limpet-project/limpet/lab/clientip"
)

// An Interval is what was seen since the one before.
type Interval struct {
	Time      time.Time     `json:"time"`
	Seconds   float64       `json:"seconds"` // it was so long
	Window    float64       `json:"window"`  // seconds over which spread is measured
	Source    Source        `json:"source"`
	Conntrack Fill          `json:"conntrack"`
	Clients   Clients       `json:"clients"`
	Overruns  uint64        `json:"overruns"` // times that the kernel dropped events: rates are too low
	Services  []ServiceRate `json:"services"`
	Notes     []string      `json:"notes,omitempty"` // what could not be read, or is not known
}

// A Fill is how full a table is. The zero Limit is unknown.
type Fill struct {
	Entries int `json:"entries"`
	Limit   int `json:"limit,omitempty"`
}

// Part returns how full the table is, from 0 to 1; 0 if that is unknown.
func (f Fill) Part() float64 {
	if f.Limit <= 0 {
		return 0
	}
	return float64(f.Entries) / float64(f.Limit)
}

// Clients says how many clients are remembered, of all Services together.
type Clients struct {
	Tracked int `json:"tracked"`
	Limit   int `json:"limit"`
	// Forgotten counts those that had to go for others since the start, while it mattered: moves of theirs are not seen, and effective
	// clients are too few.
	Forgotten uint64 `json:"forgotten"`
}

// A ServiceRate says how new flows of one port of a Service spread.
type ServiceRate struct {
	clientip.ServicePort
	Mode    clientip.Mode     `json:"mode"`
	Family  string            `json:"family"`            // IPv4 or IPv6
	Timeout affinity.Duration `json:"timeout,omitempty"` // of the affinity; absent without
	Rate    float64           `json:"rate"`              // new flows a second
	Flows   uint64            `json:"flows"`             // new flows since the start
	// Spread is that of the window's flows over the endpoints that rules have; nil if there were none.
	Spread *Spread `json:"spread,omitempty"`
	// Moved counts clients of this interval that reached another endpoint than the time before, although their affinity had not ended.
	Moved int `json:"moved"`
	// Moves counts such flows since the start. Their cause is known when rules are read next.
	Moves     Moves          `json:"moves"`
	Endpoints []EndpointRate `json:"endpoints"`
}

// Spread says how even flows are.
type Spread struct {
	Variation   float64 `json:"variation"`   // standard deviation over mean, of the flows of endpoints
	MaxOverMean float64 `json:"maxOverMean"` // the fullest endpoint's flows over the mean
	Effective   float64 `json:"effective"`   // so many equal clients would spread alike: (sum w)^2 / sum w^2
	// Expected is the variation that as many equal units as there are effective clients have if each is put on an endpoint by lot:
	// what affinity to addresses comes to. It is absent without affinity.
	Expected float64 `json:"expected,omitempty"`
}

// Moves are flows of clients that reached another endpoint, by cause.
type Moves struct {
	Total uint64 `json:"total"`
	Gone  uint64 `json:"gone"` // the endpoint before is not in the rules any more
	Lost  uint64 `json:"lost"` // it is: the node forgot the client, as a list that is full does
}

// An EndpointRate says what one endpoint gets.
type EndpointRate struct {
	Address netip.AddrPort `json:"address"`
	Rate    float64        `json:"rate"`          // new flows a second
	Share   float64        `json:"share"`         // of the window's flows
	Flows   uint64         `json:"flows"`         // since the start
	Live    int            `json:"live"`          // clients in its list whose affinity has not ended
	List    Fill           `json:"list"`          // of its list; zero without affinity
	Out     bool           `json:"out,omitempty"` // not in the rules as they were read last
}
