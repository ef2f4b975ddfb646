package clientip

import (
	"net/netip"
	"strings"
	"testing"
)

func TestChainsAreNamedAsKubeProxyNamesThem(t *testing.T) {
	p80 := ServicePort{"ns1", "svc1", "p80", "tcp"}
	e := netip.MustParseAddrPort("10.180.0.1:80")
	six := netip.MustParseAddrPort("[fd00:2::1]:5353")
	for _, tt := range []struct{ name, got, want string }{ // the wanted names are those of kube-proxy's own tests, but for IPv6
		{"chain of a service", prefixCluster + p80.chainHash(), "KUBE-SVC-XPGD46QRK7WJZT7O"},
		{"chain of an endpoint", p80.endpointChain(e), "KUBE-SEP-SXIVWICOYRO3J4NJ"},
		{"chain of a service in nftables", nftCluster + p80.nftBase(), "service-ULMVA6XW-ns1/svc1/tcp/p80"},
		{"chain of an endpoint in nftables", nftEndpoint + p80.nftEndpointBase(e), "endpoint-5OJB2KTY-ns1/svc1/tcp/p80__10.180.0.1/80"},
		{
			"colons of an address in nftables",
			strings.TrimLeft(p80.nftEndpointBase(six), "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567"), "-ns1/svc1/tcp/p80__fd00.2..1/5353",
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if tt.got != tt.want {
				t.Errorf("name = %s, want %s", tt.got, tt.want)
			}
		})
	}
}

func TestLongNamesAreCutAndStayUnique(t *testing.T) {
	long := strings.Repeat("n", 63)
	p := ServicePort{long, long, long, "sctp"}
	a := p.nftEndpointBase(netip.MustParseAddrPort("[2001:db8:1111:2222:3333:4444:5555:6666]:65534"))
	b := p.nftEndpointBase(netip.MustParseAddrPort("[2001:db8:1111:2222:3333:4444:5555:6666]:65535"))
	if len(a) != nftMaxName || a == b || !strings.HasSuffix(a, "...") {
		t.Errorf("names of %d and %d bytes, equal %t; want %d bytes, different", len(a), len(b), a == b, nftMaxName)
	}
}

func TestServicePortsAreRead(t *testing.T) {
	for text, want := range map[string]ServicePort{
		"demo/counter":      {Namespace: "demo", Name: "counter"},
		"demo/counter:http": {Namespace: "demo", Name: "counter", Port: "http"},
	} {
		if got, err := ParseServicePort(text); err != nil || got != want || got.String() != text {
			t.Errorf("ParseServicePort(%s) = %+v, %v, want %+v", text, got, err, want)
		}
	}
	for _, text := range []string{"", "counter", "demo/", "/counter", "demo/counter:", "demo/a/b", "demo/\x1b[2J", "Demo/counter", "demo/-c", "a b/c"} {
		if got, err := ParseServicePort(text); err == nil || strings.Contains(err.Error(), "\x1b") {
			t.Errorf("ParseServicePort(%q) = %+v, %v, want an error that is safe to print", text, got, err)
		}
	}
}
