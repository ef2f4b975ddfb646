package affinity

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

var secret = bytes.Repeat([]byte("correct horse "), 3)

func testKeyer(t testing.TB) Keyer {
	t.Helper()
	d, err := NewDigester(secret)
	if err != nil {
		t.Fatal(err)
	}
	return Keyer{Digester: d}
}

func sessionHeader(id string) *message {
	return &message{header: map[string][]string{"K-Session": {id}, "K-Revision": {id}}}
}

func keysOf(t *testing.T, k Keyer, p *Policy, svc ServiceName, tag string, m Message) (session, flow Key) {
	t.Helper()
	session, flow, err := k.Keys(p, svc, tag, m)
	if err != nil {
		t.Fatalf("Keys: %v", err)
	}
	return session, flow
}

func TestDigestIsTheHMACOfItsFields(t *testing.T) {
	mac := hmac.New(sha256.New, secret)
	mac.Write([]byte("\x01\x04shop\x04demo\x06canary\x01\x02\x05alice"))
	k := testKeyer(t).Digester.Key(Scope{Service: demo, Tag: "canary", Kind: KindFlow}, "alice")
	if want := mac.Sum(nil)[:16]; !bytes.Equal(k.Digest[:], want) {
		t.Errorf("Digest = %x, want %x", k.Digest, want)
	}
}

func TestSecretHasToBeLongEnough(t *testing.T) {
	if _, err := NewDigester(make([]byte, 31)); err == nil || !strings.Contains(err.Error(), "at least 32 bytes, got 31") {
		t.Errorf("NewDigester(31 bytes) = %v, want an error that names both lengths", err)
	}
}

func TestFingerprintNamesTheSecret(t *testing.T) {
	a := testKeyer(t).Digester.Fingerprint()
	other, err := NewDigester(bytes.Repeat([]byte("x"), 32))
	if err != nil {
		t.Fatal(err)
	}
	if b := testKeyer(t).Digester.Fingerprint(); a != b || len(a) != 16 || a == other.Fingerprint() {
		t.Errorf("Fingerprint() = %q, %q and %q with another secret, want 16 digits, the same for the same secret", a, b, other.Fingerprint())
	}
}

func TestDigesterDoesNotKeepTheSecretItWasGiven(t *testing.T) {
	given := bytes.Clone(secret)
	d, err := NewDigester(given)
	if err != nil {
		t.Fatal(err)
	}
	clear(given)
	scope := Scope{Service: demo, Kind: KindSession}
	if got, want := d.Key(scope, "alice"), testKeyer(t).Digester.Key(scope, "alice"); got != want {
		t.Errorf("Key after the caller cleared its secret = %x, want %x", got.Digest, want.Digest)
	}
}

// Protects against prototype defects 13 and 14: equal ids of two services, tenants or tags never meet.
func TestEqualIDsOfTwoServicesOrTenantsNeverShareAKey(t *testing.T) {
	k, p, m := testKeyer(t), Policy{}.WithDefaults(), sessionHeader("alice")
	seen := map[[16]byte]string{}
	for _, svc := range []ServiceName{{"shop", "demo"}, {"bank", "demo"}, {"shop", "cart"}, {"", "demo"}, {"shopd", "emo"}, {"", "shop/demo"}} {
		for _, tag := range []string{"", "canary", "e"} {
			session, flow := keysOf(t, k, p, svc, tag, m)
			for _, key := range []Key{session, flow} {
				name := fmt.Sprintf("%+v", key.Scope)
				if other, twice := seen[key.Digest]; twice {
					t.Errorf("%s and %s have the digest %x", name, other, key.Digest)
				}
				seen[key.Digest] = name
			}
		}
	}
}

// Protects against prototype defect 14: a service's client is never served by what another tenant's session is bound to.
func TestSessionBoundInOneNamespaceIsNeverFoundFromAnother(t *testing.T) {
	k, p, m := testKeyer(t), Policy{}.WithDefaults(), sessionHeader("alice")
	remembered := map[Key]Memory{}
	mine, _ := keysOf(t, k, p, ServiceName{"shop", "demo"}, "", m)
	remembered[mine] = Memory{Target: canaryPod, Made: hourAgo}
	theirs, _ := keysOf(t, k, p, ServiceName{"bank", "demo"}, "", m)
	if memory, found := remembered[theirs]; found {
		t.Errorf("bank/demo found shop/demo's %v", memory.Target)
	}
	if again, _ := keysOf(t, k, p, ServiceName{"shop", "demo"}, "", m); remembered[again].Target != canaryPod {
		t.Errorf("shop/demo did not find its own session")
	}
	_, err := Decide(p, split(), Request{Session: theirs, SessionMemory: Memory{Target: canaryPod, Made: hourAgo}, Now: noon})
	if !errors.Is(err, ErrNoRevision) {
		t.Errorf("Decide with a memory that names another service's revision = %v, want %v", err, ErrNoRevision)
	}
}

