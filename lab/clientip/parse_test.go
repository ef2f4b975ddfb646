package clientip

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func open(t testing.TB, name ...string) *os.File {
	t.Helper()
	f, err := os.Open(filepath.Join(append([]string{"testdata"}, name...)...))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

// outline is what a Service says, in short.
func outline(all []Service) []string {
	var out []string
	for _, s := range all {
		out = append(out, fmt.Sprintf("%s %s", s.ServicePort, s.Protocol))
		for _, f := range s.Fronts {
			out = append(out, fmt.Sprintf("  %s %s to %q", f.Kind, f, f.Chain))
		}
		for _, c := range s.Chains {
			for _, r := range c.Sticky {
				out = append(out, fmt.Sprintf("  %s: %s sticks for %s by line %d", c.Policy, r.Endpoint, r.Timeout, r.Rule.Line))
			}
			for _, d := range c.Draws {
				out = append(out, fmt.Sprintf("  %s: %s has %.3f by line %d", c.Policy, d.Endpoint, d.Probability, d.Rule.Line))
			}
		}
	}
	return out
}

func TestRulesOfANode(t *testing.T) {
	want := []string{
		"demo/counter:dns udp",
		`  cluster IP 10.96.0.10:53 to "KUBE-SVC-LALU7WNPSRGGUHVA"`,
		`  external IP 192.0.2.7:53 to "KUBE-SVC-LALU7WNPSRGGUHVA"`,
		`  node port *:30053 to "KUBE-SVC-LALU7WNPSRGGUHVA"`,
		"  cluster: 10.2.0.1:5353 sticks for 3h0m0s by line 54",
		"  cluster: 10.2.0.2:5353 sticks for 3h0m0s by line 55",
		"  cluster: 10.2.0.3:5353 sticks for 3h0m0s by line 56",
		"  cluster: 10.2.0.1:5353 has 0.333 by line 57",
		"  cluster: 10.2.0.2:5353 has 0.333 by line 58",
		"  cluster: 10.2.0.3:5353 has 0.333 by line 59",
		"demo/counter:dns-tcp tcp",
		`  cluster IP 10.96.0.10:53 to "KUBE-SVC-4TQM2JUST23K4XZV"`,
		"  cluster: 10.2.0.1:5353 sticks for 3h0m0s by line 47",
		"  cluster: 10.2.0.2:5353 sticks for 3h0m0s by line 48",
		"  cluster: 10.2.0.3:5353 sticks for 3h0m0s by line 49",
		"  cluster: 10.2.0.1:5353 has 0.333 by line 50",
		"  cluster: 10.2.0.2:5353 has 0.333 by line 51",
		"  cluster: 10.2.0.3:5353 has 0.333 by line 52",
	}
	got, err := ParseIPTables("iptables-save", open(t, "iptables", "iptables-save"))
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(want, outline(got)); d != "" {
		t.Errorf("Services differ (-want +got):\n%s", d)
	}
}

func TestNFTablesRulesOfANodeSayTheSame(t *testing.T) {
	from, err := ParseIPTables("iptables-save", open(t, "iptables", "iptables-save"))
	if err != nil {
		t.Fatal(err)
	}
	got, lists, err := ParseNFTables("ruleset.json", open(t, "nftables", "ruleset.json"))
	if err != nil {
		t.Fatal(err)
	}
	for i := range from {
		for j := range from[i].Chains[0].Draws {
			g, w := got[i].Chains[0], from[i].Chains[0]
			if g.Draws[j].Endpoint != w.Draws[j].Endpoint || g.Sticky[j].Endpoint != w.Sticky[j].Endpoint || g.Sticky[j].Timeout != w.Sticky[j].Timeout {
				t.Errorf("%s: rules %d = %+v, %+v, want %+v, %+v", got[i].ServicePort, j, g.Sticky[j], g.Draws[j], w.Sticky[j], w.Draws[j])
			}
		}
	}
	entries := 0
	for _, l := range lists {
		entries += len(l.Entries)
	}
	if len(got) != 2 || len(lists) != 6 || entries != 12 {
		t.Errorf("ParseNFTables() = %d Services, %d lists with %d entries, want 2, 6 with 12", len(got), len(lists), entries)
	}
}

// unfold joins lines that end with a backslash, which keeps rules readable here.
func unfold(text string) string { return strings.ReplaceAll(text, "\\\n", "") }

func TestFormsOfIPTablesRules(t *testing.T) {
	const sep = `
-A KUBE-SEP-AAAAAAAAAAAAAAAA -p tcp -m recent --set --name KUBE-SEP-AAAAAAAAAAAAAAAA --mask 255.255.255.255 \
--rsource -m tcp -j DNAT --to-destination 10.2.0.1:80
-A KUBE-SEP-BBBBBBBBBBBBBBBB -p tcp -m tcp -j DNAT --to-destination 10.2.0.2:80
`
	for _, tt := range []struct {
		name, rules string
		want        []string
	}{
		{"a large cluster has comments in KUBE-SERVICES only", `*nat` + sep + `
-A KUBE-SERVICES -d 10.96.0.20/32 -p tcp -m comment --comment "demo/counter:http cluster IP" -m tcp --dport 80 -j KUBE-SVC-HHHHHHHHHHHHHHHH
-A KUBE-SVC-HHHHHHHHHHHHHHHH -m recent --rcheck --seconds 60 --reap --name KUBE-SEP-AAAAAAAAAAAAAAAA --mask \
255.255.255.255 --rsource -j KUBE-SEP-AAAAAAAAAAAAAAAA
-A KUBE-SVC-HHHHHHHHHHHHHHHH -j KUBE-SEP-AAAAAAAAAAAAAAAA
COMMIT`, []string{
			"demo/counter:http tcp", `  cluster IP 10.96.0.20:80 to "KUBE-SVC-HHHHHHHHHHHHHHHH"`,
			"  cluster: 10.2.0.1:80 sticks for 1m0s by line 6", "  cluster: 10.2.0.1:80 has 1.000 by line 7",
		}},
		{"an external policy of Local has a chain of its own, behind rules for the node itself", `*nat` + sep + `
-A KUBE-SERVICES -d 10.96.0.20/32 -p tcp -m comment --comment "demo/counter cluster IP" -m tcp --dport 80 -j KUBE-SVC-HHHHHHHHHHHHHHHH
-A KUBE-SERVICES -d 198.51.100.7/32 -p tcp -m comment --comment "demo/counter loadbalancer IP" -m tcp --dport 80 -j KUBE-FW-HHHHHHHHHHHHHHHH
-A KUBE-FW-HHHHHHHHHHHHHHHH -s 203.0.113.0/24 -m comment --comment "demo/counter loadbalancer IP" -j KUBE-EXT-HHHHHHHHHHHHHHHH
-A KUBE-EXT-HHHHHHHHHHHHHHHH -s 10.2.0.0/16 -m comment --comment "pod traffic for demo/counter external destinations" -j KUBE-SVC-HHHHHHHHHHHHHHHH
-A KUBE-EXT-HHHHHHHHHHHHHHHH -m comment --comment \
"masquerade LOCAL traffic for demo/counter external destinations" -m addrtype --src-type LOCAL -j KUBE-MARK-MASQ
-A KUBE-EXT-HHHHHHHHHHHHHHHH -m comment --comment \
"route LOCAL traffic for demo/counter external destinations" -m addrtype --src-type LOCAL -j KUBE-SVC-HHHHHHHHHHHHHHHH
-A KUBE-EXT-HHHHHHHHHHHHHHHH -j KUBE-SVL-HHHHHHHHHHHHHHHH
-A KUBE-SVC-HHHHHHHHHHHHHHHH -m comment --comment "demo/counter -> 10.2.0.1:80" -m statistic --mode random \
--probability 0.50000000000 -j KUBE-SEP-AAAAAAAAAAAAAAAA
-A KUBE-SVC-HHHHHHHHHHHHHHHH -m comment --comment "demo/counter -> 10.2.0.2:80" -j KUBE-SEP-BBBBBBBBBBBBBBBB
-A KUBE-SVL-HHHHHHHHHHHHHHHH -m comment --comment "demo/counter -> 10.2.0.2:80" -j KUBE-SEP-BBBBBBBBBBBBBBBB
COMMIT`, []string{
			"demo/counter tcp", `  cluster IP 10.96.0.20:80 to "KUBE-SVC-HHHHHHHHHHHHHHHH"`,
			`  load balancer IP 198.51.100.7:80 to "KUBE-SVL-HHHHHHHHHHHHHHHH"`,
			"  cluster: 10.2.0.1:80 has 0.500 by line 12", "  cluster: 10.2.0.2:80 has 0.500 by line 13", "  local: 10.2.0.2:80 has 1.000 by line 14",
		}},
		{"counters come before rules with -c", `*nat` + sep +
			`[7:420] -A KUBE-SVC-HHHHHHHHHHHHHHHH -m comment --comment "demo/counter -> 10.2.0.1:80" -j KUBE-SEP-AAAAAAAAAAAAAAAA
COMMIT`, []string{"demo/counter tcp", "  cluster: 10.2.0.1:80 has 1.000 by line 4"}},
		{"the filter table tells of Services without endpoints", `*filter
:KUBE-SERVICES - [0:0]
-A KUBE-SERVICES -d 10.96.0.30/32 -p udp -m comment --comment "demo/gone:dns has no endpoints" -m udp --dport \
53 -j REJECT --reject-with icmp-port-unreachable
COMMIT`, []string{"demo/gone:dns udp", `  service IP 10.96.0.30:53 to ""`}},
		{"chains of other programs are skipped", `*nat
:DOCKER - [0:0]
-A DOCKER -i docker0 -j RETURN
-A POSTROUTING -s 172.17.0.0/16 ! -o docker0 -j MASQUERADE
COMMIT`, nil},
		{"chains that were flushed are skipped", "*nat\n:KUBE-SVC-HHHHHHHHHHHHHHHH - [0:0]\nCOMMIT", nil},
		{"an empty file", "", nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, err := ParseIPTables("iptables-save", strings.NewReader(unfold(tt.rules)))
			if err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(tt.want, outline(got)); d != "" {
				t.Errorf("Services differ (-want +got):\n%s", d)
			}
		})
	}
}

