package proxy

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/limpet-project/limpet/affinity"
	"github.com/limpet-project/limpet/endpoint"
	"github.com/limpet-project/limpet/router"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var demo = affinity.ServiceName{Namespace: "default", Name: "demo"}

// place is one endpoint that a fakePicker knows.
type place struct{ revision, endpoint, address string }

// at returns a place on demo-00001.
func at(address string) place { return place{"demo-00001", "demo-00001-pod-1", address} }

// fakePicker picks its places in order and keeps what it was told.
type fakePicker struct {
	places []place
	err    error // what Pick returns, if anything
	ask    func(ctx context.Context, req *router.Request) error
	edit   func(request, response router.Header) // one of them is nil

	mu    sync.Mutex
	done  []endpoint.Outcome
	moved int // calls of Another that found another place
}

func (p *fakePicker) Pick(ctx context.Context, req *router.Request) (Pick, error) {
	if p.ask != nil {
		if err := p.ask(ctx, req); err != nil {
			return nil, err
		}
	}
	if p.err != nil {
		return nil, p.err
	}
	return &fakePick{picker: p, place: p.places[0]}, nil
}

func (p *fakePicker) outcomes() []endpoint.Outcome {
	p.mu.Lock()
	defer p.mu.Unlock()
	return append([]endpoint.Outcome(nil), p.done...)
}

type fakePick struct {
	picker *fakePicker
	place  place
	next   int
	over   bool
}

func (p *fakePick) Address() string { return p.place.address }
func (p *fakePick) Target() affinity.Target {
	return affinity.Target{Revision: p.place.revision, Endpoint: p.place.endpoint}
}
func (p *fakePick) Reason() affinity.Reason { return affinity.ReasonBound }
func (p *fakePick) Key() affinity.Key {
	return affinity.Key{Scope: affinity.Scope{Service: demo, Kind: affinity.KindSession}, Digest: [16]byte{0xde, 0xad, 1, 2, 3, 4, 5, 6, 7}}
}

func (p *fakePick) EditRequest(h router.Header) {
	if p.picker.edit != nil {
		p.picker.edit(h, nil)
	}
}

func (p *fakePick) EditResponse(h router.Header) {
	if p.picker.edit != nil {
		p.picker.edit(nil, h)
	}
}

func (p *fakePick) Another(context.Context) error {
	p.next++
	if p.next >= len(p.picker.places) {
		return affinity.ErrNoEndpoint
	}
	p.place = p.picker.places[p.next]
	p.picker.mu.Lock()
	p.picker.moved++
	p.picker.mu.Unlock()
	return nil
}

func (p *fakePick) Done(o endpoint.Outcome) {
	p.picker.mu.Lock()
	defer p.picker.mu.Unlock()
	if p.over {
		panic("Done called twice")
	}
	p.over = true
	p.picker.done = append(p.picker.done, o)
}

// ledger keeps what an observer is told.
type ledger struct {
	ended chan Observed
}

// patience bounds waits for what has to happen; only code that is wrong uses it up.
const patience = 30 * time.Second

func newLedger() *ledger { return &ledger{ended: make(chan Observed, 4096)} }

func (l *ledger) Start(ctx context.Context, _ *http.Request) context.Context { return ctx }
func (l *ledger) Forward(_ context.Context, h http.Header)                   { h.Set("Traceparent", "00-demo-01") }
func (l *ledger) End(_ context.Context, o *Observed)                         { l.ended <- *o }

// next waits for the end of one request.
func (l *ledger) next(t *testing.T) Observed {
	t.Helper()
	select {
	case o := <-l.ended:
		return o
	case <-time.After(patience):
		t.Fatalf("no request ended within %v", patience)
		return Observed{}
	}
}

// setup is a gateway on a real listener.
type setup struct {
	gateway  *Gateway
	listener *Listener
	picker   *fakePicker
	ledger   *ledger
	address  string
	client   *http.Client // HTTP/1.1
	served   chan error
}

// option changes what serve starts.
type option func(*Listener, *Config)

func withRoute(edit func(*Route)) option {
	return func(_ *Listener, c *Config) { edit(&c.Routes[0]) }
}

