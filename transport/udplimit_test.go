package transport

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/limpet-project/limpet/affinity"
)

func TestFlowsAreBounded(t *testing.T) {
	a := startUDPEndpoint(t, "coredns-a", nil)
	g := startUDPGateway(t, udpOptions{edit: func(u *UDP) { u.MaxFlows, u.MaxFlowsPerClient = 5, 3 }}, a)
	for range 3 {
		dialUDP(t, "127.0.1.1", g.address).ask("q")
	}
	dialUDP(t, "127.0.1.1", g.address).send("one too many of this client")
	eventually(t, "a drop of the client's", func() bool { return g.seen.dropped(CauseClientFlows) == 1 })
	for i := range 2 {
		dialUDP(t, fmt.Sprintf("127.0.1.%d", i+2), g.address).ask("q")
	}
	dialUDP(t, "127.0.1.4", g.address).send("one too many of all")
	eventually(t, "a drop", func() bool { return g.seen.dropped(CauseFlows) == 1 })
	if n := g.Open(); n != 5 {
		t.Errorf("Open() = %d, want 5", n)
	}
}

func TestAClientIsAsManyBitsAsThePolicyGoesBy(t *testing.T) {
	policy := stickyByAddress(time.Hour)
	policy.Session.From[0].ClientAddress = &affinity.AddressPrefix{IPv4Prefix: 24}
	a := startUDPEndpoint(t, "coredns-a", nil)
	g := startUDPGateway(t, udpOptions{policy: policy, edit: func(u *UDP) { u.MaxFlowsPerClient = 2 }}, a)
	dialUDP(t, "127.0.1.1", g.address).ask("q")
	dialUDP(t, "127.0.1.2", g.address).ask("q")
	dialUDP(t, "127.0.1.3", g.address).send("of the same prefix")
	eventually(t, "a drop", func() bool { return g.seen.dropped(CauseClientFlows) == 1 })
	dialUDP(t, "127.0.2.1", g.address).ask("q")
}

func TestClientPrefix(t *testing.T) {
	prefixes := &affinity.Policy{Revision: &affinity.RevisionAffinity{From: []affinity.Source{
		{Header: "K-Revision"}, {ClientAddress: &affinity.AddressPrefix{IPv4Prefix: 16, IPv6Prefix: 48}},
	}}}
	tests := []struct {
		name   string
		policy *affinity.Policy
		client string
		want   string
	}{
		{"IPv4 without a policy", nil, "192.0.2.7", "192.0.2.7/32"},
		{"IPv6 without a policy", nil, "2001:db8:1:2:3::7", "2001:db8:1:2::/64"},
		{"IPv4 with a policy that has no address", &affinity.Policy{Session: &affinity.SessionAffinity{}}, "192.0.2.7", "192.0.2.7/32"},
		{"IPv4 by the policy", prefixes, "192.0.2.7", "192.0.0.0/16"},
		{"IPv6 by the policy", prefixes, "2001:db8:1:2:3::7", "2001:db8:1::/48"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			if got := clientPrefix(test.policy, netip.MustParseAddr(test.client)).String(); got != test.want {
				t.Errorf("clientPrefix(%s) = %s, want %s", test.client, got, test.want)
			}
		})
	}
}

func TestAFlowEndsWhenNothingGoesEitherWay(t *testing.T) {
	a := startUDPEndpoint(t, "coredns-a", nil)
	g := startUDPGateway(t, udpOptions{edit: func(u *UDP) { u.IdleTimeout = 200 * time.Millisecond }}, a)
	dialUDP(t, "127.0.1.1", g.address).send("q")
	eventually(t, "the end", func() bool { return len(g.seen.ends()) == 1 })
	if e := g.seen.ends()[0]; e.Ending != EndIdle || e.DatagramsIn != 1 || e.Duration < 200*time.Millisecond {
		t.Errorf("end = %+v, want idle after 200 ms", e)
	}
}

