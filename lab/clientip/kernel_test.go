package clientip

import (
	"bytes"
	"fmt"
	"math"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"syscall"
	"testing"
	"time"

	"github.com/limpet-project/limpet/affinity"
)

// A world is a network namespace with a Service whose endpoints answer with their own address, and clients of any address.
type world struct {
	t    *testing.T
	mode Mode
	six  bool
}

// newWorld moves the test's goroutine into a new network namespace, which ends with the thread that the goroutine keeps.
func newWorld(t *testing.T, mode Mode, six bool) *world {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root, for a network namespace")
	}
	for _, name := range []string{"ip", "iptables-restore", "iptables-save", "ip6tables-restore", "ip6tables-save", "nft", "conntrack"} {
		if _, err := exec.LookPath(name); err != nil {
			t.Skipf("needs %s; on Debian: apt-get install iptables nftables conntrack iproute2", name)
		}
	}
	runtime.LockOSThread()
	if err := syscall.Unshare(syscall.CLONE_NEWNET); err != nil {
		t.Skipf("needs a network namespace: %v", err)
	}
	w := &world{t, mode, six}
	w.run(nil, "ip", "link", "set", "lo", "up")
	for _, route := range []string{"local 10.1.0.0/16", "local 10.2.0.0/24", "10.96.0.0/16"} {
		w.run(nil, "sh", "-c", "ip route add "+route+" dev lo")
	}
	w.run(nil, "sh", "-c", "echo 1 > /proc/sys/net/ipv6/ip_nonlocal_bind") // of this namespace: IPv4 does so for local routes
	for _, route := range []string{"local fd00:1::/64", "local fd00:2::/64", "fd00:96::/64"} {
		w.run(nil, "sh", "-c", "ip -6 route add "+route+" dev lo")
	}
	return w
}

// run runs a program of this namespace: it is started by the thread that is in it.
func (w *world) run(stdin []byte, name string, args ...string) {
	w.t.Helper()
	cmd := exec.Command(name, args...)
	cmd.Stdin = bytes.NewReader(stdin)
	if out, err := cmd.CombinedOutput(); err != nil {
		w.t.Fatalf("%s: %v\n%s\n%s", cmd, err, out, stdin)
	}
}

// client returns the nth client.
func (w *world) client(n int) netip.Addr {
	a := netip.MustParseAddr("10.1.0.0")
	if w.six {
		a = netip.MustParseAddr("fd00:1::")
	}
	b := a.AsSlice()
	b[len(b)-2], b[len(b)-1] = byte(n>>8), byte(n)
	a, _ = netip.AddrFromSlice(b)
	return a
}

// spec is a Service with so many endpoints.
func (w *world) spec(protocol string, endpoints int) Spec {
	s := Spec{
		ServicePort: ServicePort{"demo", "counter", "dns", protocol}, ClusterIP: netip.MustParseAddr("10.96.0.10"), Number: 53,
		Timeout: 3 * time.Hour, Pods: netip.MustParsePrefix("10.1.0.0/16"),
	}
	form := "10.2.0.%d:5353"
	if w.six {
		s.ClusterIP, s.Pods, form = netip.MustParseAddr("fd00:96::10"), netip.MustParsePrefix("fd00:1::/64"), "[fd00:2::%d]:5353"
	}
	if protocol == "tcp" {
		s.Port = "dns-tcp"
	}
	for i := range endpoints {
		s.Endpoints = append(s.Endpoints, netip.MustParseAddrPort(fmt.Sprintf(form, i+1)))
	}
	return s
}

// load gives rules to the kernel, in place of the ones before if they have a frame.
func (w *world) load(s Spec, frame bool) {
	w.t.Helper()
	var rules bytes.Buffer
	var err error
	restore := []string{"iptables-restore", "--noflush"}
	if w.six {
		restore[0] = "ip6tables-restore"
	}
	if w.mode == NFTables {
		restore = []string{"nft", "-f", "-"}
		err = s.WriteNFTables(&rules, frame)
		if frame {
			w.run(nil, "nft", "flush", "ruleset")
		}
	} else {
		err = s.WriteIPTables(&rules, frame)
		if frame {
			w.run(nil, "nft", "flush", "ruleset") // iptables-restore --noflush does not undo the rules of PREROUTING and OUTPUT
		}
	}
	if err != nil {
		w.t.Fatal(err)
	}
	w.run(rules.Bytes(), restore[0], restore[1:]...)
}

