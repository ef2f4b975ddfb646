package clientip

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/limpet-project/limpet/affinity"
)

// copied are the files of a node in testdata.
func copied(mode Mode) Files {
	dir := filepath.Join("testdata", string(mode))
	f := Files{Conntrack: []string{filepath.Join(dir, "conntrack")}}
	if mode == NFTables {
		f.NFTables = []string{filepath.Join(dir, "ruleset.json")}
		return f
	}
	f.IPTables, f.Recent = []string{filepath.Join(dir, "iptables-save")}, filepath.Join(dir, "xt_recent")
	f.TimerList, f.Uptime = filepath.Join(dir, "timer_list"), filepath.Join(dir, "uptime")
	return f
}

func read(t *testing.T, f Files) *Node {
	t.Helper()
	n, err := f.Read(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func TestClientsOfANodeAreExplained(t *testing.T) {
	for _, tt := range []struct {
		mode      Mode
		protocol  string
		client    string
		want      string // the endpoint
		clients   []int
		ends      affinity.Duration
		split     int
		ruleStart string
	}{
		// 15 jiffies of 4 ms before the lists were copied
		{
			IPTables, "udp", "10.1.0.1", "10.2.0.3:5353",
			[]int{4, 1, 1},
			affinity.Duration(3*time.Hour - 60*time.Millisecond), 3,
			"testdata/iptables/iptables-save:56: -A KUBE-SVC-LALU7WNPSRGGUHVA ",
		},
		{
			IPTables, "udp", "10.1.0.4", "10.2.0.1:5353",
			[]int{4, 1, 1},
			affinity.Duration(3*time.Hour - 56*time.Millisecond), 3,
			"testdata/iptables/iptables-save:54: -A KUBE-SVC-LALU7WNPSRGGUHVA ",
		},
	} {
		t.Run(fmt.Sprintf("%s %s of %s", tt.client, tt.protocol, tt.mode), func(t *testing.T) {
			n := read(t, copied(tt.mode))
			if n.Clock.HZ != 250 || len(n.Notes) > 0 {
				t.Errorf("Clock = %+v, Notes = %q, want 250 HZ and none", n.Clock, n.Notes)
			}
			q := Question{
				Service: ServicePort{Namespace: "demo", Name: "counter", Protocol: tt.protocol}, Client: netip.MustParseAddr(tt.client),
				Clients: true,
			}
			s := n.Explain(q).Services[0]
			next := s.Next[0]
			if next.Endpoint.String() != tt.want || *next.Ends != tt.ends || !strings.HasPrefix(next.Rule.String(), tt.ruleStart) || len(next.Odds) > 0 {
				t.Errorf("Next = %+v by %s, want %s for %s", next, next.Rule, tt.want, tt.ends)
			}
			for i, e := range s.Endpoints {
				if e.Clients != tt.clients[i] || len(e.Held) != tt.clients[i] || e.Limit != 100 || *e.FirstEnd > *e.LastEnd {
					t.Errorf("endpoint = %+v, want %d clients of at most 100", e, tt.clients[i])
				}
			}
			if s.Split != tt.split {
				t.Errorf("Split = %d, want %d", s.Split, tt.split)
			}
		})
	}
}

// aged is the node in testdata, so long after its lists were copied.
func aged(t *testing.T, later time.Duration) *Node {
	n := read(t, copied(IPTables))
	n.Clock.Jiffies += uint64(later.Seconds() * 250)
	return n
}

func TestExpiredEntriesDoNotDecide(t *testing.T) {
	udp := Question{Service: ServicePort{Namespace: "demo", Name: "counter", Protocol: "udp"}, Client: netip.MustParseAddr("10.1.0.1")}
	for _, tt := range []struct {
		name  string
		later time.Duration
		stuck bool
	}{
		{"in time", 3*time.Hour - 60*time.Millisecond, true}, // the kernel keeps the last tick
		{"too late", 3*time.Hour - 56*time.Millisecond, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := aged(t, tt.later).Explain(udp).Services[0]
			if got := s.Next[0].Rule != nil; got != tt.stuck || got == (len(s.Next[0].Odds) == 3) {
				t.Errorf("Next = %+v, want stuck %t", s.Next[0], tt.stuck)
			}
			if e := s.Endpoints[2]; e.Entries != 1 || (e.Clients == 1) != tt.stuck {
				t.Errorf("endpoint = %+v, want one entry, a client %t", e, tt.stuck)
			}
		})
	}
}

func TestWhatIsUnknownIsSaid(t *testing.T) {
	q := Question{Service: ServicePort{Namespace: "demo", Name: "counter", Protocol: "udp"}, Client: netip.MustParseAddr("10.1.0.1")}
	t.Run("without the time of the node an entry may have expired", func(t *testing.T) {
		f := copied(IPTables)
		f.TimerList, f.Uptime = "", ""
		n := read(t, f)
		next := n.Explain(q).Services[0].Next[0]
		if !next.Unknown || next.Endpoint.String() != "10.2.0.3:5353" || next.Ends != nil || len(next.Odds) != 3 || len(n.Notes) != 1 {
			t.Errorf("Next = %+v, Notes = %q, want an unknown end, odds and a note", next, n.Notes)
		}
	})
	t.Run("jiffies and rate may be given", func(t *testing.T) {
		f := copied(IPTables)
		f.TimerList, f.Uptime, f.Jiffies, f.HZ = "", "", 4301188308, 250
		if next := read(t, f).Explain(q).Services[0].Next[0]; next.Unknown || next.Ends == nil {
			t.Errorf("Next = %+v, want one that is known", next)
		}
	})
	t.Run("without lists a client may be stuck", func(t *testing.T) {
		f := copied(IPTables)
		f.Recent = ""
		n := read(t, f)
		if next := n.Explain(q).Services[0].Next[0]; !next.Unknown || next.Rule != nil || len(next.Odds) != 3 || len(n.Notes) != 1 {
			t.Errorf("Next = %+v, Notes = %q, want unknown with odds and a note", next, n.Notes)
		}
	})
	t.Run("a list that was not copied is missed", func(t *testing.T) {
		f := copied(IPTables)
		f.Recent = t.TempDir()
		if n := read(t, f); len(n.Notes) != 1 || !strings.Contains(n.Notes[0], "6 of 6 lists") {
			t.Errorf("Notes = %q, want one of 6 lists", n.Notes)
		}
	})
}

func TestFullListsAreWarnedOf(t *testing.T) {
	for _, tt := range []struct {
		name    string
		live    int
		expired int
		want    string
	}{
		{"79 of 100 are no matter", 79, 21, ""},
		{"80 are", 80, 0, "holds 80 of 100 clients; when it is full"},
		{"100 have lost the first", 100, 0, "holds 100 of 100 clients; it forgets a client for each new one"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			n := read(t, copied(IPTables))
			n.Clock.Jiffies += 2 * 3 * 3600 * 250 // so that what was copied has expired
			name := n.Services[0].Chains[0].Sticky[0].List
			l := List{Limit: 100}
			for i := range tt.live + tt.expired {
				e := Entry{Client: netip.AddrFrom4([4]byte{10, 1, 1, byte(i)}), seen: n.Clock.Jiffies}
				if i >= tt.live {
					e.seen -= 3*3600*250 + 1
				}
				l.Entries = append(l.Entries, e)
			}
			n.Lists[name] = l
			s := n.Explain(Question{}).Services[0]
			if got := strings.Join(s.Warnings, "\n"); (tt.want == "") != (got == "") || !strings.Contains(got, tt.want) {
				t.Errorf("Warnings = %q, want %q", got, tt.want)
			}
		})
	}
}

