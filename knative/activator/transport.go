package activator

import (
	"context"
	"errors"
	"net"
	"net/http"

	"knative.dev/pkg/network"

	"github.com/limpet-project/limpet/affinity"
	"github.com/limpet-project/limpet/endpoint"
)

// maxAttempts bounds how many pods one request tries to reach.
const maxAttempts = 4

// A roundTripper sends requests to their places: it tries another pod if no connection to the first could be established, and gives the
// client its token.
type roundTripper struct {
	next http.RoundTripper
}

// RoundTrip implements http.RoundTripper.
func (t *roundTripper) RoundTrip(r *http.Request) (*http.Response, error) {
	trip := tripOf(r.Context())
	if trip == nil || trip.place == nil {
		return t.next.RoundTrip(r)
	}
	s := sending{next: t.next, trip: trip, r: r}
	if r.Body != nil && r.Body != http.NoBody {
		s.body = &replay{from: r.Body}
	}
	return s.send()
}

// A sending is one request on its way to a pod.
type sending struct {
	next http.RoundTripper
	trip *trip
	r    *http.Request
	body *replay // nil if there is none
}

// send tries pods until a connection to one is established.
func (s *sending) send() (*http.Response, error) {
	for left := maxAttempts; ; left-- {
		resp, err := s.attempt()
		if err == nil || !unreached(err) || left == 1 || s.r.Context().Err() != nil || !s.body.rewind() ||
			s.trip.place.another(s.r.Context()) != nil {
			return s.end(resp, err)
		}
	}
}

// end notes how the last attempt ended, and tells the client why its session is where it is, if that is news.
func (s *sending) end(resp *http.Response, err error) (*http.Response, error) {
	t := s.trip
	t.status = http.StatusBadGateway
	switch {
	case resp == nil && s.r.Context().Err() != nil:
		t.outcome = endpoint.OutcomeUnknown
	case resp == nil, resp.StatusCode >= http.StatusBadGateway && resp.StatusCode <= http.StatusGatewayTimeout:
		t.outcome = endpoint.OutcomeFailed
	default:
		t.outcome = endpoint.OutcomeOK
	}
	if resp == nil {
		return nil, err
	}
	t.status = resp.StatusCode
	strip(resp.Header) // what a pod says of this means nothing
	t.place.editResponse(resp.Header)
	if t.pick != nil && moved(t.pick.Reason()) {
		resp.Header.Set(headerReason, t.pick.Reason().String())
	}
	return resp, err
}

// moved reports whether a request may have gone elsewhere than those of its session before.
func moved(r affinity.Reason) bool {
	switch r {
	case affinity.ReasonEndpointGone, affinity.ReasonRevisionGone, affinity.ReasonExpired, affinity.ReasonOverflow, affinity.ReasonDegraded:
		return true
	}
	return false
}

// attempt sends the request to its place. If a connection that was reused breaks before a byte of the request is written to it, the
// transport sends it once more over another one: it has a body for that.
func (s *sending) attempt() (*http.Response, error) {
	address, edits := s.trip.place.address(), s.trip.place.editsRequest()
	if s.body == nil && !edits && s.r.URL.Host == address {
		return s.next.RoundTrip(s.r)
	}
	out := s.r.WithContext(s.r.Context())
	if s.r.URL.Host != address {
		url := *s.r.URL
		url.Host = address
		out.URL = &url
	}
	if edits {
		out.Header = s.r.Header.Clone()
		s.trip.place.editRequest(out.Header)
	}
	if s.body != nil {
		out.Body, out.GetBody = s.body.open(), s.body.again
	}
	return s.next.RoundTrip(out)
}

// unreached reports whether err says that no connection was established: that of the dialer of connections in clear, or of one that Dial made.
func unreached(err error) bool {
	var dial *net.OpError
	var own *dialError
	return errors.As(err, &own) || errors.As(err, &dial) && dial.Op == "dial" || errors.Is(err, network.ErrTimeoutDialing)
}

// Dial returns a dialer of encrypted connections whose errors are known to be those of connecting: what TLS says of a handshake that
// failed could as well be said of a request.
func Dial(dial network.DialTLSContextFunc) network.DialTLSContextFunc {
	return func(ctx context.Context, network, address string) (net.Conn, error) {
		c, err := dial(ctx, network, address)
		if err != nil {
			return nil, &dialError{err}
		}
		return c, nil
	}
}

// A dialError is why a connection could not be established.
type dialError struct{ error }

// Unwrap returns the cause.
func (e *dialError) Unwrap() error { return e.error }
