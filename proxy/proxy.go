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
//
// Whatever its routes say, Limpet-*, K-Proxy-Request, Knative-Serving-Revision and Knative-Serving-Namespace are removed from
// what clients send. Limpet-Hops is read before: a request that has passed gateways more than 8 times, this one included, is in a
// loop and answered 508.
type Config struct {
	Routes []Route
	// TrustedProxies may say by X-Forwarded-* and Forwarded who the client is; others' are replaced.
	TrustedProxies []netip.Prefix
	// Debuggers may ask with the header Limpet-Debug for the reasons of a decision in the response.
	Debuggers []netip.Prefix
}

// A Route says which requests go to which service. The most specific one wins: exact host before wildcard before any, longest
// wildcard first, then the longest path prefix, then the most headers. A request that lacks a route's headers is left to the
// other routes of the same path, then to shorter paths, then to less specific hosts.
type Route struct {
	// Hosts are exact names, wildcards of one or more leading labels ("*.example.com"), or "*" for any. Ports are ignored.
	Hosts []string
	// Path is a prefix of whole segments: "/a" matches "/a" and "/a/b", not "/ab". "" is "/".
	Path string
	// Headers must all be in a request, each with exactly this value. Names are compared in canonical form, values byte for byte.
	// Of a header that comes several times only the first line counts, and a line is one value: commas do not part it. "" wants the
	// header to be there and empty. Routes of one host and path with more headers are tried first, as many in the order of their
	// names and values. X-Forwarded-* and Forwarded count only from trusted proxies. Names that are removed from what clients send
	// ([Config]) and Host are refused.
	Headers map[string]string
	Service affinity.ServiceName
	// Tag makes this a tag's own host: it decides the revision. "" is the default traffic.
	Tag string
	// TagHeader names a request header that addresses a tag by its value; "" reads none.
	TagHeader string
	Policy    *affinity.Policy // filled in and validated; nil is no affinity
	// Upstream says how the endpoints of all revisions are spoken to that Backends does not name. Until a revision is picked its
	// timeouts hold.
	Upstream Upstream
	// Backends say how the endpoints of single revisions are spoken to, by revision name.
	Backends map[string]Backend
	// SetHeaders are set in the request that is forwarded, in place of what the client sent, after the client's internal headers
	// were removed: K-* and Knative-* may be set here. Trailers of these names do not pass either. Host, Content-Length and what
	// belongs to one connection are refused.
	SetHeaders map[string]string
	// RewriteHost is the Host that is sent upstream; "" leaves it to PreserveHost.
	RewriteHost string
	// RedirectHTTPS answers requests that did not come by TLS, to this gateway or to a trusted proxy that says so, with 301 to the
	// same host (without port), path and query at https.
	RedirectHTTPS bool
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

// A Backend says how the endpoints of one revision are spoken to on a route.
type Backend struct {
	// Upstream holds in place of the route's, as a whole: what is zero here is the default and not the route's.
	Upstream Upstream
	// SetHeaders are set beside the route's, and win over them.
	SetHeaders map[string]string
}

// A Protocol is what an upstream speaks.
type Protocol string

// The upstream protocols.
const (
	ProtocolHTTP1 Protocol = "http1" // HTTP/1.1 (default)
	ProtocolH2C   Protocol = "h2c"   // HTTP/2 without TLS, by prior knowledge; HTTP/1.1 for upgrades, such as WebSocket's
	ProtocolTLS   Protocol = "https" // TLS, HTTP/2 or HTTP/1.1 by ALPN
)

// An Upstream says how the endpoints of a route are spoken to. Zero values are the defaults named. With a negative IdleTimeout and no
// other timeouts nothing that a route says bounds a request once it is connected.
type Upstream struct {
	Protocol Protocol
	// ServerName is the name that TLS asks for and that the endpoint's certificate must have; "" is the first of ServerNames, else
	// the Host that is sent.
	ServerName string
	// ServerNames are further names, any one of which in the certificate is enough. The Host is none of them.
	ServerNames     []string
	RootCAs         []byte        // PEM; nil is the system's
	ConnectTimeout  time.Duration // default 1s, which TLS's handshake is part of
	ResponseTimeout time.Duration // until the response header; 0 is none
	RequestTimeout  time.Duration // the whole request; 0 is none; upgraded connections and streams are not cut
	IdleTimeout     time.Duration // no byte in either direction; default 5m; negative is none
	MaxIdleConns    int           // kept for reuse per endpoint; default 256
	// NoLocal refuses to connect to loopback, unspecified and link-local addresses, whatever name or address an endpoint has: for
	// endpoints that are named by somebody who may not reach what listens beside the gateway.
	NoLocal bool
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
