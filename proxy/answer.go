package proxy

import (
	"context"
	"errors"
	"net/http"
	"strconv"

	"github.com/limpet-project/limpet/affinity"
	"github.com/limpet-project/limpet/endpoint"
	"github.com/limpet-project/limpet/router"
)

// Headers of answers that are the gateway's own.
const (
	headerReason   = "Limpet-Reason"
	headerDecision = "Limpet-Decision"
	headerDebug    = "Limpet-Debug"
	headerHops     = "Limpet-Hops" // of requests: how many gateways they have passed
	serverName     = "limpet"
	// retryAfter is the Retry-After of a 503, in seconds: endpoints come and go within a few.
	retryAfter = 1
)

// Errors of requests that do not come from the router. errInsecure's answer has a Location.
var (
	errNoRoute       = errors.New("no route for this host and path")
	errHeaderSize    = errors.New("request header is larger than allowed")
	errConnectMethod = errors.New("method CONNECT is not served")
	errBadTarget     = errors.New("request target cannot be forwarded as it is")
	errUpgrade       = errors.New("client asked for an upgrade that cannot be forwarded")
	errBadHost       = errors.New("host cannot stand in a redirect")
	errInsecure      = errors.New("request did not come by TLS and is sent to https")
	errLoop          = errors.New("request has passed too many gateways: its route leads back to where it came from")
	errClientGone    = errors.New("client went away")
)

// A bodyError means that the client's body could not be read: it was malformed, or the client went away.
type bodyError struct{ err error }

func (e *bodyError) Error() string { return "reading the request body: " + e.err.Error() }
func (e *bodyError) Unwrap() error { return e.err }

// A protocolError means that the endpoint broke the protocol, or off.
type protocolError struct{ err error }

func (e *protocolError) Error() string { return "endpoint: " + e.err.Error() }
func (e *protocolError) Unwrap() error { return e.err }

// An answer is what a client is told about an error.
type answer struct {
	status  int
	cause   string // Limpet-Reason
	text    string
	outcome endpoint.Outcome // at the endpoint, if one was picked
}

// answerTo is the one place where an error becomes a status. Details stay out of the text: they are the log's.
func answerTo(err error) answer {
	const ok, failed, unknown = endpoint.OutcomeOK, endpoint.OutcomeFailed, endpoint.OutcomeUnknown
	var id *affinity.IDError
	var connect *connectError
	var body *bodyError
	is := func(target error) bool { return errors.Is(err, target) }
	switch {
	case errors.As(err, &id):
		return answer{http.StatusBadRequest, "bad-id", id.Error(), unknown}
	case is(errInsecure):
		return answer{http.StatusMovedPermanently, "redirect", "moved to https", unknown}
	case is(errNoRoute):
		return answer{http.StatusNotFound, "no-route", "no route for this host and path", unknown}
	case is(router.ErrUnknownService):
		return answer{http.StatusNotFound, "unknown-service", "unknown service", unknown}
	case is(affinity.ErrUnknownTag):
		return answer{http.StatusNotFound, "unknown-tag", "no revision carries this tag", unknown}
	case is(affinity.ErrNoRevision):
		return answer{http.StatusServiceUnavailable, "no-revision", "no valid revision", unknown}
	case is(affinity.ErrNoEndpoint), is(endpoint.ErrGone):
		return answer{http.StatusServiceUnavailable, "no-endpoint", "no ready endpoint", unknown}
	case is(endpoint.ErrBusy):
		return answer{http.StatusServiceUnavailable, "busy", "endpoint is at its concurrency limit", unknown}
	case errors.As(err, &connect):
		return answer{http.StatusServiceUnavailable, "no-connection", "no endpoint could be reached", failed}
	case is(errBodyTooLarge):
		return answer{http.StatusRequestEntityTooLarge, "body-too-large", "request body is larger than allowed", unknown}
	case is(errHeaderSize):
		return answer{http.StatusRequestHeaderFieldsTooLarge, "header-too-large", "request header is larger than allowed", unknown}
	case is(errLoop):
		return answer{http.StatusLoopDetected, "loop", "request goes in a loop", unknown}
	case is(errConnectMethod):
		return answer{http.StatusMethodNotAllowed, "bad-method", "method CONNECT is not served", unknown}
	case is(errBadTarget):
		return answer{http.StatusBadRequest, "bad-target", "request target is not a valid path", unknown}
	case is(errBadHost):
		return answer{http.StatusBadRequest, "bad-host", "host is not a valid name", unknown}
	case is(errUpgrade):
		return answer{http.StatusBadRequest, "bad-upgrade", "invalid upgrade", unknown}
	case is(errReadStall):
		return answer{http.StatusRequestTimeout, "client-stalled", "request body did not arrive in time", unknown}
	case is(errWriteStall), is(errClientGone), is(context.Canceled):
		return answer{StatusClientGone, "client-gone", "", unknown}
	case errors.As(err, &body):
		return answer{http.StatusBadRequest, "bad-body", "request body is malformed", unknown}
	case is(errResponseTimeout), is(errRequestTimeout), is(errIdle), is(context.DeadlineExceeded):
		return answer{http.StatusGatewayTimeout, "timeout", "endpoint did not answer in time", failed}
	}
	return answer{http.StatusBadGateway, "bad-gateway", "endpoint broke the protocol", failed}
}

// write sends a to the client.
func (a answer) write(w http.ResponseWriter) {
	h := w.Header()
	h.Set("Server", serverName)
	h.Set(headerReason, a.cause)
	h.Set("Content-Type", "text/plain; charset=utf-8")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Cache-Control", "no-store")
	h.Set("Content-Length", strconv.Itoa(len(a.text)+1))
	if a.status == http.StatusServiceUnavailable {
		h.Set("Retry-After", strconv.Itoa(retryAfter))
	}
	if a.status == http.StatusRequestTimeout {
		h.Set("Connection", "close")
	}
	w.WriteHeader(a.status)
	// A client that is gone does not need the text; the status is recorded either way.
	_, _ = w.Write(append([]byte(a.text), '\n'))
}
