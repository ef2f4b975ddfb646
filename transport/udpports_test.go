//go:build linux

package transport

import (
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"
)

// TestPortsRunOut runs itself in a network namespace of its own, where few ports are left.
func TestPortsRunOut(t *testing.T) {
	const inside = "LIMPET_TEST_FEW_PORTS"
	if os.Getenv(inside) != "" {
		usePorts(t)
		return
	}
	if os.Geteuid() != 0 {
		t.Skip("a network namespace needs root")
	}
	cmd := exec.Command(os.Args[0], "-test.run=^TestPortsRunOut$", "-test.v")
	cmd.Env = append(os.Environ(), inside+"=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET}
	if out, err := cmd.CombinedOutput(); err != nil || strings.Contains(string(out), "SKIP") {
		t.Errorf("in a network namespace of its own: %v\n%s", err, out)
	}
}

func usePorts(t *testing.T) {
	if out, err := exec.Command("ip", "link", "set", "lo", "up").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if err := os.WriteFile("/proc/sys/net/ipv4/ip_local_port_range", []byte("40000 40019"), 0o644); err != nil {
		t.Fatal(err)
	}
	a := startUDPEndpointAt(t, "coredns-a", "127.0.0.1:5301", nil)
	a.silent.Store(true)
	g := startUDPGateway(t, udpOptions{listen: "127.0.0.1:5300", edit: func(u *UDP) { u.IdleTimeout, u.Responses = time.Hour, 1 }}, a)
	for i := 0; g.seen.dropped(CauseFlows) == 0; i++ {
		if i == 50 {
			t.Fatalf("%d flows with 20 ports, want drops", g.Open())
		}
		c := dialUDP(t, fmt.Sprintf("127.0.1.%d", i+1), g.address) // ports are taken by address, so clients have enough
		c.send("q")
		eventually(t, "the endpoint hears of it, or there is no port", func() bool { return a.heard.Load() > int64(i) || g.seen.dropped(CauseFlows) > 0 })
		c.Close()
	}
	a.mu.Lock()
	for from := range a.from {
		a.conn.WriteToUDPAddrPort([]byte("the response that ends the flow"), from)
	}
	a.mu.Unlock()
	eventually(t, "the flows end", func() bool { return g.Open() == 0 })
	a.silent.Store(false)
	eventually(t, "new flows begin", func() bool {
		c := dialUDP(t, "127.0.1.200", g.address)
		defer c.Close()
		c.send("q")
		return c.read(time.Second) != ""
	})
	for _, e := range g.seen.ends() {
		if e.Cause == CauseFlows && e.Err == nil {
			t.Errorf("end = %+v, want an error that tells", e)
		}
	}
}
