package router

import (
	"context"
	"net/http"
	"net/netip"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/limpet-project/limpet/affinity"
	"github.com/limpet-project/limpet/binding"
	"github.com/limpet-project/limpet/endpoint"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// message is a request as a client sends it.
type message struct {
	path, query string
	header      http.Header
	peer        netip.Addr
}

func (m *message) Method() string              { return http.MethodGet }
func (m *message) Host() string                { return "demo.example.com" }
func (m *message) Path() string                { return m.path }
func (m *message) Query() string               { return m.query }
func (m *message) Header(name string) []string { return m.header[name] }
func (m *message) Peer() netip.Addr            { return m.peer }

// from returns a message with headers, given as name and value in turns.
func from(header ...string) *message {
	m := &message{path: "/incr", header: http.Header{}, peer: netip.MustParseAddr("192.0.2.7")}
	for i := 0; i < len(header); i += 2 {
		m.header.Add(header[i], header[i+1])
	}
	return m
}

var demo = affinity.ServiceName{Namespace: "default", Name: "demo"}

// gateway is a router with its own table and, where two share one, a store.
type gateway struct {
	*Router
	table *endpoint.Table
}

func newGateway(t *testing.T, store binding.Store, edit ...func(*Options)) gateway {
	t.Helper()
	digester, err := affinity.NewDigester([]byte("0123456789abcdef0123456789abcdef"))
	if err != nil {
		t.Fatalf("NewDigester() = %v", err)
	}
	table := endpoint.NewTable(endpoint.Options{})
	o := Options{Endpoints: table, Store: store, Keys: affinity.Keyer{Digester: digester}}
	for _, f := range edit {
		f(&o)
	}
	return gateway{New(o), table}
}

// fill publishes demo with revisions of three endpoints each and the given weights: demo-00001, demo-00002, ….
func (g gateway) fill(weights ...int) {
	s := endpoint.Service{Name: demo}
	for i, w := range weights {
		s.Revisions = append(s.Revisions, endpoint.Revision{Name: revisionName(i + 1), Weight: w})
	}
	g.table.SetServices([]endpoint.Service{s})
	for i := range weights {
		g.members(i+1, "a", "b", "c")
	}
	g.table.SetSynced()
}

func revisionName(n int) string { return []string{"", "demo-00001", "demo-00002", "demo-00003"}[n] }

// members publishes the endpoints of revision n.
func (g gateway) members(n int, letters ...string) {
	var m []endpoint.Member
	for _, l := range letters {
		name := revisionName(n) + "-" + l
		m = append(m, endpoint.Member{Name: name, Address: name + ".example.com:8080"})
	}
	g.table.SetMembers(endpoint.RevisionName{Namespace: demo.Namespace, Name: revisionName(n)}, m)
}

// policy returns a policy filled in with defaults.
func policy(t *testing.T, p affinity.Policy) *affinity.Policy {
	t.Helper()
	full := p.WithDefaults()
	if errs := full.Validate(); len(errs) > 0 {
		t.Fatalf("Validate(%+v) = %v", p, errs)
	}
	return full
}

// pick picks and fails the test on an error. The caller ends the pick.
func (g gateway) pick(t *testing.T, p *affinity.Policy, m affinity.Message) *Pick {
	t.Helper()
	got, err := g.Pick(t.Context(), &Request{Service: demo, Policy: p, Message: m})
	if err != nil {
		t.Fatalf("Pick(%v) = %v", m, err)
	}
	return got
}

// visit picks and ends the pick at once.
func (g gateway) visit(t *testing.T, p *affinity.Policy, m affinity.Message) (affinity.Target, affinity.Reason) {
	t.Helper()
	pick := g.pick(t, p, m)
	pick.Done(endpoint.OutcomeOK)
	return pick.Target(), pick.Reason()
}

// awaySoon is a store that stops answering: it hangs until the caller gives up, or refuses at once.
type awaySoon struct {
	binding.Store
	hang, refuse bool
	calls        atomic.Int64
}

func (s *awaySoon) away(ctx context.Context) error {
	s.calls.Add(1)
	switch {
	case s.refuse:
		return binding.ErrUnavailable
	case s.hang:
		<-ctx.Done()
		return ctx.Err()
	}
	return nil
}

func (s *awaySoon) Get(ctx context.Context, k affinity.Key) (binding.Binding, error) {
	if err := s.away(ctx); err != nil {
		return binding.Binding{}, err
	}
	return s.Store.Get(ctx, k)
}

func (s *awaySoon) Swap(ctx context.Context, k affinity.Key, old binding.Version, t affinity.Target, life binding.Life) (binding.Binding, error) {
	if err := s.away(ctx); err != nil {
		return binding.Binding{}, err
	}
	return s.Store.Swap(ctx, k, old, t, life)
}

// touches counts the renewals that reach a store.
type touches struct {
	binding.Store
	n int
}

func (s *touches) Touch(ctx context.Context, renewals []binding.Renewal) error {
	s.n += len(renewals)
	return s.Store.Touch(ctx, renewals)
}

func (s *touches) Peek(k affinity.Key) (binding.Binding, bool) {
	return s.Store.(binding.Peeker).Peek(k)
}

// start runs the router until the test ends.
func (g gateway) start(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); g.Run(ctx) }()
	t.Cleanup(func() { cancel(); <-done })
}

const hour = affinity.Duration(time.Hour)
