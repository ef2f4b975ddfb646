package activator

import (
	"io"
	"net/http"
	"net/http/httptrace"
	"sync/atomic"
	"time"

	"k8s.io/apimachinery/pkg/types"
	serving "knative.dev/serving/pkg/activator"
	activatorhandler "knative.dev/serving/pkg/activator/handler"

	"github.com/limpet-project/limpet/endpoint"
)

// What an activator says of a request that was forwarded to it, in the header of its answer.
const (
	forwardGone        = "gone"        // it does not know the pod
	forwardBusy        = "busy"        // the pod is at its limit
	forwardUnreachable = "unreachable" // no connection to the pod could be established
)

// maxAttempts bounds how many pods and activators one request tries to reach.
const maxAttempts = 4

// A roundTripper sends requests to their places: it tries another pod if no connection to the first could be established, sends on what
// another activator counts, and gives the client its token.
type roundTripper struct {
	throttler *throttler
	next      http.RoundTripper
}

// RoundTrip implements http.RoundTripper.
func (t *roundTripper) RoundTrip(r *http.Request) (*http.Response, error) {
	trip := tripOf(r.Context())
	if trip == nil || trip.place == nil {
		return t.next.RoundTrip(r)
	}
	s := &sending{roundTripper: t, trip: trip, r: r}
	if r.Body != nil && r.Body != http.NoBody {
		s.body = &unread{ReadCloser: r.Body}
	}
	return s.send()
}

// A sending is one request on its way to a pod.
type sending struct {
	*roundTripper
	trip   *trip
	r      *http.Request
	body   *unread  // nil if there is none
	missed []string // activators that could not be reached
}

func (s *sending) send() (*http.Response, error) {
	for left := maxAttempts; ; left-- {
		owner, remote := s.owner()
		resp, connected, err := s.attempt(owner, remote)
		news := told(resp, remote)
		done := connected && (news == "" || news == forwardBusy)
		if done || left == 1 || !s.repeatable() || !s.turn(owner, remote, news) {
			s.end(resp, connected, news)
			return resp, err
		}
		if resp != nil {
			resp.Body.Close()
		}
	}
}

// told returns what another activator says of the request in its answer, which is for this one only. What a pod says there means nothing.
func told(resp *http.Response, remote bool) string {
	if resp == nil {
		return ""
	}
	news := resp.Header.Get(headerForward)
	resp.Header.Del(headerForward)
	if !remote {
		return ""
	}
	return news
}

// repeatable reports whether nothing of the request is lost yet.
func (s *sending) repeatable() bool {
	return s.r.Context().Err() == nil && (s.body == nil || !s.body.touched.Load())
}

// turn has the next attempt go elsewhere: to the activator that counts for the pod if the first is away, to the pod itself if the activator
// does not know it yet, or to another pod. It reports whether there is such a place.
func (s *sending) turn(owner peer, remote bool, news string) bool {
	switch {
	case remote && news == forwardGone:
		s.trip.local = true
		return true
	case remote && news == "":
		s.missed = append(s.missed, owner.name)
		return true
	}
	return s.trip.place.another(s.r.Context()) == nil
}

// end notes how the last attempt ended.
func (s *sending) end(resp *http.Response, connected bool, news string) {
	switch {
	case resp == nil && s.r.Context().Err() != nil, news == forwardBusy, news == forwardGone:
		s.trip.outcome = endpoint.OutcomeUnknown
	case resp == nil:
		s.trip.outcome = endpoint.OutcomeFailed
		if s.trip.forwarded != nil && !connected {
			s.trip.answer.Set(headerForward, forwardUnreachable)
		}
	case resp.StatusCode >= http.StatusBadGateway && resp.StatusCode <= http.StatusGatewayTimeout:
		s.trip.outcome = endpoint.OutcomeFailed
	default:
		s.trip.outcome = endpoint.OutcomeOK
	}
	s.trip.status = http.StatusBadGateway
	if resp != nil {
		s.trip.status = resp.StatusCode
		s.trip.place.editResponse(resp.Header)
	}
}

// owner returns the activator that counts requests at the pod of the place, if it is another one.
func (s *sending) owner() (peer, bool) {
	key := types.NamespacedName{Namespace: activatorhandler.RevIDFrom(s.r.Context()).Namespace, Name: s.trip.place.revision()}
	if s.trip.local {
		return peer{}, false
	}
	if limit, known := s.throttler.limit(key); !known || limit == 0 {
		return peer{}, false
	}
	return s.throttler.peers.owner(s.trip.place.pod(), s.missed)
}

// attempt sends the request to the pod, or to the activator that counts for it, and reports whether a connection was established.
func (s *sending) attempt(owner peer, remote bool) (resp *http.Response, connected bool, err error) {
	var got atomic.Bool
	trace := &httptrace.ClientTrace{
		GetConn: func(string) { got.Store(false) }, // once more, if a connection that was reused had broken
		GotConn: func(httptrace.GotConnInfo) { got.Store(true) },
	}
	out := s.r.WithContext(httptrace.WithClientTrace(s.r.Context(), trace))
	address, url := s.trip.place.address(), *s.r.URL
	out.Header = s.r.Header.Clone()
	s.trip.place.editRequest(out.Header)
	if remote {
		address = s.forward(out.Header, owner)
	}
	url.Host = address
	out.URL = &url
	if s.body != nil {
		out.Body = s.body
	}
	resp, err = s.next.RoundTrip(out)
	return resp, err == nil || got.Load(), err
}

// forward writes the claim for the owner into the header, and returns where the owner is.
func (s *sending) forward(h http.Header, owner peer) string {
	c := claim{
		Namespace: activatorhandler.RevIDFrom(s.r.Context()).Namespace, Revision: s.trip.place.revision(),
		Pod: s.trip.place.pod(), Wait: s.trip.wait,
	}
	h.Set(headerForward, s.throttler.peers.seal.seal(c, time.Now()))
	h.Set(serving.RevisionHeaderNamespace, c.Namespace)
	h.Set(serving.RevisionHeaderName, c.Revision)
	if s.r.ProtoMajor == 2 {
		return owner.h2c
	}
	return owner.http1
}

// An unread body tells whether anything of it was read. It is not closed by an attempt, for there may be another one: Serving's proxy
// closes what is below it.
type unread struct {
	io.ReadCloser
	touched atomic.Bool
}

// Read implements io.Reader.
func (b *unread) Read(p []byte) (int, error) {
	b.touched.Store(true)
	return b.ReadCloser.Read(p)
}

// Close implements io.Closer.
func (b *unread) Close() error { return nil }
