package router

import (
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/limpet-project/limpet/affinity"
	"github.com/limpet-project/limpet/binding"
	"github.com/limpet-project/limpet/endpoint"
	"github.com/limpet-project/limpet/token"
)

// sealing returns a gateway with a ring of its own, and the ring's holder.
func sealing(t *testing.T) (gateway, *token.Keys) {
	t.Helper()
	ring, err := token.Generate(time.Now())
	if err != nil {
		t.Fatalf("Generate() = %v", err)
	}
	keys := token.NewKeys(ring)
	g := newGateway(t, binding.NewMemory(binding.MemoryOptions{}), func(o *Options) { o.Tokens = keys })
	g.fill(50, 50)
	return g, keys
}

func tokenPolicy(t *testing.T, p affinity.TokenPolicy, edit ...func(*affinity.SessionAffinity)) *affinity.Policy {
	s := &affinity.SessionAffinity{Mode: affinity.ModeToken, Token: &p}
	for _, f := range edit {
		f(s)
	}
	return policy(t, affinity.Policy{Session: s})
}

// exchange sends one request and returns the response header that the gateway adds.
func exchange(t *testing.T, g gateway, p *affinity.Policy, m *message) (http.Header, affinity.Target, affinity.Reason) {
	t.Helper()
	pick := g.pick(t, p, m)
	h := http.Header{}
	pick.EditResponse(h)
	pick.Done(endpoint.OutcomeOK)
	return h, pick.Target(), pick.Reason()
}

// repeat returns what a browser sends after a response.
func repeat(h http.Header) *message {
	pair, _, _ := strings.Cut(h.Get("Set-Cookie"), ";")
	return from("Cookie", "theme=dark; "+pair+"; lang=en")
}

func TestTokenCarriesTheSession(t *testing.T) {
	g, _ := sealing(t)
	p := tokenPolicy(t, affinity.TokenPolicy{})
	for range 100 {
		h, want, reason := exchange(t, g, p, from())
		if reason != affinity.ReasonNew || h.Get("Cache-Control") != "private" {
			t.Fatalf("first request: reason %v, Cache-Control %q, want new, private", reason, h.Get("Cache-Control"))
		}
		g.members(1, "a", "b", "c", "d")
		again, got, reason := exchange(t, g, p, repeat(h))
		if got != want || reason != affinity.ReasonBound || again.Get("Set-Cookie") != "" {
			t.Fatalf("second request = %v, %v, Set-Cookie %q, want %v, bound, none", got, reason, again.Get("Set-Cookie"), want)
		}
		g.members(1, "a", "b", "c")
	}
}

func TestTokensPlaceSessionsOnAllEndpoints(t *testing.T) {
	g, _ := sealing(t)
	p := tokenPolicy(t, affinity.TokenPolicy{})
	seen := map[affinity.Target]int{}
	for range 600 {
		_, target, _ := exchange(t, g, p, from())
		seen[target]++
	}
	if len(seen) != 6 {
		t.Fatalf("600 new sessions reached %d endpoints, want 6: %v", len(seen), seen)
	}
	for target, n := range seen { // the mean is 100; boundedLoad allows 1.25 of it within a revision, the split 5 deviations
		if n > 165 {
			t.Errorf("%v got %d of 600 sessions, want at most 165", target, n)
		}
	}
}

func TestTokenIsSentAnewAfterAQuarterOfIdleAndStaysTheSameSession(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g, _ := sealing(t)
		p := tokenPolicy(t, affinity.TokenPolicy{})
		h, want, _ := exchange(t, g, p, from())
		time.Sleep(14 * time.Minute)
		if again, _, _ := exchange(t, g, p, repeat(h)); again.Get("Set-Cookie") != "" {
			t.Errorf("after 14m of an idle of 1h: Set-Cookie %q, want none", again.Get("Set-Cookie"))
		}
		for range 20 {
			time.Sleep(16 * time.Minute)
			again, got, reason := exchange(t, g, p, repeat(h))
			if again.Get("Set-Cookie") == "" || got != want || reason != affinity.ReasonBound {
				t.Fatalf("after 16m: %v, %v, Set-Cookie %q, want %v, bound, a new one", got, reason, again.Get("Set-Cookie"), want)
			}
			h = again
		}
	})
}

