package clientip

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"time"
)

// Ends of the comments by which kube-proxy says what a rule of KUBE-SERVICES is for.
const noEndpoints = " has no endpoints"

var frontKinds = []struct{ end, kind string }{
	{" cluster IP", "cluster IP"},
	{" external IP", "external IP"},
	{" loadbalancer IP", "load balancer IP"},
	{noEndpoints, "service IP"},
}

// services puts the Services together from their chains, found by the hash that their names share, and their fronts.
func (p *iptables) services() ([]Service, error) {
	found := map[string]*Service{} // by hash; by name where no chain is left
	for _, name := range slices.Sorted(maps.Keys(p.nat)) {
		if !chooses(name) {
			continue
		}
		c, err := p.chain(name)
		if err != nil {
			return nil, err
		}
		if len(c.Draws) == 0 {
			continue // stale, and flushed
		}
		hash := name[len(prefixCluster):]
		s := found[hash]
		if s == nil {
			s = &Service{Mode: IPTables, ServicePort: p.nameByChain(name)}
			found[hash] = s
		}
		s.Chains = append(s.Chains, c)
	}
	for _, chain := range []string{"KUBE-SERVICES", "KUBE-NODEPORTS"} {
		for _, r := range p.nat[chain] {
			p.addFront(found, r)
		}
	}
	for _, r := range p.reject {
		p.addRejected(found, r)
	}
	return collect(p.source, found)
}

// collect returns Services in the order of their names.
func collect(source string, found map[string]*Service) ([]Service, error) {
	if len(found) > maxPorts {
		return nil, &SyntaxError{Source: source, Reason: fmt.Sprintf("got %d ports of Services, expected at most %d", len(found), maxPorts)}
	}
	all := make([]Service, 0, len(found))
	for _, s := range found {
		all = append(all, *s)
	}
	slices.SortFunc(all, func(a, b Service) int { return compareServicePorts(a.ServicePort, b.ServicePort) })
	return all, nil
}

// chain reads the rules of a chain that chooses: those of recent, then those of statistic, then the one for the rest.
func (p *iptables) chain(name string) (Chain, error) {
	c := Chain{Name: name, Policy: "cluster"}
	if strings.HasPrefix(name, prefixLocal) {
		c.Policy = "local"
	}
	left := 1.0
	for _, r := range p.nat[name] {
		if !strings.HasPrefix(r.target, prefixEndpoint) || r.conditional {
			continue // a mark for masquerading, or not kube-proxy's
		}
		if left == 0 {
			return c, p.fault(r, "got a rule after one that takes every packet, expected it to be the last")
		}
		to, ok := p.destination(r.target)
		if !ok {
			return c, p.fault(r, "chain %s: expected a rule with DNAT --to-destination in it", clip(r.target))
		}
		rule := Rule{Source: p.source, Line: r.line, Text: r.text}
		if r.rcheck {
			c.Sticky = append(c.Sticky, Sticky{to, r.list, time.Duration(r.seconds) * time.Second, rule})
			continue
		}
		lot := r.lot
		if lot == 0 {
			lot = 1
		}
		c.Draws = append(c.Draws, Draw{to, left * lot, rule})
		left *= 1 - lot
	}
	return c, nil
}

func (p *iptables) fault(r saved, format string, args ...any) error {
	return &SyntaxError{Source: p.source, Line: r.line, Reason: fmt.Sprintf(format, args...)}
}

// destination returns where the chain of an endpoint leads.
func (p *iptables) destination(chain string) (netip.AddrPort, bool) {
	for _, r := range p.nat[chain] {
		if r.target == "DNAT" && r.to.IsValid() {
			return r.to, true
		}
	}
	return netip.AddrPort{}, false
}

// nameByChain finds the ServicePort in the rules of its endpoints: their comments have its name and they have its protocol. In
// clusters of more than 1000 endpoints kube-proxy leaves these comments out, and those of KUBE-SERVICES tell.
func (p *iptables) nameByChain(chain string) ServicePort {
	port := ServicePort{}
	for _, r := range p.nat[chain] {
		name, _, _ := strings.Cut(r.comment, " -> ")
		if n, err := ParseServicePort(name); err == nil {
			port = n
		}
		for _, e := range p.nat[r.target] {
			if isProtocol(e.protocol) {
				port.Protocol = e.protocol
			}
		}
	}
	return port
}

// addFront adds an address to the Service whose chain its rule jumps to.
func (p *iptables) addFront(found map[string]*Service, r saved) {
	prefix, hash := splitChain(r.target)
	s := found[hash]
	if s == nil || r.conditional || r.port == 0 || r.chain == "KUBE-SERVICES" && !r.dst.IsValid() {
		return // kubernetes service nodeports, a Service without endpoints here, or not kube-proxy's
	}
	kind, name := "node port", r.comment
	for _, k := range frontKinds {
		if n, ok := strings.CutSuffix(r.comment, k.end); ok && r.chain == "KUBE-SERVICES" {
			kind, name = k.kind, n
		}
	}
	if n, err := ParseServicePort(name); err == nil {
		n.Protocol = r.protocol
		s.ServicePort = n
	}
	s.Fronts = append(s.Fronts, Front{kind, r.dst, r.port, p.resolve(s, prefix, hash)})
}

// splitChain returns the prefix and the hash of the name of a Service's chain.
func splitChain(name string) (prefix, hash string) {
	for _, prefix := range []string{prefixCluster, prefixLocal, prefixExternal, prefixFirewall} {
		if hash, ok := strings.CutPrefix(name, prefix); ok {
			return prefix, hash
		}
	}
	return "", ""
}

// resolve returns the name of the chain that chooses for packets which enter at a prefix: from outside it is where the last rule of
// KUBE-EXT leads, as the ones before it are for packets of this node.
func (p *iptables) resolve(s *Service, prefix, hash string) string {
	name := prefix + hash
	if prefix == prefixExternal || prefix == prefixFirewall {
		name = ""
		for _, r := range p.nat[prefixExternal+hash] {
			if !r.conditional && r.target != "" {
				name = r.target
			}
		}
	}
	if s.chain(name) == nil {
		return ""
	}
	return name
}

// addRejected adds the front of a Service that has no endpoints anywhere.
func (p *iptables) addRejected(found map[string]*Service, r saved) {
	n, err := ParseServicePort(strings.TrimSuffix(r.comment, noEndpoints))
	if err != nil || r.port == 0 || !r.dst.IsValid() {
		return
	}
	n.Protocol = r.protocol
	hash := n.chainHash()
	if found[hash] == nil {
		found[hash] = &Service{Mode: IPTables, ServicePort: n}
	}
	found[hash].Fronts = append(found[hash].Fronts, Front{"service IP", r.dst, r.port, ""})
}
