package clientip

import (
	"net/netip"
	"slices"
)

// A Node is what was read of one node: the rules, the clients that they remember and the flows that do not follow them. It does not
// change.
type Node struct {
	Services []Service
	Lists    map[string]List // by the name that Sticky rules have
	Clock    Clock
	Slices   Slices   // nil if they were not given
	Notes    []string // what could not be read, and why it matters

	stale map[*Service]*staleFlows
}

// staleFlows are the UDP flows of a Service that go to what is not its endpoint.
type staleFlows struct {
	total int
	some  []Flow
}

// Limits of what a Report shows of each kind. The totals count all.
const maxShown = 100

// A frontKey finds the Service of a flow.
type frontKey struct {
	protocol string
	to       netip.AddrPort // of a node port: the unspecified address of the family
}

// A flowIndex finds flows that go where no rule leads any more.
type flowIndex struct {
	node   *Node
	fronts map[frontKey]*Service
	ends   map[*Service]map[netip.AddrPort]bool
}

// indexFlows prepares for the flows. Only UDP matters: a flow of TCP that leads nowhere ends by itself.
func (n *Node) indexFlows() *flowIndex {
	x := &flowIndex{n, map[frontKey]*Service{}, map[*Service]map[netip.AddrPort]bool{}}
	n.stale = map[*Service]*staleFlows{}
	for i := range n.Services {
		s := &n.Services[i]
		if s.Protocol != "udp" {
			continue
		}
		for _, f := range s.Fronts {
			address := f.Address
			if !address.IsValid() {
				address = anyAddress(s.is6())
			}
			x.fronts[frontKey{s.Protocol, netip.AddrPortFrom(address, f.Port)}] = s
		}
		ends := map[netip.AddrPort]bool{}
		for _, e := range s.endpoints() {
			ends[e] = true
		}
		for e, state := range n.Slices[s.ServicePort] {
			ends[e] = ends[e] || state.Serving // kube-proxy leaves the flows of a pod that ends and still answers
		}
		x.ends[s] = ends
	}
	return x
}

func anyAddress(six bool) netip.Addr {
	if six {
		return netip.IPv6Unspecified()
	}
	return netip.IPv4Unspecified()
}

// add keeps a flow if it is stale.
func (x *flowIndex) add(f Flow) {
	if f.Protocol != "udp" {
		return
	}
	s := x.fronts[frontKey{f.Protocol, f.Destination}]
	if s == nil && f.Server != f.Destination { // to a port of the node, if its address was translated
		s = x.fronts[frontKey{f.Protocol, netip.AddrPortFrom(anyAddress(f.Destination.Addr().Is6()), f.Destination.Port())}]
	}
	if s == nil || x.ends[s][f.Server] {
		return
	}
	stale := x.node.stale[s]
	if stale == nil {
		stale = &staleFlows{}
		x.node.stale[s] = stale
	}
	if stale.total++; len(stale.some) < maxShown {
		stale.some = append(stale.some, f)
	}
}

// addLists takes the lists of an input in.
func (n *Node) addLists(lists map[string]List) {
	for name, l := range lists {
		n.Lists[name] = l
	}
}

// hasRecent reports whether a list of xt_recent has a client.
func (n *Node) hasRecent() bool {
	return slices.ContainsFunc(n.recentNames(), func(name string) bool { return len(n.Lists[name].Entries) > 0 })
}

// recentNames returns the names of the lists that iptables rules use, in order.
func (n *Node) recentNames() []string {
	var names []string
	for _, s := range n.Services {
		for _, c := range s.Chains {
			for _, r := range c.Sticky {
				if s.Mode == IPTables {
					names = append(names, r.List)
				}
			}
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}
