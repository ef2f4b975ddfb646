package main

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os/exec"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/limpet-project/limpet/affinity"
	"github.com/limpet-project/limpet/lab/clientip"
	"github.com/limpet-project/limpet/lab/flow"
)

// everyWatch runs a test in each mode, with each source and protocol.
func everyWatch(t *testing.T, test func(t *testing.T, n *watchedNode, source string)) {
	for _, mode := range []clientip.Mode{clientip.IPTables, clientip.NFTables} {
		for source, protocol := range map[string]string{"events": "udp", "poll": "tcp"} {
			t.Run(string(mode)+", "+source+", "+protocol, func(t *testing.T) { test(t, newWatchedNode(t, mode, protocol), source) })
		}
	}
}

func TestWatchSeesFlowsAndMovesAsTheyAreMade(t *testing.T) {
	everyWatch(t, func(t *testing.T, n *watchedNode, source string) {
		w := n.watch("--source", source)
		m := n.begin(w)
		n.round(m, 60, 4) // nobody moves
		if m.moves != 0 {
			t.Fatalf("%d flows moved, want none: lists have room", m.moves)
		}
		v := n.compare(w, m)
		if string(v.Source) != source || v.Conntrack.Entries == 0 || v.Conntrack.Limit == 0 || v.Overruns != 0 || v.Clients.Tracked != 61 {
			t.Errorf("interval = %+v, want source %s, a table of connections and 61 clients", v, source)
		}

		n.spec.Endpoints = n.spec.Endpoints[:2] // of three
		n.load()
		n.round(m, 60, 1)
		if m.gone == 0 { // none of 60 clients is with a chance of 3e-11
			t.Fatal("no client was on the third endpoint, want about a third")
		}
		n.compare(w, m)

		n.round(m, 250, 1) // lists of 2 × 100 clients in mode iptables
		n.compare(w, m)    // a poll does not see the order of one client's flows
		before := m.moves
		n.round(m, 250, 1)
		if forgotten := m.moves > before; forgotten != (n.mode == clientip.IPTables) {
			t.Fatalf("moves = %d, %d before, in mode %s, want clients forgotten in mode iptables only", m.moves, before, n.mode)
		}
		v = n.compare(w, m)
		n.checkRates(w)
		live := 0
		for _, e := range v.Services[0].Endpoints {
			if !e.Out {
				live += e.List.Entries
			}
		}
		if live == 0 || n.mode == clientip.IPTables && fullest(v.Services[0]) != (flow.Fill{Entries: 100, Limit: 100}) {
			t.Errorf("endpoints = %+v, want clients in their lists, and full ones in mode iptables", v.Services[0].Endpoints)
		}
		if code := w.interrupt(); code != 0 {
			t.Errorf("exit code after SIGINT = %d, want 0; %s", code, w.log.String())
		}
	})
}

// checkRates checks that rates times the length of their intervals are all flows.
func (n *watchedNode) checkRates(w *watch) {
	n.t.Helper()
	all := w.all()
	sum := 0.0
	for _, v := range all {
		sum += v.Services[0].Rate * v.Seconds
	}
	if want := float64(all[len(all)-1].Services[0].Flows); sum < want-1e-3 || sum > want+1e-3 {
		n.t.Errorf("rates × seconds of %d intervals = %f, want %.0f", len(all), sum, want)
	}
}

func TestWatchPollsWhereTheKernelTellsNoEvents(t *testing.T) {
	n := newWatchedNode(t, clientip.NFTables, "udp")
	n.run("", "sh", "-c", "echo 0 > /proc/sys/net/netfilter/nf_conntrack_events")
	w := n.watch()
	m := n.begin(w)
	n.round(m, 10, 2)
	v := n.compare(w, m)
	if v.Source != flow.Poll || !strings.Contains(strings.Join(v.Notes, "\n"), "nf_conntrack_events") {
		t.Errorf("source %s, notes %q, want poll and the reason", v.Source, v.Notes)
	}
	out, err := limpet("clientip", "watch", "--source", "events", "--count", "1").CombinedOutput()
	if err == nil || !strings.Contains(string(out), "events of connections are off") {
		t.Errorf("watch with events only = %v, %s, want that they are off", err, out)
	}
}