// Here and below, the time at which a flow is looked at comes from the test: a machine that stands still lets no flow end.
func TestAClientThatAsksKeepsTheFlow(t *testing.T) {
	const questions = 20
	a := startUDPEndpoint(t, "coredns-a", nil)
	g := startUDPGateway(t, udpOptions{edit: func(u *UDP) { u.IdleTimeout = time.Hour }}, a)
	c := dialUDP(t, "127.0.1.1", g.address)
	c.ask("q")
	f := g.flowOf(t, c)
	for i := 1; i < questions; i++ {
		before, _ := f.times()
		c.ask("q")
		if _, open := f.look(before + time.Hour); !open {
			t.Fatalf("the flow ended less than an hour after question %d", i)
		}
	}
	a.silent.Store(true)
	before, _ := f.times()
	c.send("q")
	eventually(t, "the last question is sent on", func() bool { return a.heard.Load() == questions+1 })
	if _, open := f.look(before + time.Hour); !open {
		t.Fatal("the flow ended less than an hour after a question without an answer")
	}
	last, _ := f.times()
	if _, open := f.look(last + time.Hour); open {
		t.Error("the flow is open an hour after its last datagram")
	}
	if n := len(g.seen.picks()); n != 1 {
		t.Errorf("%d picks while the client asks, want 1: datagrams renew the flow", n)
	}
	eventually(t, "the end", func() bool { return len(g.seen.ends()) == 1 })
	e := g.seen.ends()[0]
	if e.Ending != EndIdle || e.DatagramsIn != questions+1 || e.DatagramsOut != questions || e.BytesIn != questions+1 {
		t.Errorf("end = %+v, want idle with all datagrams counted", e)
	}
	if g.seen.carried != [2]int64{e.BytesIn, e.BytesOut} {
		t.Errorf("carried %v, want %d and %d in all", g.seen.carried, e.BytesIn, e.BytesOut)
	}
}

func TestAnEndpointThatSendsKeepsTheFlow(t *testing.T) {
	const ticks = 20
	a := startUDPEndpoint(t, "syslog-a", func([]byte) [][]byte { return nil })
	g := startUDPGateway(t, udpOptions{edit: func(u *UDP) { u.IdleTimeout = time.Hour }}, a)
	c := dialUDP(t, "127.0.1.1", g.address)
	c.send("subscribe")
	eventually(t, "the subscription", func() bool { return a.heard.Load() == 1 })
	a.mu.Lock()
	var to netip.AddrPort
	for to = range a.from {
	}
	a.mu.Unlock()
	f := g.flowOf(t, c)
	for i := range ticks {
		before, _ := f.times()
		a.conn.WriteToUDPAddrPort([]byte("tick"), to)
		if got := c.read(patience); got != "tick" {
			t.Fatalf("datagram %d of the endpoint is %q, want tick", i, got)
		}
		if _, open := f.look(before + time.Hour); !open {
			t.Fatalf("the flow ended less than an hour after datagram %d of the endpoint", i)
		}
	}
	if n := len(g.seen.picks()); n != 1 || g.Open() != 1 {
		t.Errorf("%d picks and %d flows, want 1 of each: the endpoint's datagrams renew the flow", n, g.Open())
	}
}

func TestAFlowEndsWithItsResponses(t *testing.T) {
	a := startUDPEndpoint(t, "coredns-a", func(datagram []byte) [][]byte {
		if string(datagram) == "first" {
			return nil
		}
		return [][]byte{[]byte("one"), []byte("two")}
	})
	g := startUDPGateway(t, udpOptions{edit: func(u *UDP) { u.Responses = 1 }}, a)
	c := dialUDP(t, "127.0.1.1", g.address)
	c.send("first")
	c.send("second")
	if one, two := c.read(patience), c.read(patience); one != "one" || two != "two" {
		t.Errorf("answers %q and %q, want one and two: 1 is for each datagram of the client", one, two)
	}
	eventually(t, "the end", func() bool { return len(g.seen.ends()) > 0 })
	if e := g.seen.ends(); len(e) != 1 || e[0].Ending != EndResponses || g.Open() != 0 {
		t.Errorf("ends = %+v, want one by responses", e)
	}
}