func TestExpiredTokenSaysSo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g, _ := sealing(t)
		p := tokenPolicy(t, affinity.TokenPolicy{})
		h, _, _ := exchange(t, g, p, from())
		time.Sleep(76 * time.Minute)
		again, _, reason := exchange(t, g, p, repeat(h))
		if reason != affinity.ReasonExpired || again.Get("Set-Cookie") == "" {
			t.Errorf("after 76m: %v, Set-Cookie %q, want expired and a new token", reason, again.Get("Set-Cookie"))
		}
	})
}

func TestForgedForeignOrTruncatedTokenIsAsNone(t *testing.T) {
	g, _ := sealing(t)
	p := tokenPolicy(t, affinity.TokenPolicy{})
	good, _, _ := exchange(t, g, p, from())
	value, _, _ := strings.Cut(strings.TrimPrefix(good.Get("Set-Cookie"), "limpet="), ";")
	foreign, _ := sealing(t)
	other, _, _ := exchange(t, foreign, p, from())
	for name, m := range map[string]*message{
		"forged":    from("Cookie", "limpet=AAAA"+value[4:]),
		"truncated": from("Cookie", "limpet="+value[:len(value)/2]),
		"empty":     from("Cookie", "limpet="),
		"foreign":   repeat(other),
	} {
		h, _, reason := exchange(t, g, p, m)
		if reason != affinity.ReasonNew || h.Get("Set-Cookie") == "" {
			t.Errorf("%s token: %v, Set-Cookie %q, want new and a new token", name, reason, h.Get("Set-Cookie"))
		}
	}
}

func TestRotationOfKeysLosesNoSession(t *testing.T) {
	g, keys := sealing(t)
	p := tokenPolicy(t, affinity.TokenPolicy{})
	h, want, _ := exchange(t, g, p, from())
	for i := range 2 {
		ring, err := keys.Ring().Rotate(2, time.Now(), 0)
		if err != nil {
			t.Fatalf("Rotate() = %v", err)
		}
		keys.Swap(ring)
		if _, got, reason := exchange(t, g, p, repeat(h)); got != want || reason != affinity.ReasonBound {
			t.Errorf("after rotation %d: %v, %v, want %v, bound", i+1, got, reason, want)
		}
	}
}

func TestTokenOfAnotherIDIsAsNone(t *testing.T) {
	g, _ := sealing(t)
	p := tokenPolicy(t, affinity.TokenPolicy{}, func(s *affinity.SessionAffinity) {
		s.From = []affinity.Source{{Header: "K-Session"}}
	})
	h, want, _ := exchange(t, g, p, from("K-Session", "alice"))
	mine := repeat(h)
	mine.header.Set("K-Session", "alice")
	if _, got, reason := exchange(t, g, p, mine); got != want || reason != affinity.ReasonBound {
		t.Errorf("alice with her token: %v, %v, want %v, bound", got, reason, want)
	}
	stolen := repeat(h)
	stolen.header.Set("K-Session", "mallory")
	if _, _, reason := exchange(t, g, p, stolen); reason != affinity.ReasonNew {
		t.Errorf("mallory with alice's token: %v, want new", reason)
	}
}

func TestTokenIsStrippedBeforeTheRequestGoesUpstream(t *testing.T) {
	g, _ := sealing(t)
	for _, forward := range []bool{false, true} {
		p := tokenPolicy(t, affinity.TokenPolicy{Forward: forward})
		h, _, _ := exchange(t, g, p, from())
		m := repeat(h)
		pick := g.pick(t, p, m)
		up := m.header.Clone()
		pick.EditRequest(up)
		pick.Done(endpoint.OutcomeOK)
		got := up.Get("Cookie")
		if strings.Contains(got, "limpet=") != forward || !strings.HasPrefix(got, "theme=dark; ") || !strings.HasSuffix(got, "lang=en") {
			t.Errorf("forward %v: upstream Cookie %q", forward, got)
		}
	}
}

