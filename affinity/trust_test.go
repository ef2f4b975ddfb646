package affinity

import (
	"net/netip"
	"strings"
	"testing"
)

var proxies = Trust{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("2001:db8:ffff::/48")}

func TestClientIsWhomTrustedProxiesSay(t *testing.T) {
	for _, c := range []struct {
		name, peer string
		listed     []string // X-Forwarded-For
		forwarded  []string
		want       string
	}{
		{"nobody forwards", "203.0.113.7", nil, nil, "203.0.113.7"},
		{"the word of a stranger does not count", "203.0.113.7", []string{"198.51.100.1"}, []string{"for=198.51.100.1"}, "203.0.113.7"},
		{"a trusted proxy's does", "10.0.0.1", []string{"198.51.100.1"}, nil, "198.51.100.1"},
		{"what the client wrote itself does not", "10.0.0.1", []string{"192.0.2.66, 198.51.100.1"}, nil, "198.51.100.1"},
		{"not in a line of its own either", "10.0.0.1", []string{"192.0.2.66", "198.51.100.1"}, nil, "198.51.100.1"},
		{"a chain of trusted proxies is followed", "10.0.0.1", []string{"192.0.2.66, 198.51.100.1,10.0.0.3", "10.0.0.2"}, nil, "198.51.100.1"},
		{"if all are trusted, the first is the client", "10.0.0.1", []string{"10.0.0.9, 10.0.0.3"}, nil, "10.0.0.9"},
		{"a trusted proxy that says nothing is the client", "10.0.0.1", nil, nil, "10.0.0.1"},
		{"ports are cut off", "10.0.0.1", []string{"198.51.100.1:4711"}, nil, "198.51.100.1"},
		{"IPv6", "10.0.0.1", []string{"2001:db8::7"}, nil, "2001:db8::7"},
		{"IPv6 in brackets", "10.0.0.1", []string{"[2001:db8::7]"}, nil, "2001:db8::7"},
		{"IPv6 with a port", "10.0.0.1", []string{"[2001:db8::7]:4711"}, nil, "2001:db8::7"},
		{"a mapped peer is trusted as IPv4", "::ffff:10.0.0.1", []string{"::ffff:198.51.100.1"}, nil, "198.51.100.1"},
		{"a mapped client is IPv4", "10.0.0.1", []string{"[::ffff:198.51.100.1]"}, nil, "198.51.100.1"},
		{"malformed: the last trustworthy address", "10.0.0.1", []string{"198.51.100.1, junk, 10.0.0.3"}, nil, "10.0.0.3"},
		{"malformed at the end: the peer", "10.0.0.1", []string{"198.51.100.1, junk"}, nil, "10.0.0.1"},
		{"unknown: the last trustworthy address", "10.0.0.1", []string{"198.51.100.1, unknown, 10.0.0.3"}, nil, "10.0.0.3"},
		{"empty elements are none", "10.0.0.1", []string{",198.51.100.1,, ,"}, nil, "198.51.100.1"},
		{"an empty line is none", "10.0.0.1", []string{"198.51.100.1", ""}, nil, "198.51.100.1"},

		{"Forwarded", "10.0.0.1", nil, []string{"for=198.51.100.1"}, "198.51.100.1"},
		{"Forwarded with everything", "10.0.0.1", nil, []string{`For="198.51.100.1:80";proto=https;by=203.0.113.43;host="a,b"`}, "198.51.100.1"},
		{"Forwarded IPv6", "10.0.0.1", nil, []string{`for="[2001:db8:cafe::17]:4711"`}, "2001:db8:cafe::17"},
		{
			"Forwarded in several elements and lines", "10.0.0.1", nil,
			[]string{"for=192.0.2.66, for=198.51.100.1;proto=http", `for=10.0.0.3,for="[2001:db8:ffff::2]"`},
			"198.51.100.1",
		},
		{"an obfuscated identifier", "10.0.0.1", nil, []string{"for=198.51.100.1, for=_hidden, for=10.0.0.3"}, "10.0.0.3"},
		{"an unknown identifier", "10.0.0.1", nil, []string{"for=198.51.100.1, for=unknown"}, "10.0.0.1"},
		{"an obfuscated port", "10.0.0.1", nil, []string{`for="198.51.100.1:_web"`}, "198.51.100.1"},
		{"an element without for", "10.0.0.1", nil, []string{"for=198.51.100.1, proto=https"}, "10.0.0.1"},
		{"an element with two", "10.0.0.1", nil, []string{"for=198.51.100.1;for=198.51.100.2"}, "10.0.0.1"},
		{"IPv6 without brackets is malformed in Forwarded", "10.0.0.1", nil, []string{`for="2001:db8::7"`}, "10.0.0.1"},
		{"a needless semicolon", "10.0.0.1", nil, []string{"for=198.51.100.1;"}, "198.51.100.1"},
		{"quotes in quotes", "10.0.0.1", nil, []string{`by="a,\"b";for=198.51.100.1`}, "198.51.100.1"},
		{"a quote that the client left open swallows nothing", "10.0.0.1", nil, []string{`for=192.0.2.66;by=", for=198.51.100.1`}, "198.51.100.1"},
		{"nor does it before a quoted address", "10.0.0.1", nil, []string{`for=192.0.2.66;by=", for="[2001:db8::7]"`}, "2001:db8::7"},
		{"nor before two", "10.0.0.1", nil, []string{`for=192.0.2.66;by=", for="[2001:db8::7]", for="10.0.0.3:80"`}, "2001:db8::7"},
		{"text after a quoted string is malformed", "10.0.0.1", nil, []string{`for="198.51.100.1"x`}, "10.0.0.1"},
		{"X-Forwarded-For counts before Forwarded", "10.0.0.1", []string{"198.51.100.1"}, []string{"for=192.0.2.66"}, "198.51.100.1"},
		{"no peer", "", []string{"198.51.100.1"}, nil, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			m := &message{header: map[string][]string{}}
			if c.peer != "" {
				m.peer = netip.MustParseAddr(c.peer)
			}
			if c.listed != nil {
				m.header["X-Forwarded-For"] = c.listed
			}
			if c.forwarded != nil {
				m.header["Forwarded"] = c.forwarded
			}
			var want netip.Addr
			if c.want != "" {
				want = netip.MustParseAddr(c.want)
			}
			if got := proxies.Client(m); got != want {
				t.Errorf("Client = %v, want %v", got, want)
			}
		})
	}
}

