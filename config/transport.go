package config

import (
	"github.com/limpet-project/limpet/affinity"
	"github.com/limpet-project/limpet/transport"
)

// A ListenerTCP forwards the connections of a listener as they are, each to one endpoint of a service.
type ListenerTCP struct {
	// Service is the name of the service. Its affinity has the source clientAddress: a connection has no other id.
	Service string `json:"service" required:"true" check:"name"`
	// Namespace is the namespace of the service. Default: none.
	Namespace string `json:"namespace,omitempty" check:"name"`
	// ConnectTimeout bounds the making of a connection to an endpoint; after it another endpoint is tried.
	ConnectTimeout affinity.Duration `json:"connectTimeout,omitempty" default:"1s" min:"1ms" max:"10m"`
	// IdleTimeout ends a connection in which no byte went either way for so long; 0s never does.
	IdleTimeout affinity.Duration `json:"idleTimeout,omitempty" default:"1h" max:"720h"`
	// MaxConnections bounds the connections open at once; more wait until one ends.
	MaxConnections int `json:"maxConnections,omitempty" default:"10000" min:"1" max:"10000000"`
	// ProxyProtocol says whether connections begin with a PROXY header, of version 1 or 2. With accept it is required of every
	// connection and believed from trustedProxies only: connections of others are refused.
	ProxyProtocol string `json:"proxyProtocol,omitempty" default:"off" enum:"off|accept"`
	// SendProxyProtocol begins connections to endpoints with a PROXY header of that version, which tells them the client's address.
	SendProxyProtocol string `json:"sendProxyProtocol,omitempty" default:"off" enum:"off|v1|v2"`
	// WhenDown says what becomes of connections to an endpoint that is down or gone: they are left to themselves, or closed.
	WhenDown string `json:"whenDown,omitempty" default:"keep" enum:"keep|close"`
}

// A ListenerUDP forwards the datagrams of a listener: those of one client address and port are a flow, which goes to one endpoint of
// a service.
type ListenerUDP struct {
	// Service is the name of the service. Its affinity has the source clientAddress: a datagram has no other id.
	Service string `json:"service" required:"true" check:"name"`
	// Namespace is the namespace of the service. Default: none.
	Namespace string `json:"namespace,omitempty" check:"name"`
	// IdleTimeout ends a flow in which no datagram went either way for so long.
	IdleTimeout affinity.Duration `json:"idleTimeout,omitempty" default:"30s" min:"1ms" max:"24h"`
	// Responses ends a flow once its endpoint has answered so many datagrams for each of the client's; 0 is no such end. 1 suits DNS.
	Responses int `json:"responses,omitempty" default:"0" min:"0" max:"1000000000"`
	// AnswerTimeout ends a flow whose datagram is not answered within it, and counts that as a failure of the endpoint, for its
	// ejection, if the endpoint answered nobody else since; 0s does neither.
	AnswerTimeout affinity.Duration `json:"answerTimeout,omitempty" default:"0s" max:"1h"`
	// MaxFlows bounds the flows open at once; the first datagram of one more is dropped.
	MaxFlows int `json:"maxFlows,omitempty" default:"65536" min:"1" max:"10000000"`
	// MaxFlowsPerClient bounds the flows that one client, or one prefix where the service goes by prefixes, has open at once, so that
	// it cannot have them all.
	MaxFlowsPerClient int `json:"maxFlowsPerClient,omitempty" default:"16384" min:"1" max:"10000000"`
	// SendProxyProtocol begins each datagram to endpoints with a PROXY header of version 2, which tells them the client's address.
	SendProxyProtocol string `json:"sendProxyProtocol,omitempty" default:"off" enum:"off|v2"`
}

// Protocol returns what a listener takes: http, tcp or udp.
func (l *Listener) Protocol() string {
	switch {
	case l.TCP != nil:
		return "tcp"
	case l.UDP != nil:
		return "udp"
	}
	return "http"
}

// network returns what the listener's address is one of: tcp or udp. One address can be taken once on each.
func (l *Listener) network() string {
	if l.UDP != nil {
		return "udp"
	}
	return "tcp"
}

