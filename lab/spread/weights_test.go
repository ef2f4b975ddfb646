package spread

import (
	"errors"
	"fmt"
	"math"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestReadWeights(t *testing.T) {
	const text = "# clients of the resolver\n\nworker-00001 2.5 node-a zone-1 # busy\nworker-00002,1,node-b,zone-2\r\nworker-00003\t0.5 node-a zone-1\n"
	got, places, err := ReadWeights(strings.NewReader(text), "clients.txt")
	if err != nil {
		t.Fatal(err)
	}
	want := []Client{{"worker-00001", 2.5, 0, 0}, {"worker-00002", 1, 1, 1}, {"worker-00003", 0.5, 0, 0}}
	if diff := cmp.Diff(want, got); diff != "" || places != (Placement{2, 2}) {
		t.Errorf("ReadWeights = %v, want two nodes and zones; -want +got\n%s", places, diff)
	}
}

func TestReadWeightsSaysWhatIsWrong(t *testing.T) {
	tests := []struct{ name, text, want string }{
		{"nothing", "# nothing\n", `clients.txt:1: client: got "", expected a line such as: client-00001 1.5`},
		{"no weight", "a 1\nb\n", `clients.txt:2: weight: got "", expected a number from 1e-18 to 1e12`},
		{"a weight that is none", "a many\n", `clients.txt:1: weight: got "many", expected a number from 1e-18 to 1e12`},
		{"a weight of nothing", "a 0\n", `clients.txt:1: weight: got "0", expected a number`},
		{"a weight that no number is", "a NaN\n", `clients.txt:1: weight: got "NaN", expected a number`},
		{"infinity", "a +Inf\n", `clients.txt:1: weight: got "+Inf", expected a number`},
		{"a name twice", "a 1\nb 1\na 2\n", `clients.txt:3: client: got "a", expected another name than that of line 1`},
		{"a node in some lines", "a 1\nb 1 node-a\n", `clients.txt:2: fields: got "3", expected client, weight, and in all lines or none node and zone`},
		{"too many fields", "a 1 b c d\n", `clients.txt:1: fields: got "5", expected client`},
		{"a node in two zones", "a 1 n z1\nb 1 n z2\n", `clients.txt:2: zone: got "z2", expected the zone that node n has above: z1`},
		{"a long line", "a 1\n" + strings.Repeat("x", 70_000), `clients.txt:2: line: got "", expected at most 65536 bytes`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, _, err := ReadWeights(strings.NewReader(tt.text), "clients.txt")
			if err == nil || !strings.HasPrefix(err.Error(), tt.want) || !errors.As(err, new(*InputError)) {
				t.Errorf("ReadWeights = %v, want %s", err, tt.want)
			}
		})
	}
}

func TestReadWeightsIsBounded(t *testing.T) {
	var b strings.Builder
	for i := range MaxClients + 1 {
		fmt.Fprintf(&b, "client-%06d 1\n", i)
	}
	want := fmt.Sprintf("clients.txt:%d: client: got \"client-%06d\", expected at most 100000 clients", MaxClients+1, MaxClients)
	if _, _, err := ReadWeights(strings.NewReader(b.String()), "clients.txt"); err == nil || err.Error() != want {
		t.Errorf("ReadWeights = %v, want %s", err, want)
	}
}

const listing = `conntrack v1.4.7 (conntrack-tools): 5 flow entries have been shown.
udp      17 25 src=10.244.0.7 dst=10.96.0.10 sport=41234 dport=53 src=10.244.0.3 dst=10.244.0.7 sport=53 dport=41234 mark=0 use=1
udp      17 25 src=10.244.0.7 dst=10.96.0.10 sport=41235 dport=53 [UNREPLIED] src=10.244.0.3 dst=10.244.0.7 sport=53 dport=41235 use=1
ipv4     2 udp      17 9 src=10.244.0.8 dst=10.96.0.10 sport=2000 dport=53 src=10.244.0.4 dst=10.244.0.8 sport=53 dport=2000 [ASSURED] use=1
ipv4     2 tcp      6 86390 ESTABLISHED src=10.244.0.9 dst=10.96.0.10 sport=3000 dport=53 src=10.244.0.4 dst=10.244.0.9 sport=53 dport=3000 use=1
icmp     1 29 src=10.244.0.9 dst=10.96.0.10 type=8 code=0 id=1 src=10.96.0.10 dst=10.244.0.9 type=0 code=0 id=1 use=1
ipv6     10 udp      17 9 src=fd00::8 dst=fd00:96::a sport=2000 dport=53 src=fd00::4 dst=fd00::8 sport=53 dport=2000 use=1
`