// Protects against prototype defect 15: a flow id and a session id that are equal never overwrite each other.
func TestEqualFlowAndSessionIDsNeverShareAKey(t *testing.T) {
	session, flow := keysOf(t, testKeyer(t), Policy{}.WithDefaults(), demo, "", sessionHeader("alice"))
	if session.Digest == flow.Digest || session == flow || session.IsZero() || flow.IsZero() {
		t.Errorf("Keys = %v and %v, want two different keys", session, flow)
	}
}

// Protects against prototype defect 16: no service honours ids unless its policy says so, and no client fills memory with one id.
func TestServiceWithoutAffinityHonoursNoHeader(t *testing.T) {
	k, m := testKeyer(t), sessionHeader("alice")
	if session, flow := keysOf(t, k, nil, demo, "", m); !session.IsZero() || !flow.IsZero() {
		t.Errorf("Keys without a policy = %v, %v, want none", session, flow)
	}
	if session, flow := keysOf(t, k, Policy{Revision: &RevisionAffinity{}}.WithDefaults(), demo, "", m); !session.IsZero() || flow.IsZero() {
		t.Errorf("Keys with revision affinity alone = %v, %v, want a flow alone", session, flow)
	}
}

// Protects against prototype defects 16 and 19: long ids are refused by name of the source, and no id is ever shown.
func TestLongIDIsRefusedAndNeverShown(t *testing.T) {
	k, long := testKeyer(t), strings.Repeat("alice", 1000)[:4097]
	cookies := func(id string) *message { return &message{header: map[string][]string{"Cookie": {"sid=" + id}}} }
	cookie, header := []Source{{Cookie: "sid"}}, []Source{{Header: "K-Session"}}
	for _, c := range []struct {
		name string
		from []Source
		max  int
		m    *message
		want string
	}{
		{"a header of 1024 bytes", header, 0, sessionHeader(long[:1024]), ""},
		{"a header of 1025 bytes", header, 0, sessionHeader(long[:1025]), "id in header K-Session: longer than 1024 bytes"},
		{"a cookie of 4096 bytes", cookie, 0, cookies(long[:4096]), ""},
		{"a cookie of 4097 bytes", cookie, 0, cookies(long), "id in cookie sid: longer than 4096 bytes"},
		{"a cookie above the limit given", cookie, 16, cookies(long[:17]), "id in cookie sid: longer than 16 bytes"},
		{"an encoded id is measured decoded", []Source{{QueryParameter: "id"}}, 2, &message{query: "id=%41%42"}, ""},
		{"a later source does not help", append(header, Source{Cookie: "sid"}), 0, sessionHeader(long), "id in header K-Session: longer than 1024 bytes"},
		{
			"what does not decode",
			[]Source{{PathSegment: 2}},
			0, &message{path: "/users/alice%"},
			"id in path segment 2: expected percent-encoding of two hexadecimal digits",
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := Policy{Session: &SessionAffinity{From: c.from}, MaxIDBytes: c.max}.WithDefaults()
			session, flow, err := k.Keys(p, demo, "", c.m)
			if c.want == "" {
				if err != nil || session.IsZero() {
					t.Errorf("Keys = %v, %v, want a session", session, err)
				}
				return
			}
			var bad *IDError
			if !errors.As(err, &bad) || err.Error() != c.want || !session.IsZero() || !flow.IsZero() {
				t.Errorf("Keys = %v, %v, %v, want the *IDError %q", session, flow, err, c.want)
			}
			if strings.Contains(fmt.Sprintf("%+v %+v", k.Explain(p, demo, "", c.m), bad), "alice") {
				t.Errorf("the id is shown in %+v", bad)
			}
		})
	}
}

// Protects against prototype defect 19: without the secret nobody knows the key of an id.
func TestKeysDependOnTheSecret(t *testing.T) {
	other, err := NewDigester(bytes.Repeat([]byte("x"), 32))
	if err != nil {
		t.Fatal(err)
	}
	scope := Scope{Service: demo, Kind: KindSession}
	if k := testKeyer(t).Digester.Key(scope, "alice"); k.Digest == other.Key(scope, "alice").Digest {
		t.Errorf("two secrets give the key %x", k.Digest)
	}
}

// Protects against prototype defects 39 and 40: the configured sources count, in order, each standing in for those before it, and
// session affinity does not switch revision affinity off.
func TestSourcesAreTriedInOrder(t *testing.T) {
	k := testKeyer(t)
	p := Policy{
		Session:  &SessionAffinity{From: []Source{{Cookie: "sid"}, {QueryParameter: "session"}, {PathSegment: 2}}},
		Revision: &RevisionAffinity{},
	}.WithDefaults()
	full := &message{path: "/users/carol", query: "session=bob", header: map[string][]string{
		"Cookie": {"sid=alice"}, "K-Session": {"mallory"}, "K-Revision": {"blue"},
	}}
	key := func(kind Kind, id string) Key { return k.Digester.Key(Scope{Service: demo, Kind: kind}, id) }
	check := func(name, want string) {
		t.Helper()
		session, flow := keysOf(t, k, p, demo, "", full)
		if session != key(KindSession, want) || flow != key(KindFlow, "blue") {
			t.Errorf("%s: Keys = %v, %v, want those of %q and blue", name, session, flow, want)
		}
	}
	check("the first source wins over K-Session", "alice")
	full.header["Cookie"] = []string{"sid="}
	check("an empty cookie falls through", "bob")
	full.query = ""
	check("an absent parameter falls through", "carol")
	full.path = "/users/"
	check("nothing found: no session, but the flow", "")
}