const slicesYAML = `apiVersion: v1
kind: List
items:
- apiVersion: discovery.k8s.io/v1
  kind: EndpointSlice
  addressType: IPv4
  metadata: {name: counter-abc, namespace: demo, labels: {kubernetes.io/service-name: counter}}
  ports: [{name: dns, port: 5353, protocol: UDP}, {name: dns-tcp, port: 5353, protocol: TCP}]
  endpoints:
  - addresses: [10.2.0.1]
    conditions: {ready: true, serving: true, terminating: false}
    targetRef: {kind: Pod, name: demo-00001-deployment-1, namespace: demo}
  - addresses: [10.2.0.2]
    conditions: {ready: false, serving: true, terminating: true}
    targetRef: {kind: Pod, name: demo-00001-deployment-2, namespace: demo}
  - addresses: [10.2.0.4]
`

func TestEndpointSlicesTellWhoIsReady(t *testing.T) {
	f := copied(IPTables)
	name := filepath.Join(t.TempDir(), "slices.yaml")
	if err := os.WriteFile(name, []byte(slicesYAML), 0o600); err != nil {
		t.Fatal(err)
	}
	f.EndpointSlices = []string{name}
	s := read(t, f).Explain(Question{}).Services[0]
	var states []string
	for _, e := range s.Endpoints {
		states = append(states, e.Pod+" "+e.State)
	}
	if want := []string{"demo-00001-deployment-1 ready", "demo-00001-deployment-2 terminating, serving", " unknown"}; !slices.Equal(states, want) {
		t.Errorf("states = %q, want %q", states, want)
	}
	for _, want := range []string{
		"10.2.0.2:5353 has rules and is terminating, serving", "10.2.0.3:5353 has rules, and no EndpointSlice has it",
		"endpoints that are ready and have no rules here: 1",
	} {
		if !strings.Contains(strings.Join(s.Warnings, "\n"), want) {
			t.Errorf("Warnings = %q, want %q", s.Warnings, want)
		}
	}
}