func TestWrongRulesAreRefusedWithTheirPlace(t *testing.T) {
	const svc = "*nat\n-A KUBE-SVC-HHHHHHHHHHHHHHHH "
	for _, tt := range []struct{ name, rules, want string }{
		{"a file that was cut off", "*nat\n:KUBE-SERVICES - [0:0]\n", "save:3: got the end of the file in table nat, expected COMMIT"},
		{"a rule outside a table", "-A KUBE-SERVICES -j ACCEPT", `save:1: got "-A KUBE-SERVICES -j ACCEPT" outside a table`},
		{"what is no rule", "*nat\nhello\n", `save:2: got "hello", expected a chain, a rule or COMMIT`},
		{"a table in a table", "*nat\n*filter\n", "save:2: got a new table in table nat"},
		{"an end without a beginning", "COMMIT\n", "save:1: got COMMIT outside a table"},
		{"a chain without a policy", "*nat\n:KUBE-SERVICES\n", "save:2"},
		{"a rule without a chain", "*nat\n-A\n", "save:2: got a rule without a chain"},
		{"a rule that is deleted", "*nat\n-D KUBE-SERVICES\n", "save:2: got \"-D KUBE-SERVICES\", expected -A CHAIN"},
		{"a quote that stays open", svc + `--comment "demo`, `save:2: got an opening ", expected a closing one`},
		{"seconds that are no number", svc + "-m recent --rcheck --seconds soon", `save:2: --seconds: got "soon"`},
		{"a probability above 1", svc + "-m statistic --probability 1.5", `save:2: --probability: got "1.5"`},
		{"a probability that is no number", svc + "-m statistic --probability NaN", `save:2: --probability: got "NaN"`},
		{"another mode of statistic", svc + "-m statistic --mode nth", `save:2: --mode: got "nth"`},
		{"a list of networks", svc + "-m recent --mask 255.255.255.0", `save:2: --mask`},
		{"an address that is none", svc + "-d 10.96.0.300/32", `save:2: got "10.96.0.300"`},
		{"a port that is none", svc + "--dport 70000", `save:2: got "70000"`},
		{"a control character", svc + "--dport \x1b[2J", `save:2: got "?[2J"`},
		{
			"a chain without a destination", svc + "-j KUBE-SEP-AAAAAAAAAAAAAAAA\nCOMMIT",
			"save:2: chain KUBE-SEP-AAAAAAAAAAAAAAAA: expected a rule with DNAT",
		},
		{
			"a rule after the last", "*nat\n-A KUBE-SEP-AAAAAAAAAAAAAAAA -j DNAT --to-destination 10.2.0.1:80\n" +
				"-A KUBE-SVC-HHHHHHHHHHHHHHHH -j KUBE-SEP-AAAAAAAAAAAAAAAA\n-A KUBE-SVC-HHHHHHHHHHHHHHHH -j KUBE-SEP-AAAAAAAAAAAAAAAA\nCOMMIT",
			"save:4: got a rule after one that takes every packet",
		},
		{"a line without an end", "*nat\n-A " + strings.Repeat("x", maxLine), "save:2: got a line of more than 65536 bytes"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, err := ParseIPTables("save", strings.NewReader(tt.rules))
			if err == nil || !strings.HasPrefix(err.Error(), tt.want) || !errors.As(err, new(*SyntaxError)) {
				t.Errorf("ParseIPTables() = %v, %v, want an error %q", got, err, tt.want)
			}
		})
	}
}