func TestReadConntrack(t *testing.T) {
	service := netip.MustParseAddr("10.96.0.10")
	tests := []struct {
		name    string
		service Flow
		want    []Client
	}{
		{"a Service's UDP", Flow{"udp", service, 53}, []Client{{Name: "10.244.0.7", Weight: 2}, {Name: "10.244.0.8", Weight: 1}}},
		{"all of an address", Flow{Address: service}, []Client{{Name: "10.244.0.7", Weight: 2}, {Name: "10.244.0.8", Weight: 1}, {Name: "10.244.0.9", Weight: 1}}},
		{"a Service of IPv6", Flow{"udp", netip.MustParseAddr("fd00:96::a"), 53}, []Client{{Name: "fd00::8", Weight: 1}}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := ReadConntrack(strings.NewReader(listing), "flows.txt", tt.service)
			if diff := cmp.Diff(tt.want, got); diff != "" || err != nil {
				t.Errorf("ReadConntrack: %v; -want +got\n%s", err, diff)
			}
		})
	}
}

func TestReadConntrackCountsPacketsWhereAllEntriesDo(t *testing.T) {
	const one = "udp 17 9 src=10.0.0.1 dst=10.96.0.10 sport=1 dport=53 packets=7 bytes=500 src=10.1.0.1 dst=10.0.0.1 sport=53 dport=1 packets=9 bytes=9\n"
	const other = "udp 17 9 src=10.0.0.1 dst=10.96.0.10 sport=2 dport=53 src=10.1.0.1 dst=10.0.0.1 sport=53 dport=2\n"
	for text, want := range map[string]float64{one: 7, one + other: 2} {
		got, err := ReadConntrack(strings.NewReader(text), "flows.txt", Flow{})
		if err != nil || len(got) != 1 || got[0].Weight != want {
			t.Errorf("ReadConntrack = %v, %v, want one client of weight %v", got, err, want)
		}
	}
}

func TestReadConntrackSaysWhatIsWrong(t *testing.T) {
	const right = "udp 17 9 src=10.0.0.2 dst=10.96.0.10 sport=1 dport=53 packets=7 src=10.1.0.1 dst=10.0.0.2 sport=53 dport=1\n"
	other := func(part, by string) string { return strings.Replace(right, part, by, 1) }
	tests := []struct{ name, text, want string }{
		{"something else", "hello\n", `flows.txt:1: got "hello", expected PROTOCOL ... src=`},
		{"no address", other("src=10.0.0.2", "src=host"), `flows.txt:1: got "host", expected an`},
		{"no port", other("dport=53", "dport=dns"), `flows.txt:1: got "dns", expected a port`},
		{"no packets", other("packets=7", "packets=-1"), `flows.txt:1: got "-1", expected a number of packets`},
		{"nothing that fits", "", `flows.txt: no flow to the service`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if _, err := ReadConntrack(strings.NewReader(tt.text), "flows.txt", Flow{}); err == nil || !strings.HasPrefix(err.Error(), tt.want) {
				t.Errorf("ReadConntrack = %v, want %s", err, tt.want)
			}
		})
	}
}

// What is read without an error can be predicted from.
func FuzzReadWeights(f *testing.F) {
	f.Add("worker-00001 2.5 node-a zone-1\nworker-00002 1 node-b zone-2\n")
	f.Add("a 1e300\n")
	f.Fuzz(func(t *testing.T, text string) {
		clients, places, err := ReadWeights(strings.NewReader(text), "clients.txt")
		if err != nil {
			return
		}
		s := DefaultScenario()
		s.Clients, s.Nodes, s.Zones = clients, max(1, places.Nodes), max(1, places.Zones)
		if err := s.Validate(); err != nil && places.Zones <= 100 {
			t.Errorf("Validate = %v for clients that were read", err)
		}
		if w := newWorld(&s); math.IsNaN(w.ceff) || w.ceff > float64(len(clients))*1.001 {
			t.Errorf("Effective = %v of %d clients", w.ceff, len(clients))
		}
	})
}

func FuzzReadConntrack(f *testing.F) {
	f.Add(listing)
	f.Add("udp 17 9 src=::ffff:10.0.0.1 dst=10.96.0.10 dport=53 packets=1")
	f.Fuzz(func(t *testing.T, text string) {
		clients, err := ReadConntrack(strings.NewReader(text), "flows.txt", Flow{})
		for _, c := range clients {
			if _, parsed := netip.ParseAddr(c.Name); parsed != nil || c.Weight < 1 {
				t.Errorf("ReadConntrack has the client %+v, %v", c, err)
			}
		}
	})
}
