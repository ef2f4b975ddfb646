package config

import (
	"time"

	"github.com/limpet-project/limpet/affinity"
)

// MaxWeight is the largest weight of a revision.
const MaxWeight = 1000000

// A Service is what clients address: revisions with weights and endpoints, and how requests stick to them.
type Service struct {
	// Name is unique within the namespace.
	Name string `json:"name" required:"true" check:"name"`
	// Namespace is the tenant. Bindings and tokens of one namespace mean nothing in another. Default: none.
	Namespace string `json:"namespace,omitempty" check:"name"`
	// Affinity says how requests stick. Default: they do not. An empty mapping {} sticks sessions and flows with all defaults.
	Affinity *affinity.Policy `json:"affinity,omitempty"`
	// Revisions are the versions of the service.
	Revisions []Revision `json:"revisions" required:"true"`
	// Probe checks the endpoints. Default: they are not checked and count as ready.
	Probe *Probe `json:"probe,omitempty"`
	// Ejection leaves out endpoints whose requests fail. Default: none is left out.
	Ejection *Ejection `json:"ejection,omitempty"`
	// EndpointLimit is the number of requests in flight at most at each endpoint that has no limit of its own; 0 is no limit.
	EndpointLimit int `json:"endpointLimit,omitempty" default:"0" min:"0" max:"1000000"`
}

// A Revision is a version of a service.
type Revision struct {
	// Name is unique within the service. Services of one namespace that name the same revision share its endpoints.
	Name string `json:"name" required:"true" check:"name"`
	// Weight is the revision's share of new requests, relative to the other revisions of the service; 0 takes none. Not all may be 0.
	Weight int `json:"weight,omitempty" default:"1" min:"0" max:"1000000"`
	// Tags address the revision directly, whatever its weight. A tag belongs to one revision of the service.
	Tags []string `json:"tags,omitempty" check:"name"`
	// Failed takes the revision out, with its sessions.
	Failed bool `json:"failed,omitempty" default:"false"`
	// Endpoints are the replicas. Default: none, the revision is scaled to zero.
	Endpoints []Endpoint `json:"endpoints,omitempty"`
}

// An Endpoint is one replica.
type Endpoint struct {
	// Name is the identity to which sessions are bound. It is unique within the revision. An endpoint that moves to another
	// address under its name keeps its sessions.
	Name string `json:"name" required:"true" check:"name"`
	// Address is host:port.
	Address string `json:"address" required:"true" check:"address"`
	// Draining lets the endpoint keep the sessions that it has and gives it no new ones.
	Draining bool `json:"draining,omitempty" default:"false"`
	// DrainUntil is when a draining endpoint loses its sessions too, such as 2026-01-02T15:04:05Z. Default: never.
	DrainUntil time.Time `json:"drainUntil,omitzero"`
	// Limit is the number of requests in flight at most; 0 is the service's endpointLimit.
	Limit int `json:"limit,omitempty" default:"0" min:"0" max:"1000000"`
}

// A Probe checks each endpoint from time to time.
type Probe struct {
	// HTTP sends a GET and takes the statuses 200 to 399 as good. Default: to connect is enough.
	HTTP *HTTPProbe `json:"http,omitempty"`
	// UDP sends a datagram and takes any answer as good. Excludes http.
	UDP *UDPProbe `json:"udp,omitempty"`
	// Port is the port to check; 0 is that of the endpoint's address.
	Port int `json:"port,omitempty" default:"0" min:"0" max:"65535"`
	// Interval is the time between two checks.
	Interval affinity.Duration `json:"interval,omitempty" default:"5s" min:"100ms" max:"24h"`
	// Timeout bounds one check.
	Timeout affinity.Duration `json:"timeout,omitempty" default:"1s" min:"1ms" max:"1h"`
	// HealthyThreshold is the number of good checks in a row that make an endpoint ready.
	HealthyThreshold int `json:"healthyThreshold,omitempty" default:"1" min:"1" max:"1000"`
	// UnhealthyThreshold is the number of bad checks in a row that make an endpoint down.
	UnhealthyThreshold int `json:"unhealthyThreshold,omitempty" default:"3" min:"1" max:"1000"`
}

// An HTTPProbe is the request of a probe.
type HTTPProbe struct {
	// Path is what is asked for.
	Path string `json:"path,omitempty" default:"/" check:"requestPath"`
	// Host is the Host header. Default: the endpoint's address.
	Host string `json:"host,omitempty" check:"host"`
}

