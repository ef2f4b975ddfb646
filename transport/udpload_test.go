package transport

import (
	"fmt"
	"net"
	"os"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/limpet-project/limpet/endpoint"
)

// TestNoAnswerIsLostWhenFlowsEndWithTheirResponses has clients with several questions under way from one socket: flows end and begin all the
// time.
func TestNoAnswerIsLostWhenFlowsEndWithTheirResponses(t *testing.T) {
	const clients, questions, window = 10, 400, 4
	all, _ := trio(t)
	g := startUDPGateway(t, udpOptions{policy: stickyByAddress(time.Hour), edit: func(u *UDP) { u.Responses = 1 }}, all...)
	var running sync.WaitGroup
	for i := range clients {
		c := dialUDP(t, fmt.Sprintf("127.0.5.%d", i+1), g.address)
		places := make(chan struct{}, window)
		running.Go(func() {
			for range questions {
				places <- struct{}{}
				c.Write([]byte("q")) // one that fails is missed below
			}
		})
		running.Go(func() {
			for n := range questions {
				if c.read(patience) == "" {
					t.Errorf("client %d: answer %d of %d did not come; drops: %v", i, n, questions, g.seen.dropped(CauseWaiting))
				}
				<-places
			}
		})
	}
	running.Wait()
}

// TestManyClientsWithFreshSocketsLoseNothing sends each question from a socket of its own, so that each begins a flow.
func TestManyClientsWithFreshSocketsLoseNothing(t *testing.T) {
	const clients = 200
	for _, test := range []struct {
		name                        string
		questions, loops, responses int
	}{{"flows end idle", 10000, 1, 0}, {"flows end with their response, in three loops", 10000, 3, 1}} {
		t.Run(test.name, func(t *testing.T) {
			all, _ := trio(t)
			goroutines, descriptors := runtime.NumGoroutine(), openDescriptors(t)
			g := startUDPGateway(t, udpOptions{policy: stickyByAddress(time.Hour), edit: func(u *UDP) {
				u.IdleTimeout, u.Loops, u.Responses = 10*time.Second, test.loops, test.responses
			}}, all...)
			overflows := kernelDrops(t)
			lost, wrong := freshLoad(t, g, clients, test.questions)
			if lost > int(kernelDrops(t)-overflows) || wrong > 0 {
				t.Errorf("%d of %d answers did not come and %d came from another endpoint; the kernel dropped %d; drops: %v",
					lost, test.questions, wrong, kernelDrops(t)-overflows, g.seen.drops)
			}
			t.Logf("%d lost, %d flows open, %d goroutines", lost, g.Open(), runtime.NumGoroutine())
			eventually(t, "all flows end", func() bool { return g.Open() == 0 })
			g.stop()
			if err := <-g.served; err != nil {
				t.Errorf("Serve() = %v, want nil", err)
			}
			eventually(t, "no goroutine is left", func() bool { return runtime.NumGoroutine() <= goroutines })
			eventually(t, "no descriptor is left", func() bool { return openDescriptors(t) <= descriptors+1 }) // the runtime's poller
		})
	}
}

// freshLoad asks from fresh sockets, and returns how many questions had no answer or one of an endpoint that is not the client's.
func freshLoad(t *testing.T, g *udpGateway, clients, questions int) (lost, wrong int) {
	var running sync.WaitGroup
	var nobody, other atomic.Int64
	to := net.UDPAddrFromAddrPort(g.address)
	for i := range clients {
		local := &net.UDPAddr{IP: net.IPv4(127, 0, 6, byte(i+1))}
		running.Go(func() {
			home := ""
			buffer := make([]byte, 100)
			for range questions / clients {
				c, err := net.DialUDP("udp", local, to)
				if err != nil {
					t.Errorf("opening a socket: %v", err)
					return
				}
				c.Write([]byte("q")) // one that fails has no answer
				c.SetReadDeadline(time.Now().Add(patience))
				n, err := c.Read(buffer)
				c.Close()
				switch name := string(buffer[:n]); {
				case err != nil:
					nobody.Add(1)
				case home == "":
					home = name
				case name != home:
					other.Add(1)
				}
			}
		})
	}
	running.Wait()
	return int(nobody.Load()), int(other.Load())
}

// openDescriptors returns how many files this process has open.
func openDescriptors(t testing.TB) int {
	t.Helper()
	files, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Skip(err)
	}
	return len(files)
}

// kernelDrops returns how many datagrams this machine's kernel has dropped because a buffer was full.
func kernelDrops(t testing.TB) int64 {
	t.Helper()
	text, err := os.ReadFile("/proc/net/snmp")
	if err != nil {
		t.Skip(err)
	}
	var names, values []string
	for line := range strings.Lines(string(text)) {
		if fields := strings.Fields(line); fields[0] == "Udp:" {
			names, values = values, fields
		}
	}
	var sum int64
	for i, name := range names {
		if name == "RcvbufErrors" || name == "SndbufErrors" {
			n, _ := strconv.ParseInt(values[i], 10, 64) // the kernel writes numbers
			sum += n
		}
	}
	return sum
}

// TestADatagramOfAKnownFlowAllocatesNothing counts what an exchange allocates; the client and the endpoint, which are here too, allocate
// nothing.
func TestADatagramOfAKnownFlowAllocatesNothing(t *testing.T) {
	server, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	g := startUDPGateway(t, udpOptions{policy: stickyByAddress(time.Hour), edit: func(u *UDP) { u.SendProxy = ProxyV2 }})
	g.members(endpoint.Member{Name: "coredns-a", Address: server.LocalAddr().String()})
	c := dialUDP(t, "127.0.1.1", g.address)
	question, buffer := []byte("a question of a usual length, which is kept until it is answered"), make([]byte, 1500)
	exchange := func() {
		if _, err := c.Write(question); err != nil {
			t.Fatal(err)
		}
		n, from, err := server.ReadFromUDPAddrPort(buffer)
		if err == nil {
			_, err = server.WriteToUDPAddrPort(buffer[:n], from)
		}
		if err == nil {
			_, err = c.Read(buffer)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	for range 100 {
		exchange()
	}
	if got := testing.AllocsPerRun(2000, exchange); got > 0.1 {
		t.Errorf("an exchange of a known flow allocates %.2f times, want none", got)
	}
}

// TestWhatAFlowCosts measures memory and goroutines of flows that are open.
func TestWhatAFlowCosts(t *testing.T) {
	const flows = 2000
	a := startUDPEndpoint(t, "coredns-a", nil)
	g := startUDPGateway(t, udpOptions{policy: stickyByAddress(time.Hour), edit: func(u *UDP) { u.Observer = nil }}, a)
	conns := make([]*udpClient, flows)
	for i := range conns {
		conns[i] = dialUDP(t, fmt.Sprintf("127.0.%d.%d", 10+i/200, 1+i%200), g.address)
	}
	conns[0].ask("the first one makes what is made once")
	heap, goroutines := heapInUse(), runtime.NumGoroutine()
	for _, c := range conns {
		c.ask("q")
	}
	perFlow := (heapInUse() - heap) / flows
	t.Logf("%d bytes of heap for each of %d flows of as many sessions, %d goroutines more", perFlow, g.Open(), runtime.NumGoroutine()-goroutines)
	if most := goroutines + maxResting + 10; runtime.NumGoroutine() > most { // each that found a target may rest until the next flow
		t.Errorf("%d goroutines for %d flows, want none for a flow", runtime.NumGoroutine()-goroutines, flows)
	}
	if perFlow > 4096 {
		t.Errorf("%d bytes for each flow, want at most 4096", perFlow)
	}
}

func heapInUse() int64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}
