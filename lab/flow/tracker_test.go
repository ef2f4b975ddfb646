package flow

import (
	"bytes"
	"fmt"
	"math"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/limpet-project/limpet/lab/clientip"
)

var (
	start    = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	dns      = clientip.ServicePort{Namespace: "demo", Name: "counter", Port: "dns", Protocol: "udp"}
	front    = netip.MustParseAddrPort("10.96.0.10:53")
	nodePort = uint16(30053)
)

// replica returns the nth endpoint, from 1.
func replica(n int) netip.AddrPort { return netip.MustParseAddrPort(fmt.Sprintf("10.2.0.%d:5353", n)) }

// rules returns a node with the Service dns, which has so many endpoints.
func rules(t *testing.T, timeout time.Duration, endpoints ...int) *clientip.Node {
	t.Helper()
	s := clientip.Spec{ServicePort: dns, ClusterIP: front.Addr(), Number: front.Port(), NodePort: nodePort, Timeout: timeout}
	for _, n := range endpoints {
		s.Endpoints = append(s.Endpoints, replica(n))
	}
	var text bytes.Buffer
	if err := s.WriteIPTables(&text, true); err != nil {
		t.Fatal(err)
	}
	services, err := clientip.ParseIPTables("rules", &text)
	if err != nil {
		t.Fatal(err)
	}
	return &clientip.Node{Services: services, Lists: map[string]clientip.List{}}
}

// by returns a flow of the nth client to an endpoint.
func by(client, endpoint int) clientip.Flow {
	from := netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 1, byte(client >> 8), byte(client)}), 4000)
	return clientip.Flow{Protocol: "udp", Client: from, Destination: front, Server: replica(endpoint)}
}

// A clock is the time of a test.
type clock struct {
	*Tracker
	now time.Time
}

func newClock(t *testing.T, o Options, n *clientip.Node) *clock {
	t.Helper()
	if err := o.Check(); err != nil {
		t.Fatal(err)
	}
	c := &clock{NewTracker(o, start), start}
	c.SetRules(n)
	return c
}

func (c *clock) add(all ...clientip.Flow) {
	for _, f := range all {
		c.Add(f, c.now)
	}
}

// tick ends the interval after a time and returns its first Service.
func (c *clock) tick(t *testing.T, after time.Duration) (Interval, ServiceRate) {
	t.Helper()
	c.now = c.now.Add(after)
	v := c.Tick(c.now)
	if len(v.Services) != 1 {
		t.Fatalf("Tick() has services %+v, want one", v.Services)
	}
	return v, v.Services[0]
}

func near(a, b float64) bool { return math.Abs(a-b) < 1e-9 }

func TestRatesAndSpreadAreThoseOfTheFlows(t *testing.T) {
	c := newClock(t, Options{}, rules(t, time.Hour, 1, 2, 3))
	for range 6 { // 6, 3 and 3 flows of clients with 6, 2, 2, 1 and 1
		c.add(by(1, 1))
	}
	c.add(by(2, 2), by(2, 2), by(4, 2), by(3, 3), by(3, 3), by(5, 3))
	v, s := c.tick(t, 2*time.Second)
	if s.ServicePort != dns || s.Flows != 12 || !near(s.Rate, 6) || v.Seconds != 2 || v.Clients.Tracked != 5 {
		t.Errorf("Tick() = %+v, want 12 flows of %s at 6 a second, of 5 clients", v, dns)
	}
	var got [][2]float64
	for _, e := range s.Endpoints {
		got = append(got, [2]float64{e.Rate, e.Share})
	}
	if d := cmp.Diff([][2]float64{{3, 0.5}, {1.5, 0.25}, {1.5, 0.25}}, got); d != "" {
		t.Errorf("rates and shares differ (-want +got):\n%s", d)
	}
	variation, effective := math.Sqrt(2)/4, 144.0/46
	if p := s.Spread; !near(p.Variation, variation) || !near(p.MaxOverMean, 1.5) || !near(p.Effective, effective) ||
		!near(p.Expected, math.Sqrt(2/effective)) {
		t.Errorf("spread = %+v, want variation %f, max/mean 1.5, effective clients %f and what that leads to", p, variation, effective)
	}
}

func TestSpreadIsOfTheWindowAndRatesAreOfTheInterval(t *testing.T) {
	c := newClock(t, Options{Interval: time.Second, Window: 3 * time.Second}, rules(t, time.Hour, 1, 2))
	c.add(by(1, 1), by(1, 1))
	for i, want := range []struct {
		rate, share float64
		spread      bool
	}{{2, 1, true}, {0, 1, true}, {0, 1, true}, {0, 0, false}} {
		_, s := c.tick(t, time.Second)
		if s.Rate != want.rate || s.Endpoints[0].Share != want.share || (s.Spread != nil) != want.spread || s.Flows != 2 {
			t.Errorf("interval %d: %+v, want rate %.0f, share %.0f, a spread %t and 2 flows in all", i, s, want.rate, want.share, want.spread)
		}
	}
}

