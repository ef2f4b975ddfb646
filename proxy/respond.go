package proxy

import (
	"errors"
	"io"
	"net/http"
	"strings"
	"sync"

	"github.com/limpet-project/limpet/endpoint"
)

// buffers are what bodies are copied through.
var buffers = sync.Pool{New: func() any { return new([32 << 10]byte) }}

// respond passes the endpoint's response to the client.
func (x *exchange) respond(resp *http.Response, c *conn) error {
	defer c.end(resp)
	h := x.w.Header()
	copyHeader(h, resp.Header)
	announced := len(resp.Trailer)
	for name := range resp.Trailer {
		h.Add("Trailer", name)
	}
	if announced > 0 {
		// In HTTP/1.1 only a chunked body can have a trailer.
		h.Del("Content-Length")
	}
	x.pick.EditResponse(h)
	x.decide(h)
	farewell(h, x.r)
	stream := x.streams(resp)
	x.began = true
	x.seen.Status = resp.StatusCode
	x.w.WriteHeader(resp.StatusCode)
	// A response that ended with its header, such as gRPC's trailers-only, has to end with it for the client too.
	if stream && resp.ContentLength != 0 {
		if err := x.flush(); err != nil {
			return err
		}
	}
	if err := x.copyBody(resp.Body, stream); err != nil {
		return err
	}
	x.outcome = outcomeOf(resp.StatusCode)
	x.trailers(resp, announced)
	return nil
}

// outcomeOf judges the endpoint by its status.
func outcomeOf(status int) endpoint.Outcome {
	switch status {
	case http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		return endpoint.OutcomeFailed
	}
	return endpoint.OutcomeOK
}

// isStream reports whether the request asks for a stream: its end is for the two sides to choose.
func (x *exchange) isStream() bool {
	return isGRPC(x.r.Header) || strings.HasPrefix(x.r.Header.Get("Accept"), "text/event-stream")
}

// streams reports whether what the endpoint sends must reach the client at once: events, gRPC, and bodies of unknown length.
func (x *exchange) streams(resp *http.Response) bool {
	events := strings.HasPrefix(resp.Header.Get("Content-Type"), "text/event-stream")
	if events || isGRPC(resp.Header) {
		x.watch.stream.Store(true)
		return true
	}
	return resp.ContentLength < 0
}

func isGRPC(h http.Header) bool { return strings.HasPrefix(h.Get("Content-Type"), "application/grpc") }

// copyBody copies until the endpoint's end of the body. With stream every piece is flushed.
func (x *exchange) copyBody(from io.Reader, stream bool) error {
	if from == http.NoBody {
		return nil
	}
	buf := buffers.Get().(*[32 << 10]byte)
	defer buffers.Put(buf)
	for {
		n, err := from.Read(buf[:])
		if n > 0 {
			x.watch.moved()
			if err := x.pass(buf[:n], stream); err != nil {
				return err
			}
		}
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return x.reason(&protocolError{err})
		}
	}
}

// pass writes a piece of the body to the client.
func (x *exchange) pass(p []byte, stream bool) error {
	x.watch.writeBegins()
	n, err := x.w.Write(p)
	x.watch.writeEnds()
	x.seen.BytesOut += int64(n)
	switch {
	case errors.Is(err, http.ErrBodyNotAllowed):
		return &protocolError{err}
	case err != nil:
		return errClientGone
	case stream:
		return x.flush()
	}
	return nil
}

// flush sends what was written so far.
func (x *exchange) flush() error {
	x.watch.writeBegins()
	err := x.control.Flush()
	x.watch.writeEnds()
	if err != nil && !errors.Is(err, http.ErrNotSupported) {
		return errClientGone
	}
	return nil
}

// trailers passes on what came after the body. Those that were not announced need the prefix by which net/http knows them.
func (x *exchange) trailers(resp *http.Response, announced int) {
	if len(resp.Trailer) == 0 {
		return
	}
	// The body of HTTP/1.1 has to be chunked for a trailer to follow, also if it is short. If the client is gone its trailer
	// is of no use either.
	_ = x.flush()
	prefix := ""
	if len(resp.Trailer) != announced {
		prefix = http.TrailerPrefix
	}
	h := x.w.Header()
	for name, values := range resp.Trailer {
		h[prefix+name] = values
	}
}