func TestEndpointSlicesInTheirForms(t *testing.T) {
	port := ServicePort{"demo", "counter", "", "tcp"}
	one := `{"kind": "EndpointSlice", "metadata": {"namespace": "demo", "labels": {"kubernetes.io/service-name": "counter"}},
		"ports": [{"port": 80}], "endpoints": [{"addresses": ["10.2.0.1"]}]}`
	for _, tt := range []struct{ name, text, wrong string }{
		{"one slice", one, ""},
		{"a list of kubectl", `{"kind": "List", "items": [` + one + `]}`, ""},
		{"a list of the API", `{"kind": "EndpointSliceList", "items": [` + strings.Replace(one, `"kind": "EndpointSlice", `, "", 1) + `]}`, ""},
		{"documents of YAML", "kind: EndpointSlice\n---\n" + one, ""},
		{"nothing", "", "got nothing"},
		{"another kind", `{"kind": "Endpoints"}`, `got kind "Endpoints", expected EndpointSlice or List`},
		{"another kind in a list", `{"kind": "List", "items": [{"kind": "Pod"}]}`, "item 1: got kind"},
		{"no YAML", "a: b: c", "expected EndpointSlices as JSON or YAML"},
		{"a list in a list", `{"kind": "List", "items": [{"kind": "List", "items": []}]}`, "item 1"},
		{"a name that is none", strings.Replace(one, `"demo"`, `"../demo"`, 1), "expected names"},
		{"an endpoint without addresses", strings.Replace(one, `["10.2.0.1"]`, `[]`, 1), "got no addresses"},
		{"a port of text", strings.Replace(one, `80`, `"80"`, 1), "expected an EndpointSlice"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := Slices{}
			err := s.ParseSlices("slices", strings.NewReader(tt.text))
			switch {
			case tt.wrong != "" && (err == nil || !strings.HasPrefix(err.Error(), "slices: ") || !strings.Contains(err.Error(), tt.wrong)):
				t.Errorf("ParseSlices() = %v, want an error with %q", err, tt.wrong)
			case tt.wrong == "" && (err != nil || !s[port][netip.MustParseAddrPort("10.2.0.1:80")].Ready):
				t.Errorf("ParseSlices() = %v, %+v, want a ready endpoint", err, s)
			}
		})
	}
}

