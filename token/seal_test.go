package token

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/limpet-project/limpet/affinity"
)

var (
	now   = time.Date(2026, 3, 14, 9, 26, 53, 0, time.UTC)
	scope = affinity.Scope{
		Service: affinity.ServiceName{Namespace: "shop", Name: "demo"},
		Kind:    affinity.KindSession,
	}
	claim = Claim{
		Scope:   scope,
		Target:  affinity.Target{Revision: "demo-00001", Endpoint: "7d1c3a52-0f5e-4d0e-9a55-6b8f2f0c9e11"},
		Session: [16]byte{0x9e, 0x37, 0x79, 0xb9, 0x7f, 0x4a, 0x7c, 0x15, 0xf3, 0x9c, 0xc0, 0x60, 0x5c, 0xed, 0xc8, 0x34},
		Made:    now.Add(-90 * time.Minute),
		Issued:  now,
		Expires: now.Add(75 * time.Minute),
		Until:   now.Add(8 * time.Hour),
	}
)

func newTestRing(t testing.TB) *Ring {
	t.Helper()
	r, err := Generate(now)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func mustSeal(t testing.TB, r *Ring, c Claim) string {
	t.Helper()
	value, err := r.Seal(c, now)
	if err != nil {
		t.Fatalf("Seal(%+v) = %v, want no error", c, err)
	}
	return value
}

func TestATokenSaysWhatWasSealed(t *testing.T) {
	r := newTestRing(t)
	for _, c := range []struct {
		name string
		edit func(*Claim)
	}{
		{name: "all fields", edit: func(*Claim) {}},
		{name: "no absolute end", edit: func(c *Claim) { c.Until = time.Time{} }},
		{name: "names from a configuration", edit: func(c *Claim) { c.Target = affinity.Target{Revision: "demo-00002", Endpoint: "demo-00002-a"} }},
		{name: "a session without a name", edit: func(c *Claim) { c.Session = [16]byte{} }},
		{name: "milliseconds", edit: func(c *Claim) { c.Made = c.Made.Add(7 * time.Millisecond) }},
	} {
		t.Run(c.name, func(t *testing.T) {
			want := claim
			c.edit(&want)
			value := mustSeal(t, r, want)
			got, err := r.Open(value, scope, now)
			if diff := cmp.Diff(want, got); err != nil || diff != "" {
				t.Errorf("Open(%q) = %v, want no error (-want +got):\n%s", value, err, diff)
			}
		})
	}
}

func TestAnIssueTimeLeftOutIsNow(t *testing.T) {
	r, c := newTestRing(t), claim
	c.Issued = time.Time{}
	if got, err := r.Open(mustSeal(t, r, c), scope, now); err != nil || !got.Issued.Equal(now) {
		t.Errorf("Open = issued %v, %v, want %v", got.Issued, err, now)
	}
}

func TestEqualClaimsGiveDifferentTokens(t *testing.T) {
	r := newTestRing(t)
	seen := make(map[string]bool)
	for range 1000 {
		seen[mustSeal(t, r, claim)] = true
	}
	if len(seen) != 1000 {
		t.Errorf("1000 tokens of one claim: %d different ones, want 1000", len(seen))
	}
}

func TestATokenIsSmallAndTellsNothing(t *testing.T) {
	r := newTestRing(t)
	value := mustSeal(t, r, claim)
	if len(value) > 400 {
		t.Errorf("token has %d bytes, want at most 400", len(value))
	}
	raw, err := encoding.DecodeString(value)
	if err != nil {
		t.Fatal(err)
	}
	for _, secret := range []string{claim.Target.Revision, claim.Target.Endpoint[:8], string(claim.Session[:8]), "shop", "demo"} {
		if strings.Contains(string(raw), secret) {
			t.Errorf("token contains %q in the clear", secret)
		}
	}
	short := claim
	short.Target.Revision = "demo-2"
	if got := len(mustSeal(t, r, short)); got != len(value) {
		t.Errorf("revision demo-2 makes a token of %d bytes, demo-00001 one of %d: the length tells them apart", got, len(value))
	}
}

func TestATokenOfAnotherScopeIsInvalid(t *testing.T) {
	r := newTestRing(t)
	value := mustSeal(t, r, claim)
	for _, c := range []struct {
		name string
		edit func(*affinity.Scope)
	}{
		{"another namespace", func(s *affinity.Scope) { s.Service.Namespace = "bank" }},
		{"no namespace", func(s *affinity.Scope) { s.Service.Namespace = "" }},
		{"another service", func(s *affinity.Scope) { s.Service.Name = "cart" }},
		{"a tag", func(s *affinity.Scope) { s.Tag = "canary" }},
		{"another kind", func(s *affinity.Scope) { s.Kind = affinity.KindFlow }},
		{"the same letters split elsewhere", func(s *affinity.Scope) {
			s.Service = affinity.ServiceName{Namespace: "shopd", Name: "emo"}
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			other := scope
			c.edit(&other)
			if got, err := r.Open(value, other, now); err != ErrInvalid || got != (Claim{}) {
				t.Errorf("Open(token of %v, %v) = %v, %v, want no claim and ErrInvalid", scope, other, got, err)
			}
		})
	}
}

func TestEveryByteOfATokenIsGuarded(t *testing.T) {
	r := newTestRing(t)
	raw, err := encoding.DecodeString(mustSeal(t, r, claim))
	if err != nil {
		t.Fatal(err)
	}
	for i := range raw {
		for bit := range 8 {
			forged := append([]byte(nil), raw...)
			forged[i] ^= 1 << bit
			if _, err := r.Open(encoding.EncodeToString(forged), scope, now); err != ErrInvalid {
				t.Errorf("Open(token with bit %d of byte %d turned) = %v, want ErrInvalid", bit, i, err)
			}
		}
	}
}

func TestEveryCharacterOfATokenIsGuarded(t *testing.T) {
	r := newTestRing(t)
	value := mustSeal(t, r, claim)
	for i := range value {
		for _, c := range "A-_z=+/\n %" {
			forged := value[:i] + string(c) + value[i+1:]
			if forged == value {
				continue
			}
			if _, err := r.Open(forged, scope, now); err != ErrInvalid {
				t.Errorf("Open(%q at %d) = %v, want ErrInvalid", c, i, err)
			}
		}
	}
}

func TestTruncatedAndLengthenedTokensAreInvalid(t *testing.T) {
	r := newTestRing(t)
	value := mustSeal(t, r, claim)
	for i := range value {
		if _, err := r.Open(value[:i], scope, now); err != ErrInvalid {
			t.Errorf("Open(first %d characters) = %v, want ErrInvalid", i, err)
		}
	}
	for _, more := range []string{"A", "AAAA", "=", "\n", " ", strings.Repeat("A", 1<<20)} {
		if _, err := r.Open(value+more, scope, now); err != ErrInvalid {
			t.Errorf("Open(token and %d characters more) = %v, want ErrInvalid", len(more), err)
		}
	}
}

func TestAnExpiredTokenStillSaysWhatItWas(t *testing.T) {
	r := newTestRing(t)
	for _, c := range []struct {
		name string
		at   time.Time
		want error
	}{
		{"before the end by idle", claim.Expires.Add(-time.Millisecond), nil},
		{"at the end by idle", claim.Expires, ErrExpired},
		{"long after", claim.Expires.Add(1000 * time.Hour), ErrExpired},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := r.Open(mustSeal(t, r, claim), scope, c.at)
			if err != c.want || got.Target != claim.Target {
				t.Errorf("Open at %v = %v, %v, want %v, %v", c.at, got.Target, err, claim.Target, c.want)
			}
		})
	}
	capped := claim
	capped.Until = now.Add(time.Minute)
	if _, err := r.Open(mustSeal(t, r, capped), scope, now.Add(time.Minute)); err != ErrExpired {
		t.Errorf("Open at the absolute end = %v, want ErrExpired", err)
	}
}

