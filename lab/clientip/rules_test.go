package clientip

import (
	"bytes"
	"flag"
	"fmt"
	"math"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

var update = flag.Bool("update", false, "write the golden files anew")

func addrs(all ...string) []netip.Addr {
	var out []netip.Addr
	for _, a := range all {
		out = append(out, netip.MustParseAddr(a))
	}
	return out
}

func addrPorts(all ...string) []netip.AddrPort {
	var out []netip.AddrPort
	for _, a := range all {
		out = append(out, netip.MustParseAddrPort(a))
	}
	return out
}

func counter() Spec {
	return Spec{
		ServicePort: ServicePort{"demo", "counter", "http", "tcp"}, ClusterIP: netip.MustParseAddr("10.96.0.20"), Number: 80,
		NodePort: 30080, ExternalIPs: addrs("192.0.2.7"), LoadBalancerIPs: addrs("198.51.100.7"),
		Endpoints: addrPorts("10.2.0.2:8080", "10.2.0.10:8080", "10.2.0.1:8080"), Local: addrPorts("10.2.0.1:8080"),
		Timeout: 3 * time.Hour, Pods: netip.MustParsePrefix("10.2.0.0/16"),
	}
}

func TestRulesAreWrittenAsKubeProxyWritesThem(t *testing.T) {
	six := Spec{
		ServicePort: ServicePort{"demo", "counter", "", "udp"}, ClusterIP: netip.MustParseAddr("fd00:96::20"), Number: 53,
		Endpoints: addrPorts("[fd00:2::1]:5353"), Timeout: time.Minute,
	}
	free := counter()
	free.Timeout, free.NodePort, free.ExternalIPs, free.LoadBalancerIPs = 0, 0, nil, nil
	for name, spec := range map[string]Spec{"counter": counter(), "counter6": six, "free": free} {
		for form, write := range map[string]func(*bytes.Buffer) error{
			"iptables": func(b *bytes.Buffer) error { return spec.WriteIPTables(b, name == "counter") },
			"nft":      func(b *bytes.Buffer) error { return spec.WriteNFTables(b, name == "counter") },
		} {
			t.Run(name+" as "+form, func(t *testing.T) {
				var got bytes.Buffer
				if err := write(&got); err != nil {
					t.Fatal(err)
				}
				golden := filepath.Join("testdata", "rules", name+"."+form)
				if *update {
					if err := os.WriteFile(golden, got.Bytes(), 0o600); err != nil {
						t.Fatal(err)
					}
				}
				want, err := os.ReadFile(golden)
				if err != nil {
					t.Fatal(err)
				}
				if d := cmp.Diff(string(want), got.String()); d != "" {
					t.Errorf("rules differ (-want +got):\n%s", d)
				}
			})
		}
	}
}

func TestWrongSpecsAreRefused(t *testing.T) {
	for _, tt := range []struct {
		name string
		edit func(*Spec)
		want string
	}{
		{"no endpoints", func(s *Spec) { s.Endpoints, s.Local = nil, nil }, "got 0 endpoints"},
		{"an endpoint of the other family", func(s *Spec) { s.Endpoints = append(s.Endpoints, addrPorts("[fd00::1]:80")...) }, "endpoint fd00::1"},
		{"a local endpoint that is none", func(s *Spec) { s.Local = addrPorts("10.2.0.9:80") }, "expected one of the endpoints"},
		{"a timeout of half a second", func(s *Spec) { s.Timeout = 500 * time.Millisecond }, "whole seconds"},
		{"a timeout of two days", func(s *Spec) { s.Timeout = 48 * time.Hour }, "to 24h0m0s"},
		{"no cluster IP", func(s *Spec) { s.ClusterIP = netip.Addr{} }, "cluster IP"},
		{"no port", func(s *Spec) { s.Number = 0 }, "port: got 0"},
		{"another protocol", func(s *Spec) { s.Protocol = "icmp" }, "tcp, udp or sctp"},
		{"a name that would be another rule", func(s *Spec) { s.Name = "counter\n-A INPUT -j ACCEPT" }, "expected NAMESPACE/NAME"},
		{"a zone", func(s *Spec) { s.ExternalIPs = addrs("fe80::1%eth0") }, "external IP"},
		{"pods of the other family", func(s *Spec) { s.Pods = netip.MustParsePrefix("fd00::/16") }, "pods"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := counter()
			tt.edit(&s)
			var b bytes.Buffer
			for _, err := range []error{s.WriteIPTables(&b, false), s.WriteNFTables(&b, false)} {
				if err == nil || !strings.Contains(err.Error(), tt.want) || b.Len() > 0 {
					t.Errorf("Write() = %v after %d bytes, want an error with %q and none", err, b.Len(), tt.want)
				}
			}
		})
	}
}

// What is written for iptables-restore has the form that iptables-save prints, but for the order of options.
func TestRulesThatAreWrittenAreReadBack(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := counter()
		s.Protocol = rapid.SampledFrom([]string{"tcp", "udp", "sctp"}).Draw(t, "protocol")
		s.Timeout = time.Duration(rapid.IntRange(0, 86400).Draw(t, "timeout")) * time.Second
		s.NodePort = uint16(rapid.IntRange(0, 1).Draw(t, "node port") * 30080)
		s.Endpoints, s.Local = nil, nil
		for i := range rapid.IntRange(1, 40).Draw(t, "endpoints") {
			s.Endpoints = append(s.Endpoints, netip.MustParseAddrPort(fmt.Sprintf("10.2.%d.%d:8080", i%7, i+1)))
		}
		var b bytes.Buffer
		if err := s.WriteIPTables(&b, rapid.Bool().Draw(t, "frame")); err != nil {
			t.Fatal(err)
		}
		services, err := ParseIPTables("rules", &b)
		if err != nil || len(services) != 1 || len(services[0].Chains) != 1 {
			t.Fatalf("ParseIPTables() = %+v, %v, want one Service", services, err)
		}
		got := services[0]
		c := got.Chains[0]
		if got.ServicePort != s.ServicePort || len(c.Draws) != len(s.Endpoints) || (len(c.Sticky) > 0) != (s.Timeout > 0) {
			t.Fatalf("Service = %+v, want what %+v says", got, s)
		}
		for i, d := range c.Draws {
			if math.Abs(d.Probability-1/float64(len(c.Draws))) > 1e-6 {
				t.Errorf("probability of %s = %f, want 1/%d", d.Endpoint, d.Probability, len(c.Draws))
			}
			if s.Timeout > 0 && (c.Sticky[i].Timeout != s.Timeout || c.Sticky[i].List != s.endpointChain(d.Endpoint) || c.Sticky[i].Endpoint != d.Endpoint) {
				t.Errorf("sticky rule = %+v, want %s for %s", c.Sticky[i], d.Endpoint, s.Timeout)
			}
		}
		want := 3 + min(1, int(s.NodePort))
		if len(got.Fronts) != want {
			t.Errorf("fronts = %v, want %d", got.Fronts, want)
		}
	})
}