func TestMovesAreCounted(t *testing.T) {
	for _, tt := range []struct {
		name    string
		timeout time.Duration
		flows   []clientip.Flow
		pause   time.Duration // before the last flow
		after   []int         // endpoints of the rules afterwards
		moved   int
		want    Moves
	}{
		{"a client that stays", time.Hour, []clientip.Flow{by(1, 1), by(1, 1)}, 0, []int{1, 2}, 0, Moves{}},
		{"a client that the node forgot", time.Hour, []clientip.Flow{by(1, 1), by(1, 2)}, 0, []int{1, 2}, 1, Moves{Total: 1, Lost: 1}},
		{"and that moves twice", time.Hour, []clientip.Flow{by(1, 1), by(1, 2), by(1, 1)}, 0, []int{1, 2}, 1, Moves{Total: 2, Lost: 2}},
		{"a client whose endpoint is gone", time.Hour, []clientip.Flow{by(1, 1), by(1, 2)}, 0, []int{2}, 1, Moves{Total: 1, Gone: 1}},
		{"a client whose affinity ended", time.Minute, []clientip.Flow{by(1, 1), by(1, 2)}, time.Minute + 1, []int{1, 2}, 0, Moves{}},
		{"or just did not", time.Minute, []clientip.Flow{by(1, 1), by(1, 2)}, time.Minute, []int{1, 2}, 1, Moves{Total: 1, Lost: 1}},
		{"two clients", time.Hour, []clientip.Flow{by(1, 1), by(2, 2)}, 0, []int{1, 2}, 0, Moves{}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := newClock(t, Options{}, rules(t, tt.timeout, 1, 2))
			last := len(tt.flows) - 1
			c.add(tt.flows[:last]...)
			c.now = c.now.Add(tt.pause)
			c.add(tt.flows[last])
			_, s := c.tick(t, time.Second)
			if s.Moved != tt.moved || s.Moves.Total != tt.want.Total {
				t.Errorf("moved %d clients, %d flows, want %d and %d", s.Moved, s.Moves.Total, tt.moved, tt.want.Total)
			}
			c.SetRules(rules(t, tt.timeout, tt.after...))
			if _, s := c.tick(t, time.Second); s.Moves != tt.want || s.Moved != 0 {
				t.Errorf("after the rules were read: moves = %+v, moved %d, want %+v and 0", s.Moves, s.Moved, tt.want)
			}
		})
	}
}

func TestMovesWithoutAffinityAreNone(t *testing.T) {
	c := newClock(t, Options{Service: clientip.ServicePort{Namespace: "demo", Name: "counter"}}, rules(t, 0, 1, 2))
	c.add(by(1, 1), by(1, 2), by(1, 1))
	if _, s := c.tick(t, time.Second); s.Moved != 0 || s.Moves != (Moves{}) || s.Spread.Expected != 0 || s.Flows != 3 {
		t.Errorf("%+v, want 3 flows, no moves and nothing expected", s)
	}
}

func TestRulesChangeWhileItRuns(t *testing.T) {
	c := newClock(t, Options{Interval: time.Second, Window: 2 * time.Second}, rules(t, time.Hour, 1, 2))
	c.add(by(1, 1), by(2, 2), by(3, 3))
	if !c.Stale() {
		t.Error("Stale() = false after a flow to what rules do not have, want true")
	}
	_, s := c.tick(t, time.Second)
	if e := s.Endpoints; len(e) != 3 || e[2].Address != replica(3) || !e[2].Out || e[0].Out || s.Spread.MaxOverMean != 1 {
		t.Errorf("endpoints = %+v, spread %+v, want the third to be out and the others to be even", e, s.Spread)
	}
	c.SetRules(rules(t, time.Hour, 2, 3))
	c.add(by(3, 3))
	_, s = c.tick(t, time.Second)
	if e := s.Endpoints; len(e) != 3 || e[0].Address != replica(2) || e[1].Flows != 2 || e[2].Address != replica(1) || !e[2].Out || c.Stale() {
		t.Errorf("endpoints = %+v, want those of the new rules, and the first out", e)
	}
	c.SetRules(rules(t, time.Hour, 2, 3))
	if _, s = c.tick(t, time.Second); len(s.Endpoints) != 2 {
		t.Errorf("endpoints = %+v, want two when nothing goes to the first any more", s.Endpoints)
	}
	c.SetRules(&clientip.Node{})
	c.add(by(1, 1))
	if v := c.Tick(c.now.Add(time.Second)); len(v.Services) != 0 {
		t.Errorf("services = %+v, want none without rules", v.Services)
	}
	if v := c.Tick(c.now.Add(2 * time.Second)); v.Clients.Tracked != 0 {
		t.Errorf("%d clients are remembered of a Service that is gone, want 0", v.Clients.Tracked)
	}
}

