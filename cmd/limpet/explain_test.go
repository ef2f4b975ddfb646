package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/limpet-project/limpet/admin"
	"github.com/limpet-project/limpet/node/nodetest"
)

// A forwarding is a listener without HTTP of a gateway, with the service that it leads to, as its clients and operators know it.
type forwarding struct {
	p       *process
	service string
	ask     string // what limpet explain is asked
	counter string // of its connections or flows
	visit   func(from string) string
	visits  int
}

// forwardings writes two listeners and their services. An endpoint that is left out is listed no longer.
func forwardings(databases []*database, resolvers []*resolver, out ...string) string {
	var b strings.Builder
	b.WriteString("listeners:\n")
	b.WriteString("- {name: db, address: \"127.0.0.1:0\", tcp: {service: postgres}}\n")
	b.WriteString("- {name: dns, address: \"0.0.0.0:0\", udp: {service: coredns, responses: 1}}\n")
	b.WriteString("services:\n")
	service := func(name string, endpoints map[string]net.Addr) {
		fmt.Fprintf(&b, "- name: %s\n  affinity: {session: {from: [{clientAddress: {}}]}}\n", name)
		fmt.Fprintf(&b, "  revisions:\n  - name: %s-00001\n    endpoints:\n", name)
		for _, gone := range out {
			delete(endpoints, gone)
		}
		for name, address := range endpoints {
			fmt.Fprintf(&b, "    - {name: %s, address: %q}\n", name, address)
		}
	}
	tcp, udp := map[string]net.Addr{}, map[string]net.Addr{}
	for _, d := range databases {
		tcp[d.name] = d.ln.Addr()
	}
	for _, r := range resolvers {
		udp[r.name] = r.conn.LocalAddr()
	}
	service("postgres", tcp)
	service("coredns", udp)
	return b.String()
}

// listening returns the address of a listener by its name.
func (p *process) listening(name string) string {
	pattern := regexp.MustCompile(`msg=listening name=` + name + ` address=(\S+)`)
	nodetest.Eventually(p.t, name+" listens", func() bool { return p.over() || pattern.MatchString(p.log.String()) })
	return p.logged(pattern)
}

// dialFrom connects to the gateway, or makes a socket towards it, from an address of this machine.
func dialFrom(t *testing.T, network, from, to string) net.Conn {
	t.Helper()
	var local net.Addr = net.TCPAddrFromAddrPort(netip.AddrPortFrom(netip.MustParseAddr(from), 0))
	if network == "udp" {
		local = net.UDPAddrFromAddrPort(netip.AddrPortFrom(netip.MustParseAddr(from), 0))
	}
	c, err := (&net.Dialer{LocalAddr: local, Timeout: time.Minute}).Dial(network, to)
	if err == nil {
		err = c.SetDeadline(time.Now().Add(time.Minute))
	}
	if err != nil {
		t.Fatalf("connecting from %s = %v", from, err)
	}
	return c
}

// byTCP and byUDP return what visits a listener from an address and returns who answers.
func byTCP(t *testing.T, to string) func(from string) string {
	return func(from string) string {
		t.Helper()
		c := dialFrom(t, "tcp", from, to)
		defer c.Close()
		name, err := bufio.NewReader(c).ReadString('\n')
		if err != nil {
			t.Fatalf("reading who answers %s = %q, %v", from, name, err)
		}
		return strings.TrimSpace(name)
	}
}

func byUDP(t *testing.T, to string) func(from string) string {
	return func(from string) string {
		t.Helper()
		c := dialFrom(t, "udp", from, to)
		defer c.Close()
		buffer := make([]byte, 100)
		_, err := c.Write([]byte("question"))
		n := 0
		if err == nil {
			n, err = c.Read(buffer)
		}
		if err != nil {
			t.Fatalf("asking from %s = %v", from, err)
		}
		return string(buffer[:n])
	}
}

