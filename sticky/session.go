package sticky

import (
	"net/http"
	"strings"
)

// DefaultOrigins is the number of origins that a [Session] remembers at most if it does not say otherwise.
const DefaultOrigins = 1000

// A Session is the client's side: an http.RoundTripper that remembers, for each origin, the tag that a response named, and repeats it in
// later requests to the same origin. The zero Session is ready for use, by any number of goroutines; it must not be copied after that.
//
// A Session is one series of requests, of one user: a program that acts for many gives each its own, over one shared Base. To begin
// anew, use a new one. It starts no goroutine and needs no Close.
//
// An origin is scheme, host and port of the URL, and the Host header where the request has another one. What one origin names is never
// sent to another, redirects included. The tag appears in no request that the caller can see: the caller's request is not modified,
// and it, not the one that was sent, is the response's Request.
//
// A response with a valid tag is adopted, whatever its status, if the session still remembers what the request was sent with. So of
// several first requests at once the first response wins, and the response to a request of long ago takes nothing back. A response
// without a valid tag changes nothing: not every answer comes from a revision, some come from Knative itself.
//
// A request whose Header has an entry for Knative-Serving-Tag is the caller's choice: it is sent as it is, and its response changes
// nothing. An entry without values sends no tag this once.
type Session struct {
	// Base sends the requests. Nil is http.DefaultTransport. It must not follow redirects, as no RoundTripper may: it would carry the tag
	// along. It must not be changed once the Session is in use.
	Base http.RoundTripper
	// Origins is the number of origins remembered at most; the one longest unused is forgotten first, and its next request goes by the
	// split. Below 1 it is DefaultOrigins. It must not be changed once the Session is in use.
	Origins int

	memory memory
}

// RoundTrip sends one request, with the tag that its origin named. Everything else is Base's: its errors are returned as they are, and it
// closes the request's body.
func (s *Session) RoundTrip(req *http.Request) (*http.Response, error) {
	at, ok := originOf(req)
	if !ok || req.Header == nil || addressed(req.Header) {
		return s.base().RoundTrip(req)
	}
	tag := s.memory.tag(at)
	sent := withTag(req, tag)
	resp, err := s.base().RoundTrip(sent)
	if err != nil || resp == nil {
		return resp, err
	}
	if named := resp.Header.Get(Header); ValidTag(named) && !followed(req, resp) {
		s.memory.adopt(at, tag, named, s.limit())
	}
	if resp.Request == sent {
		resp.Request = req
	}
	return resp, nil
}

// CloseIdleConnections closes the idle connections of Base, if it can; http.Client.CloseIdleConnections calls it. What is remembered
// stays.
func (s *Session) CloseIdleConnections() {
	if c, ok := s.base().(interface{ CloseIdleConnections() }); ok {
		c.CloseIdleConnections()
	}
}

func (s *Session) base() http.RoundTripper {
	if s.Base == nil {
		return http.DefaultTransport
	}
	return s.Base
}

func (s *Session) limit() int {
	if s.Origins < 1 {
		return DefaultOrigins
	}
	return s.Origins
}

// addressed reports whether the caller said what the tag is, in any spelling of the header's name, be it that there is none.
func addressed(h http.Header) bool {
	for name := range h {
		if strings.EqualFold(name, Header) {
			return true
		}
	}
	return false
}

// withTag returns the request to send: the caller's, or a copy that has a tag. The body is the caller's in both cases.
func withTag(req *http.Request, tag string) *http.Request {
	if tag == "" {
		return req
	}
	sent := req.WithContext(req.Context()) // a shallow copy
	sent.Header = req.Header.Clone()
	sent.Header.Set(Header, tag)
	return sent
}

// followed reports whether Base followed a redirect, against the rules: then it is not certain which origin the response is of.
func followed(req *http.Request, resp *http.Response) bool {
	return resp.Request != nil && resp.Request.Response != req.Response
}
