package router

import (
	"errors"
	"fmt"
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"github.com/limpet-project/limpet/affinity"
	"github.com/limpet-project/limpet/binding"
	"github.com/limpet-project/limpet/endpoint"
)

// Each test here shows that one field of a policy does something: what is seen with it differs from what is seen without. The
// fields whose effect lies in package affinity have their scenarios there, where a test lists the fields that have none.

// outcome says what is seen with a policy.
type outcome func(t *testing.T, p *affinity.Policy) string

// fieldHasEffect compares what is seen with a policy and with the same policy without the field.
func fieldHasEffect(t *testing.T, with, without affinity.Policy, see outcome, want string) {
	t.Helper()
	var got [2]string
	for i, p := range []affinity.Policy{with, without} {
		synctest.Test(t, func(t *testing.T) { got[i] = see(t, policy(t, p)) })
	}
	if got[0] != want || got[1] == want {
		t.Errorf("with the field %q, without it %q, want %q and something else", got[0], got[1], want)
	}
}

// reasonAfter returns an outcome: the reason of a second request, that long after the first, with requests in between if busy.
func reasonAfter(header string, wait time.Duration, busy bool) outcome {
	return func(t *testing.T, p *affinity.Policy) string {
		g := newGateway(t, binding.NewMemory(binding.MemoryOptions{}))
		g.fill(50, 50)
		g.start(t)
		m := from(header, "alice")
		g.visit(t, p, m)
		for ; busy && wait > 7*time.Minute; wait -= 7 * time.Minute {
			time.Sleep(7 * time.Minute)
			g.visit(t, p, m)
		}
		time.Sleep(wait)
		_, reason := g.visit(t, p, m)
		return reason.String()
	}
}

func TestPolicyFieldSessionIdle(t *testing.T) {
	fieldHasEffect(t,
		affinity.Policy{Session: &affinity.SessionAffinity{Idle: 3 * hour}},
		affinity.Policy{Session: &affinity.SessionAffinity{}},
		reasonAfter("K-Session", 2*time.Hour, false), "bound")
}

func TestPolicyFieldSessionAbsolute(t *testing.T) {
	fieldHasEffect(t,
		affinity.Policy{Session: &affinity.SessionAffinity{Absolute: hour}},
		affinity.Policy{Session: &affinity.SessionAffinity{}},
		reasonAfter("K-Session", 61*time.Minute, true), "new")
}

func TestPolicyFieldRevisionIdle(t *testing.T) {
	fieldHasEffect(t,
		affinity.Policy{Revision: &affinity.RevisionAffinity{Idle: 3 * hour}},
		affinity.Policy{Revision: &affinity.RevisionAffinity{}},
		reasonAfter("K-Revision", 2*time.Hour, false), "bound")
}

func TestPolicyFieldRevisionAbsolute(t *testing.T) {
	fieldHasEffect(t,
		affinity.Policy{Revision: &affinity.RevisionAffinity{Absolute: hour}},
		affinity.Policy{Revision: &affinity.RevisionAffinity{}},
		reasonAfter("K-Revision", 61*time.Minute, true), "new")
}

func TestPolicyFieldQuota(t *testing.T) {
	see := func(t *testing.T, p *affinity.Policy) string {
		g := newGateway(t, binding.NewMemory(binding.MemoryOptions{}))
		g.fill(100)
		g.visit(t, p, from("K-Session", "alice"))
		_, reason := g.visit(t, p, from("K-Session", "bob"))
		return reason.String()
	}
	fieldHasEffect(t,
		affinity.Policy{Session: &affinity.SessionAffinity{}, Quota: 1},
		affinity.Policy{Session: &affinity.SessionAffinity{}}, see, "none")
}

// secondAtFullEndpoint returns what becomes of a session's second request while the first holds the only place for five seconds.
func secondAtFullEndpoint(t *testing.T, p *affinity.Policy) string {
	g := limited(t)
	m := from("K-Session", "alice")
	first := g.pick(t, p, m)
	go func() {
		time.Sleep(5 * time.Second)
		first.Done(endpoint.OutcomeOK)
	}()
	start := time.Now()
	second, err := g.Pick(t.Context(), &Request{Service: demo, Policy: p, Message: m})
	waited := time.Since(start)
	time.Sleep(5 * time.Second)
	if errors.Is(err, endpoint.ErrBusy) {
		return fmt.Sprintf("busy after %v", waited)
	}
	second.Done(endpoint.OutcomeOK)
	return fmt.Sprintf("%v after %v", second.Reason(), waited)
}

