package clientip

import (
	"cmp"
	"fmt"
	"net/netip"
	"strings"
	"time"
)

// A ServicePort names one port of a Service: what kube-proxy sticks clients for. Affinity is separate for each, so the UDP and the
// TCP port of one DNS Service may stick one client to two pods.
type ServicePort struct {
	Namespace string `json:"namespace"`
	Name      string `json:"name"`
	Port      string `json:"port,omitempty"` // the port's name; empty if it has none
	Protocol  string `json:"protocol"`       // tcp, udp or sctp
}

// String returns namespace/name:port, as kube-proxy writes it in comments and hashes it in names of chains.
func (p ServicePort) String() string {
	s := p.Namespace + "/" + p.Name
	if p.Port != "" {
		s += ":" + p.Port
	}
	return s
}

// ParseServicePort reads namespace/name or namespace/name:port; the protocol is left empty.
func ParseServicePort(s string) (ServicePort, error) {
	namespace, rest, ok := strings.Cut(s, "/")
	name, port, _ := strings.Cut(rest, ":")
	if !ok || !isName(namespace) || !isName(name) || port != "" && !isName(port) || strings.HasSuffix(rest, ":") {
		return ServicePort{}, fmt.Errorf("got %q, expected NAMESPACE/NAME or NAMESPACE/NAME:PORT", clip(s))
	}
	return ServicePort{Namespace: namespace, Name: name, Port: port}, nil
}

// isName reports whether s may be a name in Kubernetes, so that nothing else from a file reaches a terminal or a rule.
func isName(s string) bool {
	if s == "" || len(s) > 63 || s[0] == '-' || s[len(s)-1] == '-' {
		return false
	}
	return strings.IndexFunc(s, func(r rune) bool { return (r < 'a' || r > 'z') && (r < '0' || r > '9') && r != '-' }) < 0
}

func compareServicePorts(a, b ServicePort) int {
	return cmp.Or(cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name),
		cmp.Compare(a.Port, b.Port), cmp.Compare(a.Protocol, b.Protocol))
}

// A Mode is how kube-proxy writes its rules.
type Mode string

// The modes of kube-proxy that are understood.
const (
	IPTables Mode = "iptables"
	NFTables Mode = "nftables"
)

// A Service is a ServicePort as one node's rules serve it, for one address family.
type Service struct {
	ServicePort
	Mode   Mode
	Fronts []Front
	Chains []Chain // none if the rules say that it has no endpoints
}

// A Front is an address that clients use for a Service.
type Front struct {
	Kind    string     `json:"kind"`    // cluster IP, external IP, load balancer IP, node port, or service IP where the rules do not say
	Address netip.Addr `json:"address"` // the zero Addr of a node port: any address of the node
	Port    uint16     `json:"port"`
	Chain   string     `json:"chain,omitempty"` // the Chain that chooses the endpoint; empty if none can be reached
}

// String returns the address and port, with * for the addresses of the node.
func (f Front) String() string {
	if !f.Address.IsValid() {
		return fmt.Sprintf("*:%d", f.Port)
	}
	return netip.AddrPortFrom(f.Address, f.Port).String()
}

// A Chain chooses an endpoint: its Sticky rules are checked in order, and a client that none of them knows is drawn by lot.
type Chain struct {
	Name   string
	Policy string // cluster, or local for a traffic policy of Local
	Sticky []Sticky
	Draws  []Draw
}

// A Sticky rule sends the clients of a list to an endpoint.
type Sticky struct {
	Endpoint netip.AddrPort
	List     string
	Timeout  time.Duration
	Rule     Rule
}

// A Draw is the chance that a client which no Sticky rule knows gets an endpoint.
type Draw struct {
	Endpoint    netip.AddrPort
	Probability float64
	Rule        Rule
}

// A Rule says where a rule stands, so that a person finds it.
type Rule struct {
	Source string `json:"source"`           // the file or the command that printed it
	Line   int    `json:"line,omitempty"`   // in iptables-save's output
	Handle int    `json:"handle,omitempty"` // in nftables
	Text   string `json:"text"`
}

// String returns the place and the rule.
func (r Rule) String() string {
	if r.Line > 0 {
		return fmt.Sprintf("%s:%d: %s", r.Source, r.Line, r.Text)
	}
	return fmt.Sprintf("%s: %s # handle %d", r.Source, r.Text, r.Handle)
}

// endpoints returns the endpoints of all chains of a Service, each once, in the order of the rules.
func (s *Service) endpoints() []netip.AddrPort {
	var all []netip.AddrPort
	seen := map[netip.AddrPort]bool{}
	for _, c := range s.Chains {
		for _, d := range c.Draws {
			if !seen[d.Endpoint] {
				seen[d.Endpoint] = true
				all = append(all, d.Endpoint)
			}
		}
	}
	return all
}

// is6 reports whether the Service is of IPv6. A Service of node ports alone is known by its endpoints.
func (s *Service) is6() bool {
	for _, f := range s.Fronts {
		if f.Address.IsValid() {
			return f.Address.Is6()
		}
	}
	for _, e := range s.endpoints() {
		return e.Addr().Is6()
	}
	return false
}

// chain returns the Chain of a name, or nil.
func (s *Service) chain(name string) *Chain {
	for i := range s.Chains {
		if s.Chains[i].Name == name {
			return &s.Chains[i]
		}
	}
	return nil
}
