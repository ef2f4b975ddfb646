package ingress

import (
	"strings"
	"testing"
)

func TestAProbeIsAnsweredForTheMostSpecificHost(t *testing.T) {
	p := Probes{
		External: map[string]string{"shop.example.com": "5a1f", "*.example.com": "77c0", "*.eu.example.com": "93be"},
		Local:    map[string]string{"*": "ffee"}, Wildcards: true,
	}
	for _, c := range []struct {
		name  string
		local bool
		host  string
		want  string
	}{
		{"exact", false, "shop.example.com", "5a1f"},
		{"in capitals, with a port", false, "Shop.Example.com:8443", "5a1f"},
		{"with a dot at the end", false, "shop.example.com.", "5a1f"},
		{"below a wildcard", false, "acme.example.com", "77c0"},
		{"far below a wildcard", false, "a.b.example.com", "77c0"},
		{"below the longer wildcard", false, "acme.eu.example.com", "93be"},
		{"the wildcard itself", false, "*.example.com", "77c0"},
		{"not below a wildcard", false, "example.com", ""},
		{"any", true, "shop.example.com", "ffee"},
		{"the other gateway's", false, "shop.default", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, ok := p.Hash(c.local, c.host)
			if got != c.want || ok != (c.want != "") {
				t.Errorf("Hash(%v, %q) = %q, %v, want %q", c.local, c.host, got, ok, c.want)
			}
		})
	}
	if hash, ok := (Probes{}).Hash(true, "shop.default"); ok {
		t.Errorf("the zero Probes answers %q, want nothing", hash)
	}
}

func TestAProbeOfAHostThatIsNoNameIsNotLookedFor(t *testing.T) {
	p := Probes{Local: map[string]string{"*": "ffee", "*.example.com": "77c0"}, Wildcards: true}
	name := strings.Repeat("a.", 121) + "example.com" // of 253 bytes, the most that a name has
	for _, c := range []struct{ name, host, want string }{
		{"the longest name", name, "77c0"},
		{"the longest name with a port", name + ":8080", "77c0"},
		{"too long for a name", "aaa." + name, ""},
		{"as long as a head may be", strings.Repeat("a.", 60_000), ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got, _ := p.Hash(true, c.host); got != c.want {
				t.Errorf("Hash of a host of %d bytes = %q, want %q", len(c.host), got, c.want)
			}
		})
	}
}

func BenchmarkProbeOfALongHost(b *testing.B) {
	p := Probes{External: map[string]string{"*.example.com": "77c0"}, Wildcards: true}
	host := strings.Repeat("a.", 60_000)
	for b.Loop() {
		p.Hash(false, host)
	}
}
