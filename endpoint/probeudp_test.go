package endpoint

import (
	"context"
	"fmt"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/limpet-project/limpet/affinity"
)

// responder answers datagrams as answer says, nil for not at all, until the test ends.
func responder(t *testing.T, answer func(datagram string) []byte) string {
	t.Helper()
	conn, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		buffer := make([]byte, 2048)
		for {
			n, from, err := conn.ReadFrom(buffer)
			if err != nil {
				return
			}
			if reply := answer(string(buffer[:n])); reply != nil {
				conn.WriteTo(reply, from)
			}
		}
	}()
	t.Cleanup(func() { conn.Close(); <-done })
	return conn.LocalAddr().String()
}

// deafAddress returns an address that refuses datagrams as long as the test runs: that of a socket which takes those of its peer alone.
func deafAddress(t *testing.T) string {
	t.Helper()
	conn, err := net.Dial("udp", "127.0.0.1:9")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn.LocalAddr().String()
}

func TestOneUDPProbe(t *testing.T) {
	address := responder(t, func(datagram string) []byte {
		switch datagram {
		case "ping":
			return []byte("pong")
		case "empty":
			return []byte{}
		case "long":
			return make([]byte, 2048)
		}
		return nil
	})
	deaf := deafAddress(t)
	_, port, _ := net.SplitHostPort(address)
	var number int
	fmt.Sscan(port, &number)
	tests := []struct {
		name    string
		address string
		rule    Probe
		want    string // part of the error, "" for good
	}{
		{name: "an answer", address: address, rule: Probe{UDPSend: "ping"}},
		{name: "an empty answer", address: address, rule: Probe{UDPSend: "empty"}},
		{name: "an answer that is longer than what is read of it", address: address, rule: Probe{UDPSend: "long"}},
		{name: "another port", address: deaf, rule: Probe{UDPSend: "ping", Port: number}},
		{name: "no answer", address: address, rule: Probe{UDPSend: "other", Timeout: time.Second}, want: "waiting for an answer"},
		{name: "nobody there", address: deaf, rule: Probe{UDPSend: "ping"}, want: "refused"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			rule := test.rule
			rule.UDP = true
			if rule.Timeout == 0 {
				rule.Timeout = 30 * time.Second
			}
			err := newProber().probe(t.Context(), test.address, rule)
			if got := fmt.Sprint(err); (err == nil) != (test.want == "") || err != nil && !strings.Contains(got, test.want) {
				t.Errorf("probe(%s, %+v) = %v, want %q", test.address, rule, err, test.want)
			}
		})
	}
}

func TestAUDPProbeEndsWithItsContext(t *testing.T) {
	asked := make(chan struct{}, 1)
	address := responder(t, func(string) []byte { asked <- struct{}{}; return nil })
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	go func() { <-asked; cancel() }()
	if err := newProber().probe(ctx, address, Probe{UDP: true, UDPSend: "ping", Timeout: time.Hour}); err == nil {
		t.Errorf("probe(%s) = nil after its context ended, want an error", address)
	}
}

func TestUDPProbesFollowARealServerDownAndUpAgain(t *testing.T) {
	var deaf atomic.Bool
	address := responder(t, func(string) []byte {
		if deaf.Load() {
			return nil
		}
		return []byte("pong")
	})
	table := NewTable(Options{})
	table.SetServices([]Service{probed(Probe{
		UDP: true, UDPSend: "ping", Interval: 20 * time.Millisecond, Timeout: 200 * time.Millisecond, UnhealthyThreshold: 2,
	})})
	table.SetMembers(demo1, []Member{{Name: pod(demo1, 1), Address: address}})
	table.SetSynced()
	run(t, table)
	state := func(want affinity.EndpointState) func() bool {
		return func() bool {
			return endpointOf(table, demo1, 1).State == want
		}
	}
	eventually(t, table, "ready", state(affinity.EndpointReady))
	deaf.Store(true)
	eventually(t, table, "down", state(affinity.EndpointDown))
	deaf.Store(false)
	eventually(t, table, "ready again", state(affinity.EndpointReady))
}
