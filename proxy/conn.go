package proxy

import (
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"time"

	"github.com/limpet-project/limpet/socket"
)

// A conn is a connection to an endpoint.
type conn struct {
	http *http.ClientConn
	net  *countedConn
	sock socket.Socket // of the connection below TLS
	pool *pool
	h2   bool
	idle time.Time // since when no request used it; the pool's
}

// alive reports whether c can still carry requests, as far as is known.
func (c *conn) alive() bool { return c.http.Err() == nil }

// hungUp reports whether the endpoint has ended c, even if that was not read yet.
func (c *conn) hungUp() bool { return c.sock.HungUp() }

// end ends the request that resp answers, and gives c back.
func (c *conn) end(resp *http.Response) {
	resp.Body.Close()
	c.pool.release(c)
}

// closeWhenUnused closes a shared connection that gets no new requests, at once or when its last one ends.
func (c *conn) closeWhenUnused() {
	c.http.SetStateHook(closeUnused)
	closeUnused(c.http)
}

func closeUnused(c *http.ClientConn) {
	if c.InFlight() == 0 {
		c.Close()
	}
}

// A countedConn knows how much was written to it, so that the gateway knows whether a byte of a request left.
type countedConn struct {
	net.Conn
	written atomic.Int64
}

// Write counts what was taken by the connection below, which with TLS is the plain text.
func (c *countedConn) Write(b []byte) (int, error) {
	n, err := c.Conn.Write(b)
	c.written.Add(int64(n))
	return n, err
}

// CloseWrite says to the endpoint that nothing more will come.
func (c *countedConn) CloseWrite() error {
	if half, ok := c.Conn.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return nil
}

// unprocessed reports whether an attempt on c that ended with err certainly was not processed: no byte of it left, or the
// endpoint said so (RFC 9113, 8.7). before is what had been written to c before the attempt.
func (c *conn) unprocessed(err error, before int64) bool {
	if !c.h2 {
		return c.net.written.Load() == before
	}
	var stream streamError
	if errors.As(err, &stream) {
		return stream.Code == refusedStream
	}
	switch err.Error() {
	case goAwayText, unusableText, notEstablishedText:
		return true
	}
	return false
}

// broke reports whether an attempt ended because its connection did.
func broke(err error) bool {
	var op *net.OpError
	return errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, net.ErrClosed) || errors.As(err, &op) ||
		err.Error() == closedIdleText || strings.HasPrefix(err.Error(), goneAwayText)
}

// streamError has the form by which net/http lets callers see its own HTTP/2 stream errors (net/http/h2_error.go).
type streamError struct {
	StreamID uint32
	Code     uint32
	Cause    error
}

func (e streamError) Error() string { return "HTTP/2 stream error" }

// refusedStream is the error code REFUSED_STREAM (RFC 9113, 7).
const refusedStream = 0x7

// The texts of errors that net/http does not export: the stream lies above a GOAWAY's last one, or was never opened; the
// connection was closed while idle, or after a GOAWAY; the head of a request is larger than the endpoint said it takes.
const (
	closedIdleText     = "http: server closed idle connection"
	goneAwayText       = "http2: server sent GOAWAY and closed the connection"
	goAwayText         = "http2: Transport received Server's graceful shutdown GOAWAY"
	unusableText       = "http2: client conn not usable"
	notEstablishedText = "http2: client conn could not be established"
	headTooLargeText   = "http2: request header list larger than peer's advertised limit"
)
