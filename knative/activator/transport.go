package activator

import (
	"net/http"
	"net/http/httptrace"
	"sync/atomic"

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
	s := &sending{next: t.next, trip: trip, r: r}
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
		resp, connected, err := s.attempt()
		if connected || left == 1 || s.r.Context().Err() != nil || !s.body.rewind() || s.trip.place.another(s.r.Context()) != nil {
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

// attempt sends the request to its place, and reports whether a connection was established. If one that was reused breaks before a byte of
// the request is written to it, the transport sends it once more over another one: it has a body for that.
func (s *sending) attempt() (resp *http.Response, connected bool, err error) {
	var got atomic.Bool
	trace := &httptrace.ClientTrace{
		GetConn: func(string) { got.Store(false) }, // once more, if a connection that was reused had broken
		GotConn: func(httptrace.GotConnInfo) { got.Store(true) },
	}
	out := s.r.WithContext(httptrace.WithClientTrace(s.r.Context(), trace))
	url := *s.r.URL
	url.Host = s.trip.place.address()
	out.URL = &url
	out.Header = s.r.Header.Clone()
	s.trip.place.editRequest(out.Header)
	if s.body != nil {
		out.Body, out.GetBody = s.body.open(), s.body.again
	}
	resp, err = s.next.RoundTrip(out)
	return resp, err == nil || got.Load(), err
}