func TestWrongNFTablesAreRefused(t *testing.T) {
	in := func(object string) string { return `{"nftables": [` + object + `]}` }
	for _, tt := range []struct{ name, text, want string }{
		{"nothing", "", "at byte 0"},
		{"two rulesets", `{"nftables": []} {"nftables": []}`, "got more after the end"},
		{"another document", `{"kind": "List"}`, "expected nftables"},
		{"a ruleset that was cut off", `{"nftables": [{"table": {"family": "ip"}}`, "unexpected EOF"},
		{"a map with a port that is none", in(`{"map": {"family": "ip", "table": "kube-proxy", "name": "service-ips",
			"elem": [[{"concat": ["10.96.0.1", "tcp", 0]}, {"goto": {"target": "service-X"}}]]}}`), "map service-ips: expected a key"},
		{
			"a set with a name for an address", in(`{"set": {"family": "ip", "table": "kube-proxy", "name": "affinity-X/y", "elem": ["host"]}}`),
			`set affinity-X/y: got "host", expected an IP address`,
		},
		{
			"a draw with fewer endpoints than numbers", in(`
			{"rule": {"family": "ip", "table": "kube-proxy", "chain": "service-X-demo/counter/tcp/http", "handle": 7,
			"expr": [{"vmap": {"key": {"numgen": {"mode": "random", "mod": 3}}, "data": {"set": []}}}]}}`),
			"rule with handle 7 of chain service-X-demo/counter/tcp/http",
		},
		{
			"a goto to a chain without dnat", in(`{"rule": {"family": "ip", "table": "kube-proxy", "chain": "service-X-demo/counter/tcp/http", "handle": 7,
			"expr": [{"match": {"left": {"payload": {"field": "saddr"}}, "right": "@affinity-Y"}}, {"goto": {"target": "endpoint-Y"}}]}}`),
			"expected a rule with dnat",
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, _, err := ParseNFTables("ruleset.json", strings.NewReader(tt.text))
			if err == nil || !strings.HasPrefix(err.Error(), "ruleset.json: ") || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("ParseNFTables() = %v, %v, want an error with %q", got, err, tt.want)
			}
		})
	}
}

