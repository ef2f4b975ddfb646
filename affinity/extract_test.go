package affinity

import (
	"errors"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"strings"
	"testing"
)

// found returns the id that one source finds, as text also for an address.
func found(s Source, trust Trust, m Message) (string, *IDError) {
	if s.ClientAddress != nil {
		return string(s.ClientAddress.appendID(nil, trust.Client(m))), nil
	}
	return s.id(m)
}

// Protects against prototype defects 37, 42 and 43: the second path segment is the second, cookies are read, and nothing is decoded
// before it is split.
func TestSourcesFindIDs(t *testing.T) {
	header := func(lines ...string) *message {
		m := &message{header: map[string][]string{}}
		for _, line := range lines {
			name, value, _ := strings.Cut(line, ": ")
			m.header[name] = append(m.header[name], value)
		}
		return m
	}
	path := func(p string) *message { return &message{path: p} }
	query := func(q string) *message { return &message{query: q} }
	from := func(peer string) *message { return &message{peer: netip.MustParseAddr(peer)} }
	cookie, parameter := Source{Cookie: "sid"}, Source{QueryParameter: "session"}
	segment := func(n int) Source { return Source{PathSegment: n} }
	for _, c := range []struct {
		name   string
		source Source
		m      *message
		want   string
		bad    bool
	}{
		{"a header", Source{Header: "K-Session"}, header("K-Session: alice"), "alice", false},
		{"an absent header", Source{Header: "K-Session"}, header("K-Revision: alice"), "", false},
		{"the first of several headers counts", Source{Header: "K-Session"}, header("K-Session: alice", "K-Session: bob"), "alice", false},
		{"the first of several headers counts even if it is empty", Source{Header: "K-Session"}, header("K-Session: ", "K-Session: bob"), "", false},
		{"Host is a header too", Source{Header: "Host"}, &message{host: "alice.example.com"}, "alice.example.com", false},

		{"a cookie", cookie, header("Cookie: sid=alice"), "alice", false},
		{"a cookie among others", cookie, header("Cookie: theme=dark; sid=alice; lang=en"), "alice", false},
		{"a cookie in a second line", cookie, header("Cookie: theme=dark", "Cookie: sid=alice"), "alice", false},
		{"the first of several cookies counts", cookie, header("Cookie: sid=alice; sid=bob"), "alice", false},
		{"a quoted cookie", cookie, header(`Cookie: sid="alice"`), "alice", false},
		{"a cookie with = in it", cookie, header("Cookie: sid=YWxpY2U=="), "YWxpY2U==", false},
		{"names of cookies have case", cookie, header("Cookie: SID=alice"), "", false},
		{"a cookie whose name ends alike", cookie, header("Cookie: xsid=alice; sidx=bob"), "", false},
		{"a cookie without value", cookie, header("Cookie: sid"), "", false},
		{"cookies without spaces between them", cookie, header("Cookie: a=b;sid=alice"), "alice", false},

		{"a query parameter", parameter, query("page=2&session=alice"), "alice", false},
		{"the first of several parameters counts", parameter, query("session=alice&session=bob"), "alice", false},
		{"an encoded value", parameter, query("session=al%69ce+b"), "alice b", false},
		{"an encoded name", parameter, query("%73ession=alice"), "alice", false},
		{"an empty value counts as the first", parameter, query("session=&session=bob"), "", false},
		{"a parameter without =", parameter, query("session&session=bob"), "", false},
		{"a value that does not decode", parameter, query("session=al%zz"), "", true},
		{"a value whose encoding is cut off", parameter, query("session=alice%4"), "", true},
		{"another value that does not decode does not matter", parameter, query("page=%zz&%zz=1&session=alice"), "alice", false},
		{"a name with a space", Source{QueryParameter: "session id"}, query("session+id=alice"), "alice", false},
		{"a name with a plus is not the one with a space", Source{QueryParameter: "session+id"}, query("session+id=bob&session%2Bid=alice"), "alice", false},

		{"the first path segment", segment(1), path("/alice/cart"), "alice", false},
		{"the second path segment", segment(2), path("/users/alice/cart"), "alice", false},
		{"the last path segment", segment(3), path("/users/alice/cart"), "cart", false},
		{"a segment behind the last", segment(4), path("/users/alice/cart"), "", false},
		{"empty segments count", segment(2), path("//alice"), "alice", false},
		{"an empty segment is no id", segment(1), path("//alice"), "", false},
		{"the root has no id", segment(1), path("/"), "", false},
		{"an encoded slash does not split", segment(2), path("/users/al%2Fice/cart"), "al/ice", false},
		{"a plus stays in a path", segment(1), path("/a+b"), "a+b", false},
		{"a segment that does not decode", segment(2), path("/users/al%2"), "", true},
		{"another segment that does not decode does not matter", segment(1), path("/users/al%2"), "users", false},
		{"a target that is no path", segment(1), path("*"), "", false},
		{"a negative segment is none", segment(-1), path("/users/alice"), "", false},
		{"dots are taken as they are", segment(2), path("/users/../alice"), "..", false},

		{"an IPv4 address", Source{ClientAddress: &AddressPrefix{}}, from("203.0.113.77"), "203.0.113.77/32", false},
		{"an IPv4 prefix", Source{ClientAddress: &AddressPrefix{IPv4Prefix: 24}}, from("203.0.113.77"), "203.0.113.0/24", false},
		{"an IPv4-mapped address", Source{ClientAddress: &AddressPrefix{}}, from("::ffff:203.0.113.77"), "203.0.113.77/32", false},
		{"an IPv6 site", Source{ClientAddress: &AddressPrefix{}}, from("2001:db8:1:2:3:4:5:6"), "2001:db8:1:2::/64", false},
		{"an IPv6 prefix", Source{ClientAddress: &AddressPrefix{IPv6Prefix: 56}}, from("2001:db8:1:2ff::6"), "2001:db8:1:200::/56", false},
		{"an IPv6 address with a zone", Source{ClientAddress: &AddressPrefix{IPv6Prefix: 128}}, from("fe80::1%eth0"), "fe80::1/128", false},
		{"no address", Source{ClientAddress: &AddressPrefix{}}, &message{}, "", false},
		{"no source", Source{}, header("K-Session: alice"), "", false},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := found(c.source, nil, c.m)
			if got != c.want || (err != nil) != c.bad {
				t.Errorf("id in %s = %q, %v, want %q", c.source, got, err, c.want)
			}
		})
	}
}

