package clientip

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"time"

	"github.com/limpet-project/limpet/affinity"
)

// A Question says what Explain is to say. The zero Question asks for every Service with affinity.
type Question struct {
	Service ServicePort // if it has a name: only this Service, with affinity or not; an empty Port or Protocol is any
	Client  netip.Addr  // if valid: where this client goes next
	Clients bool        // list the clients of each endpoint
}

func (q Question) wants(s *Service) bool {
	if q.Service.Name == "" {
		return s.sticky()
	}
	w := q.Service
	return w.Namespace == s.Namespace && w.Name == s.Name && (w.Port == "" || w.Port == s.Port) && (w.Protocol == "" || w.Protocol == s.Protocol)
}

// sticky reports whether a Service has affinity.
func (s *Service) sticky() bool {
	return slices.ContainsFunc(s.Chains, func(c Chain) bool { return len(c.Sticky) > 0 })
}

// warnFrom is the part of a list's limit from which a Report warns.
const warnFrom = 0.8

// Explain says who sticks where, and what is wrong with it.
func (n *Node) Explain(q Question) Report {
	r := Report{Services: []ServiceReport{}, Notes: slices.Clone(n.Notes)}
	stuck := map[*Service]map[netip.Addr]netip.AddrPort{}
	var asked []*Service
	for i := range n.Services {
		s := &n.Services[i]
		stuck[s] = n.stuck(s)
		if q.wants(s) && (!q.Client.IsValid() || q.Client.Is6() == s.is6()) {
			asked = append(asked, s)
		}
	}
	byFront := n.byFront()
	for _, s := range asked {
		v := n.explainService(s, q)
		for _, other := range byFront.others(s) {
			v.addSplit(other, stuck[s], stuck[other])
		}
		if v.Split > 0 {
			v.warn("clients that another protocol of the same address and port keeps on another pod: %d", v.Split)
		}
		r.Services = append(r.Services, v)
	}
	return r
}

func (v *ServiceReport) warn(format string, args ...any) {
	v.Warnings = append(v.Warnings, fmt.Sprintf(format, args...))
}

// stuck returns where each client goes that a rule knows.
func (n *Node) stuck(s *Service) map[netip.Addr]netip.AddrPort {
	all := map[netip.Addr]netip.AddrPort{}
	for _, r := range s.stickyRules() {
		for _, e := range n.Lists[r.List].Entries {
			if left, known := e.left(s.Mode, n.Clock, r.Timeout); known && left < 0 {
				continue
			}
			if _, earlier := all[e.Client]; !earlier {
				all[e.Client] = r.Endpoint
			}
		}
	}
	return all
}

// stickyRules returns the rules of all chains, each list once: where two chains share lists the first decides here.
func (s *Service) stickyRules() []Sticky {
	var rules []Sticky
	seen := map[string]bool{}
	for _, c := range s.Chains {
		for _, r := range c.Sticky {
			if !seen[r.List] {
				seen[r.List] = true
				rules = append(rules, r)
			}
		}
	}
	return rules
}

func (n *Node) explainService(s *Service, q Question) ServiceReport {
	v := ServiceReport{ServicePort: s.ServicePort, Mode: s.Mode, Family: "IPv4", Fronts: s.Fronts, Endpoints: []EndpointReport{}}
	if s.is6() {
		v.Family = "IPv6"
	}
	taken := map[netip.Addr]bool{}
	rules := map[netip.AddrPort]Sticky{}
	for _, r := range s.stickyRules() {
		v.Timeout = affinity.Duration(r.Timeout)
		rules[r.Endpoint] = r
	}
	for _, e := range s.endpoints() {
		v.Endpoints = append(v.Endpoints, n.explainEndpoint(s, e, rules[e], taken, q.Clients))
	}
	v.warnFull()
	v.addStates(n.Slices, s)
	if stale := n.stale[s]; stale != nil {
		v.Stale, v.Flows = stale.total, stale.some
		v.warn("UDP flows to what is no endpoint any more: %d; conntrack -D ends them", stale.total)
	}
	if q.Client.IsValid() {
		for i := range s.Chains {
			v.Next = append(v.Next, n.next(s, &s.Chains[i], q.Client))
		}
		if len(s.Chains) == 0 {
			v.Next = []Next{{Client: q.Client, Refused: true, Fronts: frontsOf(s, "")}}
		}
	}
	return v
}