func TestNFTablesWithoutAffinityAndWithoutEndpoints(t *testing.T) {
	const text = `{"nftables": [
{"map": {"family": "ip", "table": "kube-proxy", "name": "service-ips", "elem":
 [[{"concat": ["10.96.0.20", "tcp", 80]}, {"goto": {"target": "service-X-demo/counter/tcp/http"}}]]}},
{"map": {"family": "ip", "table": "kube-proxy", "name": "no-endpoint-services", "elem":
 [[{"elem": {"val": {"concat": ["10.96.0.30", "udp", 53]}, "comment": "demo/gone:dns"}}, {"goto": {"target": "reject-chain"}}]]}},
{"rule": {"family": "ip", "table": "kube-proxy", "chain": "service-X-demo/counter/tcp/http", "handle": 7, "expr":
 [{"match": {"op": "==", "left": {"meta": {"key": "l4proto"}}, "right": "tcp"}},
 {"dnat": {"family": "ip", "addr": {"map": {"key": {"numgen": {"mode": "random", "mod": 2, "offset": 0}}, "data":
 {"set": [[0, {"concat": ["10.2.0.1", 8080]}], [1, {"concat": ["10.2.0.2", 8080]}]]}}}}}]}}]}`
	got, _, err := ParseNFTables("ruleset.json", strings.NewReader(text))
	want := []string{
		"demo/counter:http tcp", `  service IP 10.96.0.20:80 to "service-X-demo/counter/tcp/http"`,
		"  cluster: 10.2.0.1:8080 has 0.500 by line 0", "  cluster: 10.2.0.2:8080 has 0.500 by line 0",
		"demo/gone:dns udp", `  service IP 10.96.0.30:53 to ""`,
	}
	if d := cmp.Diff(want, outline(got)); err != nil || d != "" {
		t.Errorf("ParseNFTables(): %v; Services differ (-want +got):\n%s", err, d)
	}
}

