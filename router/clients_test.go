package router

import (
	"errors"
	"net/http"
	"strings"
	"testing"

	"github.com/limpet-project/limpet/affinity"
	"github.com/limpet-project/limpet/binding"
	"github.com/limpet-project/limpet/endpoint"
)

// canary publishes demo-00001 with all the traffic and demo-00002 with the tag canary.
func (g gateway) canary() {
	g.table.SetServices([]endpoint.Service{{Name: demo, Revisions: []endpoint.Revision{
		{Name: "demo-00001", Weight: 100}, {Name: "demo-00002", Tags: []string{"canary"}},
	}}})
	g.members(1, "a", "b", "c")
	g.members(2, "a", "b", "c")
	g.table.SetSynced()
}

// A client chooses the value of a tag header: were it asked about, names of any length would fill the store's and the cache's memory.
func TestTagThatNoRevisionCarriesNeverReachesTheStore(t *testing.T) {
	store := &awaySoon{Store: binding.NewMemory(binding.MemoryOptions{})}
	g := newGateway(t, store)
	g.canary()
	p := policy(t, affinity.Policy{})
	m := from("K-Session", "alice", "K-Revision", "canary")
	_, err := g.Pick(t.Context(), &Request{Service: demo, Tag: strings.Repeat("x", 60000), Policy: p, Message: m})
	if !errors.Is(err, affinity.ErrUnknownTag) || store.calls.Load() != 0 {
		t.Errorf("Pick() = %v after %d calls of the store, want ErrUnknownTag after none", err, store.calls.Load())
	}
	pick, err := g.Pick(t.Context(), &Request{Service: demo, Tag: "canary", Policy: p, Message: m})
	if err != nil || pick.Target().Revision != "demo-00002" || store.calls.Load() == 0 {
		t.Fatalf("Pick(canary) = %v, %v, want demo-00002 and calls of the store", pick, err)
	}
	pick.Done(endpoint.OutcomeOK)
}

// A session of a revision that the split no longer prefers stays on that revision when it spills.
func TestSpillStaysOnTheRevisionOfTheSession(t *testing.T) {
	for _, mode := range []affinity.RevisionMode{"", affinity.ModeProportional} {
		g := newGateway(t, binding.NewMemory(binding.MemoryOptions{}))
		g.fill(99, 1)
		for n := 1; n <= 2; n++ {
			var m []endpoint.Member
			for _, l := range []string{"a", "b", "c"} {
				m = append(m, endpoint.Member{Name: revisionName(n) + "-" + l, Address: "192.0.2.1:8080", Limit: 1})
			}
			g.table.SetMembers(endpoint.RevisionName{Namespace: demo.Namespace, Name: revisionName(n)}, m)
		}
		p := affinity.Policy{Session: &affinity.SessionAffinity{Overflow: affinity.OverflowSpill}}
		m := from("K-Session", "alice")
		if mode != "" {
			p.Revision = &affinity.RevisionAffinity{Mode: mode}
			m.header.Set("K-Revision", "flow-1")
		}
		full := policy(t, p)
		bound, _ := g.visit(t, full, m)
		weights := []int{1, 99}
		if bound.Revision == "demo-00002" {
			weights = []int{99, 1}
		}
		g.table.SetServices([]endpoint.Service{{Name: demo, Revisions: []endpoint.Revision{
			{Name: "demo-00001", Weight: weights[0]}, {Name: "demo-00002", Weight: weights[1]},
		}}})
		first := g.pick(t, full, m)
		spilled := g.pick(t, full, m)
		got := spilled.Target()
		if first.Target() != bound || got == bound || got.Revision != bound.Revision || spilled.Reason() != affinity.ReasonOverflow {
			t.Errorf("mode %q: spilled to %v, %v, want another endpoint of %s, overflow", mode, got, spilled.Reason(), bound.Revision)
		}
		spilled.Done(endpoint.OutcomeOK)
		first.Done(endpoint.OutcomeOK)
	}
}

func TestTokenBehindAnEmptyCookieOfItsNameIsStrippedToo(t *testing.T) {
	g, _ := sealing(t)
	p := tokenPolicy(t, affinity.TokenPolicy{})
	h, _, _ := exchange(t, g, p, from())
	pair, _, _ := strings.Cut(h.Get("Set-Cookie"), ";")
	m := from("Cookie", "theme=dark; limpet=; "+pair)
	pick := g.pick(t, p, m)
	up := m.header.Clone()
	pick.EditRequest(up)
	pick.Done(endpoint.OutcomeOK)
	if got := up.Get("Cookie"); got != "theme=dark" {
		t.Errorf("upstream Cookie = %q, want theme=dark", got)
	}
}

// SEMANTICS 4: an explicit tag never writes default-scope bindings. A browser has one cookie for both.
func TestTagDoesNotReplaceTheTokenOfTheDefaultTraffic(t *testing.T) {
	g, _ := sealing(t)
	g.canary()
	p := tokenPolicy(t, affinity.TokenPolicy{})
	h, want, _ := exchange(t, g, p, from())
	m := repeat(h)
	for range 3 {
		pick, err := g.Pick(t.Context(), &Request{Service: demo, Tag: "canary", Policy: p, Message: m})
		if err != nil {
			t.Fatalf("Pick(canary) = %v", err)
		}
		answer, up := http.Header{}, m.header.Clone()
		pick.EditRequest(up)
		pick.EditResponse(answer)
		pick.Done(endpoint.OutcomeOK)
		if answer.Get("Set-Cookie") != "" || strings.Contains(up.Get("Cookie"), "limpet=") || pick.Target().Revision != "demo-00002" {
			t.Errorf("tagged: %v, Set-Cookie %q, upstream Cookie %q, want demo-00002, none, no token",
				pick.Target(), answer.Get("Set-Cookie"), up.Get("Cookie"))
		}
	}
	if _, got, reason := exchange(t, g, p, m); got != want || reason != affinity.ReasonBound {
		t.Errorf("default traffic afterwards = %v, %v, want %v, bound", got, reason, want)
	}
}

// Whatever the case in which a policy names a header, requests arrive with its canonical form.
func TestHeaderNamesOfAPolicyMayHaveAnyCase(t *testing.T) {
	g, _ := sealing(t)
	p := policy(t, affinity.Policy{Session: &affinity.SessionAffinity{
		From: []affinity.Source{{Header: "x-session"}}, Mode: affinity.ModeToken, Token: &affinity.TokenPolicy{Header: "x-SESSION-token"},
	}})
	h, want, _ := exchange(t, g, p, from("X-Session", "alice"))
	m := from("X-Session", "alice", "X-Session-Token", h.Get("X-Session-Token"))
	if _, got, reason := exchange(t, g, p, m); got != want || reason != affinity.ReasonBound {
		t.Errorf("second request = %v, %v, want %v, bound", got, reason, want)
	}
	if _, _, reason := exchange(t, g, p, from("X-Session", "bob", "X-Session-Token", h.Get("X-Session-Token"))); reason != affinity.ReasonNew {
		t.Errorf("bob with alice's token = %v, want new", reason)
	}
}
