package transport

import (
	"errors"
	"net/netip"
	"time"

	"github.com/limpet-project/limpet/affinity"
	"github.com/limpet-project/limpet/endpoint"
	"github.com/limpet-project/limpet/router"
)

// An Observer is told of connections and flows. Its methods do not block and are called concurrently.
type Observer interface {
	// Picked says that a connection or flow has its target. It is called again when a flow moves to another one.
	Picked(o *Observed)
	// Carried says how many bytes went from the client (in) and to it (out) since the last call. It is called while a connection or
	// flow lasts, seldom, and before its End.
	Carried(o *Observed, in, out int64)
	// End is called once, when a connection or flow that was taken has ended, whatever became of it. o is valid until End returns.
	End(o *Observed)
	// Drop says that a datagram was dropped.
	Drop(listener string, cause Cause)
}

// Observed is what there is to say about one connection or flow. Nothing in it identifies a client but Client.
type Observed struct {
	Listener string
	Protocol string // "tcp" or "udp"
	Service  affinity.ServiceName
	Picked   bool // whether Target, Address, Reason and Key mean something
	Target   affinity.Target
	Address  string
	Reason   affinity.Reason
	Key      [8]byte    // the first bytes of the key's digest, zero without a key
	Client   netip.Addr // an id where the policy goes by the client's address

	Begin    time.Time
	Duration time.Duration
	Connect  time.Duration // from the pick to the connection, 0 if none was made
	Attempts int           // endpoints that were tried
	BytesIn  int64
	BytesOut int64
	// DatagramsIn and DatagramsOut are those of a flow.
	DatagramsIn, DatagramsOut int64

	Cause   Cause // why it was refused, "" if it was not
	Ending  Ending
	Outcome endpoint.Outcome // what passive health was told at the end
	Err     error            // for operators; nil if all went well
}

// note takes over what a pick says.
func (o *Observed) note(p *router.Pick) {
	o.Picked, o.Target, o.Address, o.Reason = true, p.Target(), p.Address(), p.Reason()
	if k := p.Key(); !k.IsZero() {
		o.Key = [8]byte(k.Digest[:8])
	}
}

// A Cause says why a connection was refused or a datagram dropped. The list is closed.
type Cause string

// The causes. The empty Cause is that of what was served.
const (
	CauseNoService   Cause = "no-service"       // no source lists the service
	CauseNoEndpoint  Cause = "no-endpoint"      // none is ready
	CauseBusy        Cause = "busy"             // the endpoint is at its limit, and so is the wait for it
	CauseConnect     Cause = "connect"          // no endpoint took the connection
	CauseProxyHeader Cause = "proxy-header"     // the PROXY header is missing, wrong, too long or late
	CauseUntrusted   Cause = "untrusted-proxy"  // a PROXY header from an address that is none of the trusted proxies'
	CauseShutdown    Cause = "shutdown"         // the listener is ending
	CauseFlows       Cause = "flows"            // as many flows as there may be
	CauseClientFlows Cause = "flows-per-client" // as many flows of this client as there may be
	CauseWaiting     Cause = "waiting"          // too many datagrams of a flow whose target is not known yet
	CauseTooLong     Cause = "too-long"         // the datagram was cut off, or is longer than one that can be sent on
	CauseSend        Cause = "send"             // the datagram could not be sent on
	CauseRefused     Cause = "refused"          // endpoints refuse the datagrams
	CauseFault       Cause = "fault"            // anything else; Err tells
)

// Causes lists every cause, for metrics that must exist before they first count.
func Causes() []Cause {
	return []Cause{
		CauseNoService, CauseNoEndpoint, CauseBusy, CauseConnect, CauseProxyHeader, CauseUntrusted, CauseShutdown, CauseFlows,
		CauseClientFlows, CauseWaiting, CauseTooLong, CauseSend, CauseRefused, CauseFault,
	}
}

// causeOf says why the router picked nothing.
func causeOf(err error) Cause {
	switch {
	case errors.Is(err, router.ErrUnknownService):
		return CauseNoService
	case errors.Is(err, affinity.ErrNoEndpoint), errors.Is(err, affinity.ErrNoRevision):
		return CauseNoEndpoint
	case errors.Is(err, endpoint.ErrBusy):
		return CauseBusy
	}
	return CauseFault
}

// An Ending says how a connection or flow that was served ended. The list is closed.
type Ending string

// The endings. The empty Ending is that of what was refused.
const (
	EndClosed        Ending = "closed"         // both sides were done
	EndClientReset   Ending = "client-reset"   // the client broke the connection off
	EndEndpointReset Ending = "endpoint-reset" // the endpoint broke the connection off, or refuses datagrams
	EndIdle          Ending = "idle"           // nothing went either way for too long
	EndResponses     Ending = "responses"      // the flow had as many answers as it may have
	EndUnanswered    Ending = "unanswered"     // a datagram was not answered in time, which the endpoint's health was told
	EndDown          Ending = "endpoint-down"  // the endpoint is down or gone
	EndDrained       Ending = "drain-deadline" // the endpoint's drain is over
	EndShutdown      Ending = "shutdown"       // the listener ended
)