func TestListsOfRecentClients(t *testing.T) {
	entries, err := ParseRecent("list", strings.NewReader("src=10.1.0.4 ttl: 64 last_seen: 4301188294 oldest_pkt: 2 4301188200, 4301188294\n"+
		"src=fd00:0001:0000:0000:0000:0000:0000:0007 ttl: 0 last_seen: 5 oldest_pkt: 1 5\n"))
	if err != nil || len(entries) != 2 || entries[0].seen != 4301188294 || entries[1].Client.String() != "fd00:1::7" {
		t.Errorf("ParseRecent() = %+v, %v, want two clients", entries, err)
	}
	for _, text := range []string{
		"src=10.1.0.4", "src=host ttl: 1 last_seen: 2 oldest_pkt: 1 2",
		"src=10.1.0.4 ttl: 1 last_seen: -2 x", "src=fe80::1%eth0 ttl: 1 last_seen: 2 x",
	} {
		if got, err := ParseRecent("list", strings.NewReader(text)); err == nil || !strings.HasPrefix(err.Error(), "list:1: ") {
			t.Errorf("ParseRecent(%q) = %+v, %v, want an error with a place", text, got, err)
		}
	}
}

func TestJiffiesTellTheAge(t *testing.T) {
	for _, tt := range []struct {
		name  string
		clock Clock
		seen  uint64
		want  time.Duration
		known bool
	}{
		{"a second ago", Clock{4301188308, 250}, 4301188058, time.Second, true},
		{"a tick after the lists were read", Clock{4301188308, 250}, 4301188309, 0, true},
		{"an unknown rate", Clock{Jiffies: 4301188308}, 4301188308, 0, false},
		{"32 bits wrapped", Clock{100, 100}, 1<<32 - 100, 2 * time.Second, true},
		{"64 bits went past 32", Clock{1<<32 + 100, 100}, 1<<32 - 100, 2 * time.Second, true},
		{"a year", Clock{1<<32 + 365*86400*1000, 1000}, 1 << 32, 365 * 24 * time.Hour, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got, known := tt.clock.age(tt.seen); got != tt.want || known != tt.known {
				t.Errorf("%+v.age(%d) = %s, %t, want %s, %t", tt.clock, tt.seen, got, known, tt.want, tt.known)
			}
		})
	}
}