func TestExplainListsTheSourcesTried(t *testing.T) {
	k := testKeyer(t)
	p := Policy{
		Session:  &SessionAffinity{From: []Source{{Header: "K-Session"}, {Cookie: "sid"}, {PathSegment: 1}}},
		Revision: &RevisionAffinity{From: []Source{{QueryParameter: "flow"}, {ClientAddress: &AddressPrefix{}}}},
	}.WithDefaults()
	words := func(m *message) []string {
		var list []string
		for _, a := range k.Explain(p, demo, "", m).Attempts {
			list = append(list, a.String())
		}
		return list
	}
	got := words(&message{path: "/alice", header: map[string][]string{"Cookie": {"sid=alice"}}, peer: netip.MustParseAddr("203.0.113.7")})
	want := []string{
		"session from header K-Session: none", "session from cookie sid: found",
		"flow from query parameter flow: none", "flow from client address: found",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("attempts (-want +got):\n%s", diff)
	}
	got = words(&message{path: "/al%zz"})
	want = []string{
		"session from header K-Session: none", "session from cookie sid: none",
		"session from path segment 1: expected percent-encoding of two hexadecimal digits",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("attempts (-want +got):\n%s", diff)
	}
}

func TestKeysAllocateNothing(t *testing.T) {
	k := testKeyer(t)
	k.Trust = proxies
	m := &message{path: "/users/alice/cart", query: "page=2&session=alice", peer: netip.MustParseAddr("10.0.0.1"), header: map[string][]string{
		"K-Session": {"alice"}, "Cookie": {"theme=dark; sid=alice"}, "X-Forwarded-For": {"198.51.100.1, 10.0.0.2"},
	}}
	for _, s := range []Source{
		{Header: "K-Session"}, {Cookie: "sid"}, {QueryParameter: "session"}, {PathSegment: 2}, {ClientAddress: &AddressPrefix{}},
	} {
		p := Policy{Session: &SessionAffinity{From: []Source{s}}, Revision: &RevisionAffinity{From: []Source{s}}}.WithDefaults()
		allocs := testing.AllocsPerRun(1000, func() {
			if session, flow, err := k.Keys(p, demo, "", m); err != nil || session.IsZero() || flow.IsZero() {
				t.Errorf("Keys by %s = %v, %v, %v, want both", s, session, flow, err)
			}
		})
		if allocs > 0 && !raceEnabled {
			t.Errorf("Keys by %s allocated %v times, want 0", s, allocs)
		}
	}
}

func TestDigesterServesManyGoroutines(t *testing.T) {
	d := testKeyer(t).Digester
	scope := Scope{Service: demo, Kind: KindSession}
	want := map[string]Key{}
	for n := range 100 {
		id := fmt.Sprintf("user-%04d", n)
		want[id] = d.Key(scope, id)
	}
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for id, k := range want {
				if got := d.Key(scope, id); got != k {
					t.Errorf("Key(%s) = %x, want %x", id, got.Digest, k.Digest)
				}
			}
		})
	}
	wg.Wait()
}

func TestDifferentFieldsNeverMakeTheSameDigest(t *testing.T) {
	d := testKeyer(t).Digester
	rapid.Check(t, func(t *rapid.T) {
		// Few letters, so that fields that run into each other would meet.
		text := rapid.StringMatching("[ab]{0,3}")
		draw := func(name string) (Scope, string) {
			s := Scope{Service: ServiceName{text.Draw(t, name+" namespace"), text.Draw(t, name+" name")}, Tag: text.Draw(t, name+" tag")}
			s.Kind = rapid.SampledFrom([]Kind{KindSession, KindFlow}).Draw(t, name+" kind")
			return s, "a" + text.Draw(t, name+" id")
		}
		s1, id1 := draw("one")
		s2, id2 := draw("two")
		if same := s1 == s2 && id1 == id2; same != (d.Key(s1, id1).Digest == d.Key(s2, id2).Digest) {
			t.Fatalf("Key(%+v, %q) and Key(%+v, %q) have equal digests: %v, want %v", s1, id1, s2, id2, !same, same)
		}
	})
}

func BenchmarkKeys(b *testing.B) {
	k, p, m := testKeyer(b), Policy{}.WithDefaults(), sessionHeader("3f1c2b9e-6d0a-4c57-9f0e-7a1b2c3d4e5f")
	b.ReportAllocs()
	for b.Loop() {
		if _, _, err := k.Keys(p, demo, "", m); err != nil {
			b.Fatal(err)
		}
	}
}
