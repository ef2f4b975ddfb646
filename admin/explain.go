package admin

import (
	"fmt"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strings"

	"github.com/limpet-project/limpet/router"
)

// A Question is the body of POST /explain: a request as a client would send it, or a connection or datagram of a client.
type Question struct {
	Method string `json:"method,omitempty"` // default GET
	// URL is http://host/path?query, or tcp:// or udp:// and the name or the address of a listener.
	URL    string              `json:"url"`
	Header map[string][]string `json:"header,omitempty"`
	// Client is the address of the connection's other end; default 127.0.0.1, and needed for TCP and UDP. Where a listener takes PROXY
	// headers it is the address in them.
	Client string `json:"client,omitempty"`
}

// An Answer is the answer of POST /explain.
type Answer struct {
	// Listener is the one that takes the connection or datagram; nil for a request.
	Listener *ListenerView `json:"listener,omitempty"`
	router.Explanation
}

func (a api) explain(w http.ResponseWriter, r *http.Request) {
	var q Question
	if !decode(w, r, &q) {
		return
	}
	scheme, where, _ := strings.Cut(q.URL, "://")
	if protocol := strings.ToLower(scheme); protocol == "tcp" || protocol == "udp" {
		a.explainClient(w, r, q, protocol, where)
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
	reply(w, Answer{Explanation: a.o.Router.Explain(ctx, req)})
}

// explainClient answers for what has no more than a client's address.
func (a api) explainClient(w http.ResponseWriter, r *http.Request, q Question, protocol, where string) {
	client, err := q.peer(protocol)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	l, err := findListener(a.listeners(), protocol, where)
	if err != nil {
		http.Error(w, err.Error(), http.StatusNotFound)
		return
	}
	req := l.Request(client)
	if req == nil {
		http.Error(w, "the listener "+l.Name+" leads nowhere yet", http.StatusServiceUnavailable)
		return
	}
	ctx, cancel := storeContext(r)
	defer cancel()
	answer := Answer{Listener: new(l.view()), Explanation: a.o.Router.Explain(ctx, req)}
	if l.AcceptsProxy {
		answer.Steps = slices.Insert(answer.Steps, 0, "the client's address is the one in the PROXY header that a trusted proxy sends")
	}
	reply(w, answer)
}

// peer returns the client's address where it is all that there is.
func (q Question) peer(protocol string) (netip.Addr, error) {
	switch {
	case len(q.Header) > 0 || q.Method != "":
		return netip.Addr{}, fmt.Errorf("got a method or headers, expected the client's address alone: %s has nothing else", protocol)
	case q.Client == "":
		return netip.Addr{}, fmt.Errorf("client: missing, expected the client's IP address: %s has no other id", protocol)
	}
	return parseClient(q.Client)
}

func parseClient(s string) (netip.Addr, error) {
	client, err := netip.ParseAddr(s)
	if err != nil {
		return client, fmt.Errorf("client: got %q, expected an IP address", s)
	}
	return client, nil
}

func (q Question) message() (*message, error) {
	u, err := url.Parse(q.URL)
	if err != nil || u.Host == "" {
		return nil, fmt.Errorf("url: got %q, expected http://host/path, or tcp:// or udp:// and a listener", q.URL)
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
		if m.peer, err = parseClient(q.Client); err != nil {
			return nil, err
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
