package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/limpet-project/limpet/lab/clientip"
	"github.com/limpet-project/limpet/lab/flow"
)

// A watchedNode is a network namespace with a Service whose endpoints answer with their address, and clients of any address. The goroutine
// of the test keeps a thread in it, which starts the programs.
type watchedNode struct {
	t      *testing.T
	mode   clientip.Mode
	spec   clientip.Spec
	marker clientip.Spec // another Service, by which a test knows that flows are seen
	port   uint16        // of the last connection: a port that the kernel chose again would belong to a flow that is there
}

func newWatchedNode(t *testing.T, mode clientip.Mode, protocol string) *watchedNode {
	t.Helper()
	if runtime.GOOS != "linux" || os.Geteuid() != 0 {
		t.Skip("needs root on Linux, for a network namespace")
	}
	for _, name := range []string{"ip", "iptables-restore", "iptables-save", "nft", "conntrack"} {
		if _, err := exec.LookPath(name); err != nil {
			t.Skipf("needs %s; on Debian: apt-get install iptables nftables conntrack iproute2", name)
		}
	}
	runtime.LockOSThread()
	if err := enterNetwork(); err != nil {
		t.Skipf("needs a network namespace: %v", err)
	}
	n := &watchedNode{t: t, mode: mode, port: 20000, spec: clientip.Spec{
		ServicePort: clientip.ServicePort{Namespace: "demo", Name: "counter", Port: "dns", Protocol: protocol},
		ClusterIP:   netip.MustParseAddr("10.96.0.10"), Number: 53, Timeout: 3 * time.Hour,
	}}
	n.run("", "ip", "link", "set", "lo", "up")
	for _, route := range []string{"local 10.1.0.0/16", "local 10.2.0.0/24", "10.96.0.0/16"} {
		n.run("", "sh", "-c", "ip route add "+route+" dev lo")
	}
	n.marker = n.spec
	n.marker.Name, n.marker.ClusterIP = "marker", netip.MustParseAddr("10.96.0.11")
	n.marker.Endpoints = []netip.AddrPort{netip.MustParseAddrPort("10.2.0.9:5353")}
	n.answer(n.marker.Endpoints[0])
	for i := range 3 {
		n.spec.Endpoints = append(n.spec.Endpoints, netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 2, 0, byte(i + 1)}), 5353))
		n.answer(n.spec.Endpoints[i])
	}
	n.load()
	return n
}

func (n *watchedNode) run(stdin, name string, args ...string) {
	n.t.Helper()
	cmd := exec.Command(name, args...)
	cmd.Stdin = strings.NewReader(stdin)
	if out, err := cmd.CombinedOutput(); err != nil {
		n.t.Fatalf("%s: %v\n%s\n%s", cmd, err, out, stdin)
	}
}

// load writes the rules anew. Lists of nftables begin empty then, those of iptables keep what they have.
func (n *watchedNode) load() {
	n.t.Helper()
	n.run("", "nft", "flush", "ruleset")
	for i, spec := range []clientip.Spec{n.spec, n.marker} {
		var rules bytes.Buffer
		write, load := spec.WriteIPTables, []string{"iptables-restore", "--noflush"}
		if n.mode == clientip.NFTables {
			write, load = spec.WriteNFTables, []string{"nft", "-f", "-"}
		}
		if err := write(&rules, i == 0); err != nil {
			n.t.Fatal(err)
		}
		n.run(rules.String(), load[0], load[1:]...)
	}
}

// answer answers at an endpoint until the test ends.
func (n *watchedNode) answer(e netip.AddrPort) {
	n.t.Helper()
	done := make(chan struct{})
	if n.spec.Protocol == "tcp" {
		l, err := net.ListenTCP("tcp", net.TCPAddrFromAddrPort(e))
		if err != nil {
			n.t.Fatal(err)
		}
		n.t.Cleanup(func() { l.Close(); <-done })
		go func() {
			defer close(done)
			for {
				conn, err := l.Accept()
				if err != nil {
					return
				}
				conn.Write([]byte(e.String())) // a client that left is no matter
				conn.Close()
			}
		}()
		return
	}
	conn, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(e))
	if err != nil {
		n.t.Fatal(err)
	}
	n.t.Cleanup(func() { conn.Close(); <-done })
	go func() {
		defer close(done)
		for buf := make([]byte, 16); ; {
			_, from, err := conn.ReadFromUDPAddrPort(buf)
			if err != nil {
				return
			}
			conn.WriteToUDPAddrPort([]byte(e.String()), from) // a client that left is no matter
		}
	}()
}

// connect opens a connection from a new port of the nth client to a Service and returns the endpoint that answered.
func (n *watchedNode) connect(s clientip.Spec, client int) netip.AddrPort {
	n.t.Helper()
	n.port++
	from := netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 1, byte(client >> 8), byte(client)}), n.port)
	to := netip.AddrPortFrom(s.ClusterIP, s.Number)
	var conn net.Conn
	var err error
	if n.spec.Protocol == "tcp" {
		conn, err = net.DialTCP("tcp", net.TCPAddrFromAddrPort(from), net.TCPAddrFromAddrPort(to))
	} else {
		conn, err = net.DialUDP("udp", net.UDPAddrFromAddrPort(from), net.UDPAddrFromAddrPort(to))
	}
	if err != nil {
		n.t.Fatal(err)
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(time.Minute)) // of a test that fails
	if n.spec.Protocol == "udp" {
		if _, err := conn.Write([]byte("who")); err != nil {
			n.t.Fatal(err)
		}
	}
	buf := make([]byte, 64)
	size, err := conn.Read(buf)
	if err != nil {
		n.t.Fatalf("%s asks %s: %v", from, to, err)
	}
	return netip.MustParseAddrPort(string(buf[:size]))
}