// explainEndpoint counts the clients of a rule's list. taken are those of earlier rules, which decide before it.
func (n *Node) explainEndpoint(s *Service, e netip.AddrPort, r Sticky, taken map[netip.Addr]bool, held bool) EndpointReport {
	l := n.Lists[r.List]
	v := EndpointReport{Address: e, Entries: len(l.Entries), Limit: l.Limit}
	for _, entry := range l.Entries {
		left, known := entry.left(s.Mode, n.Clock, r.Timeout)
		if known && left < 0 {
			continue
		}
		v.Live++
		if taken[entry.Client] {
			continue
		}
		taken[entry.Client] = true
		v.Clients++
		end := remaining(left, known)
		v.addEnd(end)
		if held {
			v.Held = append(v.Held, HeldClient{entry.Client, end})
		}
	}
	slices.SortFunc(v.Held, func(a, b HeldClient) int { return a.Client.Compare(b.Client) })
	return v
}

// remaining returns a time that is left, or nil if it is unknown.
func remaining(left time.Duration, known bool) *affinity.Duration {
	if !known {
		return nil
	}
	d := affinity.Duration(left)
	return &d
}

func (v *EndpointReport) addEnd(end *affinity.Duration) {
	if end == nil {
		return
	}
	if v.FirstEnd == nil || *end < *v.FirstEnd {
		v.FirstEnd = end
	}
	if v.LastEnd == nil || *end > *v.LastEnd {
		v.LastEnd = end
	}
}

// warnFull warns of lists that forget clients, or will soon. Entries that have expired do not count: they go first.
func (v *ServiceReport) warnFull() {
	for _, e := range v.Endpoints {
		if e.Limit == 0 || float64(e.Live) < warnFrom*float64(e.Limit) {
			continue
		}
		advice := "raise ip_list_tot of xt_recent, or let kube-proxy use nftables"
		if v.Mode == NFTables {
			advice = "new clients are not remembered then"
		} else if e.Live < e.Limit {
			advice = "when it is full it forgets the client that was seen longest ago: " + advice
		} else {
			advice = "it forgets a client for each new one, and affinity ends unseen: " + advice
		}
		v.warn("the list of %s holds %d of %d clients; %s", e.Address, e.Live, e.Limit, advice)
	}
}

// addStates adds what EndpointSlices know, and warns where the rules differ.
func (v *ServiceReport) addStates(all Slices, s *Service) {
	if all == nil {
		return
	}
	states := all[s.ServicePort]
	for i := range v.Endpoints {
		e := &v.Endpoints[i]
		state, ok := states[e.Address]
		e.Pod, e.State = state.Pod, state.String()
		switch {
		case !ok:
			e.State = "unknown"
			v.warn("%s has rules, and no EndpointSlice has it", e.Address)
		case !state.Ready:
			v.warn("%s has rules and is %s", e.Address, state)
		}
	}
	without := 0
	for e, state := range states {
		if state.Ready && e.Addr().Is6() == s.is6() && !slices.Contains(s.endpoints(), e) {
			without++
		}
	}
	if without > 0 {
		v.warn("endpoints that are ready and have no rules here: %d; by traffic policy, by topology, or because kube-proxy is behind", without)
	}
}

// fronts finds the Services that share an address and a port.
type fronts map[frontKey][]*Service

func (n *Node) byFront() fronts {
	f := fronts{}
	for i := range n.Services {
		s := &n.Services[i]
		for _, front := range s.Fronts {
			if key := sharedKey(s, front); front.Address.IsValid() && !slices.Contains(f[key], s) {
				f[key] = append(f[key], s)
			}
		}
	}
	return f
}

func sharedKey(s *Service, f Front) frontKey {
	return frontKey{string(s.Mode), netip.AddrPortFrom(f.Address, f.Port)}
}

// others returns the other protocols of a Service, each once.
func (f fronts) others(s *Service) []*Service {
	var all []*Service
	for _, front := range s.Fronts {
		for _, other := range f[sharedKey(s, front)] {
			if other.Namespace == s.Namespace && other.Name == s.Name && other.Protocol != s.Protocol && !slices.Contains(all, other) {
				all = append(all, other)
			}
		}
	}
	return all
}

// addSplit adds the clients that another protocol sends to another pod.
func (v *ServiceReport) addSplit(other *Service, here, there map[netip.Addr]netip.AddrPort) {
	for _, client := range slices.SortedFunc(maps.Keys(here), netip.Addr.Compare) {
		to, ok := there[client]
		if !ok || to.Addr() == here[client].Addr() {
			continue
		}
		if v.Split++; len(v.SplitSome) < maxShown {
			v.SplitSome = append(v.SplitSome, SplitClient{client, here[client], other.ServicePort, to})
		}
	}
}
