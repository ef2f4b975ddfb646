package node

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"

	"github.com/limpet-project/limpet/admin"
	"github.com/limpet-project/limpet/config"
	"github.com/limpet-project/limpet/proxy"
	"github.com/limpet-project/limpet/router"
	"github.com/limpet-project/limpet/telemetry"
	"github.com/limpet-project/limpet/transport"
)

// A listener is one address on which requests are taken, or connections, or datagrams.
type listener struct {
	proxy.Listener                // of requests
	carrier        carrier        // of connections or datagrams; nil of requests
	tcp            *transport.TCP // the carrier, if it is one
	udp            *transport.UDP // the same
	config         *config.Listener
	socket         *net.TCPListener // or else packets
	packets        *net.UDPConn
}

// A carrier forwards what is not HTTP.
type carrier interface {
	Swap(r transport.Route)
	Request(client netip.Addr) *router.Request
	Open() int
	Drain()
	Shutdown(ctx context.Context) error
}

// Serve serves the listener until Shutdown or the end of ctx.
func (l *listener) Serve(ctx context.Context, log *slog.Logger) error {
	switch {
	case l.tcp != nil:
		return l.tcp.Serve(ctx, l.socket)
	case l.udp != nil:
		return l.udp.Serve(ctx, l.packets)
	}
	return l.Listener.Serve(ctx, l.socket, log)
}

// Drain says that the listener will end soon.
func (l *listener) Drain() {
	if l.carrier != nil {
		l.carrier.Drain()
		return
	}
	l.Listener.Drain()
}

// Shutdown takes nothing new and lets what is under way end until ctx does.
func (l *listener) Shutdown(ctx context.Context) error {
	if l.carrier != nil {
		return l.carrier.Shutdown(ctx)
	}
	return l.Listener.Shutdown(ctx)
}

// open opens the address.
func (l *listener) open(ctx context.Context) error {
	if l.udp != nil {
		address, err := net.ResolveUDPAddr("udp", l.config.Address)
		if err == nil {
			l.packets, err = net.ListenUDP("udp", address)
		}
		return err
	}
	var lc net.ListenConfig
	if l.tcp != nil {
		lc.SetMultipathTCP(false) // its sockets cannot be spliced
		lc.KeepAlive = -1         // transport sees to it
	}
	socket, err := lc.Listen(ctx, "tcp", l.config.Address)
	if err == nil {
		l.socket = socket.(*net.TCPListener)
	}
	return err
}

// address returns the address that is open.
func (l *listener) address() net.Addr {
	if l.packets != nil {
		return l.packets.LocalAddr()
	}
	return l.socket.Addr()
}

// close closes the address, if nobody serves it.
func (l *listener) close() {
	if l.packets != nil {
		l.packets.Close()
		return
	}
	l.socket.Close()
}

// listen opens the addresses.
func (n *Node) listen(ctx context.Context) error {
	for i := range n.config.Listeners {
		c := &n.config.Listeners[i]
		l, err := n.newListener(c)
		if err == nil {
			err = l.open(ctx)
		}
		if err != nil {
			return fmt.Errorf("listener %s: %w", c.Name, err)
		}
		n.listeners = append(n.listeners, l)
	}
	n.swapTransports(n.config)
	n.gauge("limpet_connections_open", "TCP connections that are open.", func(l *listener) bool { return l.tcp != nil })
	n.gauge("limpet_flows_open", "UDP flows that are open.", func(l *listener) bool { return l.udp != nil })
	if n.config.Admin.Address == "off" {
		return nil
	}
	socket, err := net.Listen("tcp", n.config.Admin.Address)
	if err != nil {
		return fmt.Errorf("admin listener: %w", err)
	}
	n.admin = socket
	return nil
}

// gauge shows what some listeners have open.
func (n *Node) gauge(name, help string, which func(*listener) bool) {
	n.metrics.Gauge(name, help, []string{"listener"}, func(yield func(float64, ...string)) {
		for _, l := range n.listeners {
			if which(l) {
				yield(float64(l.carrier.Open()), l.config.Name)
			}
		}
	})
}