// services returns what GET /services says of the service.
func (f *forwarding) services() (s admin.ServiceView) {
	f.p.t.Helper()
	_, body, _ := strings.Cut(nodetest.Fetch(f.p.admin()+"/services"), " ")
	var all []admin.ServiceView
	if err := json.Unmarshal([]byte(body), &all); err != nil {
		f.p.t.Fatalf("GET /services = %s, %v", body, err)
	}
	for _, one := range all {
		if one.Name == f.service {
			s = one
		}
	}
	return s
}

// rests waits until nothing is in flight: it counts where sessions are placed.
func (f *forwarding) rests() {
	f.p.t.Helper()
	nodetest.Eventually(f.p.t, "nothing is in flight", func() bool {
		for _, r := range f.services().Revisions {
			for _, e := range r.Endpoints {
				if e.InFlight > 0 {
					return false
				}
			}
		}
		return true
	})
}

// state returns the state of an endpoint.
func (f *forwarding) state(name string) string {
	f.p.t.Helper()
	for _, e := range f.services().Revisions[0].Endpoints {
		if e.Name == name {
			return e.State
		}
	}
	return ""
}

// bindings returns how many clients are bound.
func (f *forwarding) bindings() int {
	f.p.t.Helper()
	_, body, _ := strings.Cut(nodetest.Fetch(f.p.admin()+"/bindings?service="+f.service), " ")
	var page admin.Page
	if err := json.Unmarshal([]byte(body), &page); err != nil || page.Next != "" {
		f.p.t.Fatalf("GET /bindings = %s, %v", body, err)
	}
	return len(page.Bindings)
}

// counted returns how many connections or flows the metrics know.
func (f *forwarding) counted() int {
	f.p.t.Helper()
	total := 0
	for line := range strings.Lines(nodetest.Fetch(f.p.admin() + "/metrics")) {
		if strings.HasPrefix(line, f.counter+"{") {
			n, err := strconv.Atoi(line[strings.LastIndexByte(line, ' ')+1 : len(line)-1])
			if err != nil {
				f.p.t.Fatal(err)
			}
			total += n
		}
	}
	return total
}

// explain asks the gateway about a client.
func (f *forwarding) explain(client string) (a admin.Answer) {
	f.p.t.Helper()
	question := fmt.Sprintf(`{"url": %q, "client": %q}`, f.ask, client)
	resp, err := f.p.client.Post(f.p.admin()+"/explain", "application/json", strings.NewReader(question))
	if err != nil {
		f.p.t.Fatal(err)
	}
	defer resp.Body.Close()
	if err := json.NewDecoder(resp.Body).Decode(&a); err != nil || resp.StatusCode != http.StatusOK {
		f.p.t.Fatalf("POST /explain %s = %s, %v", question, resp.Status, err)
	}
	return a
}

// foretold explains where a client would go, sends it there, and returns what was said.
func (f *forwarding) foretold(client string) admin.Answer {
	f.p.t.Helper()
	f.rests()
	a := f.explain(client)
	at := f.visit(client)
	f.visits++
	if at != a.Endpoint || a.Error != "" {
		f.p.t.Errorf("%s: %s is at %s, want %s, as explain said: %q", f.service, client, at, a.Endpoint, a.Steps)
	}
	return a
}

// limpet runs a limpet command about the gateway.
func (f *forwarding) limpet(args ...string) string {
	f.p.t.Helper()
	return limpetRun(f.p.t, append(args, "--admin", f.p.admin())...)
}

