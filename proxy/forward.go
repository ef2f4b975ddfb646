package proxy

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptrace"
	"net/textproto"
	"net/url"
	"strings"
	"sync"
	"time"
)

// forward sends the request and returns the response with the connection that carries it, which the caller releases. What may
// be repeated, and where, is SEMANTICS 11.
func (x *exchange) forward() (*http.Response, *conn, error) {
	a := &attempts{x: x, early: early{x: x}}
	a.ctx = a.early.trace(x.ctx)
	start := time.Now()
	resp, err := a.run()
	x.watch.answered()
	if err != nil {
		return nil, nil, err
	}
	if x.body != nil {
		x.body.forget()
	}
	x.seen.Upstream = time.Since(start)
	return resp, a.conn, nil
}

// attempts is the course of one request over one or more connections.
type attempts struct {
	x       *exchange
	ctx     context.Context
	out     *http.Request
	backend *backend // that out was made for
	early   early
	conn    *conn
	pool    *pool
	again   bool // one unprocessed attempt was repeated
	another bool // one idempotent request was repeated
}

// run sends the request until there is an answer or nothing may be repeated.
func (a *attempts) run() (*http.Response, error) {
	fresh := false
	for {
		reused, err := a.connect(fresh)
		if err != nil {
			return nil, a.x.reason(err)
		}
		resp, before, err := a.send(reused)
		if err == nil {
			return resp, nil
		}
		a.pool.release(a.conn)
		if a.x.ctx.Err() != nil || !a.repeatable(err, reused, before) {
			return nil, a.x.failed(err)
		}
		fresh = true
	}
}

// maxEndpoints is how many endpoints one request tries to connect to: with more, a revision none of whose endpoints answers would
// hold each request for a connect timeout of every one.
const maxEndpoints = 3

// connect gets a connection to the picked endpoint. If none can be established it asks for another endpoint.
func (a *attempts) connect(fresh bool) (reused bool, err error) {
	x := a.x
	for tried := 1; ; tried++ {
		if err := a.address(); err != nil {
			return false, err
		}
		x.seen.Attempts++
		if x.upgradeTo() != "" && x.backend.upstream.protocol != ProtocolHTTP1 {
			// A shared HTTP/2 connection cannot switch protocols.
			a.conn, err = a.pool.dialOwn(x.ctx, true)
		} else {
			a.conn, reused, err = a.pool.acquire(x.ctx, fresh)
		}
		var connect *connectError
		if !errors.As(err, &connect) {
			return reused, err
		}
		if tried == maxEndpoints || x.pick.Another(x.ctx) != nil {
			return false, err
		}
		x.note()
		fresh = false
	}
}

// address directs the request to the picked endpoint. Another revision may be spoken to in another way: its request is made anew
// and has nothing of the one before.
func (a *attempts) address() error {
	x := a.x
	if a.backend != x.backend {
		out, err := x.outgoing(a.ctx)
		if err != nil {
			return err
		}
		a.out, a.backend = out, x.backend
	}
	host := x.host()
	a.out.Host, a.out.URL.Host = host, x.seen.Address
	a.pool = x.backend.upstream.pool(x.seen.Address, host)
	return nil
}

// host returns the Host that the picked endpoint is sent.
func (x *exchange) host() string {
	switch {
	case x.route.RewriteHost != "":
		return x.route.RewriteHost
	case x.route.PreserveHost:
		return x.r.Host
	}
	return x.seen.Address
}

// send makes one attempt. before is what had been written to the connection until then.
func (a *attempts) send(reused bool) (resp *http.Response, before int64, err error) {
	x := a.x
	if x.body != nil {
		a.out.Body = x.body.attempt(reused)
	}
	before = a.conn.net.written.Load()
	x.watch.forwarded()
	resp, err = a.conn.http.RoundTrip(a.out)
	a.early.close()
	if err == nil && resp.StatusCode < http.StatusOK && resp.StatusCode != http.StatusSwitchingProtocols {
		resp.Body.Close()
		err = &protocolError{errors.New("status below 200")}
	}
	return resp, before, err
}

// repeatable decides whether an attempt that failed with err is made once more at the same endpoint.
func (a *attempts) repeatable(err error, reused bool, before int64) bool {
	x := a.x
	if reused && !a.again && a.conn.unprocessed(err, before) {
		a.again = true
		return a.early.reopen() && (x.body == nil || x.body.rewind())
	}
	if x.route.RetryIdempotent && !a.another && broke(err) && idempotent(x.r.Method) && (x.body == nil || !x.body.begun()) {
		a.another = true
		return a.early.reopen()
	}
	return false
}