func TestNamesThatMakeTooLongATokenAreRefusedWhenSealing(t *testing.T) {
	r, c := newTestRing(t), claim
	c.Target.Endpoint = strings.Repeat("e", 253)
	c.Target.Revision = strings.Repeat("r", 253)
	value := mustSeal(t, r, c)
	if got, err := r.Open(value, scope, now); err != nil || got.Target != c.Target {
		t.Errorf("Open(token with the longest names of DNS) = %v, %v, want it back", got.Target, err)
	}
	c.Target.Endpoint = strings.Repeat("e", MaxSize)
	if value, err := r.Seal(c, now); err == nil {
		t.Errorf("Seal(endpoint of %d bytes) = token of %d bytes, want an error", MaxSize, len(value))
	}
}

func TestRingsWithoutKeysSealAndOpenNothing(t *testing.T) {
	value := mustSeal(t, newTestRing(t), claim)
	var keys Keys
	for name, r := range map[string]*Ring{"nil": nil, "zero": {}, "zero Keys": keys.Ring()} {
		if _, err := r.Seal(claim, now); !errors.Is(err, ErrNoKey) {
			t.Errorf("%s: Seal = %v, want ErrNoKey", name, err)
		}
		if _, err := r.Open(value, scope, now); err != ErrInvalid {
			t.Errorf("%s: Open = %v, want ErrInvalid", name, err)
		}
	}
}

func FuzzOpen(f *testing.F) {
	r, err := ParseRing([]byte("3f9a01c2 " + strings.Repeat("A", 43) + "= 2026-01-02T15:04:05Z\n"))
	if err != nil {
		f.Fatal(err)
	}
	good, err := r.Seal(claim, now)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Add("")
	f.Add(good[:40])
	f.Add(encoding.EncodeToString(make([]byte, headerSize+aeadOverhead)))
	f.Fuzz(func(t *testing.T, value string) {
		c, err := r.Open(value, scope, now)
		if err == nil && value != good && c != claim {
			t.Errorf("Open(%q) = %v, want ErrInvalid", value, c)
		}
		if err == ErrInvalid && c != (Claim{}) {
			t.Errorf("Open(%q) = %v with ErrInvalid, want no claim", value, c)
		}
	})
}

func FuzzParseClaim(f *testing.F) {
	f.Add(appendClaim(nil, claim))
	f.Add([]byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1})
	f.Fuzz(func(t *testing.T, plain []byte) {
		c, ok := parseClaim(plain)
		if !ok {
			return
		}
		again, ok := parseClaim(appendClaim(nil, c))
		if !ok || again != c {
			t.Errorf("parseClaim(%x) = %+v, sealed again and parsed %+v, %v", plain, c, again, ok)
		}
	})
}

func BenchmarkSeal(b *testing.B) {
	r := newTestRing(b)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := r.Seal(claim, now); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkOpen(b *testing.B) {
	r := newTestRing(b)
	value := mustSeal(b, r, claim)
	foreign := mustSeal(b, newTestRing(b), claim)
	for _, c := range []struct {
		name, value string
		want        error
	}{{"valid", value, nil}, {"foreign key", foreign, ErrInvalid}, {"forged", value[:len(value)-1] + "A", ErrInvalid}} {
		b.Run(c.name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, err := r.Open(c.value, scope, now); err != c.want {
					b.Fatal(fmt.Errorf("Open = %w", err))
				}
			}
		})
	}
}