// An endpoint may answer before the goroutine that found it a flow has said that the flow is open.
func TestEveryFlowEndsWithItsResponsesHoweverSoonTheyCome(t *testing.T) {
	a := startUDPEndpoint(t, "coredns-a", func(datagram []byte) [][]byte { return [][]byte{datagram} })
	g := startUDPGateway(t, udpOptions{edit: func(u *UDP) { u.Responses, u.IdleTimeout = 1, time.Hour }}, a)
	const flows = 500
	for i := range flows {
		dialUDP(t, "127.0.1.1", g.address).ask(fmt.Sprintf("query %d", i))
	}
	eventually(t, "the end of all flows", func() bool { return len(g.seen.ends()) == flows })
	if n := g.Open(); n != 0 {
		t.Errorf("Open() = %d once all flows have ended, want 0", n)
	}
}

func TestDatagramsOfEverySize(t *testing.T) {
	a := startUDPEndpoint(t, "coredns-a", func(datagram []byte) [][]byte { return [][]byte{datagram} })
	g := startUDPGateway(t, udpOptions{}, a)
	c := dialUDP(t, "127.0.1.1", g.address)
	c.SetWriteBuffer(1 << 20)
	c.SetReadBuffer(1 << 20)
	for _, size := range []int{1, 0, 512, 1472, 9000, 65507} {
		sent := strings.Repeat("x", size)
		if _, err := c.Write([]byte(sent)); err != nil {
			t.Fatalf("sending %d bytes: %v", size, err)
		}
		if got := c.read(patience); got != sent {
			t.Errorf("a datagram of %d bytes came back with %d", size, len(got))
		}
	}
}

func TestEachDatagramTellsWhoseItIs(t *testing.T) {
	a := startUDPEndpoint(t, "coredns-a", nil)
	g := startUDPGateway(t, udpOptions{edit: func(u *UDP) { u.SendProxy = ProxyV2 }}, a)
	c := dialUDP(t, "127.0.1.1", g.address)
	c.SetWriteBuffer(1 << 20)
	client := c.LocalAddr().(*net.UDPAddr).AddrPort()
	for _, text := range []string{"q1", "q2", strings.Repeat("x", 4000)} {
		c.ask(text)
		want := append(appendProxy(nil, ProxyV2, "udp", client, g.address), text...)
		if got := a.received(); !bytes.Equal(got, want) {
			t.Errorf("the endpoint got %q, want a header and %q", got, text)
		}
	}
	if _, err := c.Write(make([]byte, 65507)); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the drop of what the header makes too long", func() bool { return g.seen.dropped(CauseTooLong) == 1 })
	c.ask("q3")
}

func TestAnswersLeaveFromTheAddressThatWasAsked(t *testing.T) {
	tests := []struct{ name, listen, endpoint, client, ask string }{
		{"any address of IPv4", "0.0.0.0:0", "127.0.0.1:0", "127.0.1.1", "127.0.9.7"},
		{"IPv4 by any address of IPv6", "[::]:0", "127.0.0.1:0", "127.0.1.1", "127.0.9.8"},
		{"any address of IPv6", "[::]:0", "[::1]:0", "::1", "::1"},
		{"one address", "127.0.9.9:0", "127.0.0.1:0", "127.0.1.1", "127.0.9.9"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			a := startUDPEndpointAt(t, "coredns-a", test.endpoint, nil)
			g := startUDPGateway(t, udpOptions{listen: test.listen, edit: func(u *UDP) { u.SendProxy = ProxyV2 }}, a)
			to := netip.AddrPortFrom(netip.MustParseAddr(test.ask), g.address.Port())
			c := dialUDP(t, test.client, to) // connected: takes answers of that address alone
			c.ask("q")
			client := c.LocalAddr().(*net.UDPAddr).AddrPort()
			want := append(appendProxy(nil, ProxyV2, "udp", client, to), "q"...)
			if got := a.received(); !bytes.Equal(got, want) {
				t.Errorf("the endpoint got %q, want %q", got, want)
			}
			if g.Open() != 1 {
				t.Errorf("Open() = %d, want 1", g.Open())
			}
		})
	}
}