func TestTheRateFollowsFromTheUptime(t *testing.T) {
	for _, hz := range []uint64{100, 250, 300, 1000} {
		for _, up := range []uint64{1, 200, 600, 86400, 400 * 86400} {
			jiffies := 1<<32 - 300*hz + up*hz + hz/2
			if got := FindHZ(jiffies, time.Duration(up)*time.Second); got != int(hz) {
				t.Errorf("FindHZ(%d, %ds) = %d, want %d", jiffies, up, got, hz)
			}
		}
	}
	if got := FindHZ(1<<32, 300*time.Second); got != 0 {
		t.Errorf("FindHZ() when every rate has the same jiffies = %d, want 0", got)
	}
	if got := FindHZ(1<<32+100*86400, 7*86400*time.Second); got != 0 {
		t.Errorf("FindHZ() of a machine that slept = %d, want 0", got)
	}
	if got := FindHZ(50*100, 350*time.Second); got != 100 {
		t.Errorf("FindHZ() of 32 bits that wrapped = %d, want 100", got)
	}
}

func TestFlowsAreRead(t *testing.T) {
	const text = `udp      17 29 src=10.1.0.4 dst=10.96.0.10 sport=47231 dport=53 [UNREPLIED] \
src=10.2.0.1 dst=10.1.0.4 sport=5353 dport=47231 mark=0 use=1
ipv6     10 tcp      6 119 TIME_WAIT src=fd00:1::1 dst=fd00:96::10 sport=0 dport=53 \
src=fd00:2::2 dst=fd00:1::1 sport=5353 dport=42985 [ASSURED] mark=0 use=1
icmp     1 29 src=10.1.0.1 dst=10.1.0.2 type=8 code=0 id=1 src=10.1.0.2 dst=10.1.0.1 type=0 code=0 id=1 mark=0 use=1
conntrack v1.4.7 (conntrack-tools): 3 flow entries have been shown.
`
	var got []string
	err := ReadFlows("conntrack", strings.NewReader(unfold(text)), func(f Flow) {
		got = append(got, fmt.Sprintf("%s %s to %s at %s", f.Protocol, f.Client, f.Destination, f.Server))
	})
	want := []string{
		"udp 10.1.0.4:47231 to 10.96.0.10:53 at 10.2.0.1:5353",
		"tcp [fd00:1::1]:0 to [fd00:96::10]:53 at [fd00:2::2]:5353",
	}
	if d := cmp.Diff(want, got); err != nil || d != "" {
		t.Errorf("ReadFlows(): %v; flows differ (-want +got):\n%s", err, d)
	}
	for _, text := range []string{
		"hello", "udp 17 29 src=10.1.0.4 dst=10.96.0.10 sport=1 dport=53",
		"udp src=x dst=10.1.0.1 sport=1 dport=2 src=10.1.0.1 dst=10.1.0.1 sport=1 dport=2",
	} {
		if err := ReadFlows("conntrack", strings.NewReader(text), func(Flow) {}); err == nil || !strings.HasPrefix(err.Error(), "conntrack:1: ") {
			t.Errorf("ReadFlows(%q) = %v, want an error with a place", text, err)
		}
	}
}