func FuzzPathSegment(f *testing.F) {
	for _, p := range []string{"/", "//", "/users/alice", "//b", "*", "", "/a%2Fb/c", "users/alice"} {
		f.Add(p, 2)
	}
	f.Fuzz(func(t *testing.T, path string, n int) {
		want := ""
		if segments := strings.Split(path, "/"); strings.HasPrefix(path, "/") && n > 0 && n < len(segments) {
			want = segments[n]
		}
		if got := pathSegment(path, n); got != want {
			t.Errorf("pathSegment(%q, %d) = %q, want %q", path, n, got, want)
		}
	})
}

// net/url drops pairs with a semicolon, and those that do not decode; everything else it must read alike.
func FuzzQueryParameter(f *testing.F) {
	for _, q := range []string{"session=alice", "a=1&session=b&session=c", "%73ession=+", "session", "&&=&session=%41", "s;session=1", "session=%"} {
		f.Add(q, "session")
	}
	f.Add("a+b=1&a%2Bb=2", "a+b")
	f.Fuzz(func(t *testing.T, query, name string) {
		s := Source{QueryParameter: name}
		got, err := s.id(&message{query: query})
		if err != nil {
			if _, plain := url.ParseQuery(query); plain == nil {
				t.Errorf("id in %q of %q: %v, though net/url decodes it", name, query, err)
			}
			return
		}
		values, bad := url.ParseQuery(query)
		if bad != nil || name == "" {
			return
		}
		if want := values.Get(name); got != want {
			t.Errorf("id in %q of %q = %q, want %q", name, query, got, want)
		}
	})
}

// net/http drops cookies whose values have characters that none should have; those that it reads it must read alike.
func FuzzCookie(f *testing.F) {
	for _, line := range []string{"sid=alice", "a=b; sid=c", `sid="quoted"`, "sid", "sid=a=b;sid=c", ";;sid=x", " sid =x", "sid=\"", "a=b;\tsid=c"} {
		f.Add(line, "theme=dark", "sid")
	}
	f.Fuzz(func(t *testing.T, line, second, name string) {
		r := httptest.NewRequest(http.MethodGet, "/", nil)
		r.Header["Cookie"] = []string{line, second}
		want, err := r.Cookie(name)
		got := cookie(r.Header["Cookie"], name)
		plain := !strings.ContainsFunc(line+second, func(c rune) bool { return c <= ' ' && c != ' ' && c != '\t' || c >= 0x7f || c == '\\' || c == '"' })
		switch {
		case !plain || !isToken(name):
		case err != nil && got != "":
			t.Errorf("cookie(%q, %q, %q) = %q, want none as in net/http", line, second, name, got)
		case err == nil && got != want.Value:
			t.Errorf("cookie(%q, %q, %q) = %q, want %q", line, second, name, got, want.Value)
		}
	})
}

// Whatever a client sends, extraction ends with an id or an *IDError that does not show it.
func FuzzSources(f *testing.F) {
	f.Add("/users/al%69ce", "session=%zz", "sid=x", "alice", "1.2.3.4, 10.0.0.1", "for=unknown")
	f.Add("//", "a&b=&=c", `sid="`, "", "garbage", `for="[2001:db8::1]:80";by=_x`)
	keyer := testKeyer(f)
	keyer.Trust = Trust{netip.MustParsePrefix("10.0.0.0/8")}
	p := Policy{
		Session:    &SessionAffinity{From: []Source{{PathSegment: 2}, {QueryParameter: "session"}, {Cookie: "sid"}, {Header: "K-Session"}}},
		Revision:   &RevisionAffinity{From: []Source{{Cookie: "flow"}, {ClientAddress: &AddressPrefix{}}}},
		MaxIDBytes: 8,
	}.WithDefaults()
	f.Fuzz(func(t *testing.T, path, query, cookies, header, forwardedFor, forwarded string) {
		m := &message{path: path, query: query, peer: netip.MustParseAddr("10.1.2.3"), header: map[string][]string{
			"Cookie": {cookies}, "K-Session": {header}, "X-Forwarded-For": {forwardedFor}, "Forwarded": {forwarded},
		}}
		session, flow, err := keyer.Keys(p, demo, "", m)
		e := keyer.Explain(p, demo, "", m)
		if e.Session != session || e.Flow != flow || (e.Err == nil) != (err == nil) {
			t.Errorf("Explain = %+v, want what Keys returns: %v, %v, %v", e, session, flow, err)
		}
		var bad *IDError
		if err != nil && (!errors.As(err, &bad) || !session.IsZero() || !flow.IsZero()) {
			t.Errorf("Keys = %v, %v, %v, want no keys and an *IDError", session, flow, err)
		}
		if err == nil && flow.IsZero() {
			t.Errorf("Keys = %v, %v, want a flow by the client's address", session, flow)
		}
	})
}