func TestFlowsAreFoundByTheirFront(t *testing.T) {
	to := func(edit func(*clientip.Flow)) clientip.Flow {
		f := by(1, 1)
		edit(&f)
		return f
	}
	for _, tt := range []struct {
		name string
		flow clientip.Flow
		want uint64
	}{
		{"the cluster IP", by(1, 1), 1},
		{"a port of the node", to(func(f *clientip.Flow) { f.Destination = netip.AddrPortFrom(netip.MustParseAddr("192.0.2.1"), nodePort) }), 1},
		{"that port, not translated", to(func(f *clientip.Flow) {
			f.Destination = netip.AddrPortFrom(netip.MustParseAddr("192.0.2.1"), nodePort)
			f.Server = f.Destination
		}), 0},
		{"another protocol", to(func(f *clientip.Flow) { f.Protocol = "tcp" }), 0},
		{"another port", to(func(f *clientip.Flow) { f.Destination = netip.MustParseAddrPort("10.96.0.10:54") }), 0},
		{"another family", to(func(f *clientip.Flow) { f.Destination = netip.MustParseAddrPort("[fd00::1]:30053") }), 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := newClock(t, Options{}, rules(t, time.Hour, 1, 2))
			c.add(tt.flow)
			if _, s := c.tick(t, time.Second); s.Flows != tt.want {
				t.Errorf("flows = %d, want %d", s.Flows, tt.want)
			}
		})
	}
}

func TestMemoryIsBounded(t *testing.T) {
	c := newClock(t, Options{Clients: 100, Interval: time.Second, Window: time.Second}, rules(t, time.Minute, 1, 2))
	for i := range 250 {
		c.add(by(i, 1))
	}
	v, s := c.tick(t, time.Second)
	if v.Clients != (Clients{100, 100, 150}) || s.Flows != 250 {
		t.Errorf("clients = %+v, %d flows, want 100 remembered, 150 forgotten and 250", v.Clients, s.Flows)
	}
	c.add(by(249, 2), by(0, 2)) // one that is remembered, one that is not
	if _, s := c.tick(t, time.Second); s.Moves.Total != 1 {
		t.Errorf("moves = %d, want that of the client that is remembered", s.Moves.Total)
	}
	if v, _ := c.tick(t, 2*time.Minute); v.Clients.Forgotten != 151 {
		t.Errorf("forgotten = %d, want 151", v.Clients.Forgotten)
	}
	if v, _ := c.tick(t, time.Second); v.Clients.Tracked != 0 || len(c.clients.byKey) != 0 {
		t.Errorf("%d clients are remembered after their affinity ended, want 0", v.Clients.Tracked)
	}
	for i := range 200 {
		c.add(by(1, 3+i))
	}
	if _, s := c.tick(t, time.Second); len(s.Endpoints) != 2+maxStrangers || s.Flows != 452 {
		t.Errorf("%d endpoints, %d flows, want %d that rules do not have and all 452 flows", len(s.Endpoints), s.Flows, maxStrangers)
	}
}

func TestWrongOptionsAreRefused(t *testing.T) {
	for _, tt := range []struct {
		name    string
		options Options
		want    string
	}{
		{"a tiny interval", Options{Interval: time.Millisecond}, "interval: got 1ms"},
		{"a window that is no multiple", Options{Interval: 2 * time.Second, Window: 3 * time.Second}, "window: got 3s"},
		{"a window of too many intervals", Options{Interval: time.Second, Window: time.Hour}, "window: got 1h0m0s"},
		{"a negative number of clients", Options{Clients: -1}, "clients: got -1"},
		{"too many", Options{Clients: 1 << 30}, "clients: got"},
		{"another source", Options{Source: "guess"}, `source: got "guess"`},
		{"rules all the time", Options{Reread: time.Nanosecond}, "readings of the rules"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if err := tt.options.Check(); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("Check() = %v, want an error with %q", err, tt.want)
			}
		})
	}
	for _, o := range []Options{{}, {Interval: 5 * time.Minute}, {Interval: 7 * time.Second}} {
		if err := o.Check(); err != nil {
			t.Errorf("Check(%+v) = %v, want nil", o, err)
		}
	}
}

func TestFlowsOfIPv6AreFound(t *testing.T) {
	s := clientip.Spec{
		ServicePort: dns, ClusterIP: netip.MustParseAddr("fd00:96::10"), Number: 53, NodePort: nodePort, Timeout: time.Hour,
		Endpoints: []netip.AddrPort{netip.MustParseAddrPort("[fd00:2::1]:5353"), netip.MustParseAddrPort("[fd00:2::2]:5353")},
	}
	var text bytes.Buffer
	if err := s.WriteIPTables(&text, true); err != nil {
		t.Fatal(err)
	}
	services, err := clientip.ParseIPTables("rules", &text)
	if err != nil {
		t.Fatal(err)
	}
	c := newClock(t, Options{}, &clientip.Node{Services: services, Lists: map[string]clientip.List{}})
	f := clientip.Flow{
		Protocol: "udp", Client: netip.MustParseAddrPort("[fd00:1::1]:4000"), Destination: netip.MustParseAddrPort("[fd00:96::10]:53"),
		Server: s.Endpoints[1],
	}
	c.add(f)
	f.Destination = netip.MustParseAddrPort("[fd00:3::1]:30053")
	c.add(f, by(1, 1))
	if _, got := c.tick(t, time.Second); got.Family != "IPv6" || got.Flows != 2 || got.Endpoints[1].Flows != 2 {
		t.Errorf("%+v, want both flows to the cluster IP and the node port", got)
	}
}
