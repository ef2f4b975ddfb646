package main

import (
	"fmt"
	"net"
	"net/netip"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/limpet-project/limpet/node/nodetest"
	"github.com/limpet-project/limpet/redis/redistest"
)

// farewell is a datagram that is answered often.
const farewell = "farewell"

// A resolver is an endpoint that answers each datagram with its name.
type resolver struct {
	name string
	conn *net.UDPConn
	stop func()
}

func startResolver(t *testing.T, name string) *resolver {
	t.Helper()
	conn, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	r := &resolver{name: name, conn: conn}
	var running sync.WaitGroup
	running.Go(func() {
		buffer := make([]byte, 1<<16)
		for {
			n, from, err := conn.ReadFromUDPAddrPort(buffer)
			if err != nil {
				return
			}
			answers := 1
			if string(buffer[:n]) == farewell {
				answers = 20
			}
			for range answers {
				_, _ = conn.WriteToUDPAddrPort([]byte(name), from) // who asked may have gone
			}
		}
	})
	r.stop = sync.OnceFunc(func() {
		conn.Close()
		running.Wait()
		// A socket that hears of one address only keeps the port: nobody else, such as another test, gets it, and who asks is refused.
		at, _ := conn.LocalAddr().(*net.UDPAddr)
		if keeps, err := net.DialUDP("udp", at, &net.UDPAddr{IP: at.IP, Port: 1}); err == nil {
			t.Cleanup(func() { keeps.Close() })
		}
	})
	t.Cleanup(r.stop)
	return r
}

// resolvers writes a service with these endpoints, and the UDP listener that leads to it.
func resolvers(listener string, all ...*resolver) string {
	var b strings.Builder
	fmt.Fprintf(&b, "listeners: [{name: dns, address: \"127.0.0.1:0\", udp: {service: coredns%s}}]\n", listener)
	b.WriteString("services:\n- name: coredns\n  affinity: {session: {from: [{clientAddress: {}}]}}\n")
	b.WriteString("  probe: {udp: {send: 00ff}, " + seldom + "}\n")
	b.WriteString("  revisions:\n  - name: coredns-00001\n    endpoints:\n")
	for _, r := range all {
		fmt.Fprintf(&b, "    - {name: %s, address: %q}\n", r.name, r.conn.LocalAddr())
	}
	return b.String()
}

// flow opens a socket at an address of this machine towards the gateway.
func (p *process) flow(from string) *net.UDPConn {
	p.t.Helper()
	to, err := net.ResolveUDPAddr("udp", p.address())
	if err != nil {
		p.t.Fatal(err)
	}
	c, err := net.DialUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(netip.MustParseAddr(from), 0)), to)
	if err != nil {
		p.t.Fatal(err)
	}
	p.t.Cleanup(func() { c.Close() })
	return c
}

// asks sends a datagram and returns the name of the endpoint that answers, "" if none does in a minute.
func asks(c *net.UDPConn) string {
	buffer := make([]byte, 100)
	if _, err := c.Write([]byte("question")); err != nil {
		return ""
	}
	if err := c.SetReadDeadline(time.Now().Add(time.Minute)); err != nil {
		return ""
	}
	n, err := c.Read(buffer)
	if err != nil {
		return ""
	}
	return string(buffer[:n])
}

func TestGatewaysThatShareAStoreSendAClientToOneResolver(t *testing.T) {
	redis, secret := redistest.Start(t), t.TempDir()+"/digest.key"
	limpetRun(t, "keys", "digest", secret)
	a, b, c := startResolver(t, "coredns-a"), startResolver(t, "coredns-b"), startResolver(t, "coredns-c")
	configuration := resolvers("", a, b, c) +
		fmt.Sprintf("secrets: {digestFile: %q}\nstore: {redis: {addresses: [%q], timeout: 10s}}\n", secret, redis.Addr())
	first, second := serve(t, configuration), serve(t, configuration)
	home := map[string]string{}
	same := func(when string, gateways ...*process) {
		t.Helper()
		for i := range 40 {
			from := fmt.Sprintf("127.0.2.%d", 1+i)
			for _, p := range gateways {
				at := asks(p.flow(from))
				if home[from] == "" {
					home[from] = at
				}
				if at != home[from] || at == "" {
					t.Errorf("%s: %s is at %q, want %q", when, from, at, home[from])
				}
			}
		}
	}
	same("at first", first, second)
	same("again", second, first)
	long := first.flow("127.0.2.1")
	lost := asks(long)
	for _, r := range []*resolver{a, b, c} {
		if r.name == lost {
			r.stop()
		}
	}
	if now := asks(long); now == lost || now == "" {
		t.Errorf("the flow whose endpoint ended is answered by %q, want another one at once", now)
	} else {
		home["127.0.2.1"] = now
	}
	for from, at := range home {
		if at == lost {
			home[from] = asks(first.flow(from))
		}
	}
	same("after one endpoint ended", second, first)
	redis.Stop()
	same("with the store away", first, second)
}

func TestAFlowOutlivesAReloadAndAnswersUntilTheDrainEnds(t *testing.T) {
	a := startResolver(t, "coredns-a")
	// The flow ends when the test says so, by more answers than two for each question. Were it to end when it is idle, it would between two
	// questions on a machine that has other things to do.
	const listener = ", idleTimeout: 10m, responses: 2"
	p := serve(t, resolvers(listener, a)+"shutdown: {drain: 10m}\n")
	c := p.flow("127.0.0.2")
	if at := asks(c); at != "coredns-a" {
		t.Fatalf("answered by %q, want coredns-a", at)
	}
	b := startResolver(t, "coredns-b")
	p.configure(resolvers(listener, a, b) + "shutdown: {drain: 10m}\n")
	p.signal(syscall.SIGHUP)
	p.logs(1, "configuration read")
	if at := asks(c); at != "coredns-a" {
		t.Errorf("after a reload the flow is answered by %q, want coredns-a", at)
	}
	p.signal(syscall.SIGTERM)
	p.logs(1, "draining")
	for range 5 {
		if at := asks(c); at != "coredns-a" {
			t.Fatalf("during the drain the flow is answered by %q, want coredns-a", at)
		}
	}
	if _, err := c.Write([]byte(farewell)); err != nil {
		t.Fatal(err)
	}
	if code := p.exit(); code != 0 { // once the flow has ended
		t.Errorf("exit code %d, want 0", code)
	}
}

func TestMetricsTellOfFlows(t *testing.T) {
	p := serve(t, resolvers(", responses: 1", startResolver(t, "coredns-a")))
	if at := asks(p.flow("127.0.0.2")); at != "coredns-a" {
		t.Fatalf("answered by %q, want coredns-a", at)
	}
	for _, want := range []string{
		`limpet_flows_open{listener="dns"} 0`,
		`limpet_flows_total{listener="dns",reason="new",revision="coredns-00001",service="coredns"} 1`,
		`limpet_transport_bytes_total{direction="in",listener="dns",service="coredns"} 8`,
		`limpet_transport_bytes_total{direction="out",listener="dns",service="coredns"} 9`,
		`limpet_transport_endings_total{ending="responses",listener="dns",service="coredns"} 1`,
	} {
		nodetest.Eventually(t, want, func() bool { return strings.Contains(nodetest.Fetch(p.admin()+"/metrics"), want+"\n") })
	}
}