// newListener makes a listener that has everything but its address and its handler or route.
func (n *Node) newListener(c *config.Listener) (*listener, error) {
	l := &listener{config: c}
	l.Limits = c.Limits.Compile()
	switch {
	case c.TCP != nil:
		l.tcp = n.newTCP(c)
		l.carrier = l.tcp
		return l, nil
	case c.UDP != nil:
		l.udp = n.newUDP(c)
		l.carrier = l.udp
		return l, nil
	case c.TLS == nil:
		return l, nil
	}
	if c.TLS.MinVersion == "1.3" {
		l.MinVersion = tls.VersionTLS13
	}
	var err error
	l.Certificates, err = n.certificates(c)
	return l, err
}

func (n *Node) newTCP(c *config.Listener) *transport.TCP {
	t := c.TCP.Compile()
	t.Name, t.Router, t.Endpoints, t.Trusted = c.Name, n.router, n.table, n.config.TrustedProxies
	t.Observer = telemetry.Transport(n.metrics, n.observing.log)
	return t
}

func (n *Node) newUDP(c *config.Listener) *transport.UDP {
	u := c.UDP.Compile()
	u.Name, u.Router, u.Endpoints = c.Name, n.router, n.table
	u.Observer = telemetry.Transport(n.metrics, n.observing.log)
	return u
}

// swapTransports gives the listeners without HTTP the routes of c. One that c does not have keeps its own.
func (n *Node) swapTransports(c *config.Config) {
	routes := c.Transports()
	for _, l := range n.listeners {
		if r, ok := routes[l.config.Name]; ok && l.carrier != nil {
			l.carrier.Swap(r)
		}
	}
}

// transports returns the listeners without HTTP as the admin API knows them.
func (n *Node) transports() []admin.Listener {
	var list []admin.Listener
	for _, l := range n.listeners {
		if l.carrier == nil {
			continue
		}
		view := admin.Listener{
			Name: l.config.Name, Protocol: l.config.Protocol(), Address: l.config.Address, Open: l.address().String(),
			AcceptsProxy: l.tcp != nil && l.tcp.AcceptProxy, Request: l.carrier.Request,
		}
		if req := l.carrier.Request(netip.Addr{}); req != nil {
			view.Service = req.Service
		}
		list = append(list, view)
	}
	return list
}

// certificates returns those of a TLS listener: its files', else those that the node's maker supplies.
func (n *Node) certificates(c *config.Listener) (proxy.CertificateSource, error) {
	if len(c.TLS.Certificates) > 0 {
		return fileCertificates(c.TLS)
	}
	if n.options.Certificates != nil {
		if source := n.options.Certificates(c); source != nil {
			return source, nil
		}
	}
	return nil, UsageError{errors.New("no certificates: tls names no files, and nobody else supplies any for this listener")}
}

// fileCertificates reads the files of a TLS listener.
func fileCertificates(t *config.ListenerTLS) (proxy.CertificateSource, error) {
	files := make([]proxy.CertificateFiles, len(t.Certificates))
	for i, c := range t.Certificates {
		files[i] = proxy.CertificateFiles{Certificate: string(c.CertFile), Key: string(c.KeyFile)}
	}
	loaded, err := proxy.LoadCertificates(files)
	if err != nil {
		return nil, UsageError{err}
	}
	return loaded, nil
}

// setHandlers says what serves each listener.
func (n *Node) setHandlers() {
	for _, l := range n.listeners {
		l.Handler = n.gateway
		if n.options.Handler == nil || l.carrier != nil {
			continue
		}
		if h := n.options.Handler(l.config); h != nil {
			l.Handler = h
		}
	}
}

// Address returns the address on which the listener with this name takes requests, "" if there is none. It is of use where the
// configuration leaves the port to the system, with port 0.
func (n *Node) Address(listener string) string {
	for _, l := range n.listeners {
		if l.config.Name == listener {
			return l.address().String()
		}
	}
	return ""
}

// AdminAddress returns the address of the operators' listener, "" if it is off.
func (n *Node) AdminAddress() string {
	if n.admin == nil {
		return ""
	}
	return n.admin.Addr().String()
}
