package admin

import (
	"fmt"
	"net"
	"net/netip"
	"strings"

	"github.com/limpet-project/limpet/affinity"
	"github.com/limpet-project/limpet/router"
)

// A Listener is one that takes connections or datagrams instead of requests.
type Listener struct {
	Name     string
	Protocol string // tcp or udp
	Address  string // as configured: host:port, or :port for all addresses
	Open     string // the address that is open, which has the port where the configuration leaves it to the system
	Service  affinity.ServiceName
	// AcceptsProxy says that the client's address is the one in a PROXY header.
	AcceptsProxy bool
	// Request returns what the router is asked for a client, nil if the listener leads nowhere yet.
	Request func(client netip.Addr) *router.Request
}

// A ListenerView is a listener for TCP or UDP as the API shows it.
type ListenerView struct {
	Name     string `json:"name"`
	Protocol string `json:"protocol"`
	Address  string `json:"address"` // as configured
	Open     string `json:"open"`
	// AcceptsProxy says that the client's address is the one in a PROXY header.
	AcceptsProxy bool `json:"acceptsProxy,omitempty"`
}

func (l Listener) view() ListenerView {
	return ListenerView{Name: l.Name, Protocol: l.Protocol, Address: l.Address, Open: l.Open, AcceptsProxy: l.AcceptsProxy}
}

func (a api) listeners() []Listener {
	if a.o.Listeners == nil {
		return nil
	}
	return a.o.Listeners()
}

// findListener returns the listener of that protocol that where means: its name, its address as configured, or an address at which it
// is reached. Of several it is the one that means it most exactly.
func findListener(all []Listener, protocol, where string) (Listener, error) {
	where = strings.TrimSuffix(where, "/")
	var found []Listener
	best := reachedByPort + 1
	for _, l := range all {
		how, ok := l.reached(where)
		if !ok || l.Protocol != protocol || how > best {
			continue
		}
		if how < best {
			found, best = nil, how
		}
		found = append(found, l)
	}
	switch len(found) {
	case 0:
		return Listener{}, fmt.Errorf("no listener %s://%s, %s", protocol, where, listed(all))
	case 1:
		return found[0], nil
	}
	return Listener{}, fmt.Errorf("%s://%s means several listeners, %s", protocol, where, listed(found))
}

// Ways in which a text means a listener, the most exact first.
const (
	reachedExactly = iota // by its name or its address as configured
	reachedByHost         // by the address that is open
	reachedByPort         // by its port: it takes that at any address, or none is said
)

// reached reports whether a text means the listener, and how.
func (l Listener) reached(where string) (how int, ok bool) {
	if where == l.Name || strings.EqualFold(where, l.Address) || where == l.Open {
		return reachedExactly, true
	}
	open, err := netip.ParseAddrPort(l.Open)
	host, port, splits := net.SplitHostPort(where)
	if err != nil || splits != nil || port != fmt.Sprint(open.Port()) {
		return 0, false
	}
	address, err := netip.ParseAddr(host)
	switch {
	case err == nil && address.Unmap().WithZone("") == open.Addr().Unmap().WithZone(""):
		return reachedByHost, true
	case host == "", open.Addr().IsUnspecified() && (err != nil || address.Unmap().Is4() || open.Addr().Is6()):
		return reachedByPort, true
	}
	return 0, false
}

// listed says which listeners there are.
func listed(all []Listener) string {
	if len(all) == 0 {
		return "there is none for TCP or UDP"
	}
	names := make([]string, len(all))
	for i, l := range all {
		names[i] = l.Protocol + "://" + l.Name + " at " + l.Address
	}
	return "there are " + strings.Join(names, ", ")
}