func TestWatchPrintsLinesAndMetrics(t *testing.T) {
	n := newWatchedNode(t, clientip.IPTables, "udp")
	out, err := limpet("clientip", "watch", "--interval", "200ms", "--window", "2s", "--count", "2").CombinedOutput()
	line := regexp.MustCompile(`(?m)^\d\d:\d\d:\d\d demo/counter:dns udp IPv4: 0\.0 new/s, moved 0 .*, fullest list 0/100, conntrack \d+/\d+$`)
	if err != nil || len(line.FindAll(out, -1)) != 2 || bytes.Contains(out, []byte("\x1b")) {
		t.Errorf("watch --count 2 = %v\n%s\nwant two lines and no steering of a terminal", err, out)
	}
	address := "127.0.0.1:9100" // of this namespace
	w := n.watch("--listen", address)
	m := n.begin(w)
	n.round(m, 5, 2)
	n.compare(w, m)
	text, err := n.fetch(address, "/metrics")
	if err != nil || !strings.Contains(string(text), "limpet_clientip_effective_clients{") || strings.Contains(string(text), "10.1.0.") {
		t.Errorf("metrics = %v\n%s\nwant effective clients and the address of none", err, text)
	}
}

// fetch gets a page over a connection of this thread's namespace, in which http.Client would not dial.
func (n *watchedNode) fetch(address, path string) (string, error) {
	conn, err := net.Dial("tcp", address)
	if err != nil {
		return "", err
	}
	defer conn.Close()
	fmt.Fprintf(conn, "GET %s HTTP/1.1\r\nHost: %s\r\nConnection: close\r\n\r\n", path, address) // reading tells what went wrong
	response, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		return "", err
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	return string(text), err
}

func TestWatchSaysWhatItNeeds(t *testing.T) {
	n := newWatchedNode(t, clientip.IPTables, "udp")
	n.run("", "nft", "flush", "ruleset")
	out, err := limpet("clientip", "watch", "--count", "1").CombinedOutput()
	if err == nil || !strings.Contains(string(out), "looking for kube-proxy's rules: there are none") {
		t.Errorf("watch without rules = %v, %s, want that there are none", err, out)
	}
	if _, err := exec.LookPath("setpriv"); err != nil {
		t.Skip("needs setpriv, of util-linux")
	}
	cmd := exec.Command("setpriv", "--reuid=65534", "--clear-groups", "--bounding-set=-all", "/proc/self/exe")
	cmd.Args = append(cmd.Args[:len(cmd.Args)-1], limpetPath(t), "clientip", "watch", "--count", "1")
	if out, err = cmd.CombinedOutput(); err == nil || !strings.Contains(string(out), "only root may read rules and connections") {
		t.Errorf("watch without root = %v, %s, want that only root may", err, out)
	}
}

// limpetPath returns the path of this test binary as limpet.
func limpetPath(t *testing.T) string {
	t.Helper()
	path, err := exec.LookPath("limpet")
	if err != nil {
		t.Fatal(err)
	}
	return path
}

