package proxy

import (
	"context"
	"encoding/hex"
	"errors"
	"net/http"
	"net/netip"
	"time"

	"github.com/limpet-project/limpet/affinity"
	"github.com/limpet-project/limpet/endpoint"
	"github.com/limpet-project/limpet/router"
)

// An exchange is one request on its way through the gateway. It lives as long as ServeHTTP.
type exchange struct {
	gateway *Gateway
	config  *compiled
	route   *compiledRoute
	backend *backend // of what is picked; before that the route's
	limits  *Limits
	w       http.ResponseWriter
	r       *http.Request
	control *http.ResponseController
	ctx     context.Context
	cancel  context.CancelCauseFunc
	watch   watch
	peer    netip.Addr
	trusted bool
	message *message
	pick    Pick // nil before there is one
	body    *clientBody
	outcome endpoint.Outcome
	began   bool // the client was sent a response header
	aborted bool // the client's connection or stream ends without a whole answer
	seen    Observed
}

func newExchange(g *Gateway, w http.ResponseWriter, r *http.Request) *exchange {
	x := &exchange{gateway: g, config: g.config.Load(), w: w, r: r, limits: limitsOf(r), peer: peerOf(r), outcome: endpoint.OutcomeUnknown}
	x.control = http.NewResponseController(w)
	x.trusted = within(x.peer, x.config.trusted)
	x.seen = Observed{Method: r.Method, Protocol: r.Proto, Peer: x.peer, Begin: time.Now()}
	ctx := r.Context()
	if g.observer != nil {
		ctx = g.observer.Start(ctx, r)
	}
	x.ctx, x.cancel = context.WithCancelCause(ctx)
	x.watch.begin, x.watch.cancel, x.watch.control = x.seen.Begin, x.cancel, x.control
	if r.Body != nil && r.Body != http.NoBody && r.ContentLength != 0 {
		x.body = newClientBody(x, r.Body, 0)
		if r.ProtoMajor == 1 && connOf(r) != nil {
			// Without it the server reads up to 256 KiB of the body before the first byte of an answer. With it clientBody
			// has to deal with what is left of a body, which it can on our own connections.
			_ = x.control.EnableFullDuplex()
		}
	}
	x.message = newMessage(r, x.peer)
	return x
}

// serve takes the request through its stages. An error is what the client has to be told.
func (x *exchange) serve() error {
	if err := x.admit(); err != nil {
		return err
	}
	x.watch.stream.Store(x.isStream())
	x.watch.start()
	err := x.choose()
	if errors.Is(err, router.ErrUnknownService) && x.renewed() {
		if err = x.admit(); err == nil {
			err = x.choose()
		}
	}
	if err != nil {
		return err
	}
	resp, c, err := x.forward()
	if err != nil {
		return err
	}
	if resp.StatusCode == http.StatusSwitchingProtocols {
		return x.upgrade(resp, c)
	}
	return x.respond(resp, c)
}

// admit refuses what is not served at all, and finds the route.
func (x *exchange) admit() error {
	if headerSize(x.r) > x.limits.MaxHeaderBytes {
		return errHeaderSize
	}
	if x.r.Method == http.MethodConnect {
		return errConnectMethod
	}
	x.route = x.config.match(x.r.Host, x.message.path, x.message)
	if x.route == nil {
		return errNoRoute
	}
	if hops(x.r.Header) >= maxHops {
		return errLoop
	}
	return x.enter()
}

// enter takes over what the route says of the request before it is picked.
func (x *exchange) enter() error {
	x.seen.Service, x.seen.Route, x.seen.Tag = x.route.Service, x.route.Path, x.route.Tag
	x.follow(x.route.general)
	if x.route.RedirectHTTPS && !secure(x.r, x.trusted) {
		return x.redirect()
	}
	limit := x.route.MaxBodyBytes
	if limit > 0 && x.r.ContentLength > limit {
		return errBodyTooLarge
	}
	if x.body != nil {
		x.body.limit = limit
	}
	return nil
}

// renewed reports whether the configuration was replaced since the request was matched: the service that its route names may be gone
// with the old one.
func (x *exchange) renewed() bool {
	next := x.gateway.config.Load()
	if next == x.config {
		return false
	}
	x.config = next
	return true
}

