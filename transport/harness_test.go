package transport

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/limpet-project/limpet/affinity"
	"github.com/limpet-project/limpet/binding"
	"github.com/limpet-project/limpet/endpoint"
	"github.com/limpet-project/limpet/router"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var postgres = affinity.ServiceName{Namespace: "shop", Name: "postgres"}

// byAddress is a policy by the client's address, or a prefix of it.
func byAddress(prefix int) *affinity.Policy {
	source := affinity.Source{ClientAddress: &affinity.AddressPrefix{IPv4Prefix: prefix}}
	return (&affinity.Policy{Session: &affinity.SessionAffinity{From: []affinity.Source{source}}}).WithDefaults()
}

// A recorder keeps what an observer is told.
type recorder struct {
	mu      sync.Mutex
	picked  []Observed
	ended   []Observed
	in, out int64
	drops   map[Cause]int
}

func (r *recorder) Picked(o *Observed) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.picked = append(r.picked, *o)
}

func (r *recorder) Carried(_ *Observed, in, out int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.in, r.out = r.in+in, r.out+out
}

func (r *recorder) End(o *Observed) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.ended = append(r.ended, *o)
}

func (r *recorder) Drop(_ string, c Cause) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.drops == nil {
		r.drops = map[Cause]int{}
	}
	r.drops[c]++
}

// end waits for the n-th end and returns it.
func (r *recorder) end(t *testing.T, n int) Observed {
	t.Helper()
	var o Observed
	eventually(t, fmt.Sprintf("%d connections have ended", n), func() bool {
		r.mu.Lock()
		defer r.mu.Unlock()
		if len(r.ended) < n {
			return false
		}
		o = r.ended[n-1]
		return true
	})
	return o
}

// eventually waits for a condition, and fails the test after a time that no healthy machine needs.
func eventually(t *testing.T, what string, done func() bool) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); !done(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain until %s", what)
		}
	}
}

// A world is a table and a router with what they decide by, in which listeners are tested.
type world struct {
	t       *testing.T
	table   *endpoint.Table
	router  *router.Router
	members []endpoint.Member
	rule    *endpoint.Ejection
	seen    *recorder
}

// newWorld runs a router until the test ends.
func newWorld(t *testing.T, store binding.Store) *world {
	t.Helper()
	digester, err := affinity.NewDigester([]byte("0123456789abcdef0123456789abcdef"))
	if err != nil {
		t.Fatal(err)
	}
	w := &world{t: t, table: endpoint.NewTable(endpoint.Options{}), seen: &recorder{}}
	if store == nil {
		store = binding.NewMemory(binding.MemoryOptions{Census: w.table.Count})
	}
	w.router = router.New(router.Options{Endpoints: w.table, Store: store, Keys: affinity.Keyer{Digester: digester}})
	ctx, stop := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { w.table.Run(ctx) })
	running.Go(func() { w.router.Run(ctx) })
	t.Cleanup(func() { stop(); running.Wait() })
	return w
}

var databases = endpoint.RevisionName{Namespace: postgres.Namespace, Name: "postgres-00001"}

// publish publishes the members.
func (w *world) publish() {
	w.table.SetMembers(databases, w.members)
	w.table.SetServices([]endpoint.Service{{
		Name: postgres, Ejection: w.rule, Revisions: []endpoint.Revision{{Name: databases.Name, Weight: 1}},
	}})
	w.table.SetSynced()
}

// edit changes one member and publishes.
func (w *world) edit(name string, change func(*endpoint.Member)) {
	for i := range w.members {
		if w.members[i].Name == name {
			change(&w.members[i])
		}
	}
	w.publish()
}

// add lists an endpoint.
func (w *world) add(name, address string) {
	w.members = append(w.members, endpoint.Member{Name: name, Address: address})
	w.publish()
}

// A clockedStore is a store in memory for which time passes when the test says so. It counts the renewals.
type clockedStore struct {
	*binding.Memory
	begun time.Time

	mu      sync.Mutex
	passed  time.Duration
	renewed map[affinity.Key]int
}

func newClockedStore() *clockedStore {
	s := &clockedStore{begun: time.Now(), renewed: map[affinity.Key]int{}}
	s.Memory = binding.NewMemory(binding.MemoryOptions{Now: s.now})
	return s
}

func (s *clockedStore) now() time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.begun.Add(s.passed)
}

func (s *clockedStore) Touch(ctx context.Context, renewals []binding.Renewal) error {
	err := s.Memory.Touch(ctx, renewals)
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, r := range renewals {
		s.renewed[r.Key]++
	}
	return err
}