// A UDPProbe is the datagram of a probe.
type UDPProbe struct {
	// Send is the payload in hexadecimal digits, with or without spaces: for DNS, a query for the name servers of the root is
	// "0001 0100 0001 0000 0000 0000 00 0002 0001". Send what the endpoint answers without effect.
	Send string `json:"send" required:"true" check:"hexBytes"`
}

// An Ejection leaves out endpoints whose requests fail: no connection, a broken answer, a timeout, or status 502, 503 or 504.
type Ejection struct {
	// Consecutive is the number of failures in a row that eject an endpoint.
	Consecutive int `json:"consecutive,omitempty" default:"5" min:"1" max:"1000000"`
	// Base is the length of a first ejection; it doubles each time that an ejection follows soon after another.
	Base affinity.Duration `json:"base,omitempty" default:"10s" min:"1ms" max:"24h"`
	// Max is the longest ejection.
	Max affinity.Duration `json:"max,omitempty" default:"5m" min:"1ms" max:"24h"`
	// MaxShare is the share of a revision's endpoints that may be ejected at once.
	MaxShare float64 `json:"maxShare,omitempty" default:"0.5" min:"0" max:"0.5"`
}

// A Route says which requests go to which service.
type Route struct {
	// Hosts are exact names, wildcards that stand for one or more leading labels (*.example.com), or * for any. Ports are ignored.
	// Default: any host.
	Hosts []string `json:"hosts,omitempty" check:"hostPattern"`
	// Path is a prefix of whole segments: /a matches /a and /a/b, not /ab.
	Path string `json:"path,omitempty" default:"/" check:"path"`
	// Service is the name of the service.
	Service string `json:"service" required:"true" check:"name"`
	// Namespace is the namespace of the service. Default: none.
	Namespace string `json:"namespace,omitempty" check:"name"`
	// Tag sends the requests to the revision with this tag. Default: to the revisions by weight.
	Tag string `json:"tag,omitempty" check:"name"`
	// TagHeader is the name of a request header that addresses a tag by its value. Default: none is read.
	TagHeader string `json:"tagHeader,omitempty" check:"header"`
	// Upstream says how the endpoints are spoken to.
	Upstream Upstream `json:"upstream,omitzero"`
	// RetryIdempotent allows one more try of a GET, HEAD, OPTIONS, PUT or DELETE whose connection broke before an answer, at the
	// same endpoint, if its body was not begun.
	RetryIdempotent bool `json:"retryIdempotent,omitempty" default:"false"`
	// MaxBodyBytes refuses requests with a longer body with 413; 0 is no limit.
	MaxBodyBytes int64 `json:"maxBodyBytes,omitempty" default:"0" min:"0"`
	// ForwardedHeader writes the header Forwarded (RFC 7239) beside X-Forwarded-*.
	ForwardedHeader bool `json:"forwardedHeader,omitempty" default:"false"`
	// PreserveHost sends the client's Host to the endpoint; otherwise the endpoint's address is sent.
	PreserveHost bool `json:"preserveHost,omitempty" default:"true"`
}

// An Upstream says how the endpoints of a route are spoken to.
type Upstream struct {
	// Protocol is http1 (HTTP/1.1), h2c (HTTP/2 without TLS) or https (TLS, with HTTP/2 or HTTP/1.1).
	Protocol string `json:"protocol,omitempty" default:"http1" enum:"http1|h2c|https"`
	// ServerName is the name that the endpoint's certificate must have. Default: the Host that is sent.
	ServerName string `json:"serverName,omitempty" check:"host"`
	// CAFile holds the authorities (PEM) that may have signed the endpoint's certificate. Default: the system's.
	CAFile Path `json:"caFile,omitempty"`
	// ConnectTimeout bounds the making of a connection.
	ConnectTimeout affinity.Duration `json:"connectTimeout,omitempty" default:"1s" min:"1ms" max:"10m"`
	// ResponseTimeout bounds the wait for the header of the response; 0s is no bound.
	ResponseTimeout affinity.Duration `json:"responseTimeout,omitempty" default:"0s"`
	// RequestTimeout bounds a whole request; 0s is no bound. Upgraded connections and streams are not cut.
	RequestTimeout affinity.Duration `json:"requestTimeout,omitempty" default:"0s"`
	// IdleTimeout cuts a request or an upgraded connection in which no byte went either way for so long; 0s never does.
	IdleTimeout affinity.Duration `json:"idleTimeout,omitempty" default:"5m"`
	// MaxIdleConns bounds the connections that are kept for reuse, for each endpoint.
	MaxIdleConns int `json:"maxIdleConns,omitempty" default:"256" min:"1" max:"100000"`
}
