package experiment

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/limpet-project/limpet/lab/clientip"
	"github.com/limpet-project/limpet/lab/spread"
)

// A Mode is what serves the clients.
type Mode string

// The modes: kube-proxy's two, and Limpet's UDP gateway.
const (
	IPTables Mode = "iptables"
	NFTables Mode = "nftables"
	Limpet   Mode = "limpet"
)

// Modes lists all modes in the order in which they are measured.
var Modes = [...]Mode{IPTables, NFTables, Limpet}

// An Arm is one of the ways that are compared.
type Arm struct {
	Mode     Mode `json:"mode"`
	Affinity bool `json:"affinity"` // ClientIP; Limpet has its own always
}

// String returns "none, iptables", "ClientIP, nftables" or "Limpet".
func (a Arm) String() string {
	switch {
	case a.Mode == Limpet:
		return "Limpet"
	case a.Affinity:
		return fmt.Sprintf("ClientIP, %s", a.Mode)
	}
	return fmt.Sprintf("none, %s", a.Mode)
}

// arms returns the arms of modes.
func arms(modes []Mode) []Arm {
	var list []Arm
	for _, m := range Modes {
		switch {
		case !slices.Contains(modes, m):
		case m == Limpet:
			list = append(list, Arm{m, true})
		default:
			list = append(list, Arm{m, false}, Arm{m, true})
		}
	}
	return list
}

// policy returns what package spread calls the arm.
func (a Arm) policy() spread.Policy {
	switch {
	case a.Mode == Limpet:
		return spread.PolicyBound
	case a.Affinity:
		return spread.PolicyClientIP
	}
	return spread.PolicyNone
}

// affinityTimeout is that of ClientIP affinity: Kubernetes' default, so that nothing expires in an experiment.
const affinityTimeout = 3 * time.Hour

func (a Arm) timeout() time.Duration {
	if a.Affinity {
		return affinityTimeout
	}
	return 0
}

// rules returns the form of the rules.
func (a Arm) rules() clientip.Mode {
	if a.Mode == NFTables {
		return clientip.NFTables
	}
	return clientip.IPTables
}

// Weights say how clients differ.
type Weights string

// The weights.
const (
	Equal Weights = "equal"
	Zipf  Weights = "zipf" // the i-th client sends 1/i as much as the first
)

// A Shape is who asks and how, in one cell of a table.
type Shape struct {
	Clients int     `json:"clients"`
	Weights Weights `json:"weights"`
	Reuse   bool    `json:"reuse"` // one socket for each client instead of a fresh one for every query
}

// maxClients of a shape, so that every run can have its own.
const maxClients = 2000

// UnmarshalText reads "50", "50:zipf" or "50:zipf:reused".
func (s *Shape) UnmarshalText(text []byte) error {
	parts := strings.Split(string(text), ":")
	*s = Shape{Weights: Equal}
	wrong := fmt.Errorf("got %q, expected CLIENTS[:equal|zipf[:fresh|reused]] with 1 to %d clients, such as 50:zipf:reused", text, maxClients)
	var err error
	if s.Clients, err = strconv.Atoi(parts[0]); err != nil || s.Clients < 1 || s.Clients > maxClients || len(parts) > 3 {
		return wrong
	}
	if len(parts) > 1 {
		s.Weights = Weights(parts[1])
	}
	if len(parts) > 2 {
		s.Reuse = parts[2] == "reused"
	}
	if s.Weights != Equal && s.Weights != Zipf || len(parts) > 2 && !s.Reuse && parts[2] != "fresh" {
		return wrong
	}
	return nil
}

// MarshalText returns what UnmarshalText reads.
func (s Shape) MarshalText() ([]byte, error) {
	return fmt.Appendf(nil, "%d:%s:%s", s.Clients, s.Weights, s.sockets()), nil
}

func (s Shape) sockets() string {
	if s.Reuse {
		return "reused"
	}
	return "fresh"
}

// String returns "50 clients, zipf, reused".
func (s Shape) String() string {
	return fmt.Sprintf("%d clients, %s, %s", s.Clients, s.Weights, s.sockets())
}

// clients returns the clients as package spread has them.
func (s Shape) clients() []spread.Client {
	if s.Weights == Zipf {
		return spread.Zipf(s.Clients, 1)
	}
	return spread.Equal(s.Clients)
}
