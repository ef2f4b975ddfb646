package spread

import (
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"time"
)

// The limits of a scenario.
const (
	MaxClients   = 100_000
	MaxNodes     = 5_000
	MaxEndpoints = 500
	MaxRuns      = 20_000
	MaxSockets   = 1_000
	maxFlows     = 20e6 // in the window, and followed in all
)

// A Policy says what decides where a query goes.
type Policy string

// The policies.
const (
	PolicyNone       Policy = "none"       // kube-proxy without affinity: a random endpoint for every flow
	PolicyFlowHash   Policy = "flow-hash"  // a hash of addresses and ports, without memory
	PolicyClientIP   Policy = "clientip"   // kube-proxy's sessionAffinity: ClientIP
	PolicyHash       Policy = "hash"       // Limpet's mode hash: plain rendezvous hashing of the client
	PolicyRendezvous Policy = "rendezvous" // rendezvous hashing with bounded load, decided anew when endpoints change
	PolicyBound      Policy = "bound"      // Limpet's default: bounded load, and the choice is remembered
)

// Policies lists all policies in the order in which they are shown.
var Policies = [...]Policy{PolicyNone, PolicyFlowHash, PolicyClientIP, PolicyHash, PolicyRendezvous, PolicyBound}

// perFlow reports whether each flow of a client is placed by itself.
func (p Policy) perFlow() bool { return p == PolicyNone || p == PolicyFlowHash }

// limpet reports whether the policy is one of Limpet's, which its own code decides.
func (p Policy) limpet() bool {
	return p == PolicyHash || p == PolicyRendezvous || p == PolicyBound
}

// A Mode is kube-proxy's. It says how much ClientIP affinity can remember.
type Mode string

// The modes.
const (
	ModeIPTables Mode = "iptables" // xt_recent: 100 addresses per endpoint and node, then the least recently used is forgotten
	ModeNFTables Mode = "nftables" // sets of 65535 addresses per endpoint and node, then new ones are not remembered
)

// What a list of client addresses holds: ip_list_tot of the kernel's xt_recent, and the size that nft gives a dynamic set.
const (
	recentListSize = 100
	nftSetSize     = 65_535
)

// Arrivals say how the queries of clients follow each other.
type Arrivals string

// The arrivals.
const (
	ArrivalsRandom  Arrivals = "random" // clients do not know of each other
	ArrivalsInTurns Arrivals = "turns"  // one after the other in a fixed order, as load generators do
)

// A Client is a source address.
type Client struct {
	Name   string  `json:"name"`
	Weight float64 `json:"weight"` // share of the queries, relative to the others
	Node   int     `json:"node"`   // counted from 0
	Zone   int     `json:"zone"`   // counted from 0
}

// A Count is a number of pods, or a share of them, as a Deployment's maxSurge and maxUnavailable are.
type Count struct {
	Number  int
	Percent bool
}

// maxCount bounds a Count, so that it can be multiplied.
const maxCount = 1_000_000

// UnmarshalText reads "2" or "25%".
func (c *Count) UnmarshalText(text []byte) error {
	number, percent := strings.CutSuffix(string(text), "%")
	n, err := strconv.Atoi(number)
	if err != nil || n < 0 || n > maxCount {
		return fmt.Errorf("got %q, expected a number of pods or a percentage, such as 1 or 25%%", text)
	}
	*c = Count{Number: n, Percent: percent}
	return nil
}

// MarshalText returns what UnmarshalText reads.
func (c Count) MarshalText() ([]byte, error) { return []byte(c.String()), nil }

// String returns "2" or "25%".
func (c Count) String() string {
	if c.Percent {
		return strconv.Itoa(c.Number) + "%"
	}
	return strconv.Itoa(c.Number)
}

// of returns the number of pods that c is of all; a share of a pod is rounded up or down.
func (c Count) of(all int, up bool) int {
	switch {
	case !c.Percent:
		return c.Number
	case up:
		return (c.Number*all + 99) / 100
	}
	return c.Number * all / 100
}