// A made is the traffic of a test, as its clients saw it.
type made struct {
	flows map[netip.AddrPort]uint64
	last  map[int]netip.AddrPort
	moves uint64
	gone  uint64 // of the moves, those whose endpoint before is gone
}

// round connects clients, each so often.
func (n *watchedNode) round(m *made, clients, times int) {
	n.t.Helper()
	for i := range clients * times {
		client := 1 + i%clients
		to := n.connect(n.spec, client)
		if before, ok := m.last[client]; ok && before != to {
			m.moves++
			if !slices.Contains(n.spec.Endpoints, before) {
				m.gone++
			}
		}
		m.flows[to]++
		m.last[client] = to
	}
}

// A watch is limpet clientip watch, which prints JSON.
type watch struct {
	t   *testing.T
	cmd *exec.Cmd
	log lockedBuffer

	mu        sync.Mutex
	intervals []flow.Interval
	ended     chan struct{}
}

// watch starts it in the namespace of the test's thread and waits for the first interval.
func (n *watchedNode) watch(args ...string) *watch {
	n.t.Helper()
	w := &watch{t: n.t, ended: make(chan struct{})}
	w.cmd = limpet(append([]string{
		"clientip", "watch", "-o", "json", "--interval", "200ms", "--window", "1m", "--reread", "500ms",
	}, args...)...)
	w.cmd.Stderr = &w.log
	out, err := w.cmd.StdoutPipe()
	if err != nil {
		n.t.Fatal(err)
	}
	if err := w.cmd.Start(); err != nil {
		n.t.Fatal(err)
	}
	go w.read(out)
	n.t.Cleanup(func() {
		w.cmd.Process.Kill() // fails only if it has ended
		<-w.ended
	})
	w.until("the first interval", func(flow.Interval) bool { return true })
	return w
}

func (w *watch) read(out io.Reader) {
	defer close(w.ended)
	lines := bufio.NewScanner(out)
	for lines.Scan() {
		var v flow.Interval
		if err := json.Unmarshal(lines.Bytes(), &v); err != nil {
			fmt.Fprintf(&w.log, "%s: %v\n", lines.Bytes(), err)
			continue
		}
		w.mu.Lock()
		w.intervals = append(w.intervals, v)
		w.mu.Unlock()
	}
	w.cmd.Wait() // its exit code is looked at where it matters
}

// all returns the intervals so far.
func (w *watch) all() []flow.Interval {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.intervals)
}

// until waits for an interval and returns it.
func (w *watch) until(what string, ok func(flow.Interval) bool) flow.Interval {
	w.t.Helper()
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(20 * time.Millisecond) {
		all := w.all()
		if i := len(all) - 1; i >= 0 && ok(all[i]) {
			return all[i]
		}
		if time.Now().After(deadline) {
			last, _ := json.Marshal(all[max(len(all)-1, 0):]) // what was read as JSON
			w.t.Fatalf("waited a minute for %s; the last of %d intervals was %s; %s", what, len(all), last, w.log.String())
		}
	}
}

// interrupt ends it as a terminal does, and returns its exit code.
func (w *watch) interrupt() int {
	w.t.Helper()
	if err := w.cmd.Process.Signal(syscall.SIGINT); err != nil {
		w.t.Fatal(err)
	}
	<-w.ended
	return w.cmd.ProcessState.ExitCode()
}

// begin connects to the marker until the watch sees it, since it may miss flows while it starts. It returns traffic that has not begun.
func (n *watchedNode) begin(w *watch) *made {
	n.t.Helper()
	w.until("a flow that is seen", func(v flow.Interval) bool {
		n.connect(n.marker, 1)
		return len(v.Services) == 2 && v.Services[1].Flows > 0
	})
	return &made{flows: map[netip.AddrPort]uint64{}, last: map[int]netip.AddrPort{}}
}

// compare waits until the watch has seen as many flows as were made, and moves whose cause is known, and compares.
func (n *watchedNode) compare(w *watch, m *made) flow.Interval {
	n.t.Helper()
	all := uint64(0)
	for _, flows := range m.flows {
		all += flows
	}
	v := w.until(fmt.Sprintf("%d flows and %d moves", all, m.moves), func(v flow.Interval) bool {
		s := v.Services[0]
		return s.Flows >= all && s.Moves.Gone+s.Moves.Lost >= m.moves
	})
	s := v.Services[0]
	if want := (flow.Moves{Total: m.moves, Gone: m.gone, Lost: m.moves - m.gone}); s.Moves != want {
		n.t.Errorf("moves = %+v, want %+v", s.Moves, want)
	}
	for _, e := range s.Endpoints {
		if e.Flows != m.flows[e.Address] {
			n.t.Errorf("flows of %s = %d, want %d", e.Address, e.Flows, m.flows[e.Address])
		}
	}
	if s.Flows != all {
		n.t.Errorf("flows = %d, want %d", s.Flows, all)
	}
	return v
}
