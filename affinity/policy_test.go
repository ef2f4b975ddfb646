package affinity

import (
	"encoding/json"
	"math"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

func TestDurationIsWrittenShort(t *testing.T) {
	for d, want := range map[time.Duration]string{
		0: "0s", time.Second: "1s", 90 * time.Minute: "1h30m", time.Hour: "1h", 10 * time.Minute: "10m", 100 * time.Minute: "1h40m",
		time.Hour + time.Second: "1h0m1s", 1500 * time.Millisecond: "1.5s", 20 * time.Hour: "20h", 61 * time.Second: "1m1s",
	} {
		if got := Duration(d).String(); got != want {
			t.Errorf("Duration(%d).String() = %q, want %q", d, got, want)
		}
	}
}

func TestDurationReadsWhatItWrites(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		d := Duration(rapid.Int64Range(0, math.MaxInt64).Draw(t, "duration"))
		text, err := json.Marshal(d)
		if err != nil {
			t.Fatalf("Marshal(%v): %v", d, err)
		}
		var got Duration
		if err := json.Unmarshal(text, &got); err != nil || got != d {
			t.Fatalf("Unmarshal(%s) = %v, %v, want %v", text, got, err, d)
		}
	})
}

func TestDurationRefusesWhatIsNone(t *testing.T) {
	for text, want := range map[string]string{
		`"-1s"`:      `expected a duration that is not negative, got "-1s"`,
		`"tomorrow"`: `expected a duration such as "1h30m", got "tomorrow"`,
		`""`:         `expected a duration such as "1h30m", got ""`,
		`5`:          "cannot unmarshal number",
	} {
		d := Duration(7)
		if err := json.Unmarshal([]byte(text), &d); err == nil || !strings.Contains(err.Error(), want) || d != 7 {
			t.Errorf("Unmarshal(%s) = %v, %v, want the error %q", text, d, err, want)
		}
	}
}

func TestDefaults(t *testing.T) {
	session := &SessionAffinity{
		From: []Source{{Header: "K-Session"}}, Mode: ModeBound, Idle: Duration(time.Hour), Place: PlaceBoundedLoad, LoadFactor: 1.25,
		Overflow: OverflowWait, QueueTimeout: Duration(10 * time.Second),
	}
	revision := &RevisionAffinity{From: []Source{{Header: "K-Revision"}}, Mode: ModePinned, Idle: Duration(time.Hour)}
	token := *session
	token.From, token.Mode = nil, ModeToken
	token.Token = &TokenPolicy{Cookie: "limpet", Path: "/", SameSite: "Lax", Secure: "auto"}
	header := token
	header.Token = &TokenPolicy{Header: "X-Limpet-Token", Forward: true}
	address := *session
	address.From = []Source{{Header: "X-Session"}, {ClientAddress: &AddressPrefix{IPv4Prefix: 24, IPv6Prefix: 64}}}
	full := func(s *SessionAffinity, r *RevisionAffinity) *Policy {
		return &Policy{Session: s, Revision: r, Settle: Duration(2 * time.Second), Quota: 1_000_000}
	}
	for _, c := range []struct {
		name, given string
		want        *Policy
	}{
		{"neither given: both", `{}`, full(session, revision)},
		{"session alone", `{"session": {}}`, full(session, nil)},
		{"revision alone", `{"revision": {}}`, full(nil, revision)},
		{"both given", `{"session": {}, "revision": {}}`, full(session, revision)},
		{"mode token needs no source", `{"session": {"mode": "token"}}`, full(&token, nil)},
		{
			"a token in a header has no cookie's attributes", `{"session": {"mode": "token", "token": {"header": "x-limpet-token", "forward": true}}}`,
			full(&header, nil),
		},
		{"prefixes and header names", `{"session": {"from": [{"header": "x-SESSION"}, {"clientAddress": {"ipv4Prefix": 24}}]}}`, full(&address, nil)},
	} {
		t.Run(c.name, func(t *testing.T) {
			var given Policy
			if err := json.Unmarshal([]byte(c.given), &given); err != nil {
				t.Fatal(err)
			}
			got := given.WithDefaults()
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Errorf("WithDefaults of %s (-want +got):\n%s", c.given, diff)
			}
			if errs := got.Validate(); errs != nil {
				t.Errorf("Validate of the defaults = %v, want nil", errs)
			}
			if diff := cmp.Diff(got, got.WithDefaults()); diff != "" {
				t.Errorf("WithDefaults twice is not WithDefaults once (-once +twice):\n%s", diff)
			}
		})
	}
}