// A Scenario is what is predicted. Start from [DefaultScenario].
type Scenario struct {
	Clients   []Client `json:"-"`
	Endpoints int      `json:"endpoints"`
	// Sockets is how many sockets a client opens and keeps; 0 means a fresh one for every query.
	Sockets int `json:"sockets"`
	// Nodes and Zones are how many there are. Clients name theirs, and endpoints take zones in turn. With several zones a client is sent to
	// endpoints of its own, and to all where its own has none.
	Nodes int `json:"nodes"`
	Zones int `json:"zones"`

	Policies []Policy      `json:"policies"`
	Mode     Mode          `json:"mode"`
	Timeout  time.Duration `json:"timeout"`            // of ClientIP affinity, sliding with every new flow
	ListSize int           `json:"listSize,omitempty"` // addresses that an endpoint's list holds on a node; 0 is the mode's own

	Rate     float64       `json:"qps"` // queries per second of all clients together
	Window   time.Duration `json:"window"`
	Arrivals Arrivals      `json:"arrivals"`

	MaxSurge       Count         `json:"maxSurge"`
	MaxUnavailable Count         `json:"maxUnavailable"`
	PodReady       time.Duration `json:"podReady"` // from a new pod's start until it is ready

	Retries      int           `json:"retries"`      // of a query that failed, each from another socket if the client has one
	Detect       time.Duration `json:"detect"`       // from a pod's failure until it is no endpoint any more
	QueryTimeout time.Duration `json:"queryTimeout"` // after which a query has failed

	FlowTimeout  time.Duration `json:"flowTimeout"`  // nf_conntrack_udp_timeout
	ConntrackMax int           `json:"conntrackMax"` // nf_conntrack_max, per node

	Runs int    `json:"runs"`
	Seed uint64 `json:"seed"`
}

// DefaultScenario returns a scenario with every field at its default: 50 clients of equal weight on one node, three endpoints, a fresh
// socket for every query, and all policies.
func DefaultScenario() Scenario {
	return Scenario{
		Clients: Equal(50), Endpoints: 3, Nodes: 1, Zones: 1,
		Policies: Policies[:], Mode: ModeIPTables, Timeout: 3 * time.Hour,
		Rate: 1500, Window: 2 * time.Second, Arrivals: ArrivalsRandom,
		MaxSurge: Count{25, true}, MaxUnavailable: Count{25, true}, PodReady: 10 * time.Second,
		Retries: 2, Detect: 30 * time.Second, QueryTimeout: 5 * time.Second,
		FlowTimeout: 30 * time.Second, ConntrackMax: 262_144,
		Runs: 1000, Seed: 1,
	}
}

// A FieldError says which field of a scenario cannot be used and what was expected. Field is named as the flag is.
type FieldError struct {
	Field string
	Got   any
	Want  string
}

// Error returns "field: got x, expected y".
func (e *FieldError) Error() string {
	return fmt.Sprintf("%s: got %v, expected %s", e.Field, e.Got, e.Want)
}

// Validate returns a *[FieldError] for the first field that cannot be used.
func (s *Scenario) Validate() error {
	for _, f := range []struct {
		name        string
		value       float64
		least, most float64
	}{
		{"clients", float64(len(s.Clients)), 1, MaxClients},
		{"endpoints", float64(s.Endpoints), 1, MaxEndpoints},
		{"sockets", float64(s.Sockets), 0, MaxSockets},
		{"nodes", float64(s.Nodes), 1, MaxNodes},
		{"zones", float64(s.Zones), 1, 100},
		{"list-size", float64(s.ListSize), 0, 1_000_000},
		{"qps", s.Rate, 0.001, 100_000_000},
		{"retries", float64(s.Retries), 0, 100},
		{"conntrack-max", float64(s.ConntrackMax), 1, 1e9},
		{"runs", float64(s.Runs), 2, MaxRuns},
	} {
		if !(f.value >= f.least && f.value <= f.most) {
			return &FieldError{f.name, f.value, fmt.Sprintf("a number from %v to %v", plain(f.least), plain(f.most))}
		}
	}
	if err := s.validateTimes(); err != nil {
		return err
	}
	if n := s.flows(); n < 1 || n > maxFlows {
		return &FieldError{"window", s.Window, fmt.Sprintf("a time in which 1 to %v queries are sent, at %v a second", plain(maxFlows), s.Rate)}
	}
	if err := s.validateChoices(); err != nil {
		return err
	}
	return s.validateClients()
}

// plain prints a limit without an exponent.
func plain(v float64) string { return strconv.FormatFloat(v, 'f', -1, 64) }