// destination returns the service that a listener leads to without routes, and whether it does.
func (l *Listener) destination() (affinity.ServiceName, bool) {
	switch {
	case l.TCP != nil:
		return affinity.ServiceName{Namespace: l.TCP.Namespace, Name: l.TCP.Service}, true
	case l.UDP != nil:
		return affinity.ServiceName{Namespace: l.UDP.Namespace, Name: l.UDP.Service}, true
	}
	return affinity.ServiceName{}, false
}

// Transports returns where the listeners with tcp or udp lead, by the listener's name.
func (c *Config) Transports() map[string]transport.Route {
	routes := make(map[string]transport.Route)
	for i := range c.Listeners {
		if name, ok := c.Listeners[i].destination(); ok {
			routes[c.Listeners[i].Name] = transport.Route{Service: name, Policy: c.Policy(name)}
		}
	}
	return routes
}

// Compile returns the TCP listener without what the node gives it.
func (t *ListenerTCP) Compile() *transport.TCP {
	return &transport.TCP{
		ConnectTimeout: duration(t.ConnectTimeout),
		IdleTimeout:    duration(t.IdleTimeout),
		MaxConnections: t.MaxConnections,
		AcceptProxy:    t.ProxyProtocol == "accept",
		SendProxy:      sentProxy(t.SendProxyProtocol),
		CloseDown:      t.WhenDown == "close",
	}
}

// Compile returns the UDP listener without what the node gives it.
func (u *ListenerUDP) Compile() *transport.UDP {
	return &transport.UDP{
		IdleTimeout:       duration(u.IdleTimeout),
		Responses:         u.Responses,
		MaxFlows:          u.MaxFlows,
		MaxFlowsPerClient: u.MaxFlowsPerClient,
		SendProxy:         sentProxy(u.SendProxyProtocol),
		AnswerTimeout:     duration(u.AnswerTimeout),
	}
}

func sentProxy(version string) transport.ProxyProtocol {
	if version == "off" {
		return transport.ProxyOff
	}
	return transport.ProxyProtocol(version)
}

// transports checks the listeners with tcp or udp.
func (k *checker) transports(c *Config) {
	list, services := (*position)(nil).field("listeners"), c.services()
	for i := range c.Listeners {
		l, at := &c.Listeners[i], list.element(i)
		name, ok := l.destination()
		if !ok {
			continue
		}
		at = k.apart(l, at)
		if l.TCP != nil && l.TCP.ProxyProtocol == "accept" && len(c.TrustedProxies) == 0 {
			k.failAt(at.field("proxyProtocol"), "got accept, expected trustedProxies besides: headers of others are not believed")
		}
		s := services[name]
		if s == nil {
			k.failAt(at.field("service"), "got %s, expected a service that is listed: %s", quoted(name.String()), listed(services))
			continue
		}
		if why := unfit(c.Policy(name)); why != "" {
			k.failAt(at.field("service"), "got %s, whose affinity %s", quoted(name.String()), why)
		}
	}
}

// apart refuses what belongs to other kinds of listeners, and returns the position of what makes this one what it is.
func (k *checker) apart(l *Listener, at *position) *position {
	own := at.field(l.Protocol())
	if l.TCP != nil && l.UDP != nil {
		k.failAt(at.field("udp"), "got tcp and udp, expected one of them: two listeners can have one address")
	}
	for _, name := range []string{"tls", "limits"} {
		if k.given(at.field(name)) {
			k.failAt(at.field(name), "expected only at a listener for HTTP, without %s", l.Protocol())
		}
	}
	return own
}

// given reports whether the field at a position stands in the configuration.
func (k *checker) given(at *position) bool {
	outer := k.find(at.outer)
	for i := 0; outer != nil && i+1 < len(outer.Content); i += 2 {
		if outer.Content[i].Value == at.name {
			return true
		}
	}
	return false
}

// unfit says why a policy cannot hold for connections and datagrams, which have an address and nothing else; "" if it can.
func unfit(p *affinity.Policy) string {
	if p == nil {
		return ""
	}
	if s := p.Session; s != nil && s.Mode == affinity.ModeToken {
		return "has session mode token, expected another one: a connection carries no token"
	}
	if p.Session != nil && byAddress(p.Session.From) || p.Revision != nil && byAddress(p.Revision.From) {
		return ""
	}
	return "has no source clientAddress, expected one: a connection has no other id"
}

func byAddress(from []affinity.Source) bool {
	for _, s := range from {
		if s.ClientAddress != nil {
			return true
		}
	}
	return false
}