func TestDefaultsShareNothingWithWhatWasGiven(t *testing.T) {
	given := Policy{
		Session:  &SessionAffinity{From: []Source{{ClientAddress: &AddressPrefix{}}}, Mode: ModeToken, Token: &TokenPolicy{}},
		Revision: &RevisionAffinity{From: []Source{{Header: "x-flow"}}},
	}
	got := given.WithDefaults()
	if given.Session.Idle != 0 || given.Revision.Idle != 0 || given.Session.Token.Cookie != "" || given.Revision.From[0].Header != "x-flow" {
		t.Errorf("WithDefaults changed what was given: %+v", given)
	}
	*got.Session.From[0].ClientAddress = AddressPrefix{IPv4Prefix: 8}
	got.Revision.From[0].Header = "Other"
	if given.Session.From[0].ClientAddress.IPv4Prefix != 0 || given.Revision.From[0].Header != "x-flow" {
		t.Errorf("a change of the result reached what was given: %+v", given)
	}
}

func FuzzCanonicalHeader(f *testing.F) {
	for _, name := range []string{"k-session", "X--y", "-", "host", "x_y", "ä", "a b", ""} {
		f.Add(name)
	}
	f.Fuzz(func(t *testing.T, name string) {
		if got, want := canonicalHeader(name), http.CanonicalHeaderKey(name); isToken(name) && got != want {
			t.Errorf("canonicalHeader(%q) = %q, want %q", name, got, want)
		}
	})
}

// Protects against prototype defects 38 and 41: a wrong policy is refused with the field and what was expected there.
func TestWrongPolicyIsRefused(t *testing.T) {
	token := func(t TokenPolicy) Policy { return Policy{Session: &SessionAffinity{Mode: ModeToken, Token: &t}} }
	from := func(s ...Source) Policy { return Policy{Session: &SessionAffinity{From: s}} }
	for _, c := range []struct {
		policy Policy
		want   string
	}{
		{from(Source{Header: "X"}, Source{PathSegment: -1}), "session.from[1].pathSegment: expected a number of at least 1, got -1"},
		{from(Source{}), "session.from[0]: expected exactly one of header, queryParameter, pathSegment (counted from 1), cookie and clientAddress, got 0"},
		{from(Source{Header: "X", Cookie: "sid"}), "session.from[0]: expected exactly one of"},
		{from(Source{Header: "X Session"}), "session.from[0].header: expected a name of letters, digits and !#$%&'*+-.^_`|~, got \"X Session\""},
		{from(Source{Cookie: "sid;"}), "session.from[0].cookie: expected a name"},
		{from(Source{ClientAddress: &AddressPrefix{IPv4Prefix: 33}}), "session.from[0].clientAddress.ipv4Prefix: expected a length in bits from 1 to 32, got 33"},
		{from(Source{ClientAddress: &AddressPrefix{IPv6Prefix: -1}}), "session.from[0].clientAddress.ipv6Prefix: expected a length in bits from 1 to 128, got -1"},
		{Policy{Session: &SessionAffinity{Mode: "sticky"}}, `session.mode: expected bound, hash or token, got "sticky"`},
		{Policy{Session: &SessionAffinity{Idle: Duration(time.Millisecond)}}, "session.idle: expected at least 1s, got 1ms"},
		{Policy{Session: &SessionAffinity{Absolute: -1}}, "session.absolute: expected a duration that is not negative, got -1ns"},
		{Policy{Session: &SessionAffinity{Place: "random"}}, `session.place: expected boundedLoad or leastLoaded, got "random"`},
		{Policy{Session: &SessionAffinity{LoadFactor: 0.9}}, "session.loadFactor: expected a number of at least 1, got 0.9"},
		{Policy{Session: &SessionAffinity{LoadFactor: math.NaN()}}, "session.loadFactor: expected a number of at least 1, got NaN"},
		{Policy{Session: &SessionAffinity{LoadFactor: math.Inf(1)}}, "session.loadFactor: expected a number of at least 1, got +Inf"},
		{Policy{Session: &SessionAffinity{Overflow: "drop"}}, `session.overflow: expected wait, spill or reject, got "drop"`},
		{Policy{Session: &SessionAffinity{QueueTimeout: -1}}, "session.queueTimeout: expected a duration that is not negative"},
		{Policy{Session: &SessionAffinity{Token: &TokenPolicy{}}}, "session.token: expected only with mode token"},
		{Policy{Revision: &RevisionAffinity{From: []Source{{}}}}, "revision.from[0]: expected exactly one of"},
		{Policy{Revision: &RevisionAffinity{Mode: "bound"}}, `revision.mode: expected pinned or proportional, got "bound"`},
		{Policy{Revision: &RevisionAffinity{Idle: 1}}, "revision.idle: expected at least 1s, got 1ns"},
		{Policy{Revision: &RevisionAffinity{Absolute: 1}}, "revision.absolute: expected at least 1s, got 1ns"},
		{Policy{Retain: -1}, "retain: expected a duration that is not negative"},
		{Policy{Settle: -1}, "settle: expected a duration that is not negative"},
		{Policy{MaxIDBytes: -1}, "maxIDBytes: expected a number above 0, got -1"},
		{Policy{Quota: -1}, "quota: expected a number above 0, got -1"},
		{token(TokenPolicy{Cookie: "a b"}), "session.token.cookie: expected a name"},
		{token(TokenPolicy{Header: "a:b"}), "session.token.header: expected a name"},
		{token(TokenPolicy{Header: "X-Token", Cookie: "limpet"}), "session.token: expected either cookie or header"},
		{token(TokenPolicy{Header: "X-Token", Path: "/"}), "session.token: expected path, domain, sameSite and secure only with a cookie"},
		{token(TokenPolicy{Path: "/; HttpOnly"}), "session.token.path: expected a path that begins with / and has no ; and no control character"},
		{token(TokenPolicy{Path: "/\r\nSet-Cookie: a=b"}), "session.token.path: expected a path"},
		{token(TokenPolicy{Path: "shop"}), "session.token.path: expected a path"},
		{token(TokenPolicy{Domain: "example.com; Secure"}), "session.token.domain: expected a domain name"},
		{token(TokenPolicy{SameSite: "lax"}), `session.token.sameSite: expected Lax, Strict or None, got "lax"`},
		{token(TokenPolicy{Secure: "yes"}), `session.token.secure: expected auto, always or never, got "yes"`},
		{token(TokenPolicy{SameSite: "None", Secure: "never"}), "session.token.secure: expected auto or always with sameSite None"},
		{token(TokenPolicy{Cookie: "__Secure-limpet", Secure: "never"}), "session.token.secure: expected auto or always with the cookie __Secure-limpet"},
		{token(TokenPolicy{Cookie: "__Host-limpet", Path: "/shop"}), "session.token.path: expected / with the cookie __Host-limpet"},
		{token(TokenPolicy{Cookie: "__Host-limpet", Domain: "example.com"}), "session.token.domain: expected none with the cookie __Host-limpet"},
	} {
		for when, p := range map[string]*Policy{"before": &c.policy, "after": c.policy.WithDefaults()} {
			errs := p.Validate()
			if len(errs) != 1 || !strings.HasPrefix(errs[0].Error(), c.want) {
				t.Errorf("Validate %s WithDefaults = %v, want %q alone", when, errs, c.want)
			}
		}
	}
}