func TestOneSocketThatAsksTwoAddressesHasTwoFlows(t *testing.T) {
	a := startUDPEndpoint(t, "coredns-a", nil)
	g := startUDPGateway(t, udpOptions{listen: "0.0.0.0:0"}, a)
	conn, err := net.ListenPacket("udp", "127.0.1.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	buffer := make([]byte, 100)
	for _, ask := range []string{"127.0.9.1", "127.0.9.2"} {
		to := net.UDPAddrFromAddrPort(netip.AddrPortFrom(netip.MustParseAddr(ask), g.address.Port()))
		conn.WriteTo([]byte("q"), to)
		conn.SetReadDeadline(time.Now().Add(patience))
		if _, from, err := conn.ReadFrom(buffer); err != nil || from.String() != to.String() {
			t.Errorf("answer to %s from %v, %v", to, from, err)
		}
	}
	if n := g.Open(); n != 2 {
		t.Errorf("Open() = %d, want 2", n)
	}
}

func TestShutdownRefusesNewFlowsAndLetsOpenOnesGoOn(t *testing.T) {
	a := startUDPEndpoint(t, "coredns-a", nil)
	g := startUDPGateway(t, udpOptions{edit: func(u *UDP) { u.IdleTimeout = time.Hour }}, a)
	c, late := dialUDP(t, "127.0.1.1", g.address), dialUDP(t, "127.0.1.2", g.address)
	c.ask("q1")
	g.Drain()
	draining := dialUDP(t, "127.0.1.3", g.address)
	draining.ask("a flow that begins while the listener drains")
	down := make(chan error, 1)
	go func() { down <- g.Shutdown(context.Background()) }()
	eventually(t, "nothing new is taken", func() bool {
		g.flows.mu.Lock()
		defer g.flows.mu.Unlock()
		return g.flows.closed
	})
	late.send("q2")
	eventually(t, "a new flow is refused", func() bool { return g.seen.dropped(CauseShutdown) > 0 })
	for range 10 {
		c.ask("q3")
	}
	select {
	case err := <-down:
		t.Fatalf("Shutdown() = %v while a flow goes on, want it to wait", err)
	default:
	}
	for _, f := range []*flow{g.flowOf(t, c), g.flowOf(t, draining)} {
		last, _ := f.times()
		f.look(last + time.Hour)
	}
	if err := <-down; err != nil {
		t.Errorf("Shutdown() = %v after all flows have ended, want nil", err)
	}
	if err := <-g.served; err != nil {
		t.Errorf("Serve() = %v, want nil", err)
	}
	for _, e := range g.seen.ends() {
		if e.Ending != EndIdle {
			t.Errorf("ended by %s, want idle", e.Ending)
		}
	}
}

func TestShutdownBreaksOffAtItsDeadline(t *testing.T) {
	a := startUDPEndpoint(t, "coredns-a", nil)
	g := startUDPGateway(t, udpOptions{}, a)
	dialUDP(t, "127.0.1.1", g.address).ask("q")
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := g.Shutdown(ctx); err == nil {
		t.Error("Shutdown() = nil with a flow that is open, want an error")
	}
	if e := g.seen.ends(); len(e) != 1 || e[0].Ending != EndShutdown {
		t.Errorf("ends = %+v, want one by shutdown", e)
	}
}

func TestShutdownBeforeServe(t *testing.T) {
	u := &UDP{}
	if err := u.Shutdown(t.Context()); err != nil {
		t.Fatalf("Shutdown() = %v, want nil", err)
	}
	conn, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	if err := u.Serve(t.Context(), conn); err != nil {
		t.Errorf("Serve() after Shutdown = %v, want nil", err)
	}
}
