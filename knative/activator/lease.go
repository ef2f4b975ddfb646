package activator

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"knative.dev/networking/pkg/certificates"

	"github.com/limpet-project/limpet/endpoint"
)

// An activator asks another one at this path, with a sealed claim in this header, which in the answer says what it gets.
const (
	placePath   = "/limpet/place"
	headerPlace = prefix + "Place"
)

// What an activator asks.
const (
	askPlace = "place" // for a place at the pod, until it ends the request
	askTake  = "take"  // to count for the pod from now on
)

// What it is told, beside the number of requests that the other one has at the pod.
const (
	placeGranted   = "granted " // and the term of who counts
	placeBusy      = "busy"
	placeRefused   = "refused"    // the other one counts and goes on to
	placeElsewhere = "elsewhere " // and the name of who counts
)

// Bounds of what is asked between activators.
const (
	awayTime = time.Second // how long one that could not be reached is passed over
	maxAsked = 8           // how often one request asks for a place at one pod
	// releaseTimeout is how long it is waited for that a place was given back. A client that has its answer may send its next request by
	// another activator, and that is not to find the place taken.
	releaseTimeout = 100 * time.Millisecond
)

// Bounds are how long an activator waits for another one before it takes it for one that is away.
type bounds struct {
	answer time.Duration // of one who has nothing to wait for
	dial   time.Duration // a connection
	ping   time.Duration // of silence, and then for the answer to a ping
}

// usualBounds are those of activators outside tests.
var usualBounds = bounds{answer: time.Second, dial: time.Second, ping: 2 * time.Second}

// seat takes a place at a pod where its requests are counted, waiting for it up to wait. The error is endpoint.ErrBusy or that of ctx. If
// nobody can be asked, the request goes on without: the pod has a queue of its own. Where activators do not agree who counts, because
// not all have heard that one has ended, it asks again.
func (p *Peers) seat(ctx context.Context, pod string, limit int, wait time.Duration) (*seat, error) {
	if p == nil || limit == 0 {
		return nil, nil
	}
	a := p.ledger.open(pod)
	defer p.ledger.close(a)
	until := time.Now().Add(wait)
	for {
		s, err := p.find(ctx, a, claim{Ask: askPlace, From: p.o.PodName, Pod: pod, Limit: limit}, until)
		if !errors.Is(err, errMoved) {
			return s, err
		}
		if time.Until(until) < patience {
			return nil, endpoint.ErrBusy
		}
		if pause(ctx, nil); ctx.Err() != nil {
			return nil, ctx.Err()
		}
	}
}

// find asks one activator after the other until one says what became of the place. The error is errMoved if too many say that it is
// another one who counts.
func (p *Peers) find(ctx context.Context, a *account, c claim, until time.Time) (*seat, error) {
	missed, heard := p.away.now(), false
	at, other := p.owner(c.Pod, missed)
	for range maxAsked {
		var s *seat
		var by *peer
		var err error
		c.Wait = max(time.Until(until), 0)
		if other {
			s, by, err = p.lease(ctx, a, at, c)
		} else {
			s, by, err = p.count(ctx, a, c, false)
		}
		switch {
		case by != nil:
			heard = true
			at, other = *by, by.name != p.o.PodName
		case errors.Is(err, errAway):
			missed = append(missed, at.name)
			at, other = p.owner(c.Pod, missed)
		case errors.Is(err, errMoved):
			heard = true
			at, other = p.owner(c.Pod, missed)
		default:
			return s, err
		}
	}
	if heard {
		return nil, errMoved
	}
	return nil, nil
}

// count takes a place where this activator counts, or says who does.
func (p *Peers) count(ctx context.Context, a *account, c claim, lent bool) (*seat, *peer, error) {
	for range maxAsked {
		s, err := p.ledger.enter(ctx, a, c.Limit, c.Wait, lent)
		if !errors.Is(err, errMoved) {
			return s, nil, err
		}
		if by, err := p.takeOver(ctx, a, c.Pod); err != nil || by != nil {
			return nil, by, err
		}
	}
	return nil, nil, errMoved
}

// lease asks another activator for a place, and keeps the question open until it is given back.
func (p *Peers) lease(ctx context.Context, a *account, at peer, c claim) (*seat, *peer, error) {
	term := p.ledger.now(a)
	asked, cancel := context.WithCancel(ctx)
	open, hold := io.Pipe()
	resp, err := p.send(asked, at, c, open)
	if err != nil {
		cancel()
		hold.Close()
		if ctx.Err() != nil {
			return nil, nil, ctx.Err()
		}
		p.away.add(at.name)
		return nil, nil, errAway
	}
	end := func() {
		hold.Close()
		timer := time.AfterFunc(releaseTimeout, cancel)
		_, _ = io.Copy(io.Discard, resp.Body) // until the other one has heard of it
		timer.Stop()
		cancel()
		resp.Body.Close()
	}
	said := resp.Header.Get(headerPlace)
	in, granted := strings.CutPrefix(said, placeGranted)
	if n, err := strconv.ParseUint(in, 10, 64); granted && err == nil {
		if s, stands := p.ledger.adopt(a, term, heir{at.name, n}, end); stands {
			return s, nil, nil
		}
	}
	end()
	name, elsewhere := strings.CutPrefix(said, placeElsewhere)
	switch {
	case granted:
		return nil, nil, errMoved
	case said == placeBusy:
		return nil, nil, endpoint.ErrBusy
	case elsewhere:
		if by, known := p.named(name); known {
			return nil, &by, nil
		}
	}
	return nil, nil, errAway
}

