package clientip

import "net/netip"

// next goes through the rules of a chain as the kernel does for the first packet of a connection.
func (n *Node) next(s *Service, c *Chain, client netip.Addr) Next {
	next := Next{Client: client, Chain: c.Name, Fronts: frontsOf(s, c.Name)}
	for _, r := range c.Sticky {
		l, read := n.Lists[r.List]
		next.Unknown = next.Unknown || !read
		e, ok := find(l.Entries, client)
		if !ok {
			continue
		}
		left, known := e.left(s.Mode, n.Clock, r.Timeout)
		if known && left < 0 {
			continue
		}
		next.Endpoint, next.Rule, next.Ends = r.Endpoint, &r.Rule, remaining(left, known)
		next.Unknown = next.Unknown || !known
		break
	}
	if next.Rule != nil && !next.Unknown {
		return next
	}
	for _, d := range c.Draws {
		next.Odds = append(next.Odds, Odds(d))
	}
	if len(c.Draws) == 1 { // whatever the lists have
		next.Odds, next.Unknown = nil, false
		next.Endpoint, next.Rule = c.Draws[0].Endpoint, &c.Draws[0].Rule
	}
	return next
}

func find(entries []Entry, client netip.Addr) (Entry, bool) {
	for _, e := range entries {
		if e.Client == client {
			return e, true
		}
	}
	return Entry{}, false
}

// frontsOf returns the addresses of a Service whose packets a chain decides.
func frontsOf(s *Service, chain string) []string {
	all := []string{}
	for _, f := range s.Fronts {
		if f.Chain == chain {
			all = append(all, f.String())
		}
	}
	return all
}