// Whatever clients write to the left of what a trusted proxy appended, the client stays the one that the proxy saw.
func FuzzTrust(f *testing.F) {
	for _, s := range []string{"", "192.0.2.66", "for=192.0.2.66", `for="`, `for="[2001:db8::1]";by="`, `\"`, ",,", `for=x;by="\`, "for=10.0.0.9"} {
		f.Add(s)
	}
	seen := netip.MustParseAddr("198.51.100.1")
	f.Fuzz(func(t *testing.T, written string) {
		for name, appended := range map[string]string{
			"X-Forwarded-For": "198.51.100.1, 10.0.0.3", "Forwarded": `for="198.51.100.1:4711";proto=https, for=10.0.0.3`,
		} {
			m := &message{peer: netip.MustParseAddr("10.0.0.1"), header: map[string][]string{name: {written + ", " + appended}}}
			if got := proxies.Client(m); got != seen {
				t.Errorf("%s %q: Client = %v, want %v", name, m.header[name], got, seen)
			}
			m.header[name] = []string{written, appended}
			if got := proxies.Client(m); got != seen {
				t.Errorf("%s %q: Client = %v, want %v", name, m.header[name], got, seen)
			}
			m.header[name] = []string{written}
			if got := proxies.Client(m); !got.IsValid() || got.Is4In6() || got.Zone() != "" {
				t.Errorf("%s %q: Client = %v, want a plain address", name, written, got)
			}
			m.peer = netip.MustParseAddr("203.0.113.7")
			if got := proxies.Client(m); got != m.peer {
				t.Errorf("%s %q from a stranger: Client = %v, want %v", name, written, got, m.peer)
			}
		}
	})
}

func FuzzLastForwarded(f *testing.F) {
	f.Add(`for="a,b";by="\"", for=198.51.100.1`)
	f.Fuzz(func(t *testing.T, list string) {
		rest, element := lastForwarded(list)
		if len(rest) > len(list) || rest == list && list != "" || !strings.HasPrefix(list, rest) || !strings.Contains(list, element) {
			t.Errorf("lastForwarded(%q) = %q, %q, want a shorter rest and a part of the list", list, rest, element)
		}
	})
}