// serve answers at each endpoint with its address until the test ends.
func (w *world) serve(s Spec) {
	for _, e := range s.Endpoints {
		answer := []byte(e.String())
		done := make(chan struct{})
		if s.Protocol == "udp" {
			conn, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(e))
			if err != nil {
				w.t.Fatal(err)
			}
			w.t.Cleanup(func() { conn.Close(); <-done })
			go func() {
				defer close(done)
				for buf := make([]byte, 16); ; {
					_, from, err := conn.ReadFromUDPAddrPort(buf)
					if err != nil {
						return
					}
					conn.WriteToUDPAddrPort(answer, from) // a client that left is no matter
				}
			}()
			continue
		}
		l, err := net.ListenTCP("tcp", net.TCPAddrFromAddrPort(e))
		if err != nil {
			w.t.Fatal(err)
		}
		w.t.Cleanup(func() { l.Close(); <-done })
		go func() {
			defer close(done)
			for {
				conn, err := l.Accept()
				if err != nil {
					return
				}
				conn.Write(answer)
				conn.Close()
			}
		}()
	}
}

// connect opens a connection from a new port of a client and returns the endpoint that answered.
func (w *world) connect(s Spec, client netip.Addr) netip.AddrPort {
	w.t.Helper()
	from, to := netip.AddrPortFrom(client, 0), netip.AddrPortFrom(s.ClusterIP, s.Number)
	var conn net.Conn
	var err error
	if s.Protocol == "udp" {
		conn, err = net.DialUDP("udp", net.UDPAddrFromAddrPort(from), net.UDPAddrFromAddrPort(to))
	} else {
		conn, err = net.DialTCP("tcp", net.TCPAddrFromAddrPort(from), net.TCPAddrFromAddrPort(to))
	}
	if err != nil {
		w.t.Fatal(err)
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(time.Minute))
	if s.Protocol == "udp" {
		if _, err := conn.Write([]byte("who")); err != nil {
			w.t.Fatal(err)
		}
	}
	buf := make([]byte, 64)
	n, err := conn.Read(buf)
	if err != nil {
		w.t.Fatalf("%s asks %s: %v", client, to, err)
	}
	return netip.MustParseAddrPort(string(buf[:n]))
}

// read reads this namespace as the command does.
func (w *world) read() *Node {
	w.t.Helper()
	n, err := Files{}.Read(w.t.Context())
	if err != nil {
		w.t.Fatal(err)
	}
	if len(n.Notes) > 0 {
		w.t.Errorf("Read() notes %q, want none", n.Notes)
	}
	return n
}

// explain returns the report of the Service of a Spec.
func explain(t *testing.T, n *Node, s Spec, client netip.Addr) ServiceReport {
	t.Helper()
	r := n.Explain(Question{Service: s.ServicePort, Client: client})
	if len(r.Services) != 1 {
		t.Fatalf("Explain(%s) has %d services, want 1", s.ServicePort, len(r.Services))
	}
	return r.Services[0]
}

// everywhere runs a test in each mode, family and protocol.
func everywhere(t *testing.T, test func(t *testing.T, w *world, protocol string)) {
	for _, mode := range []Mode{IPTables, NFTables} {
		for _, six := range []bool{false, true} {
			for _, protocol := range []string{"udp", "tcp"} {
				t.Run(fmt.Sprintf("%s, IPv6 %t, %s", mode, six, protocol), func(t *testing.T) {
					t.Parallel()
					test(t, newWorld(t, mode, six), protocol)
				})
			}
		}
	}
}

func TestTheKernelFollowsTheExplanation(t *testing.T) {
	everywhere(t, func(t *testing.T, w *world, protocol string) {
		const clients = 500
		s := w.spec(protocol, 3)
		w.serve(s)
		w.load(s, true)

		before := explain(t, w.read(), s, w.client(1)).Next[0]
		if before.Rule != nil || len(before.Odds) != 3 {
			t.Fatalf("Next of a new client = %+v, want three odds and no rule", before)
		}
		drawn, began := map[netip.AddrPort]int{}, time.Now()
		reached := map[netip.Addr]netip.AddrPort{}
		for i := range clients {
			reached[w.client(i+1)] = w.connect(s, w.client(i+1))
			drawn[reached[w.client(i+1)]]++
		}
		// 6 standard deviations of a binomial distribution: of the 24 figures one is outside by chance in one of 10,000,000 runs.
		for _, o := range before.Odds {
			tolerance := 6 * math.Sqrt(clients*o.Probability*(1-o.Probability))
			if d := math.Abs(float64(drawn[o.Endpoint]) - clients*o.Probability); d > tolerance {
				t.Errorf("%s drawn %d times of %d, want %.0f ± %.0f", o.Endpoint, drawn[o.Endpoint], clients, clients*o.Probability, tolerance)
			}
		}
		w.checkEveryClient(s, reached, began)
	})
}

