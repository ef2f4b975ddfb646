package proxy

import (
	"net/http"
	"net/netip"
	"strings"
	"sync"

	"github.com/limpet-project/limpet/affinity"
	"github.com/limpet-project/limpet/router"
)

// A message is a request as the router sees it. It is reused for another request once the pick is done.
type message struct {
	ask   router.Request
	r     *http.Request
	path  string
	query string
	peer  netip.Addr
}

var _ affinity.Message = (*message)(nil)

var messages = sync.Pool{New: func() any { return new(message) }}

// newMessage takes a message from the pool for r.
func newMessage(r *http.Request, peer netip.Addr) *message {
	m := messages.Get().(*message)
	m.r, m.peer = r, peer
	m.path, m.query = rawTarget(r)
	return m
}

// release gives m back. Nobody may use it after that.
func (m *message) release() {
	*m = message{}
	messages.Put(m)
}

func (m *message) Method() string              { return m.r.Method }
func (m *message) Host() string                { return m.r.Host }
func (m *message) Path() string                { return m.path }
func (m *message) Query() string               { return m.query }
func (m *message) Header(name string) []string { return m.r.Header[name] }
func (m *message) Peer() netip.Addr            { return m.peer }

// rawTarget returns path and query as the client sent them. The path of an absolute-form target is that after the authority; one
// that names no path, such as that of "OPTIONS *", is "/".
func rawTarget(r *http.Request) (path, query string) {
	path = r.RequestURI
	if path == "" || path[0] != '/' {
		path = r.URL.EscapedPath()
	}
	path, query, _ = strings.Cut(path, "?")
	if r.URL.RawQuery != "" {
		query = r.URL.RawQuery
	}
	if path == "" || path[0] != '/' {
		path = "/"
	}
	return path, query
}

// peerOf returns the address of the connection's other end, unmapped. A listener of this package has parsed it once.
func peerOf(r *http.Request) netip.Addr {
	if c := connOf(r); c != nil {
		return c.peer
	}
	return parsePeer(r.RemoteAddr)
}

func parsePeer(remote string) netip.Addr {
	ap, err := netip.ParseAddrPort(remote)
	if err != nil {
		return netip.Addr{}
	}
	return ap.Addr().Unmap().WithZone("")
}

// within reports whether addr lies in one of the prefixes.
func within(addr netip.Addr, prefixes []netip.Prefix) bool {
	for _, p := range prefixes {
		if p.Contains(addr) {
			return true
		}
	}
	return false
}