func TestStaleFlowsAreThoseOfNoEndpoint(t *testing.T) {
	n := read(t, copied(IPTables))
	n.Slices = Slices{n.Services[0].ServicePort: {netip.MustParseAddrPort("10.2.0.8:5353"): EndpointState{Serving: true, Terminating: true}}}
	x := n.indexFlows()
	flow := func(protocol, to, server string) {
		x.add(Flow{
			Protocol: protocol, Client: netip.MustParseAddrPort("10.1.0.9:4000"),
			Destination: netip.MustParseAddrPort(to), Server: netip.MustParseAddrPort(server),
		})
	}
	flow("udp", "10.96.0.10:53", "10.2.0.1:5353")    // an endpoint
	flow("udp", "10.96.0.10:53", "10.2.0.8:5353")    // one that ends and still answers
	flow("tcp", "10.96.0.10:53", "10.2.0.9:5353")    // ends by itself
	flow("udp", "203.0.113.9:53", "203.0.113.9:53")  // to another host
	flow("udp", "10.9.0.1:30053", "10.9.0.1:30053")  // to another host's port of the same number
	flow("udp", "10.96.0.10:53", "10.2.0.9:5353")    // stale
	flow("udp", "10.96.0.10:53", "10.96.0.10:53")    // stale: made while there was no rule
	flow("udp", "192.0.2.7:53", "10.2.0.9:5353")     // stale, by the external address
	flow("udp", "10.9.0.1:30053", "10.2.0.9:5353")   // stale, by the node port
	flow("udp", "[fd00::1]:30053", "[fd00::9]:5353") // of the other family
	if s := n.Explain(Question{}).Services[0]; s.Stale != 4 || len(s.Flows) != 4 {
		t.Errorf("stale flows = %+v, want 4", s.Flows)
	}
}

func TestAServiceWithoutEndpointsRefuses(t *testing.T) {
	n := &Node{Services: []Service{{
		ServicePort: ServicePort{"demo", "gone", "dns", "udp"}, Mode: IPTables,
		Fronts: []Front{{Kind: "service IP", Address: netip.MustParseAddr("10.96.0.30"), Port: 53}},
	}}}
	r := n.Explain(Question{Service: ServicePort{Namespace: "demo", Name: "gone"}, Client: netip.MustParseAddr("10.1.0.1")})
	if next := r.Services[0].Next; len(next) != 1 || !next[0].Refused || !slices.Equal(next[0].Fronts, []string{"10.96.0.30:53"}) {
		t.Errorf("Next = %+v, want a refusal of 10.96.0.30:53", next)
	}
	if r := n.Explain(Question{}); len(r.Services) != 0 {
		t.Errorf("Explain() of a node without affinity has %d Services, want 0", len(r.Services))
	}
}

func TestAListOutsideTheDirectoryIsNotRead(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) string {
		name = filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(name), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return name
	}
	write("secret", "src=10.1.0.1 ttl: 1 last_seen: 1 oldest_pkt: 1 1\n")
	write("xt_recent/list", "")
	rules := write("rules", `*nat
-A KUBE-SEP-AAAAAAAAAAAAAAAA -j DNAT --to-destination 10.2.0.1:80
-A KUBE-SVC-HHHHHHHHHHHHHHHH -m recent --rcheck --seconds 60 --name ../secret -j KUBE-SEP-AAAAAAAAAAAAAAAA
-A KUBE-SVC-HHHHHHHHHHHHHHHH -j KUBE-SEP-AAAAAAAAAAAAAAAA
COMMIT
`)
	if n, err := (Files{IPTables: []string{rules}, Recent: filepath.Join(dir,
		"xt_recent")}).Read(t.Context()); err == nil || !strings.Contains(err.Error(), "secret") {
		t.Errorf("Read() = %+v, %v, want an error: the path escapes", n, err)
	}
}

func TestWhatHasNoRulesIsRefused(t *testing.T) {
	name := filepath.Join(t.TempDir(), "empty")
	if err := os.WriteFile(name, []byte("*nat\nCOMMIT\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := (Files{IPTables: []string{name}}).Read(context.Background()); err == nil || !strings.Contains(err.Error(), "there are none") {
		t.Errorf("Read() = %v, want an error that says that there are no rules", err)
	}
	if _, err := (Files{IPTables: []string{name + "x"}}).Read(context.Background()); err == nil || !strings.Contains(err.Error(), "no such file") {
		t.Errorf("Read() = %v, want an error that says that there is no file", err)
	}
}
