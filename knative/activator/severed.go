package activator

import (
	"context"
	"errors"
	"fmt"
	"net/http"
)

// A severed round tripper repairs what one request can do to another. Transports of net/http put a connection back before they hand over
// a response without a body. If the request's context ends in between they close the connection, which may be carrying another request by
// then: that one fails with the error of a client that went away, for which Serving's handler answers nothing, and so its client would
// get an empty 200.
type severed struct {
	next http.RoundTripper
}

// RoundTrip implements http.RoundTripper. A request that may be sent twice is; of another one the error says that its connection broke.
func (t severed) RoundTrip(r *http.Request) (*http.Response, error) {
	resp, err := t.next.RoundTrip(r)
	if !orphaned(r, err) {
		return resp, err
	}
	if replayable(r) {
		if resp, err = t.next.RoundTrip(r.Clone(r.Context())); !orphaned(r, err) {
			return resp, err
		}
	}
	return nil, fmt.Errorf("the connection to the pod was broken off: %v", err) // without %w: it is not this request that was canceled
}

// orphaned reports whether err is that of a request that was given up, and this one was not.
func orphaned(r *http.Request, err error) bool {
	return err != nil && errors.Is(err, context.Canceled) && r.Context().Err() == nil
}

// replayable reports whether a request may be sent again although it may have been served (RFC 9110, 9.2.1), as transports do when a
// connection breaks.
func replayable(r *http.Request) bool {
	if r.Body != nil && r.Body != http.NoBody {
		return false
	}
	switch r.Method {
	case http.MethodGet, http.MethodHead, http.MethodOptions, http.MethodTrace:
		return true
	}
	return false
}