// pass lets time pass once each of so many sessions was renewed. A renewal that is under way may go by the time of before; the one after
// it does not.
func (s *clockedStore) pass(t *testing.T, sessions int, d time.Duration) {
	t.Helper()
	for range 2 {
		s.mu.Lock()
		clear(s.renewed)
		s.mu.Unlock()
		eventually(t, "each session is renewed", func() bool {
			s.mu.Lock()
			defer s.mu.Unlock()
			return len(s.renewed) == sessions
		})
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.passed += d
}

// A server is one endpoint.
type server struct {
	name     string
	address  string
	accepted atomic.Int64
	stop     func()
}

// serve runs an endpoint that serves each connection by handle, and lists it.
func (w *world) serve(name string, handle func(s *server, c *net.TCPConn)) *server {
	w.t.Helper()
	s := startServer(w.t, name, handle)
	w.add(name, s.address)
	return s
}

func startServer(t *testing.T, name string, handle func(s *server, c *net.TCPConn)) *server {
	t.Helper()
	ln, err := net.ListenTCP("tcp", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	s := &server{name: name, address: ln.Addr().String()}
	var running sync.WaitGroup
	var mu sync.Mutex
	conns := map[*net.TCPConn]bool{}
	running.Go(func() {
		for {
			c, err := ln.AcceptTCP()
			if err != nil {
				return
			}
			s.accepted.Add(1)
			mu.Lock()
			conns[c] = true
			mu.Unlock()
			running.Go(func() {
				defer c.Close()
				handle(s, c)
				mu.Lock()
				delete(conns, c)
				mu.Unlock()
			})
		}
	})
	s.stop = sync.OnceFunc(func() {
		ln.Close()
		mu.Lock()
		for c := range conns {
			c.Close()
		}
		mu.Unlock()
		running.Wait()
	})
	t.Cleanup(s.stop)
	return s
}

// echo says its name in a line, then repeats what it hears.
func echo(s *server, c *net.TCPConn) {
	if _, err := fmt.Fprintln(c, s.name); err == nil {
		_, _ = io.Copy(c, c)
		_ = c.CloseWrite()
	}
}

// A gateway is a listener that serves.
type gateway struct {
	*TCP
	address string
	stop    func() // breaks everything off and waits
}

// listen runs a TCP listener until the test ends.
func (w *world) listen(edit ...func(*TCP)) *gateway {
	w.t.Helper()
	l := &TCP{Name: "db", Router: w.router, Endpoints: w.table, Observer: w.seen, ConnectTimeout: 30 * time.Second}
	l.Swap(Route{Service: postgres, Policy: byAddress(0)})
	for _, f := range edit {
		f(l)
	}
	ln, err := net.ListenTCP("tcp", &net.TCPAddr{})
	if err != nil {
		w.t.Fatal(err)
	}
	_, port, _ := net.SplitHostPort(ln.Addr().String())
	g := &gateway{TCP: l, address: "127.0.0.1:" + port}
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() {
		if err := l.Serve(ctx, ln); err != nil {
			w.t.Errorf("Serve() = %v, want nil", err)
		}
	})
	g.stop = sync.OnceFunc(func() { cancel(); running.Wait() })
	w.t.Cleanup(g.stop)
	return g
}

// serving returns the gateway's side of a connection, nil if that has ended.
func (g *gateway) serving(c *client) *connection {
	g.mu.Lock()
	defer g.mu.Unlock()
	for conn := range g.conns {
		if conn.source == peerOf(c.LocalAddr()) {
			return conn
		}
	}
	return nil
}

// A client is a connection to a gateway.
type client struct {
	*net.TCPConn
	*bufio.Reader
	t *testing.T
}

// Read reads through the buffer.
func (c *client) Read(b []byte) (int, error) { return c.Reader.Read(b) }

// WriteTo is not the connection's, which does not know the buffer.
func (c *client) WriteTo(w io.Writer) (int64, error) { return c.Reader.WriteTo(w) }

// ReadFrom is the connection's.
func (c *client) ReadFrom(r io.Reader) (int64, error) { return c.TCPConn.ReadFrom(r) }

// dial connects from an address of this machine.
func (g *gateway) dial(t *testing.T, from string) *client {
	t.Helper()
	c, err := g.reach(t, from)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// reach is dial for a connection that may be reset before it is known to be made.
func (g *gateway) reach(t *testing.T, from string) (*client, error) {
	t.Helper()
	d := net.Dialer{LocalAddr: net.TCPAddrFromAddrPort(netip.AddrPortFrom(netip.MustParseAddr(from), 0)), Timeout: 30 * time.Second}
	c, err := d.DialContext(t.Context(), "tcp", g.address)
	if err != nil {
		return nil, err
	}
	t.Cleanup(func() { c.Close() })
	if err := c.SetDeadline(time.Now().Add(time.Minute)); err != nil {
		t.Fatal(err)
	}
	return &client{c.(*net.TCPConn), bufio.NewReader(c), t}, nil
}

// line reads a line.
func (c *client) line() string {
	c.t.Helper()
	s, err := c.ReadString('\n')
	if err != nil {
		c.t.Fatalf("reading a line = %q, %v", s, err)
	}
	return strings.TrimSpace(s)
}

// say writes a line.
func (c *client) say(line string) {
	c.t.Helper()
	if _, err := fmt.Fprintln(c, line); err != nil {
		c.t.Fatal(err)
	}
}

// visit connects from an address and returns which endpoint answers.
func (g *gateway) visit(t *testing.T, from string) string {
	t.Helper()
	c := g.dial(t, from)
	defer c.Close()
	return c.line()
}