// follow lets the exchange go on by b, whose limits hold from then on.
func (x *exchange) follow(b *backend) {
	if x.backend != b {
		x.backend = b
		x.watch.bound(x.waits())
	}
}

// waits returns the limits of this exchange. A request stream over HTTP/2, such as gRPC's, may rest: only idle bounds it.
func (x *exchange) waits() waits {
	up, l := x.backend.upstream, x.limits
	w := waits{response: up.response, request: up.request, idle: up.idle, readStall: l.ReadStall, writeStall: l.WriteStall}
	if x.r.ProtoMajor >= 2 && x.r.ContentLength < 0 || x.body == nil {
		w.readStall = 0
	}
	return w
}

// choose asks for a pick. A tag that only a header names is a wish: if no revision carries it, the request is default traffic.
func (x *exchange) choose() error {
	ask := &x.message.ask
	ask.Service, ask.Tag, ask.Policy = x.route.Service, x.route.Tag, x.route.Policy
	ask.Message, ask.Secure = x.message, secure(x.r, x.trusted)
	if ask.Tag == "" && x.route.TagHeader != "" {
		ask.Tag = x.r.Header.Get(x.route.TagHeader)
	}
	pick, err := x.gateway.picker.Pick(x.ctx, ask)
	if x.route.Tag == "" && ask.Tag != "" && errors.Is(err, affinity.ErrUnknownTag) {
		ask.Tag = ""
		pick, err = x.gateway.picker.Pick(x.ctx, ask)
	}
	if err != nil {
		return x.reason(err)
	}
	x.pick = pick
	x.note()
	return nil
}

// note takes over what was picked, also for the observer.
func (x *exchange) note() {
	key := x.pick.Key()
	x.seen.Picked, x.seen.Target, x.seen.Address, x.seen.Reason = true, x.pick.Target(), x.pick.Address(), x.pick.Reason()
	copy(x.seen.Key[:], key.Digest[:])
	x.follow(x.route.backend(x.seen.Target.Revision))
}

// reason returns why the exchange was ended, if it was, and otherwise err.
func (x *exchange) reason(err error) error {
	cause := context.Cause(x.ctx)
	switch {
	case cause == nil, x.body != nil && x.body.wasInterrupted() && errors.Is(cause, context.Canceled):
		return err
	case errors.Is(cause, context.Canceled):
		return errClientGone
	}
	return cause
}

// fail ends the exchange with an error. Once a response has begun nothing can be said any longer but that it is broken off.
func (x *exchange) fail(err error) {
	a := answerTo(err)
	if x.seen.Cause = a.cause; a.status >= http.StatusBadRequest {
		x.seen.Err = err
	}
	if x.outcome = a.outcome; x.watch.client.Load() {
		x.outcome = endpoint.OutcomeUnknown // the endpoint had nothing to answer yet
	}
	if x.began || a.status == StatusClientGone {
		if x.seen.Status == 0 {
			x.seen.Status = a.status
		}
		x.aborted = true
		panic(http.ErrAbortHandler)
	}
	x.began = true
	x.seen.Status = a.status
	x.decide(x.w.Header())
	farewell(x.w.Header(), x.r)
	a.write(x.w)
}

// decide says why the request went where it went, to those who may ask.
func (x *exchange) decide(h http.Header) {
	if !x.seen.Picked || len(x.r.Header[headerDebug]) == 0 || !within(x.peer, x.config.debuggers) {
		return
	}
	key := "none"
	if x.seen.Key != [8]byte{} {
		key = hex.EncodeToString(x.seen.Key[:])
	}
	h.Set(headerDecision, "reason="+x.seen.Reason.String()+"; revision="+x.seen.Target.Revision+
		"; endpoint="+x.seen.Target.Endpoint+"; key="+key)
}

// end gives back what the exchange held, whatever became of it.
func (x *exchange) end() {
	x.cancel(nil)
	x.watch.end()
	if x.body != nil && !x.seen.Upgraded {
		x.body.finish()
		x.seen.BytesIn = x.body.received()
	}
	if x.pick != nil {
		x.pick.Done(x.outcome)
	}
	x.message.release()
	x.seen.Duration = time.Since(x.seen.Begin)
	if x.gateway.observer != nil {
		x.gateway.observer.End(x.ctx, &x.seen)
	}
}
