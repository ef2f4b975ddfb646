package sticky

import (
	"container/list"
	"net/http"
	"net/url"
	"strings"
	"sync"
)

// maxOriginBytes bounds what is remembered of an origin; a host name has at most 253 bytes (RFC 1035), and there may be two.
const maxOriginBytes = 1024

// An origin is whom a request is for.
type origin struct {
	scheme  string
	address string // where to: host and port of the URL
	host    string // who: host and port of the Host header, which may differ from the address
}

// originOf returns the origin of a request; none if it has no place to go, or one too long to remember.
func originOf(req *http.Request) (origin, bool) {
	if req.URL == nil || req.URL.Host == "" {
		return origin{}, false
	}
	at := origin{scheme: strings.ToLower(req.URL.Scheme)}
	at.address = canonical(at.scheme, req.URL.Host)
	at.host = at.address
	if req.Host != "" {
		at.host = canonical(at.scheme, req.Host)
	}
	return at, len(at.scheme)+len(at.address)+len(at.host) <= maxOriginBytes
}

// canonical returns host and port in lower case, with the port that is the scheme's default if there is none.
func canonical(scheme, hostport string) string {
	u := url.URL{Host: hostport}
	port := u.Port()
	switch {
	case port != "":
	case scheme == "http":
		port = "80"
	case scheme == "https":
		port = "443"
	}
	return strings.ToLower(u.Hostname()) + " " + port
}

// A memory holds a tag for each of a number of origins. The zero memory is empty. It is safe for concurrent use.
type memory struct {
	mu       sync.Mutex
	byOrigin map[origin]*list.Element
	recent   list.List // of *remembered, the latest used in front
}

type remembered struct {
	origin origin
	tag    string
}

// tag returns the tag remembered for an origin, or "".
func (m *memory) tag(at origin) string {
	m.mu.Lock()
	defer m.mu.Unlock()
	e, ok := m.byOrigin[at]
	if !ok {
		return ""
	}
	m.recent.MoveToFront(e)
	return e.Value.(*remembered).tag
}

// adopt remembers the tag that a response named, unless another response was faster: sent is what its request was sent with. An origin
// that was forgotten meanwhile has no other opinion. Of more than limit origins the one longest unused is forgotten.
func (m *memory) adopt(at origin, sent, named string, limit int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if e, ok := m.byOrigin[at]; ok {
		if held := e.Value.(*remembered); held.tag == sent {
			held.tag = strings.Clone(named)
		}
		return
	}
	if m.byOrigin == nil {
		m.byOrigin = make(map[origin]*list.Element)
	}
	for m.recent.Len() >= limit {
		oldest := m.recent.Remove(m.recent.Back()).(*remembered)
		delete(m.byOrigin, oldest.origin)
	}
	at.scheme = strings.Clone(at.scheme) // it, as the tag, may be part of a long string
	m.byOrigin[at] = m.recent.PushFront(&remembered{at, strings.Clone(named)})
}