// send asks an activator. The question ends with the body; nil is none.
func (p *Peers) send(ctx context.Context, to peer, c claim, body io.Reader) (*http.Response, error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, to.url+placePath, body)
	if err != nil {
		return nil, err
	}
	c.To = to.name
	r.Header.Set(headerPlace, p.seal.seal(c, time.Now()))
	return p.transport.RoundTrip(r)
}

// newTransport returns what activators ask each other by: one connection for many questions.
func (p *Peers) newTransport() *http.Transport {
	t := &http.Transport{
		Protocols: new(http.Protocols), DisableCompression: true, IdleConnTimeout: time.Minute,
		DialContext: (&net.Dialer{Timeout: p.bounds.dial, KeepAlive: 5 * time.Second}).DialContext,
		HTTP2:       &http.HTTP2Config{SendPingTimeout: p.bounds.ping, PingTimeout: p.bounds.ping},
	}
	if p.o.Roots == nil {
		t.Protocols.SetUnencryptedHTTP2(true)
		return t
	}
	t.Protocols.SetHTTP2(true)
	t.DialTLSContext = p.dialTLS
	return t
}

// dialTLS connects to an activator, which shows Serving's certificate for those.
func (p *Peers) dialTLS(ctx context.Context, network, address string) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, p.bounds.dial)
	defer cancel()
	d := &tls.Dialer{NetDialer: &net.Dialer{KeepAlive: 5 * time.Second}, Config: &tls.Config{
		MinVersion: tls.VersionTLS13, RootCAs: p.o.Roots(), ServerName: certificates.DataPlaneRoutingSAN, NextProtos: []string{"h2"},
	}}
	return d.DialContext(ctx, network, address)
}

// Handler returns a handler that answers what other activators ask, and leaves the rest to next. It comes before all that counts
// requests, for these are none of a client.
func (p *Peers) Handler(next http.Handler) http.Handler {
	if p == nil {
		return next
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		sealed := r.Header.Get(headerPlace)
		if sealed == "" || r.URL.Path != placePath {
			next.ServeHTTP(w, r)
			return
		}
		c, err := p.seal.open(sealed, time.Now())
		switch {
		case err == nil && c.To != p.o.PodName:
			say(w, http.StatusMisdirectedRequest, "")
		case err == nil && c.Ask == askPlace:
			p.lend(w, r, c)
		case err == nil && c.Ask == askTake:
			p.give(w, r, c)
		default:
			next.ServeHTTP(w, r) // a client of the pod's, whose path it may be
		}
	})
}

// lend serves an activator that asks for a place, as long as it keeps it.
func (p *Peers) lend(w http.ResponseWriter, r *http.Request, c claim) {
	if len(*p.known.Load()) == 0 { // it has just begun: it does not know yet whom to ask before it counts
		say(w, http.StatusServiceUnavailable, "")
		return
	}
	a := p.ledger.open(c.Pod)
	defer p.ledger.close(a)
	s, by, err := p.count(r.Context(), a, c, true)
	switch {
	case by != nil:
		say(w, http.StatusConflict, placeElsewhere+by.name)
	case errors.Is(err, endpoint.ErrBusy):
		say(w, http.StatusServiceUnavailable, placeBusy)
	case err != nil:
		say(w, http.StatusServiceUnavailable, "")
	default:
		defer s.leave()
		say(w, http.StatusOK, placeGranted+strconv.FormatUint(s.term, 10))
		if flush(w) == nil {
			_, _ = io.Copy(io.Discard, io.LimitReader(r.Body, 1)) // until the other one ends the question, or breaks off
		}
	}
}

// say begins an answer.
func say(w http.ResponseWriter, status int, what string) {
	h := w.Header()
	h.Set("Server", "limpet")
	h.Set("Cache-Control", "no-store")
	h.Set(headerPlace, what)
	w.WriteHeader(status)
}

func flush(w io.Writer) error {
	rw, _ := w.(http.ResponseWriter)
	return http.NewResponseController(rw).Flush()
}

// named returns the activator of that name, if it is listed.
func (p *Peers) named(name string) (peer, bool) {
	known := *p.known.Load()
	i := slices.IndexFunc(known, func(one peer) bool { return one.name == name })
	if i < 0 {
		return peer{}, false
	}
	return known[i], true
}
