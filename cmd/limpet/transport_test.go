package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/limpet-project/limpet/node/nodetest"
	"github.com/limpet-project/limpet/redis/redistest"
)

// A database is an endpoint that says its name in a line and then repeats what it hears.
type database struct {
	name string
	ln   net.Listener
	stop func()
}

func startDatabase(t *testing.T, name string) *database {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	d := &database{name: name, ln: ln}
	var running sync.WaitGroup
	running.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			running.Go(func() {
				defer c.Close()
				if _, err := fmt.Fprintln(c, name); err == nil {
					_, _ = io.Copy(c, c) // until the gateway is done
				}
			})
		}
	})
	// A connection of its own keeps the port when the endpoint has ended: nobody else, such as another test, gets it then.
	keeps, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	d.stop = sync.OnceFunc(func() { ln.Close() })
	t.Cleanup(func() { d.stop(); keeps.Close(); running.Wait() })
	return d
}

// Probes of endpoints. On a machine that has other things to do an endpoint that is well answers a short one too late, so they come often
// only where they are what is tested: everywhere else a connection finds out that its endpoint has ended.
const (
	seldom = "interval: 1m, timeout: 1m"
	often  = "interval: 500ms, timeout: 500ms, unhealthyThreshold: 2"
)

// databases writes a service with these endpoints. A TCP listener leads to it.
func databases(listener, service string, all ...*database) string {
	var b strings.Builder
	fmt.Fprintf(&b, "listeners: [{name: db, address: \"127.0.0.1:0\", tcp: {service: %s%s}}]\n", service, listener)
	fmt.Fprintf(&b, "services:\n- name: %s\n  affinity: {session: {from: [{clientAddress: {}}]}}\n", service)
	fmt.Fprintf(&b, "  probe: {%s}\n  revisions:\n  - name: %s-00001\n    endpoints:\n", seldom, service)
	for _, d := range all {
		fmt.Fprintf(&b, "    - {name: %s, address: %q}\n", d.name, d.ln.Addr())
	}
	return b.String()
}

// connect connects from an address of this machine and returns the connection after the endpoint's first line, which is its name.
func (p *process) connect(from string) (net.Conn, string, error) {
	d := net.Dialer{LocalAddr: net.TCPAddrFromAddrPort(netip.AddrPortFrom(netip.MustParseAddr(from), 0)), Timeout: time.Minute}
	c, err := d.Dial("tcp", p.address())
	if err != nil {
		return nil, "", err
	}
	p.t.Cleanup(func() { c.Close() })
	if err := c.SetDeadline(time.Now().Add(2 * time.Minute)); err != nil {
		return nil, "", err
	}
	name, err := bufio.NewReaderSize(c, 16).ReadString('\n') // nothing follows before it is asked for
	return c, strings.TrimSpace(name), err
}

// at connects from an address, must, and returns the endpoint's name.
func (p *process) at(from string) string {
	p.t.Helper()
	c, name, err := p.connect(from)
	if err != nil {
		p.t.Fatalf("connecting from %s = %q, %v", from, name, err)
	}
	c.Close()
	return name
}

// talks reports whether what is said on a connection comes back.
func talks(c net.Conn) error {
	const text = "still here"
	if _, err := io.WriteString(c, text); err != nil {
		return err
	}
	b := make([]byte, len(text))
	if _, err := io.ReadFull(c, b); err != nil || string(b) != text {
		return fmt.Errorf("heard %q, %w", b, err)
	}
	return nil
}

func TestBytesOfConnectionsDoNotPassThroughTheProcess(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("only Linux has splice(2)")
	}
	p := serve(t, databases("", "postgres", startDatabase(t, "postgres-a")))
	c, _, err := p.connect("127.0.0.2")
	if err != nil {
		t.Fatal(err)
	}
	before := p.copied()
	const size = 256 << 20
	var sending sync.WaitGroup
	sending.Go(func() {
		b := make([]byte, 1<<20)
		for range size / len(b) {
			if _, err := c.Write(b); err != nil {
				t.Errorf("writing = %v", err)
				return
			}
		}
	})
	n, err := io.CopyN(io.Discard, c, size)
	sending.Wait()
	if err != nil {
		t.Fatalf("%d bytes came back, %v, want %d", n, err, size)
	}
	copied := p.copied() - before
	t.Logf("the process read and wrote %.1f MB to carry %d MB both ways", float64(copied)/1e6, size/1_000_000)
	if copied > size/10 {
		t.Errorf("the process read and wrote %d bytes, want less than a tenth of %d: the kernel carries the rest", copied, size)
	}
}

// copied returns how many bytes the process has read and written by read(2), write(2) and the like. Those spliced are not among them.
func (p *process) copied() (n int) {
	p.t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/io", p.cmd.Process.Pid))
	if err != nil {
		p.t.Skipf("reading what a process read and wrote: %v", err)
	}
	for line := range strings.Lines(string(text)) {
		if name, value, _ := strings.Cut(line, ": "); name == "rchar" || name == "wchar" {
			var v int
			fmt.Sscan(value, &v)
			n += v
		}
	}
	return n
}