func TestTokenCookieHasItsAttributes(t *testing.T) {
	g, _ := sealing(t)
	tests := []struct {
		name   string
		policy affinity.TokenPolicy
		secure bool
		want   string
	}{
		{"defaults over plain HTTP", affinity.TokenPolicy{}, false, "; Path=/; HttpOnly; SameSite=Lax"},
		{"defaults over TLS", affinity.TokenPolicy{}, true, "; Path=/; HttpOnly; SameSite=Lax; Secure"},
		{"never secure", affinity.TokenPolicy{Secure: "never"}, true, "; Path=/; HttpOnly; SameSite=Lax"},
		{"always secure", affinity.TokenPolicy{Secure: "always"}, false, "; Path=/; HttpOnly; SameSite=Lax; Secure"},
		{"SameSite None is always Secure", affinity.TokenPolicy{SameSite: "None"}, false, "; Path=/; HttpOnly; SameSite=None; Secure"},
		{
			"path, domain, strict",
			affinity.TokenPolicy{Path: "/app", Domain: "example.com", SameSite: "Strict"},
			false,
			"; Path=/app; Domain=example.com; HttpOnly; SameSite=Strict",
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			pick, err := g.Pick(t.Context(), &Request{Service: demo, Policy: tokenPolicy(t, tt.policy), Message: from(), Secure: tt.secure})
			if err != nil {
				t.Fatalf("Pick() = %v", err)
			}
			defer pick.Done(endpoint.OutcomeOK)
			h := http.Header{}
			pick.EditResponse(h)
			_, attributes, _ := strings.Cut(h.Get("Set-Cookie"), ";")
			if ";"+attributes != tt.want {
				t.Errorf("Set-Cookie attributes = %q, want %q", ";"+attributes, tt.want)
			}
		})
	}
}

func TestTokenInAHeaderIsRepeatedInAHeader(t *testing.T) {
	g, _ := sealing(t)
	p := tokenPolicy(t, affinity.TokenPolicy{Header: "X-Session-Token"})
	h, want, _ := exchange(t, g, p, from())
	if h.Get("Set-Cookie") != "" || h.Get("X-Session-Token") == "" {
		t.Fatalf("response header = %v, want X-Session-Token and no Set-Cookie", h)
	}
	m := from("X-Session-Token", h.Get("X-Session-Token"))
	if _, got, reason := exchange(t, g, p, m); got != want || reason != affinity.ReasonBound {
		t.Errorf("second request = %v, %v, want %v, bound", got, reason, want)
	}
	pick := g.pick(t, p, m)
	defer pick.Done(endpoint.OutcomeOK)
	up := m.header.Clone()
	pick.EditRequest(up)
	if up.Get("X-Session-Token") != "" {
		t.Errorf("the token went upstream")
	}
}

func TestResponseWithATokenIsNotForSharedCaches(t *testing.T) {
	for given, want := range map[string]string{
		"":                              "private",
		"public, max-age=60":            "private, max-age=60",
		"s-maxage=600, must-revalidate": "private, must-revalidate",
		"no-store":                      "no-store",
	} {
		h := http.Header{}
		if given != "" {
			h.Set("Cache-Control", given)
		}
		keepPrivate(h)
		if got := h.Get("Cache-Control"); got != want {
			t.Errorf("keepPrivate(%q) = %q, want %q", given, got, want)
		}
	}
}

func TestCountOfSealedTokensFollowsLiveSessions(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g, _ := sealing(t)
		g.start(t)
		p := tokenPolicy(t, affinity.TokenPolicy{}, func(s *affinity.SessionAffinity) { s.Idle = hour })
		for range 60 {
			exchange(t, g, p, from())
		}
		if n := g.boundSessions(); n != 60 {
			t.Errorf("bound sessions after 60 tokens = %d, want 60", n)
		}
		time.Sleep(17 * time.Minute)
		if n := g.boundSessions(); n != 0 {
			t.Errorf("bound sessions 17m later = %d, want 0: a live session is sealed anew every 15m", n)
		}
	})
}

// boundSessions adds up what the table counts.
func (g gateway) boundSessions() (n int64) {
	s := g.table.Snapshot(demo)
	for i := range s.Revisions {
		for j := range s.Revisions[i].Pool.Endpoints {
			n += g.table.Load(&s.Revisions[i].Pool.Endpoints[j]).Bound
		}
	}
	return n
}
