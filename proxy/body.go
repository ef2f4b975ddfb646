package proxy

import (
	"errors"
	"io"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// replayBytes is how much of a body is kept while the request may have to be sent again. It covers what a transport reads
	// before its first write.
	replayBytes = 64 << 10
	// A client has lingerTime to send up to discardBytes of a body that nobody wants, and keeps its connection then.
	lingerTime   = time.Second
	discardBytes = 64 << 10
	// abandonDelay is how long a read may go on for an attempt that has failed.
	abandonDelay = 20 * time.Millisecond
)

var (
	errBodyTooLarge = errors.New("request body is larger than the route allows")
	errBodyEnded    = errors.New("request body is no longer read")
)

// A clientBody is the body that a client sends. Attempts read it one after the other; what the first one read is kept for the
// second as long as that is little. No read of the connection happens after finish.
type clientBody struct {
	x     *exchange
	inner io.ReadCloser
	limit int64 // 0 is none

	mu          sync.Mutex
	idle        sync.Cond // reading became false
	reading     bool
	ended       bool
	interrupted bool
	err         error // the first, io.EOF included
	n           int64
	kept        []byte // nil unless keeping
	keeping     bool
	replay      []byte // what the next reads return first
}

func newClientBody(x *exchange, inner io.ReadCloser, limit int64) *clientBody {
	b := &clientBody{x: x, inner: inner, limit: limit}
	b.idle.L = &b.mu
	return b
}

// attempt returns the body for one attempt. keep asks that a second attempt be possible.
func (b *clientBody) attempt(keep bool) *attemptBody {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.keeping = keep && (b.n == 0 || b.kept != nil)
	return &attemptBody{body: b}
}

// rewind prepares for another attempt and reports whether that can be sent the whole body.
func (b *clientBody) rewind() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.n > 0 && !b.keeping || b.reading || b.err != nil && b.err != io.EOF {
		return false
	}
	b.replay = b.kept
	return true
}

// begun reports whether anything of the body was asked for.
func (b *clientBody) begun() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.n > 0 || b.reading || b.err != nil
}

// forget ends the keeping: the request will not be sent again.
func (b *clientBody) forget() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.keeping, b.kept = false, nil
}

// failure returns why the body could not be read to its end, nil if it could so far.
func (b *clientBody) failure() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.err == io.EOF {
		return nil
	}
	return b.err
}

func (b *clientBody) received() int64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.n
}

// read is for one goroutine at a time.
func (b *clientBody) read(p []byte) (int, error) {
	b.mu.Lock()
	switch {
	case b.ended:
		b.mu.Unlock()
		return 0, errBodyEnded
	case len(b.replay) > 0:
		n := copy(p, b.replay)
		b.replay = b.replay[n:]
		b.mu.Unlock()
		return n, nil
	case b.err != nil:
		defer b.mu.Unlock()
		return 0, b.err
	}
	b.reading = true
	b.mu.Unlock()
	b.x.watch.readBegins()
	n, err := b.inner.Read(p)
	b.x.watch.readEnds(n)
	return b.took(p[:n], err)
}

// took records what a read of the connection gave.
func (b *clientBody) took(p []byte, err error) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.reading = false
	b.idle.Broadcast()
	b.n += int64(len(p))
	if b.limit > 0 && b.n > b.limit {
		b.err = errBodyTooLarge
		return 0, b.err
	}
	if errors.Is(err, os.ErrDeadlineExceeded) {
		err = errBodyEnded
	}
	if b.err = err; err == io.EOF {
		cleanTrailer(b.x.r.Trailer, b.x.trusted, b.x.route.taken) // it has come with the last byte
	}
	if b.keeping {
		if b.keeping = len(b.kept)+len(p) <= replayBytes; b.keeping {
			b.kept = append(b.kept, p...)
		} else {
			b.kept = nil
		}
	}
	return len(p), err
}

// abandon makes a read that is under way return before long. A read that is just about to end by itself is left to: the server
// watches the connection after the last byte of a body, and would take the interruption for the client's end.
func (b *clientBody) abandon() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.reading && !b.ended {
		time.AfterFunc(abandonDelay, b.interrupt)
	}
}

func (b *clientBody) interrupt() {
	b.mu.Lock()
	interrupt := b.reading && !b.ended
	b.interrupted = b.interrupted || interrupt
	b.mu.Unlock()
	if interrupt {
		b.x.watch.interruptRead()
	}
}

// wasInterrupted reports whether the end of the request's context may be our own doing.
func (b *clientBody) wasInterrupted() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.interrupted
}

// finish ends all reading. It returns when no read is under way. What the client has still to send must neither be taken for its
// next request nor be waited for without bound: a short rest is read here, else the connection ends.
func (b *clientBody) finish() {
	b.mu.Lock()
	b.ended = true
	if b.reading {
		b.mu.Unlock()
		// A server whose connections take no deadline keeps this waiting until the client sends or goes.
		_ = b.x.control.SetReadDeadline(longAgo)
		b.mu.Lock()
	}
	for b.reading {
		b.idle.Wait()
	}
	whole := b.err == io.EOF
	b.mu.Unlock()
	if c := connOf(b.x.r); c != nil && !whole && b.x.r.ProtoMajor == 1 {
		b.discard(c)
	}
}

// discard reads a short rest of the body, after the answer has left. If there is more, or it is slow, or the exchange was
// broken off, the connection ends: no further byte of it is read.
func (b *clientBody) discard(c *clientConn) {
	if !b.x.aborted && b.failure() == nil && !(b.x.expects() && b.received() == 0) && b.x.flush() == nil {
		_ = b.x.control.SetReadDeadline(time.Now().Add(lingerTime))
		_, err := io.CopyN(io.Discard, b.inner, discardBytes)
		_ = b.x.control.SetReadDeadline(time.Time{})
		if err == io.EOF {
			return
		}
	}
	c.spent.Store(true)
	// What the server has buffered ends here and not after the handler, where it starts to wait for the next request.
	_, _ = io.Copy(io.Discard, b.inner)
}

// longAgo as a deadline ends what is under way.
var longAgo = time.Unix(1, 0)

// An attemptBody is the body as one attempt reads it. A transport that reads on after the attempt's end gets an error and takes
// nothing from the next one.
type attemptBody struct {
	body   *clientBody
	closed atomic.Bool
}

// Read returns what the client sends.
func (a *attemptBody) Read(p []byte) (int, error) {
	if a.closed.Load() {
		return 0, errBodyEnded
	}
	return a.body.read(p)
}

// Close ends the attempt's reading. HTTP/2 transports call it while a read waits for the client.
func (a *attemptBody) Close() error {
	if !a.closed.Swap(true) {
		a.body.abandon()
	}
	return nil
}
