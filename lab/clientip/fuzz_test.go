package clientip

import (
	"bytes"
	"fmt"
	"math"
	"strings"
	"testing"
)

// Seeds are short: the fuzzer's time goes into what it makes of them.
const (
	fuzzRules = `*nat
:KUBE-SVC-H - [0:0]
-A KUBE-SERVICES -d 10.96.0.20/32 -p tcp -m comment --comment "demo/counter:http cluster IP" -m tcp --dport 80 -j KUBE-SVC-H
-A KUBE-SVC-H -m comment --comment "demo/counter:http -> 10.2.0.1:80" -m recent --rcheck --seconds 60 --reap --name KUBE-SEP-A --rsource -j KUBE-SEP-A
-A KUBE-SVC-H -m statistic --mode random --probability 0.5 -j KUBE-SEP-A
-A KUBE-SVC-H -j KUBE-SEP-A
-A KUBE-SEP-A -p tcp -m recent --set --name KUBE-SEP-A -j DNAT --to-destination 10.2.0.1:80
COMMIT
`
	fuzzRuleset = `{"nftables": [{"set": {"family": "ip", "name": "affinity-Y", "table": "kube-proxy", "timeout": 60,
		"elem": [{"elem": {"val": "10.1.0.1", "expires": 9}}]}},
{"map": {"family": "ip", "table": "kube-proxy", "name": "service-ips",
		"elem": [[{"concat": ["10.96.0.20", "tcp", 80]}, {"goto": {"target": "service-X-d/c/tcp/http"}}]]}},
{"rule": {"family": "ip", "table": "kube-proxy", "chain": "service-X-d/c/tcp/http", "expr": [
		{"match": {"left": {"payload": {"field": "saddr"}}, "right": "@affinity-Y"}}, {"goto": {"target": "endpoint-Y/80"}}]}},
{"rule": {"family": "ip", "table": "kube-proxy", "chain": "service-X-d/c/tcp/http", "expr": [
		{"vmap": {"key": {"numgen": {"mode": "random", "mod": 1}}, "data": {"set": [[0, {"goto": {"target": "endpoint-Y/80"}}]]}}}]}},
{"rule": {"family": "ip", "table": "kube-proxy", "chain": "endpoint-Y/80", "expr": [{"dnat": {"addr": "10.2.0.1", "port": 80}}]}}]}`
	fuzzFlow  = "udp 17 29 src=10.1.0.4 dst=10.96.0.10 sport=4 dport=53 src=10.2.0.1 dst=10.1.0.4 sport=5353 dport=4 use=1\n"
	fuzzSlice = `{"kind": "EndpointSlice", "metadata": {"namespace": "d", "labels": {"kubernetes.io/service-name": "c"}},
		"ports": [{"port": 80}], "endpoints": [{"addresses": ["10.2.0.1"]}]}`
)

// The seeds have to be read as what they show, or the fuzzer starts from nothing.
func TestSeedsAreUnderstood(t *testing.T) {
	rules, err := ParseIPTables("seed", strings.NewReader(unfold(fuzzRules)))
	if err != nil || len(rules) != 1 || len(rules[0].Chains[0].Draws) != 2 || len(rules[0].Fronts) != 1 {
		t.Errorf("ParseIPTables(seed) = %+v, %v, want a Service with two draws", rules, err)
	}
	sets, lists, err := ParseNFTables("seed", strings.NewReader(fuzzRuleset))
	if err != nil || len(sets) != 1 || len(sets[0].Chains[0].Sticky) != 1 || len(sets[0].Fronts) != 1 || len(lists["affinity-Y"].Entries) != 1 {
		t.Errorf("ParseNFTables(seed) = %+v, %+v, %v, want a Service and a list", sets, lists, err)
	}
}

// checkServices checks what Services promise, whatever was read.
func checkServices(t *testing.T, all []Service) {
	for _, s := range all {
		for _, c := range s.Chains {
			sum := 0.0
			for _, d := range c.Draws {
				sum += d.Probability
				if !d.Endpoint.IsValid() || d.Probability < 0 || math.IsNaN(d.Probability) {
					t.Errorf("%s: draw %+v, want an endpoint and a probability", c.Name, d)
				}
			}
			if sum > 1+1e-9 {
				t.Errorf("%s: probabilities add up to %f, want at most 1", c.Name, sum)
			}
			for _, r := range c.Sticky {
				if strings.ContainsAny(r.Rule.Text, "\n\x1b") {
					t.Errorf("rule %q has control characters, want none", r.Rule.Text)
				}
			}
		}
	}
	n := &Node{Services: all, Lists: map[string]List{}}
	n.indexFlows()
	n.Explain(Question{})
}

func FuzzParseIPTables(f *testing.F) {
	f.Add([]byte(unfold(fuzzRules)))
	f.Fuzz(func(t *testing.T, text []byte) {
		if all, err := ParseIPTables("fuzz", bytes.NewReader(text)); err == nil {
			checkServices(t, all)
		}
	})
}

