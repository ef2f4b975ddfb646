package affinity

import "net/netip"

// A Message is the raw view of a request from which ids are read. It is not *http.Request, so that every data plane can supply
// it. The strings are valid until the request is done; all parsing of them lives in this package.
type Message interface {
	Method() string
	Host() string                // as the client sent it, with the port if there was one
	Path() string                // raw: percent-encoded, begins with "/"
	Query() string               // raw, without the "?"
	Header(name string) []string // all values of a header; name is in canonical form (http.CanonicalHeaderKey)
	Peer() netip.Addr            // the address of the connection's other end, unmapped
}

// In is the place in a request where an id is looked for.
type In uint8

// The places. The zero In is invalid.
const (
	InHeader In = iota + 1
	InQueryParameter
	InPathSegment
	InCookie
	InClientAddress
)

// A Source says where in a request an id is found. Exactly one of its members is set. In YAML a source is one of
//
//	header: K-Session
//	queryParameter: session
//	pathSegment: 2
//	cookie: sid
//	clientAddress: {ipv4Prefix: 24, ipv6Prefix: 56}
type Source struct {
	// Header is the name of a header; the first of several values counts.
	Header string `json:"header,omitempty"`
	// QueryParameter is the name of a query parameter; the first of several counts.
	QueryParameter string `json:"queryParameter,omitempty"`
	// PathSegment is a segment of the path, counted from 1; empty segments count. The path is split before it is decoded.
	PathSegment int `json:"pathSegment,omitempty"`
	// Cookie is the name of a cookie; the first of several counts.
	Cookie string `json:"cookie,omitempty"`
	// ClientAddress uses the client's address, or a prefix of it, as the id.
	ClientAddress *AddressPrefix `json:"clientAddress,omitempty"`
}

// An AddressPrefix says how much of a client's address makes the id.
type AddressPrefix struct {
	// IPv4Prefix is the length in bits, 1 to 32; 0 means 32.
	IPv4Prefix int `json:"ipv4Prefix,omitempty"`
	// IPv6Prefix is the length in bits, 1 to 128; 0 means 64, which is what one site usually gets (RFC 6177).
	IPv6Prefix int `json:"ipv6Prefix,omitempty"`
}
