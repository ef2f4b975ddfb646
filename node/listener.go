package node

import (
	"crypto/tls"
	"errors"
	"fmt"
	"net"

	"github.com/limpet-project/limpet/config"
	"github.com/limpet-project/limpet/proxy"
)

// A listener is one address on which requests are taken.
type listener struct {
	proxy.Listener
	config *config.Listener
	socket net.Listener
}

// listen opens the addresses.
func (n *Node) listen() error {
	for i := range n.config.Listeners {
		c := &n.config.Listeners[i]
		l, err := n.newListener(c)
		if err == nil {
			l.socket, err = net.Listen("tcp", c.Address)
		}
		if err != nil {
			return fmt.Errorf("listener %s: %w", c.Name, err)
		}
		n.listeners = append(n.listeners, l)
	}
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

// newListener makes a listener that has everything but its address and its handler.
func (n *Node) newListener(c *config.Listener) (*listener, error) {
	l := &listener{config: c}
	l.Limits = c.Limits.Compile()
	if c.TLS == nil {
		return l, nil
	}
	if c.TLS.MinVersion == "1.3" {
		l.MinVersion = tls.VersionTLS13
	}
	var err error
	l.Certificates, err = n.certificates(c)
	return l, err
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
		if n.options.Handler == nil {
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
			return l.socket.Addr().String()
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
