package proxy

import (
	"context"
	"net/http"
	"net/netip"
	"time"

	"github.com/limpet-project/limpet/affinity"
)

// An Observer is told of every request. Its methods do not block and are called concurrently.
type Observer interface {
	// Start is called first. The context that it returns, a child of ctx, is that of the request from then on.
	Start(ctx context.Context, r *http.Request) context.Context
	// Forward may add to the header that goes to the endpoint, such as traceparent. It must not change values in place.
	Forward(ctx context.Context, h http.Header)
	// End is called once, when the request has ended, also for upgraded connections. o is valid until End returns.
	End(ctx context.Context, o *Observed)
}

// Observed is what there is to say about one request. Nothing in it identifies a client but Peer: an id may lie in the path, the
// query, a header or a cookie, so none of them is here. Err is for operators; its text may quote what an endpoint sent.
type Observed struct {
	Service  affinity.ServiceName // zero if no route matched
	Route    string               // the path prefix of the route that matched
	Tag      string               // the tag of the route's host; one that a header named is not a closed list and is left out
	Picked   bool                 // whether Target, Address, Reason and Key mean something
	Target   affinity.Target
	Address  string
	Reason   affinity.Reason
	Key      [8]byte // the first bytes of the key's digest, zero without a key
	Method   string
	Protocol string // HTTP/1.1, HTTP/2.0
	Peer     netip.Addr
	Status   int // what the client got; 499 if it went away before there was a status
	BytesIn  int64
	BytesOut int64
	Begin    time.Time
	Duration time.Duration
	Upstream time.Duration // from forwarding to the response header, 0 if none came
	Attempts int           // how often the request was sent or a connection tried
	Upgraded bool
	Cause    string // the Limpet-Reason, "" if the endpoint's answer went through whole
	Err      error  // the error behind Cause, nil for a redirect
}

// StatusClientGone is the status in [Observed] of a request whose client went away before it was answered. It is never sent.
const StatusClientGone = 499
