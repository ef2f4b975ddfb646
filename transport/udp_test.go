package transport

import (
	"context"
	"fmt"
	"testing"
	"time"
)

func TestAFlowGoesToOneEndpointAndComesBack(t *testing.T) {
	a, b := startUDPEndpoint(t, "coredns-a", nil), startUDPEndpoint(t, "coredns-b", nil)
	g := startUDPGateway(t, udpOptions{policy: stickyByAddress(time.Hour)}, a, b)
	c := dialUDP(t, "127.0.1.1", g.address)
	first := c.endpointOf("q0")
	for i := range 50 {
		if got := c.endpointOf(fmt.Sprintf("q%d", i)); got != first {
			t.Fatalf("datagram %d went to %s, want %s", i, got, first)
		}
	}
	if n := g.Open(); n != 1 {
		t.Errorf("Open() = %d, want 1 flow", n)
	}
}

func TestAllFlowsOfAClientGoToOneEndpoint(t *testing.T) {
	var endpoints []*udpEndpoint
	for _, name := range []string{"coredns-a", "coredns-b", "coredns-c"} {
		endpoints = append(endpoints, startUDPEndpoint(t, name, nil))
	}
	g := startUDPGateway(t, udpOptions{policy: stickyByAddress(time.Hour)}, endpoints...)
	used := map[string]int{}
	for client := range 30 {
		from := fmt.Sprintf("127.0.2.%d", client+1)
		first := dialUDP(t, from, g.address).endpointOf("q")
		used[first]++
		for range 3 {
			if got := dialUDP(t, from, g.address).endpointOf("q"); got != first {
				t.Errorf("another socket of %s went to %s, want %s", from, got, first)
			}
		}
	}
	if len(used) != 3 {
		t.Errorf("30 clients used %v, want all three endpoints", used)
	}
}

func TestServeEndsWithItsContext(t *testing.T) {
	a := startUDPEndpoint(t, "coredns-a", nil)
	g := startUDPGateway(t, udpOptions{}, a)
	dialUDP(t, "127.0.1.1", g.address).ask("q")
	g.stop()
	if err := <-g.served; err != nil {
		t.Errorf("Serve() = %v, want nil", err)
	}
	ends := g.seen.ends()
	if len(ends) != 1 || ends[0].Ending != EndShutdown {
		t.Errorf("ends = %+v, want one by shutdown", ends)
	}
	if err := g.Shutdown(context.Background()); err != nil {
		t.Errorf("Shutdown() after Serve = %v, want nil", err)
	}
}
