package router

import (
	"encoding/hex"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/limpet-project/limpet/affinity"
	"github.com/limpet-project/limpet/binding"
	"github.com/limpet-project/limpet/endpoint"
)

// byAddress is a policy by the client's address, or a prefix of it.
func byAddress(t *testing.T, prefix int, edit ...func(*affinity.SessionAffinity)) *affinity.Policy {
	t.Helper()
	s := affinity.SessionAffinity{From: []affinity.Source{{ClientAddress: &affinity.AddressPrefix{IPv4Prefix: prefix}}}}
	for _, f := range edit {
		f(&s)
	}
	return policy(t, affinity.Policy{Session: &s})
}

// at is what a client at that address sends.
func at(address string) *message {
	m := from()
	m.peer = netip.MustParseAddr(address)
	return m
}

// What Explain says would come if the endpoint were gone is where the session goes when it is: one after the other goes.
func TestExplainSaysWhereASessionGoesWhenItsEndpointsGo(t *testing.T) {
	modes := map[string]func(*affinity.SessionAffinity){
		"bound":        func(*affinity.SessionAffinity) {},
		"hash":         func(s *affinity.SessionAffinity) { s.Mode = affinity.ModeHash },
		"least loaded": func(s *affinity.SessionAffinity) { s.Place = affinity.PlaceLeastLoaded },
	}
	for mode, edit := range modes {
		for i := range 20 {
			g := newGateway(t, binding.NewMemory(binding.MemoryOptions{}))
			g.fill(50, 50)
			letters := []string{"a", "b", "c", "d", "e"}
			g.members(1, letters...)
			g.members(2, letters...)
			p, m := byAddress(t, 0, edit), at(fmt.Sprintf("10.0.3.%d", i))
			req := &Request{Service: demo, Policy: p, Message: m}
			for _, bound := range []bool{false, true} {
				e := g.Explain(t.Context(), req)
				if got := len(e.Next); got != 4 {
					t.Fatalf("mode %s, bound %t: %d places besides %s, want 4", mode, bound, got, e.Endpoint)
				}
				if target, _ := g.visit(t, p, m); target.Endpoint != e.Endpoint || target.Revision != e.Revision {
					t.Errorf("mode %s, bound %t: goes to %v, want %s/%s", mode, bound, target, e.Revision, e.Endpoint)
				}
			}
			e := g.Explain(t.Context(), req)
			for n, gone := 0, e.Endpoint; n < len(e.Next); n++ {
				letters = slices.DeleteFunc(letters, func(l string) bool { return strings.HasSuffix(gone, l) })
				g.members(int(e.Revision[len(e.Revision)-1]-'0'), letters...)
				target, _ := g.visit(t, p, m)
				if target.Endpoint != e.Next[n].Endpoint || target.Revision != e.Revision {
					t.Fatalf("mode %s: without %d endpoints it goes to %v, want %s/%s", mode, n+1, target, e.Revision, e.Next[n].Endpoint)
				}
				gone = target.Endpoint
			}
		}
	}
}

