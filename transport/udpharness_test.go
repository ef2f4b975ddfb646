package transport

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/limpet-project/limpet/affinity"
	"github.com/limpet-project/limpet/binding"
	"github.com/limpet-project/limpet/endpoint"
	"github.com/limpet-project/limpet/router"
)

var coredns = affinity.ServiceName{Namespace: "kube-system", Name: "coredns"}

const corednsRevision = "coredns-00001"

// udpEndpoint is a server of datagrams on a real socket. It answers each with its name, a space and what came.
type udpEndpoint struct {
	t      testing.TB
	name   string
	conn   *net.UDPConn
	heard  atomic.Int64
	silent atomic.Bool
	answer func(datagram []byte) [][]byte // nil: as above
	done   chan struct{}

	mu   sync.Mutex
	last []byte
	from map[netip.AddrPort]int
}

func startUDPEndpoint(t testing.TB, name string, answer func([]byte) [][]byte) *udpEndpoint {
	t.Helper()
	return startUDPEndpointAt(t, name, "127.0.0.1:0", answer)
}

func startUDPEndpointAt(t testing.TB, name, address string, answer func([]byte) [][]byte) *udpEndpoint {
	t.Helper()
	conn, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.MustParseAddrPort(address)))
	if err != nil {
		t.Fatal(err)
	}
	conn.SetReadBuffer(4 << 20)
	e := &udpEndpoint{t: t, name: name, conn: conn, answer: answer, done: make(chan struct{}), from: map[netip.AddrPort]int{}}
	go e.serve()
	t.Cleanup(e.close)
	return e
}

func (e *udpEndpoint) serve() {
	defer close(e.done)
	buffer := make([]byte, 1<<16)
	for {
		n, from, err := e.conn.ReadFromUDPAddrPort(buffer)
		if err != nil {
			return
		}
		e.heard.Add(1)
		e.mu.Lock()
		e.last = append(e.last[:0], buffer[:n]...)
		e.from[from]++
		e.mu.Unlock()
		if e.silent.Load() {
			continue
		}
		if e.answer == nil {
			e.conn.WriteToUDPAddrPort(append([]byte(e.name+" "), buffer[:n]...), from)
			continue
		}
		for _, a := range e.answer(buffer[:n]) {
			e.conn.WriteToUDPAddrPort(a, from)
		}
	}
}

// close closes the socket.
func (e *udpEndpoint) close() { e.conn.Close(); <-e.done }

// stop has datagrams refused from then on, and keeps the port from everybody else: a socket that is connected takes what its peer sends
// alone, and its peer is itself.
func (e *udpEndpoint) stop() {
	at := e.conn.LocalAddr().(*net.UDPAddr).AddrPort()
	raw, err := e.conn.SyscallConn()
	if err == nil {
		var connecting error
		err = raw.Control(func(fd uintptr) {
			connecting = syscall.Connect(int(fd), &syscall.SockaddrInet4{Port: int(at.Port()), Addr: at.Addr().Unmap().As4()})
		})
		err = cmp.Or(err, connecting)
	}
	if err != nil {
		e.t.Fatalf("refusing datagrams: %v", err)
	}
}

func (e *udpEndpoint) address() string { return e.conn.LocalAddr().String() }

// received returns the last datagram.
func (e *udpEndpoint) received() []byte {
	e.mu.Lock()
	defer e.mu.Unlock()
	return bytes.Clone(e.last)
}

// udpGateway is a UDP listener with a router and a table of its own.
type udpGateway struct {
	*UDP
	table   *endpoint.Table
	address netip.AddrPort
	seen    *udpWitness
	served  chan error
	stop    context.CancelFunc
}

// udpOptions are what a test wants of a gateway.
type udpOptions struct {
	store  binding.Store // nil: in memory, its own
	policy *affinity.Policy
	listen string // default 127.0.0.1:0
	edit   func(*UDP)
	rules  endpoint.Service
}

// stickyByAddress is the policy of sessions by the client's address.
func stickyByAddress(idle time.Duration) *affinity.Policy {
	p := affinity.Policy{Session: &affinity.SessionAffinity{
		From: []affinity.Source{{ClientAddress: &affinity.AddressPrefix{}}}, Idle: affinity.Duration(idle),
	}}
	return p.WithDefaults()
}

func startUDPGateway(t testing.TB, o udpOptions, endpoints ...*udpEndpoint) *udpGateway {
	t.Helper()
	digester, err := affinity.NewDigester([]byte("0123456789abcdef0123456789abcdef"))
	if err != nil {
		t.Fatal(err)
	}
	g := &udpGateway{table: endpoint.NewTable(endpoint.Options{}), seen: &udpWitness{}, served: make(chan error, 1)}
	rules := o.rules
	rules.Name, rules.Revisions = coredns, []endpoint.Revision{{Name: corednsRevision, Weight: 1}}
	g.table.SetServices([]endpoint.Service{rules})
	g.list(endpoints...)
	g.table.SetSynced()
	if o.store == nil {
		o.store = binding.NewMemory(binding.MemoryOptions{Census: g.table.Count})
	}
	r := router.New(router.Options{Endpoints: g.table, Store: o.store, Keys: affinity.Keyer{Digester: digester}})
	g.UDP = &UDP{Name: "dns", Router: r, Endpoints: g.table, Observer: g.seen}
	if o.edit != nil {
		o.edit(g.UDP)
	}
	g.Swap(Route{Service: coredns, Policy: o.policy})
	if o.listen == "" {
		o.listen = "127.0.0.1:0"
	}
	conn, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.MustParseAddrPort(o.listen)))
	if err != nil {
		t.Fatal(err)
	}
	g.address = conn.LocalAddr().(*net.UDPAddr).AddrPort()
	ctx, cancel := context.WithCancel(t.Context())
	g.stop = cancel
	var parts sync.WaitGroup
	parts.Go(func() { r.Run(ctx) })
	parts.Go(func() { g.table.Run(ctx) })
	parts.Go(func() { g.served <- g.Serve(ctx, conn) })
	t.Cleanup(func() {
		cancel()
		parts.Wait()
		if open := g.Open(); open != 0 {
			t.Errorf("Open() = %d after Serve, want 0", open)
		}
		if used := g.kept.used.Load(); used != 0 {
			t.Errorf("%d bytes are kept after Serve, want 0", used)
		}
	})
	return g
}