func withLimits(limits Limits) option {
	return func(l *Listener, _ *Config) { l.Limits = limits }
}

func withConfig(edit func(*Config)) option { return func(_ *Listener, c *Config) { edit(c) } }

// serve starts a gateway with one route for any host, in front of the picker's places.
func serve(t testing.TB, p *fakePicker, options ...option) *setup {
	t.Helper()
	s := &setup{picker: p, ledger: newLedger(), served: make(chan error, 1)}
	s.gateway = New(p, s.ledger)
	s.listener = &Listener{Handler: s.gateway}
	config := Config{Routes: []Route{{Hosts: []string{"*"}, Service: demo, PreserveHost: true}}}
	for _, o := range options {
		o(s.listener, &config)
	}
	for i := range config.Routes { // unless the test is about it, no machine is too slow to connect
		r := &config.Routes[i]
		r.Upstream.ConnectTimeout = cmp.Or(r.Upstream.ConnectTimeout, patience)
		for revision, b := range r.Backends {
			b.Upstream.ConnectTimeout = cmp.Or(b.Upstream.ConnectTimeout, patience)
			r.Backends[revision] = b
		}
	}
	if err := s.gateway.Swap(config); err != nil {
		t.Fatal(err)
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s.address = ln.Addr().String()
	transport := &http.Transport{DisableCompression: true}
	s.client = &http.Client{Transport: transport, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	ctx, cancel := context.WithCancel(context.Background())
	go func() { s.served <- s.listener.Serve(ctx, ln, nil) }()
	t.Cleanup(func() {
		transport.CloseIdleConnections()
		cancel()
		if err := <-s.served; err != nil {
			t.Errorf("Serve() = %v, want nil", err)
		}
		s.gateway.Close()
	})
	return s
}

// upstreamServer starts an endpoint that serves h over HTTP/1.1 and h2c, and returns its address.
func upstreamServer(t testing.TB, h http.HandlerFunc) string {
	t.Helper()
	server := httptest.NewUnstartedServer(h)
	server.Config.Protocols = new(http.Protocols)
	server.Config.Protocols.SetHTTP1(true)
	server.Config.Protocols.SetUnencryptedHTTP2(true)
	server.Start()
	t.Cleanup(server.Close)
	return server.Listener.Addr().String()
}

// get sends one request and returns the whole answer.
func (s *setup) get(t testing.TB, path string, edit ...func(*http.Request)) *http.Response {
	t.Helper()
	req, err := http.NewRequest(http.MethodGet, "http://"+s.address+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range edit {
		e(req)
	}
	return s.do(t, req)
}

// do sends req; the answer's body is read and replaced.
func (s *setup) do(t testing.TB, req *http.Request) *http.Response {
	t.Helper()
	resp, err := s.client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	resp.Body = io.NopCloser(strings.NewReader(string(text)))
	return resp
}

func text(t testing.TB, resp *http.Response) string {
	t.Helper()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// rawEndpoint accepts connections one by one and gives each, with its number from 1, to serve.
func rawEndpoint(t testing.TB, serve func(n int, c net.Conn)) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		for n := 1; ; n++ {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			wg.Go(func() {
				defer c.Close()
				serve(n, c)
			})
		}
	})
	t.Cleanup(func() { ln.Close(); wg.Wait() })
	return ln.Addr().String()
}

// closedPort returns an address at which nobody listens, nor can as long as the test runs: a client's.
func closedPort(t testing.TB) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() }) // and no sooner: that resets the client's, which would give up its port
	c, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c.LocalAddr().String()
}

// eventually waits until ok.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !ok(); {
		if time.Now().After(end) {
			t.Fatalf("not within %v: %s", patience, what)
		}
		<-time.After(time.Millisecond)
	}
}

// wantOwn checks that an answer is the gateway's own.
func wantOwn(t testing.TB, resp *http.Response, status int, cause string) {
	t.Helper()
	got := fmt.Sprint(resp.StatusCode, " ", resp.Header.Get("Server"), " ", resp.Header.Get("Limpet-Reason"))
	if want := fmt.Sprint(status, " limpet ", cause); got != want {
		t.Errorf("answer = %s, want %s", got, want)
	}
}

var errUnlucky = errors.New("unlucky")

var loopback = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}
