package ingress

import "testing"

func TestAProbeIsAnsweredForTheMostSpecificHost(t *testing.T) {
	p := Probes{
		External: map[string]string{"shop.example.com": "5a1f", "*.example.com": "77c0", "*.eu.example.com": "93be"},
		Local:    map[string]string{"*": "ffee"},
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