func TestGatewaysThatShareAStoreSendAClientToOneDatabase(t *testing.T) {
	redis, secret := redistest.Start(t), t.TempDir()+"/digest.key"
	limpetRun(t, "keys", "digest", secret)
	a, b, c := startDatabase(t, "postgres-a"), startDatabase(t, "postgres-b"), startDatabase(t, "postgres-c")
	configuration := databases("", "postgres", a, b, c) +
		fmt.Sprintf("secrets: {digestFile: %q}\nstore: {redis: {addresses: [%q], timeout: 10s}}\n", secret, redis.Addr())
	first, second := serve(t, configuration), serve(t, configuration)
	home := map[string]string{}
	same := func(when string, gateways ...*process) {
		t.Helper()
		for i := range 40 {
			from := fmt.Sprintf("127.0.2.%d", 1+i)
			for _, p := range gateways {
				if at := p.at(from); home[from] == "" {
					home[from] = at
				} else if at != home[from] {
					t.Errorf("%s: %s is at %s, want %s", when, from, at, home[from])
				}
			}
		}
	}
	same("at first", first, second)
	same("again", second, first)
	lost := home["127.0.2.1"]
	for _, d := range []*database{a, b, c} {
		if d.name == lost {
			d.stop()
		}
	}
	moved := 0
	for from, at := range home {
		if at != lost {
			continue
		}
		delete(home, from)
		moved++
		if now := first.at(from); now == lost {
			t.Errorf("%s is at %s, which has ended", from, now)
		}
	}
	same("after one database ended", second, first)
	redis.Stop()
	same("with the store away", first, second)
	if err := first.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	<-first.ended
	redis.Restart()
	nodetest.Eventually(t, "the gateway that is left has offered its bindings again", func() bool {
		return strings.Count(fmt.Sprint(redis.Do("KEYS", "*")), "limpet:1:b") >= len(home)
	})
	third := serve(t, configuration)
	same("after one gateway was killed and the store came back empty", second, third)
	t.Logf("%d of 40 clients had to move", moved)
}

func TestConnectionsOutliveAReloadAndADrain(t *testing.T) {
	a, b := startDatabase(t, "postgres-a"), startDatabase(t, "postgres-b")
	p := serve(t, databases("", "postgres", a)+"shutdown: {drain: 10m}\n")
	c, name, err := p.connect("127.0.0.2")
	if err != nil || name != "postgres-a" {
		t.Fatalf("connecting = %q, %v, want postgres-a", name, err)
	}
	p.configure(databases("", "mysql", b) + "shutdown: {drain: 10m}\n")
	p.signal(syscall.SIGHUP)
	p.logs(1, "configuration read")
	if strings.Contains(p.log.String(), "with a restart only") {
		t.Error("the log says that the listener changes with a restart only, want its service to change at once")
	}
	nodetest.Eventually(t, "new connections go to the other service", func() bool { return p.at("127.0.0.2") == "postgres-b" })
	if err := talks(c); err != nil {
		t.Errorf("the connection from before the reload %v", err)
	}
	p.signal(syscall.SIGTERM)
	nodetest.Eventually(t, "nothing is accepted any longer", func() bool {
		other, _, err := p.connect("127.0.0.3")
		if err == nil {
			other.Close()
		}
		return err != nil
	})
	if err := talks(c); err != nil {
		t.Errorf("the connection during the drain %v", err)
	}
	c.Close()
	if code := p.exit(); code != 0 {
		t.Errorf("exit code = %d after the last connection ended, want 0", code)
	}
}

func TestDrainsDeadlineResetsConnections(t *testing.T) {
	p := serve(t, databases("", "postgres", startDatabase(t, "postgres-a"))+"shutdown: {drain: 200ms}\n")
	c, _, err := p.connect("127.0.0.2")
	if err != nil {
		t.Fatal(err)
	}
	p.signal(syscall.SIGTERM)
	if _, err := c.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("the client read %v, want a reset", err)
	}
	p.exit()
}

func TestConnectionsToADatabaseThatIsDownAreClosedWhereThatIsWanted(t *testing.T) {
	a, b := startDatabase(t, "postgres-a"), startDatabase(t, "postgres-b")
	p := serve(t, strings.Replace(databases(", whenDown: close", "postgres", a, b), seldom, often, 1))
	c, name, err := p.connect("127.0.0.2")
	if err != nil {
		t.Fatal(err)
	}
	other := b
	if name == "postgres-a" {
		a.stop()
	} else {
		b.stop()
		other = a
	}
	if _, err := c.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("the client read %v, want a reset: the probe fails", err)
	}
	if at := p.at("127.0.0.2"); at != other.name {
		t.Errorf("the client is at %s, want %s", at, other.name)
	}
}

func TestMetricsTellOfConnections(t *testing.T) {
	p := serve(t, databases("", "postgres", startDatabase(t, "postgres-a")))
	c, _, err := p.connect("127.0.0.2")
	if err == nil {
		err = talks(c)
	}
	if err != nil {
		t.Fatal(err)
	}
	p.at("127.0.0.2")
	for _, want := range []string{
		`limpet_connections_open{listener="db"} 1`,
		`limpet_connections_total{listener="db",reason="new",revision="postgres-00001",service="postgres"} 1`,
		`limpet_connections_total{listener="db",reason="bound",revision="postgres-00001",service="postgres"} 1`,
		`limpet_transport_bytes_total{direction="in",listener="db",service="postgres"} 10`,
		`limpet_transport_bytes_total{direction="out",listener="db",service="postgres"} 32`,
		`limpet_transport_endings_total{ending="closed",listener="db",service="postgres"} 1`,
	} {
		nodetest.Eventually(t, want, func() bool { return strings.Contains(nodetest.Fetch(p.admin()+"/metrics"), want+"\n") })
	}
}

func TestGatewayThatIsKilledResetsItsConnections(t *testing.T) {
	p := serve(t, databases("", "postgres", startDatabase(t, "postgres-a")))
	c, _, err := p.connect("127.0.0.2")
	if err != nil {
		t.Fatal(err)
	}
	if err := p.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	if n, err := c.Read(make([]byte, 1)); err == nil {
		t.Errorf("the client read %d bytes, want the end", n)
	}
}