// list publishes the endpoints of the service.
func (g *udpGateway) list(endpoints ...*udpEndpoint) {
	var members []endpoint.Member
	for _, e := range endpoints {
		members = append(members, endpoint.Member{Name: e.name, Address: e.address()})
	}
	g.members(members...)
}

func (g *udpGateway) members(members ...endpoint.Member) {
	g.table.SetMembers(endpoint.RevisionName{Namespace: coredns.Namespace, Name: corednsRevision}, members)
}

// flowOf waits until the one flow of a client is open and returns it. The goroutine that found it a target may say so after the answer.
func (g *udpGateway) flowOf(t *testing.T, c *udpClient) (found *flow) {
	t.Helper()
	eventually(t, "the client's flow is open", func() bool {
		for _, f := range g.flows.all() {
			if f.client == c.LocalAddr().(*net.UDPAddr).AddrPort() {
				f.mu.Lock()
				defer f.mu.Unlock()
				found = f
				return f.phase == flowOpen
			}
		}
		return false
	})
	return found
}

// times returns when a datagram last went either way, and when the oldest one without an answer was sent, 0 for none.
func (f *flow) times() (last, asked time.Duration) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.last, f.asked
}

// udpWitness notes what an observer is told.
type udpWitness struct {
	mu      sync.Mutex
	picked  []Observed
	ended   []Observed
	drops   map[Cause]int
	carried [2]int64
}

func (w *udpWitness) Picked(o *Observed) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.picked = append(w.picked, Observed{Target: o.Target, Reason: o.Reason, Address: o.Address, Key: o.Key})
}

func (w *udpWitness) Carried(_ *Observed, in, out int64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.carried[0] += in
	w.carried[1] += out
}

func (w *udpWitness) End(o *Observed) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.ended = append(w.ended, *o)
}

func (w *udpWitness) Drop(_ string, c Cause) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.drops == nil {
		w.drops = map[Cause]int{}
	}
	w.drops[c]++
}

func (w *udpWitness) dropped(c Cause) int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.drops[c]
}

func (w *udpWitness) ends() []Observed {
	w.mu.Lock()
	defer w.mu.Unlock()
	return append([]Observed(nil), w.ended...)
}

func (w *udpWitness) picks() []Observed {
	w.mu.Lock()
	defer w.mu.Unlock()
	return append([]Observed(nil), w.picked...)
}

// udpClient is a socket of a client, bound to an address of its own.
type udpClient struct {
	*net.UDPConn
	t testing.TB
}

// dialUDP returns a client at an address such as 127.0.1.7, connected to a gateway's.
func dialUDP(t testing.TB, from string, to netip.AddrPort) *udpClient {
	t.Helper()
	local := net.UDPAddrFromAddrPort(netip.AddrPortFrom(netip.MustParseAddr(from), 0))
	conn, err := net.DialUDP("udp", local, net.UDPAddrFromAddrPort(to))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return &udpClient{conn, t}
}

// send sends a datagram.
func (c *udpClient) send(text string) {
	c.t.Helper()
	if _, err := c.Write([]byte(text)); err != nil {
		c.t.Fatalf("sending %q: %v", text, err)
	}
}

// patience is the wait for a datagram that has to come. Only one that is lost uses it up.
const patience = 30 * time.Second

// read returns the next datagram, "" if there is none in the given time.
func (c *udpClient) read(wait time.Duration) string {
	c.t.Helper()
	c.SetReadDeadline(time.Now().Add(wait))
	buffer := make([]byte, 1<<16)
	n, err := c.Read(buffer)
	if err != nil {
		return ""
	}
	return string(buffer[:n])
}

// ask sends a datagram and returns the answer.
func (c *udpClient) ask(text string) string {
	c.t.Helper()
	c.send(text)
	answer := c.read(patience)
	if answer == "" {
		c.t.Fatalf("no answer to %q in %v", text, patience)
	}
	return answer
}

// endpointOf asks and returns the name of the endpoint that answered.
func (c *udpClient) endpointOf(text string) string {
	c.t.Helper()
	var name, rest string
	if n, _ := fmt.Sscanf(c.ask(text), "%s %s", &name, &rest); n != 2 || rest != text {
		c.t.Fatalf("answer to %q is of %q and says %q", text, name, rest)
	}
	return name
}
