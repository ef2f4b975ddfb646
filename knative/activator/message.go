package activator

import (
	"net/http"
	"net/netip"
	"strings"

	"github.com/limpet-project/limpet/affinity"
)

// A message is a request as the router sees it. It is read before the request is changed on its way.
type message struct {
	r           *http.Request
	path, query string
	peer        netip.Addr
}

var _ affinity.Message = (*message)(nil)

func newMessage(r *http.Request) *message {
	m := &message{r: r, path: r.RequestURI}
	if m.path == "" || m.path[0] != '/' {
		m.path = r.URL.EscapedPath()
	}
	m.path, _, _ = strings.Cut(m.path, "?")
	if m.path == "" || m.path[0] != '/' {
		m.path = "/"
	}
	m.query = r.URL.RawQuery
	if at, err := netip.ParseAddrPort(r.RemoteAddr); err == nil {
		m.peer = at.Addr().Unmap().WithZone("")
	}
	return m
}

func (m *message) Method() string              { return m.r.Method }
func (m *message) Host() string                { return m.r.Host }
func (m *message) Path() string                { return m.path }
func (m *message) Query() string               { return m.query }
func (m *message) Header(name string) []string { return m.r.Header[name] }
func (m *message) Peer() netip.Addr            { return m.peer }

// secure reports whether the client's connection is TLS, as far as this activator or a trusted proxy knows.
func (m *message) secure(trust affinity.Trust) bool {
	if m.r.TLS != nil {
		return true
	}
	for _, p := range trust {
		if p.Contains(m.peer) {
			return strings.EqualFold(m.r.Header.Get("X-Forwarded-Proto"), "https")
		}
	}
	return false
}