// What explain says is where a client's next connection or datagram goes, and nothing is bound or counted by asking.
func TestExplainSaysWhereClientsGoByTCPAndUDP(t *testing.T) {
	databases := []*database{startDatabase(t, "postgres-a"), startDatabase(t, "postgres-b"), startDatabase(t, "postgres-c")}
	resolvers := []*resolver{startResolver(t, "coredns-a"), startResolver(t, "coredns-b"), startResolver(t, "coredns-c")}
	p := serve(t, forwardings(databases, resolvers))
	db := p.listening("db")
	_, port, err := net.SplitHostPort(p.listening("dns"))
	if err != nil {
		t.Fatal(err)
	}
	all := []*forwarding{
		{p: p, service: "postgres", ask: "tcp://" + db, counter: "limpet_connections_total", visit: byTCP(t, db)},
		{p: p, service: "coredns", ask: "udp://127.0.0.9:" + port, counter: "limpet_flows_total", visit: byUDP(t, "127.0.0.1:"+port)},
	}
	for _, f := range all {
		f.unboundThenBound()
	}
	for _, f := range all {
		f.drained()
	}
	removed := []string{"postgres-c", "coredns-c"}
	before := make([]map[string]admin.Answer, len(all))
	for i, f := range all {
		f.rests()
		before[i] = f.clientsOf(removed[i])
	}
	p.configure(forwardings(databases, resolvers, removed...))
	p.signal(syscall.SIGHUP)
	for i, f := range all {
		f.gone(removed[i], before[i])
	}
	for _, f := range all {
		f.forgotten()
	}
}

// clients returns n addresses of this machine.
func clients(third, n int) (list []string) {
	for i := range n {
		list = append(list, fmt.Sprintf("127.0.%d.%d", third, 1+i))
	}
	return list
}

// unboundThenBound explains clients that are new, and again when they are not.
func (f *forwarding) unboundThenBound() {
	t := f.p.t
	t.Helper()
	known := clients(3, 40)
	for _, client := range known {
		if a := f.explain(client); a.Reason != "new" || len(a.Next) != 2 || a.State != "ready" {
			t.Errorf("%s: explain %s = %+v, want new, ready and two others", f.service, client, a)
		}
	}
	if bound, counted := f.bindings(), f.counted(); bound != 0 || counted != 0 {
		t.Errorf("%s: explain bound %d clients and counted %d, want 0", f.service, bound, counted)
	}
	homes := map[string]int{}
	for _, client := range known {
		homes[f.foretold(client).Endpoint]++
	}
	if len(homes) != 3 { // bounded load lets none have more than 17
		t.Errorf("%s: clients are at %v, want three endpoints", f.service, homes)
	}
	for _, client := range known {
		a := f.foretold(client)
		if s := a.Session; a.Reason != "bound" || s.BoundTo != a.Revision+"/"+a.Endpoint || time.Since(s.Made) > time.Hour || time.Until(s.Ends) < time.Minute {
			t.Errorf("%s: explain %s = %+v, want bound since a moment ago", f.service, client, s)
		}
	}
	f.asCounted(len(known))
}

// asCounted compares what the gateway bound and counted with who came.
func (f *forwarding) asCounted(clients int) {
	f.p.t.Helper()
	if bound, counted := f.bindings(), f.counted(); bound != clients || counted != f.visits {
		f.p.t.Errorf("%s: %d clients bound, %d visits counted, want %d and %d", f.service, bound, counted, clients, f.visits)
	}
}

// drained explains clients of an endpoint that drains, and new ones.
func (f *forwarding) drained() {
	t := f.p.t
	t.Helper()
	leaving := f.service + "-a"
	f.limpet("drain", f.service, f.service+"-00001", leaving)
	nodetest.Eventually(t, leaving+" drains", func() bool { return f.state(leaving) == "draining" })
	stayed := 0
	for _, client := range clients(3, 40) {
		a := f.foretold(client)
		if a.Reason != "bound" {
			t.Errorf("%s: explain %s = %s, want bound", f.service, client, a.Reason)
		}
		if a.Endpoint == leaving {
			stayed++
		}
		if a.Endpoint == leaving && (a.State != "draining" || len(a.Next) != 2) || a.Endpoint != leaving && len(a.Next) != 1 {
			t.Errorf("%s: explain %s = %s, %s, then %v, want nobody to be sent to %s", f.service, client, a.Endpoint, a.State, a.Next, leaving)
		}
	}
	if stayed == 0 {
		t.Errorf("%s: nobody stays at %s, want its clients to", f.service, leaving)
	}
	for _, client := range clients(4, 20) {
		if a := f.foretold(client); a.Reason != "new" || a.Endpoint == leaving {
			t.Errorf("%s: explain %s = %s, %s, want new and not %s", f.service, client, a.Reason, a.Endpoint, leaving)
		}
	}
	f.limpet("drain", f.service, f.service+"-00001", leaving, "--cancel")
	nodetest.Eventually(t, leaving+" is back", func() bool { return f.state(leaving) == "ready" })
	f.asCounted(60)
}

