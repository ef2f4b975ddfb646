package admin

import (
	"fmt"
	"net/http"
	"net/netip"
	"net/url"
)

// A Question is the body of POST /explain: a request as a client would send it.
type Question struct {
	Method string              `json:"method,omitempty"` // default GET
	URL    string              `json:"url"`              // http://host/path?query
	Header map[string][]string `json:"header,omitempty"`
	Client string              `json:"client,omitempty"` // the address of the connection's other end; default 127.0.0.1
}

func (a api) explain(w http.ResponseWriter, r *http.Request) {
	var q Question
	if !decode(w, r, &q) {
		return
	}
	m, err := q.message()
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	req, err := a.o.Resolve(m)
	if err != nil {
		http.Error(w, err.Error(), http.StatusNotFound)
		return
	}
	ctx, cancel := storeContext(r)
	defer cancel()
	reply(w, a.o.Router.Explain(ctx, req))
}

func (q Question) message() (*message, error) {
	u, err := url.Parse(q.URL)
	if err != nil || u.Host == "" {
		return nil, fmt.Errorf("url: got %q, expected http://host/path", q.URL)
	}
	m := &message{method: q.Method, url: u, header: http.Header{}, peer: netip.MustParseAddr("127.0.0.1")}
	if m.method == "" {
		m.method = http.MethodGet
	}
	for name, values := range q.Header {
		for _, v := range values {
			m.header.Add(name, v)
		}
	}
	if host := m.header.Get("Host"); host != "" { // as for curl: the client connects to the URL and asks for this host
		u.Host = host
		m.header.Del("Host")
	}
	if q.Client != "" {
		if m.peer, err = netip.ParseAddr(q.Client); err != nil {
			return nil, fmt.Errorf("client: got %q, expected an IP address", q.Client)
		}
	}
	return m, nil
}

// message is a request that was described rather than received.
type message struct {
	method string
	url    *url.URL
	header http.Header
	peer   netip.Addr
}

func (m *message) Method() string              { return m.method }
func (m *message) Host() string                { return m.url.Host }
func (m *message) Query() string               { return m.url.RawQuery }
func (m *message) Header(name string) []string { return m.header[name] }
func (m *message) Peer() netip.Addr            { return m.peer.Unmap() }

func (m *message) Path() string {
	if p := m.url.EscapedPath(); p != "" {
		return p
	}
	return "/"
}
