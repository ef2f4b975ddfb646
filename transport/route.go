package transport

import (
	"net/netip"

	"github.com/limpet-project/limpet/affinity"
	"github.com/limpet-project/limpet/router"
)

// A Route says where the connections or flows of a listener go. It is swapped whole: those under way keep the one that they began
// with.
type Route struct {
	Service affinity.ServiceName
	// Policy is filled in and validated; nil is no affinity. A connection has no id but its client's address, so a policy without that
	// source is as none.
	Policy *affinity.Policy
}

// request returns what the router is asked for a client.
func (r *Route) request(client netip.Addr) *router.Request {
	return &router.Request{Service: r.Service, Policy: r.Policy, Message: message{client.Unmap().WithZone("")}}
}

// Request returns what the router is asked for a client at that address whose connection is accepted now, nil before there is a route.
func (t *TCP) Request(client netip.Addr) *router.Request { return t.route.Load().ask(client) }

// Request returns what the router is asked for a client at that address whose flow begins now, nil before there is a route.
func (u *UDP) Request(client netip.Addr) *router.Request { return u.route.Load().ask(client) }

// ask is request for a route that may be nil.
func (r *Route) ask(client netip.Addr) *router.Request {
	if r == nil {
		return nil
	}
	return r.request(client)
}

// A ProxyProtocol is a version of the PROXY protocol's header, by which one proxy tells the next whose connection it is. The zero
// ProxyProtocol is none.
type ProxyProtocol string

// The versions of the PROXY protocol. UDP has only the second.
const (
	ProxyOff ProxyProtocol = ""
	ProxyV1  ProxyProtocol = "v1" // a line of text
	ProxyV2  ProxyProtocol = "v2" // binary
)