func TestAScreenHoldsWhatItHasRoomFor(t *testing.T) {
	quiet := flow.ServiceRate{ServicePort: clientip.ServicePort{Namespace: "demo", Name: "log", Protocol: "tcp"}, Family: "IPv4"}
	busy := flow.ServiceRate{
		ServicePort: clientip.ServicePort{Namespace: "demo", Name: "counter", Port: "dns", Protocol: "udp"}, Family: "IPv4", Rate: 6,
		Timeout: affinity.Duration(time.Hour), Spread: &flow.Spread{Variation: 0.35, MaxOverMean: 1.5, Effective: 3.1, Expected: 0.8},
		Moved: 1, Moves: flow.Moves{Total: 3, Gone: 1, Lost: 2},
		Endpoints: []flow.EndpointRate{
			{Address: netip.MustParseAddrPort("10.2.0.1:5353"), Rate: 4, Share: 0.667, Flows: 8, Live: 90, List: flow.Fill{Entries: 90, Limit: 100}},
			{Address: netip.MustParseAddrPort("10.2.0.2:5353"), Rate: 2, Share: 0.333, Flows: 4, Out: true},
		},
	}
	v := flow.Interval{
		Time: time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC), Window: 60, Source: flow.Events, Conntrack: flow.Fill{Entries: 12, Limit: 262144},
		Clients: flow.Clients{Tracked: 5, Limit: 65536}, Services: []flow.ServiceRate{quiet, busy},
	}
	whole := strings.Join([]string{
		"12:00:00  new connections by events, spread over 60s; conntrack 12/262144; clients 5 of 65536",
		"note: demo/counter:dns udp: a list of clients is 90 % full; what has no room is forgotten",
		"",
		"demo/counter:dns udp IPv4: 6.0 new/s, variation 0.35 (expected 0.80), max/mean 1.50, effective clients 3.1",
		"  moved 1 (in all: endpoint gone 1, forgotten 2)",
		"       ENDPOINT  NEW/S  SHARE  FLOWS    LIST",
		"  10.2.0.1:5353    4.0   67 %      8  90/100",
		"  10.2.0.2:5353    2.0   33 %      4       -  not in the rules",
		"",
		"demo/log tcp IPv4: 0.0 new/s",
		"  ENDPOINT  NEW/S  SHARE  FLOWS  LIST",
	}, "\n")
	for _, tt := range []struct {
		name string
		on   screen
		want string
	}{
		{"a large one", screen{40, 200}, whole},
		{"one with few rows", screen{6, 200}, strings.Join(strings.Split(whole, "\n")[:4], "\n") + "\nand 7 more lines; name a Service to see it alone"},
		{"a narrow one", screen{3, 10}, "12:00:00 …\nand 10 mo…"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var got bytes.Buffer
			if err := drawWatch(&got, v, tt.on); err != nil {
				t.Fatal(err)
			}
			text, drawn := strings.CutPrefix(got.String(), home)
			if d := cmp.Diff(tt.want+"\n", regexp.MustCompile(` +\n`).ReplaceAllString(text, "\n")); d != "" || !drawn {
				t.Errorf("screen differs (-want +got), begins at home %t:\n%s", drawn, d)
			}
		})
	}
}

func TestLinesTellAWarningOnceWhileItLasts(t *testing.T) {
	var got bytes.Buffer
	var told []string
	at := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	for _, notes := range [][]string{{"iptables-save is not installed"}, {"iptables-save is not installed", "polled"}, nil, {"polled"}} {
		var err error
		if told, err = printWatch(&got, flow.Interval{Time: at, Notes: notes}, told); err != nil {
			t.Fatal(err)
		}
		at = at.Add(2 * time.Second)
	}
	want := "12:00:00 note: iptables-save is not installed\n12:00:02 note: polled\n12:00:06 note: polled\n"
	if d := cmp.Diff(want, got.String()); d != "" {
		t.Errorf("lines differ (-want +got):\n%s", d)
	}
}

func TestWatchSaysWhenTheKernelDroppedEvents(t *testing.T) {
	const flows = 60_000 // more than twice of what the kernel holds
	n := newWatchedNode(t, clientip.NFTables, "udp")
	w := n.watch()
	n.begin(w)
	if err := w.cmd.Process.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	to := net.UDPAddrFromAddrPort(netip.AddrPortFrom(n.spec.ClusterIP, n.spec.Number))
	for i := range flows {
		from := netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 1, byte(i >> 8), byte(i)}), uint16(20000+i>>16))
		conn, err := net.DialUDP("udp", net.UDPAddrFromAddrPort(from), to)
		if err != nil {
			t.Fatal(err)
		}
		conn.Write([]byte("who")) // nobody reads the answer
		conn.Close()
	}
	if err := w.cmd.Process.Signal(syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	v := w.until("dropped events", func(v flow.Interval) bool { return v.Overruns > 0 && v.Services[0].Flows > 0 })
	if warnings := strings.Join(watchWarnings(v), "\n"); !strings.Contains(warnings, "rates are too low") {
		t.Errorf("warnings = %q, want that rates are too low", warnings)
	}
	before := w.until("an interval without flows", func(v flow.Interval) bool { return v.Services[0].Rate == 0 && v.Overruns > 0 })
	n.connect(n.spec, 1) // it goes on
	w.until("one more flow", func(v flow.Interval) bool { return v.Services[0].Flows > before.Services[0].Flows })
}
