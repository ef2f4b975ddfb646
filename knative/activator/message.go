package activator

import (
	"net/http"
	"net/netip"
	"strings"

	"github.com/limpet-project/limpet/affinity"
)

// A message is a request as the router sees it. It is read before the request is changed on its way.
type message struct{ r *http.Request }

var _ affinity.Message = message{}

func (m message) Method() string              { return m.r.Method }
func (m message) Host() string                { return m.r.Host }
func (m message) Query() string               { return m.r.URL.RawQuery }
func (m message) Header(name string) []string { return m.r.Header[name] }

// Path returns the path as the client wrote it.
func (m message) Path() string {
	path := m.r.RequestURI
	if path == "" || path[0] != '/' {
		path = m.r.URL.EscapedPath()
	}
	path, _, _ = strings.Cut(path, "?")
	if path == "" || path[0] != '/' {
		return "/"
	}
	return path
}

// Peer returns who has connected.
func (m message) Peer() netip.Addr {
	at, err := netip.ParseAddrPort(m.r.RemoteAddr)
	if err != nil {
		return netip.Addr{}
	}
	return at.Addr().Unmap().WithZone("")
}

// secure reports whether the client's connection is TLS, as far as this activator or a trusted proxy knows.
func (m message) secure(trust affinity.Trust) bool {
	if m.r.TLS != nil || len(trust) == 0 {
		return m.r.TLS != nil
	}
	peer := m.Peer()
	for _, p := range trust {
		if p.Contains(peer) {
			return strings.EqualFold(m.r.Header.Get("X-Forwarded-Proto"), "https")
		}
	}
	return false
}
