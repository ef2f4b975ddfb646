// Package proxy is the data plane: it accepts requests, matches routes, asks the router for a pick and forwards to it.
//
// It forwards plainly: it knows nothing of why a target was chosen, repeats a request only where SEMANTICS 11 allows it, and
// says of each answer of its own that it is its own (Server: limpet, Limpet-Reason). It does not decide and does not remember.
//
// Start with [Gateway] and [Config].
package proxy

import (
	"net/netip"
	"time"

	"github.com/limpet-project/limpet/affinity"
)

// A Config is everything a gateway serves by. It is plain data and is swapped whole: a request sees one Config from beginning to end.
type Config struct {
	Routes []Route
	// TrustedProxies may say by X-Forwarded-* and Forwarded who the client is; others' are replaced.
	TrustedProxies []netip.Prefix
	// Debuggers may ask with the header Limpet-Debug for the reasons of a decision in the response.
	Debuggers []netip.Prefix
}

// A Route says which requests go to which service. The most specific one wins: exact host before wildcard before any, longest
// wildcard first, then the longest path prefix.
type Route struct {
	// Hosts are exact names, wildcards of one or more leading labels ("*.example.com"), or "*" for any. Ports are ignored.
	Hosts []string
	// Path is a prefix of whole segments: "/a" matches "/a" and "/a/b", not "/ab". "" is "/".
	Path    string
	Service affinity.ServiceName
	// Tag makes this a tag's own host: it decides the revision. "" is the default traffic.
	Tag string
	// TagHeader names a request header that addresses a tag by its value; "" reads none.
	TagHeader string
	Policy    *affinity.Policy // filled in and validated; nil is no affinity
	Upstream  Upstream
	// RetryIdempotent allows one more try of GET, HEAD, OPTIONS, PUT and DELETE (RFC 9110, 9.2.2) whose connection broke before an
	// answer, at the same endpoint, if their body was not begun.
	RetryIdempotent bool
	// MaxBodyBytes refuses larger request bodies with 413; 0 is no limit.
	MaxBodyBytes int64
	// ForwardedHeader writes Forwarded (RFC 7239) beside X-Forwarded-*.
	ForwardedHeader bool
	// PreserveHost sends the client's Host upstream; otherwise it is the endpoint's address. The configuration's default is true.
	PreserveHost bool
}

// A Protocol is what an upstream speaks.
type Protocol string

// The upstream protocols.
const (
	ProtocolHTTP1 Protocol = "http1" // HTTP/1.1 (default)
	ProtocolH2C   Protocol = "h2c"   // HTTP/2 without TLS, by prior knowledge
	ProtocolTLS   Protocol = "https" // TLS, HTTP/2 or HTTP/1.1 by ALPN
)

// An Upstream says how the endpoints of a route are spoken to. Zero values are the defaults named.
type Upstream struct {
	Protocol        Protocol
	ServerName      string        // for TLS; "" is the Host that is sent
	RootCAs         []byte        // PEM; nil is the system's
	ConnectTimeout  time.Duration // default 1s
	ResponseTimeout time.Duration // until the response header; 0 is none
	RequestTimeout  time.Duration // the whole request; 0 is none; upgraded connections and streams are not cut
	IdleTimeout     time.Duration // no byte in either direction; default 5m; 0 in a Config means the default, negative none
	MaxIdleConns    int           // kept for reuse per endpoint; default 256
}

// Limits bound what a listener accepts. Zero values are the defaults named.
type Limits struct {
	ReadHeaderTimeout time.Duration // default 10s
	IdleTimeout       time.Duration // of a kept-alive connection; default 120s
	WriteStall        time.Duration // a client that takes no byte for so long is cut off; default 60s
	ReadStall         time.Duration // a client that sends no byte of a body for so long is cut off; default 60s
	MaxHeaderBytes    int           // default 65536
	MaxConnections    int           // open at once; default 10000; more wait in the kernel's backlog
	MaxStreams        int           // concurrent HTTP/2 streams of a connection; default 250
}