// idempotent reports whether a request of this method may be repeated if its route allows it (RFC 9110, 9.2.2).
func idempotent(method string) bool {
	switch method {
	case http.MethodGet, http.MethodHead, http.MethodOptions, http.MethodPut, http.MethodDelete:
		return true
	}
	return false
}

// failed turns the error of the last attempt into the exchange's.
func (x *exchange) failed(err error) error {
	if x.ctx.Err() != nil {
		return x.reason(err)
	}
	if x.body != nil {
		switch reading := x.body.failure(); {
		case errors.Is(reading, errBodyTooLarge):
			return reading
		case reading != nil && !errors.Is(reading, errBodyEnded):
			return &bodyError{reading}
		}
	}
	if err.Error() == headTooLargeText {
		return errHeaderSize
	}
	return &protocolError{err}
}

// outgoing makes the request for the endpoints of the picked revision, without an address.
func (x *exchange) outgoing(ctx context.Context) (*http.Request, error) {
	r := x.r
	target, err := x.target()
	if err != nil {
		return nil, err
	}
	h := outgoing(r.Header, x.trusted)
	setForwarded(h, r, x.peer, x.route.ForwardedHeader)
	if protocol := x.upgradeTo(); protocol != "" {
		if !printable(protocol) {
			return nil, errUpgrade
		}
		h["Connection"], h["Upgrade"] = []string{"Upgrade"}, []string{protocol}
	}
	for _, f := range x.backend.set {
		h[f.name] = f.values
	}
	h[headerHops] = hopValues[hops(r.Header)]
	cleanTrailer(r.Trailer, x.trusted, x.route.taken)
	x.pick.EditRequest(h)
	if x.gateway.observer != nil {
		x.gateway.observer.Forward(x.ctx, h)
	}
	out := (&http.Request{
		Method:        r.Method,
		URL:           target,
		Proto:         "HTTP/1.1",
		ProtoMajor:    1,
		ProtoMinor:    1,
		Header:        h,
		ContentLength: r.ContentLength,
		Trailer:       r.Trailer,
	}).WithContext(ctx)
	if x.body == nil {
		out.ContentLength = 0
	}
	return out, nil
}

// target returns the URL whose path and query are the bytes that the client sent.
func (x *exchange) target() (*url.URL, error) {
	u := *x.r.URL
	u.Scheme, u.User, u.Fragment, u.RawFragment = x.backend.upstream.scheme(), nil, "", ""
	if u.Path == "*" || u.EscapedPath() == x.message.path {
		return &u, nil
	}
	// Some bytes are not what Go would have encoded; encoding the decoded path anew could make other segments of it.
	if strings.HasPrefix(x.message.path, "//") {
		return nil, errBadTarget
	}
	u.Opaque = x.message.path
	return &u, nil
}

// upgradeTo returns the protocol to switch to, "" for none. With a body it would not be clear where the new protocol begins; there
// the endpoint sees an ordinary request.
func (x *exchange) upgradeTo() string {
	if x.body != nil {
		return ""
	}
	return upgradeProtocol(x.r)
}

// printable reports whether s consists of visible ASCII.
func printable(s string) bool {
	for i := range len(s) {
		if s[i] < ' ' || s[i] > '~' {
			return false
		}
	}
	return true
}

// early forwards 1xx responses while the final one is not there. They come on another goroutine.
type early struct {
	x      *exchange
	mu     sync.Mutex
	closed bool
	sent   bool
}

// trace returns a context by which a transport reports 1xx responses to e.
func (e *early) trace(ctx context.Context) context.Context {
	return httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{Got1xxResponse: e.got})
}

// got forwards one response. 100 goes only to a client that asked for it.
func (e *early) got(code int, header textproto.MIMEHeader) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.closed || !e.x.r.ProtoAtLeast(1, 1) || code == http.StatusContinue && !e.x.expects() {
		return nil
	}
	h := e.x.w.Header()
	copyHeader(h, http.Header(header))
	delete(h, "Connection") // belongs to the final response
	e.x.w.WriteHeader(code)
	clear(h)
	e.sent = e.sent || code != http.StatusContinue
	e.x.watch.moved()
	return nil
}

// close ends forwarding: from now on the response writer is the exchange's alone.
func (e *early) close() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.closed = true
}

// reopen lets 1xx responses through again for another attempt, unless the client already got one: then the answer has begun.
func (e *early) reopen() bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.closed = e.sent
	return !e.sent
}

// expects reports whether the client waits for 100 before it sends its body.
func (x *exchange) expects() bool {
	return x.r.ProtoMajor == 1 && hasToken(x.r.Header["Expect"], "100-continue")
}