// clientsOf returns what explain says of the clients that an endpoint has.
func (f *forwarding) clientsOf(endpoint string) map[string]admin.Answer {
	f.p.t.Helper()
	held := map[string]admin.Answer{}
	for _, client := range append(clients(3, 40), clients(4, 20)...) {
		if a := f.explain(client); a.Endpoint == endpoint {
			held[client] = a
		}
	}
	return held
}

// gone explains the clients of an endpoint that is listed no longer. The first of them finds loads as they were when explain said
// where it would go then.
func (f *forwarding) gone(endpoint string, held map[string]admin.Answer) {
	t := f.p.t
	t.Helper()
	nodetest.Eventually(t, endpoint+" is gone", func() bool { s := f.state(endpoint); return s == "" || s == "gone" })
	if len(held) == 0 {
		t.Errorf("%s: nobody was at %s", f.service, endpoint)
	}
	first := true
	for client, before := range held {
		a := f.foretold(client)
		if a.Reason != "endpoint-gone" || a.Endpoint == endpoint || len(a.Next) != 1 {
			t.Errorf("%s: explain %s = %s, %s, then %v, want endpoint-gone, another one and one more", f.service, client, a.Reason, a.Endpoint, a.Next)
		}
		if first && a.Endpoint != before.Next[0].Endpoint {
			t.Errorf("%s: %s is at %s, want %s as explain said before", f.service, client, a.Endpoint, before.Next[0].Endpoint)
		}
		first = false
		if again := f.foretold(client); again.Reason != "bound" || again.Endpoint != a.Endpoint {
			t.Errorf("%s: explain %s again = %s, %s, want bound to %s", f.service, client, again.Reason, again.Endpoint, a.Endpoint)
		}
	}
	f.asCounted(60)
}

// forgotten forgets a client's address by what explain prints of it.
func (f *forwarding) forgotten() {
	t := f.p.t
	t.Helper()
	const client = "127.0.3.1"
	text := f.limpet("explain", "--client", client, f.ask)
	for _, want := range []string{
		`(?m)^listener  (db, tcp at 127.0.0.1:0|dns, udp at 0.0.0.0:0)$`, `(?m)^service   ` + f.service + `$`,
		`(?m)^session   client address /32, mode bound$`,
		`(?m)^bound to  ` + f.service + `-00001/` + f.service + `-[ab], made 20\S*Z, ends 20\S*Z unless it is used$`,
		`(?m)^answer    ` + f.service + `-00001/` + f.service + `-[ab] at 127.0.0.1:\d+ \(ready\), reason bound$`,
		`(?m)^if gone   ` + f.service + `-00001/` + f.service + `-[ab] at 127.0.0.1:\d+ \(ready\)$`,
	} {
		if !regexp.MustCompile(want).MatchString(text) {
			t.Errorf("limpet explain wrote:\n%swant a line %s", text, want)
		}
	}
	key := regexp.MustCompile(`(?m)^key       ([0-9a-f]{32})$`).FindStringSubmatch(text)
	if key == nil {
		t.Fatalf("limpet explain wrote:\n%swant the key", text)
	}
	f.limpet("forget", f.service, key[1])
	if a := f.foretold(client); a.Reason != "new" || a.Session.BoundTo != "" {
		t.Errorf("%s: explain of a client that was forgotten = %s, bound to %q, want new", f.service, a.Reason, a.Session.BoundTo)
	}
	f.asCounted(60)
}