func FuzzParseNFTables(f *testing.F) {
	f.Add([]byte(fuzzRuleset))
	f.Fuzz(func(t *testing.T, text []byte) {
		if all, _, err := ParseNFTables("fuzz", bytes.NewReader(text)); err == nil {
			checkServices(t, all)
		}
	})
}

func FuzzParseRecent(f *testing.F) {
	f.Add([]byte("src=10.1.0.4 ttl: 64 last_seen: 4301188294 oldest_pkt: 1 4301188294\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		entries, err := ParseRecent("fuzz", bytes.NewReader(text))
		for _, e := range entries {
			if age, _ := (Clock{1, 250}).age(e.seen); err == nil && (!e.Client.IsValid() || age < 0) {
				t.Errorf("entry %+v is %s old, want a client and no future", e, age)
			}
		}
	})
}

func FuzzReadFlows(f *testing.F) {
	f.Add([]byte(fuzzFlow))
	f.Fuzz(func(t *testing.T, text []byte) {
		err := ReadFlows("fuzz", bytes.NewReader(text), func(flow Flow) {
			if !isProtocol(flow.Protocol) || !flow.Client.IsValid() || !flow.Server.IsValid() {
				t.Errorf("flow %+v, want a protocol and addresses", flow)
			}
		})
		if err != nil && strings.ContainsRune(err.Error(), '\x1b') {
			t.Errorf("ReadFlows() = %q, want an error that is safe to print", err)
		}
	})
}

func FuzzParseSlices(f *testing.F) {
	f.Add([]byte(fuzzSlice))
	f.Fuzz(func(t *testing.T, text []byte) {
		s := Slices{}
		if err := s.ParseSlices("fuzz", bytes.NewReader(text)); err == nil {
			for port := range s {
				if !isName(port.Namespace) || !isName(port.Name) {
					t.Errorf("slices of %q, want names", port)
				}
			}
		}
	})
}

// large returns the rules of so many Services with eight endpoints each: 35 rules and 9 chains for one.
func large(services int) []byte {
	var b bytes.Buffer
	fmt.Fprintln(&b, "*nat")
	for i := range services {
		s := counter()
		s.Name = fmt.Sprintf("counter-%05d", i)
		s.Endpoints, s.Local, s.NodePort = nil, nil, uint16(1+i%65535)
		for e := range 8 {
			s.Endpoints = append(s.Endpoints, addrPorts(fmt.Sprintf("10.%d.%d.%d:8080", 128+i>>8, i&255, e+1))...)
		}
		var one bytes.Buffer
		if err := s.WriteIPTables(&one, false); err != nil {
			panic(err)
		}
		b.WriteString(strings.TrimSuffix(strings.TrimPrefix(one.String(), "*nat\n"), "COMMIT\n"))
	}
	fmt.Fprintln(&b, "COMMIT")
	return b.Bytes()
}

func BenchmarkParseIPTables(b *testing.B) {
	text := large(2632)
	b.SetBytes(int64(len(text)))
	b.ReportAllocs()
	b.ReportMetric(float64(bytes.Count(text, []byte("\n-A"))), "rules")
	for b.Loop() {
		if _, err := ParseIPTables("large", bytes.NewReader(text)); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkReadFlows(b *testing.B) {
	text := strings.Repeat(fuzzFlow, 100_000)
	b.SetBytes(int64(len(text)))
	b.ReportAllocs()
	for b.Loop() {
		if err := ReadFlows("flows", strings.NewReader(text), func(Flow) {}); err != nil {
			b.Fatal(err)
		}
	}
}

// An endless reader repeats a text: a file that grows while it is read.
type endless struct{ text, rest string }

func (e *endless) Read(p []byte) (int, error) {
	if e.rest == "" {
		e.rest = e.text
	}
	n := copy(p, e.rest)
	e.rest = e.rest[n:]
	return n, nil
}

func TestWhatNeverEndsIsRefused(t *testing.T) {
	t.Run("clients", func(t *testing.T) {
		line := "src=10.1.0.4 ttl: 64 last_seen: 4301188294 oldest_pkt: 1 4301188294\n"
		if got, err := ParseRecent("endless", &endless{text: line}); err == nil || !strings.Contains(err.Error(), "expected at most 1048576 clients") {
			t.Errorf("ParseRecent() of a list without end = %d, %v, want an error that names the bound", len(got), err)
		}
	})
	t.Run("bytes", func(t *testing.T) {
		lines := newLineReader("endless", &bounded{&endless{text: "# a comment\n"}, 1000})
		for lines.next() {
			continue
		}
		if err := lines.err(); err == nil || !strings.Contains(err.Error(), "expected at most") {
			t.Errorf("reading without end = %v, want an error that names the bound", err)
		}
	})
}