func TestEverythingThatIsWrongIsReportedAtOnce(t *testing.T) {
	p := Policy{Session: &SessionAffinity{From: []Source{{}, {PathSegment: -1}}, Mode: "x"}, Quota: -1}
	var fields []string
	for _, e := range p.Validate() {
		fields = append(fields, e.Field)
	}
	if diff := cmp.Diff([]string{"session.from[0]", "session.from[1].pathSegment", "session.mode", "quota"}, fields); diff != "" {
		t.Errorf("fields (-want +got):\n%s", diff)
	}
}

func TestUsefulPoliciesAreValid(t *testing.T) {
	for _, given := range []string{
		`{"session": {"from": [{"cookie": "sid"}, {"queryParameter": "session id"}, {"pathSegment": 2}], "idle": "1s", "absolute": "12h"}}`,
		`{"session": {"mode": "token", "token": {"cookie": "__Host-limpet", "secure": "always", "sameSite": "None"}}}`,
		`{"session": {"mode": "token", "token": {"path": "/shop/", "domain": ".example.com", "sameSite": "Strict", "secure": "never"}}}`,
		`{"session": {"mode": "token", "from": [{"header": "K-Session"}]}}`,
		`{"revision": {"from": [{"clientAddress": {}}], "mode": "proportional"}, "retain": "10m", "maxIDBytes": 64, "quota": 1}`,
	} {
		var p Policy
		if err := json.Unmarshal([]byte(given), &p); err != nil {
			t.Fatal(err)
		}
		if errs := p.Validate(); errs != nil {
			t.Errorf("Validate of %s = %v, want nil", given, errs)
		}
	}
}