// checkEveryClient compares what is explained with where each client goes. A list of xt_recent has forgotten the clients that came
// first; they only have to be said to be free, as connecting them would push out others. The first connection was not before began.
func (w *world) checkEveryClient(s Spec, reached map[netip.Addr]netip.AddrPort, began time.Time) {
	n := w.read()
	passed := time.Since(began) + 2*time.Second // what is told may be rounded
	r := explain(w.t, n, s, netip.Addr{})
	stuck, free := 0, 0
	for client := range reached {
		next := explain(w.t, n, s, client).Next[0]
		if next.Rule == nil {
			free++
			continue
		}
		stuck++
		if got := w.connect(s, client); got != next.Endpoint {
			w.t.Errorf("%s reached %s, want %s by %s", client, got, next.Endpoint, next.Rule)
		}
		if end := *next.Ends; end > affinity.Duration(s.Timeout) || end < affinity.Duration(s.Timeout-passed) {
			w.t.Errorf("%s is stuck for %s, want a little less than %s", client, end, s.Timeout)
		}
	}
	want := len(reached)
	if w.mode == IPTables {
		want = len(s.Endpoints) * r.Endpoints[0].Limit
	}
	counted := 0
	for _, e := range r.Endpoints {
		counted += e.Clients
	}
	if stuck != want || counted != want || stuck+free != len(reached) {
		w.t.Errorf("%d clients are stuck, %d counted, %d free; want %d of %d stuck", stuck, counted, free, want, len(reached))
	}
	if full := len(r.Warnings) > 0; full != (w.mode == IPTables) {
		w.t.Errorf("warnings of %s = %q, want some of full lists in iptables mode only", w.mode, r.Warnings)
	}
}

func TestClientsAreFreeWhenTheirEntriesExpire(t *testing.T) {
	everywhere(t, func(t *testing.T, w *world, protocol string) {
		const clients = 40
		s := w.spec(protocol, 2)
		s.Timeout = 2 * time.Second
		w.serve(s)
		w.load(s, true)
		reached := map[netip.Addr]netip.AddrPort{}
		for i := range clients - 1 {
			reached[w.client(i+1)] = w.connect(s, w.client(i+1))
		}
		began := time.Now()
		reached[w.client(clients)] = w.connect(s, w.client(clients))
		r := explain(t, w.read(), s, w.client(clients))
		next, inTime := r.Next[0], time.Since(began) < s.Timeout-time.Second // nftables tells whole seconds
		if inTime && (next.Rule == nil || next.Endpoint != reached[w.client(clients)] || *next.Ends > affinity.Duration(s.Timeout)) {
			t.Fatalf("Next = %+v, want %s for at most %s", next, reached[w.client(clients)], s.Timeout)
		}
		for deadline := time.Now().Add(time.Minute); r.Endpoints[0].Clients+r.Endpoints[1].Clients > 0; {
			if time.Now().After(deadline) {
				t.Fatalf("%+v: still stuck after a minute, want none", r.Endpoints)
			}
			time.Sleep(100 * time.Millisecond)
			r = explain(t, w.read(), s, w.client(clients))
		}
		moved := 0
		for client, before := range reached {
			if w.connect(s, client) != before {
				moved++
			}
		}
		if moved == 0 { // by chance once in 2^40 runs
			t.Errorf("none of %d clients moved after their entries expired, want about half", clients)
		}
	})
}

func TestFlowsOfARemovedEndpointAreStale(t *testing.T) {
	everywhere(t, func(t *testing.T, w *world, protocol string) {
		const clients = 30
		s := w.spec(protocol, 3)
		w.serve(s)
		w.load(s, true)
		gone, want := s.Endpoints[2], 0
		for i := range clients {
			if w.connect(s, w.client(i+1)) == gone && protocol == "udp" {
				want++
			}
		}
		if r := explain(t, w.read(), s, netip.Addr{}); r.Stale != 0 {
			t.Errorf("%d flows are stale while every endpoint is there, want 0", r.Stale)
		}
		s.Endpoints = s.Endpoints[:2]
		w.load(s, true)
		r := explain(t, w.read(), s, netip.Addr{})
		if r.Stale != want || len(r.Flows) != want {
			t.Errorf("stale flows = %d, %d shown, want %d", r.Stale, len(r.Flows), want)
		}
		for _, f := range r.Flows {
			if f.Server != gone {
				t.Errorf("stale flow %+v, want one to %s", f, gone)
			}
		}
	})
}

func TestProtocolsOfOneServiceStickApart(t *testing.T) {
	for _, mode := range []Mode{IPTables, NFTables} {
		t.Run(string(mode), func(t *testing.T) {
			const clients = 60
			w := newWorld(t, mode, false)
			udp, tcp := w.spec("udp", 3), w.spec("tcp", 3)
			w.serve(udp)
			w.serve(tcp)
			w.load(udp, true)
			w.load(tcp, false)
			want := 0
			for i := range clients {
				if w.connect(udp, w.client(i+1)) != w.connect(tcp, w.client(i+1)) {
					want++
				}
			}
			n := w.read()
			for _, s := range []Spec{udp, tcp} {
				if r := explain(t, n, s, netip.Addr{}); r.Split != want || len(r.SplitSome) != want {
					t.Errorf("%s: %d split clients, %d shown, want %d", s.Protocol, r.Split, len(r.SplitSome), want)
				}
			}
		})
	}
}