func TestExplainNamesWhatAKeyIsMadeOf(t *testing.T) {
	g := newGateway(t, binding.NewMemory(binding.MemoryOptions{}))
	g.fill(100)
	for _, tt := range []struct {
		name, client string
		policy       *affinity.Policy
		prefix       int
	}{
		{"an address", "10.0.3.7", byAddress(t, 0), 32},
		{"a prefix", "10.0.3.7", byAddress(t, 24), 24},
		{"an address of IPv6", "2001:db8::7", byAddress(t, 24), 64},
	} {
		t.Run(tt.name, func(t *testing.T) {
			req := &Request{Service: demo, Policy: tt.policy, Message: at(tt.client)}
			g.visit(t, tt.policy, req.Message)
			s := g.Explain(t.Context(), req).Session
			if s.Source != "client address" || s.Prefix != tt.prefix || s.Mode != "bound" {
				t.Errorf("Explain() = %s /%d, mode %s, want client address /%d, mode bound", s.Source, s.Prefix, s.Mode, tt.prefix)
			}
			if d, err := hex.DecodeString(s.Digest); err != nil || len(d) != 16 || !strings.HasPrefix(s.Digest, s.Key) {
				t.Errorf("Digest = %q, want 32 digits that begin with %s", s.Digest, s.Key)
			}
			if left := time.Until(s.Ends); left < time.Hour || left > 76*time.Minute {
				t.Errorf("it ends in %v, want 1h15m: idle and a quarter", left)
			}
		})
	}
	e := g.Explain(t.Context(), &Request{Service: demo, Policy: policy(t, affinity.Policy{}), Message: from("K-Revision", "beta")})
	if e.Flow == nil || e.Flow.Source != "header K-Revision" || e.Flow.Prefix != 0 || e.Flow.Mode != "pinned" || e.Session != nil {
		t.Errorf("Explain() of a flow = %+v, want its source and mode, and no session", e.Flow)
	}
}

func TestExplainPromisesNothingWithoutASession(t *testing.T) {
	g := newGateway(t, binding.NewMemory(binding.MemoryOptions{}))
	g.fill(100)
	seen := map[string]bool{}
	for range 200 {
		e := g.Explain(t.Context(), &Request{Service: demo, Message: at("10.0.3.7")})
		if len(e.Next) > 0 || !strings.Contains(strings.Join(e.Steps, "\n"), "no session") {
			t.Fatalf("Explain() = %+v, want no others in order, and that there is no session", e)
		}
		seen[e.Endpoint] = true
	}
	if len(seen) != 3 { // all but once in (2/3)^200
		t.Errorf("of 200 answers there were %v, want each of three endpoints", seen)
	}
}

func TestExplainKnowsThatAnEndpointIsFull(t *testing.T) {
	for _, tt := range []struct {
		overflow     affinity.Overflow
		full         int // endpoints that are full, the session's own first
		reason, want string
	}{
		{affinity.OverflowWait, 1, "bound", "is at its limit of 1: it would wait up to 10s for a place there"},
		{affinity.OverflowSpill, 1, "overflow", "is at its limit of 1: it would go elsewhere this once"},
		{affinity.OverflowSpill, 3, "overflow", "is at its limit of 1: it would go elsewhere this once"},
		{affinity.OverflowReject, 1, "bound", "is at its limit of 1: it would be refused"},
	} {
		t.Run(fmt.Sprintf("%s, %d full", tt.overflow, tt.full), func(t *testing.T) {
			g := limited(t)
			p := byAddress(t, 0, func(s *affinity.SessionAffinity) { s.Overflow = tt.overflow })
			for i := range tt.full {
				defer g.pick(t, p, at(fmt.Sprintf("10.0.3.%d", 7+i))).Done(endpoint.OutcomeOK)
			}
			m := at("10.0.3.7")
			e := g.Explain(t.Context(), &Request{Service: demo, Policy: p, Message: m})
			if steps := strings.Join(e.Steps, "\n"); !strings.Contains(steps, tt.want) || e.Reason != tt.reason {
				t.Errorf("Explain() = %s, reason %q, want %q, reason %q", steps, e.Reason, tt.want, tt.reason)
			}
			if tt.overflow == affinity.OverflowWait {
				return // as a request would
			}
			pick, err := g.Pick(t.Context(), &Request{Service: demo, Policy: p, Message: m})
			if err != nil {
				if e.Error != err.Error() {
					t.Errorf("Explain() = error %q, want %v as Pick returns", e.Error, err)
				}
				return
			}
			defer pick.Done(endpoint.OutcomeOK)
			if pick.Target().Endpoint != e.Endpoint || pick.Reason().String() != e.Reason || e.Error != "" {
				t.Errorf("Explain() = %s, %s, error %q, want %v, %v as Pick returns", e.Endpoint, e.Reason, e.Error, pick.Target(), pick.Reason())
			}
		})
	}
}