func TestPolicyFieldSessionOverflow(t *testing.T) {
	fieldHasEffect(t,
		affinity.Policy{Session: &affinity.SessionAffinity{Overflow: affinity.OverflowSpill}},
		affinity.Policy{Session: &affinity.SessionAffinity{}}, secondAtFullEndpoint, "overflow after 0s")
}

func TestPolicyFieldSessionQueueTimeout(t *testing.T) {
	fieldHasEffect(t,
		affinity.Policy{Session: &affinity.SessionAffinity{QueueTimeout: affinity.Duration(2 * time.Second)}},
		affinity.Policy{Session: &affinity.SessionAffinity{}}, secondAtFullEndpoint, "busy after 2s")
}

// tokenFieldHasEffect compares what is seen with a token policy and with the default one.
func tokenFieldHasEffect(t *testing.T, with affinity.TokenPolicy, see outcome, want string) {
	t.Helper()
	fieldHasEffect(t,
		affinity.Policy{Session: &affinity.SessionAffinity{Mode: affinity.ModeToken, Token: &with}},
		affinity.Policy{Session: &affinity.SessionAffinity{Mode: affinity.ModeToken}}, see, want)
}

// responseHas returns an outcome: whether the first response's header has an attribute of the cookie, or a header.
func responseHas(found func(h http.Header) bool) outcome {
	return func(t *testing.T, p *affinity.Policy) string {
		g, _ := sealing(t)
		h, _, _ := exchange(t, g, p, from())
		return fmt.Sprint(found(h))
	}
}

// cookieIs returns whether the Set-Cookie of a response satisfies a condition.
func cookieIs(condition func(c *http.Cookie) bool) outcome {
	return responseHas(func(h http.Header) bool {
		c, err := http.ParseSetCookie(h.Get("Set-Cookie"))
		return err == nil && condition(c)
	})
}

func TestPolicyFieldSessionTokenCookie(t *testing.T) {
	tokenFieldHasEffect(t, affinity.TokenPolicy{Cookie: "place"}, cookieIs(func(c *http.Cookie) bool { return c.Name == "place" }), "true")
}

func TestPolicyFieldSessionTokenHeader(t *testing.T) {
	tokenFieldHasEffect(t, affinity.TokenPolicy{Header: "X-Place"}, responseHas(func(h http.Header) bool { return h.Get("X-Place") != "" }), "true")
}

func TestPolicyFieldSessionTokenPath(t *testing.T) {
	tokenFieldHasEffect(t, affinity.TokenPolicy{Path: "/shop"}, cookieIs(func(c *http.Cookie) bool { return c.Path == "/shop" }), "true")
}

func TestPolicyFieldSessionTokenDomain(t *testing.T) {
	tokenFieldHasEffect(t, affinity.TokenPolicy{Domain: "example.com"},
		cookieIs(func(c *http.Cookie) bool { return c.Domain == "example.com" }), "true")
}

func TestPolicyFieldSessionTokenSameSite(t *testing.T) {
	tokenFieldHasEffect(t, affinity.TokenPolicy{SameSite: "Strict"},
		cookieIs(func(c *http.Cookie) bool { return c.SameSite == http.SameSiteStrictMode }), "true")
}

func TestPolicyFieldSessionTokenSecure(t *testing.T) {
	tokenFieldHasEffect(t, affinity.TokenPolicy{Secure: "always"}, cookieIs(func(c *http.Cookie) bool { return c.Secure }), "true")
}

func TestPolicyFieldSessionTokenForward(t *testing.T) {
	see := func(t *testing.T, p *affinity.Policy) string {
		g, _ := sealing(t)
		h, _, _ := exchange(t, g, p, from())
		m := repeat(h)
		pick := g.pick(t, p, m)
		defer pick.Done(endpoint.OutcomeOK)
		up := m.header.Clone()
		pick.EditRequest(up)
		return fmt.Sprint(up.Get("Cookie") == m.header.Get("Cookie"))
	}
	tokenFieldHasEffect(t, affinity.TokenPolicy{Forward: true}, see, "true")
}