func (s *Scenario) validateTimes() error {
	for _, f := range []struct {
		name        string
		value       time.Duration
		least, most time.Duration
	}{
		{"timeout", s.Timeout, time.Second, 24 * time.Hour}, // as the API server has it
		{"window", s.Window, time.Millisecond, 24 * time.Hour},
		{"pod-ready", s.PodReady, time.Millisecond, 24 * time.Hour},
		{"detect", s.Detect, time.Millisecond, 24 * time.Hour},
		{"query-timeout", s.QueryTimeout, time.Millisecond, time.Hour},
		{"flow-timeout", s.FlowTimeout, time.Millisecond, 24 * time.Hour},
	} {
		if f.value < f.least || f.value > f.most {
			return &FieldError{f.name, f.value, fmt.Sprintf("a time from %s to %s", f.least, f.most)}
		}
	}
	return nil
}

func (s *Scenario) validateChoices() error {
	if s.Mode != ModeIPTables && s.Mode != ModeNFTables {
		return &FieldError{"mode", strconv.Quote(string(s.Mode)), "iptables or nftables"}
	}
	if s.Arrivals != ArrivalsRandom && s.Arrivals != ArrivalsInTurns {
		return &FieldError{"arrivals", strconv.Quote(string(s.Arrivals)), "random or turns"}
	}
	if len(s.Policies) == 0 {
		return &FieldError{"policy", "none", "at least one"}
	}
	seen := map[Policy]bool{}
	for _, p := range s.Policies {
		if (!p.perFlow() && !p.limpet() && p != PolicyClientIP) || seen[p] {
			return &FieldError{"policy", strconv.Quote(string(p)), "each at most once of none, flow-hash, clientip, hash, rendezvous, bound"}
		}
		seen[p] = true
	}
	return nil
}

func (s *Scenario) validateClients() error {
	zones := make([]int, s.Nodes) // of each node, counted from 1
	for i, c := range s.Clients {
		refuse := func(got any, want string) error {
			return &FieldError{"clients", fmt.Sprintf("%v for client %d", got, i+1), want}
		}
		switch {
		case !(c.Weight >= minWeight && c.Weight <= maxWeight):
			return refuse(c.Weight, "as its weight "+weightRange)
		case c.Node < 0 || c.Node >= s.Nodes:
			return refuse(c.Node, fmt.Sprintf("as its node a number from 0 to %d", s.Nodes-1))
		case c.Zone < 0 || c.Zone >= s.Zones:
			return refuse(c.Zone, fmt.Sprintf("as its zone a number from 0 to %d", s.Zones-1))
		case zones[c.Node] != 0 && zones[c.Node] != c.Zone+1:
			return refuse(c.Zone, fmt.Sprintf("as its zone that of other clients of node %d: %d", c.Node, zones[c.Node]-1))
		case s.Arrivals == ArrivalsInTurns && c.Weight != s.Clients[0].Weight:
			return &FieldError{"arrivals", "turns", "random where clients differ in weight"}
		}
		zones[c.Node] = c.Zone + 1
	}
	return nil
}

// listSize returns how many addresses an endpoint's list holds on a node.
func (s *Scenario) listSize() int {
	switch {
	case s.ListSize > 0:
		return s.ListSize
	case s.Mode == ModeNFTables:
		return nftSetSize
	}
	return recentListSize
}

// flows returns the number of queries in the window.
func (s *Scenario) flows() float64 { return s.Rate * s.Window.Seconds() }

// reused reports whether clients keep their sockets.
func (s *Scenario) reused() bool { return s.Sockets > 0 }

// MarshalJSON writes times as people do: "30s".
func (s Scenario) MarshalJSON() ([]byte, error) {
	type fields Scenario // without this method
	return json.Marshal(struct {
		fields
		Timeout      string `json:"timeout"`
		Window       string `json:"window"`
		PodReady     string `json:"podReady"`
		Detect       string `json:"detect"`
		QueryTimeout string `json:"queryTimeout"`
		FlowTimeout  string `json:"flowTimeout"`
	}{
		fields(s), s.Timeout.String(), s.Window.String(), s.PodReady.String(), s.Detect.String(), s.QueryTimeout.String(),
		s.FlowTimeout.String(),
	})
}
