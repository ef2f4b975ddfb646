package router

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/limpet-project/limpet/affinity"
	"github.com/limpet-project/limpet/binding"
	"github.com/limpet-project/limpet/endpoint"
)

// choose is the first half of a pick that must not fail.
func (g gateway) choose(t *testing.T, p *affinity.Policy, m affinity.Message) *Pick {
	t.Helper()
	pick, err := g.Choose(t.Context(), &Request{Service: demo, Policy: p, Message: m})
	if err != nil {
		t.Fatalf("Choose(%v) = %v", m, err)
	}
	return pick
}

func TestTheHalvesOfAPickAreThePick(t *testing.T) {
	g := newGateway(t, binding.NewMemory(binding.MemoryOptions{}))
	g.fill(50, 50)
	p := policy(t, affinity.Policy{Session: &affinity.SessionAffinity{}})
	first := g.choose(t, p, from("K-Session", "s-1"))
	if load := g.table.Load(first.decision.Endpoint); load.InFlight != 0 {
		t.Errorf("requests in flight after Choose = %d, want none", load.InFlight)
	}
	if err := first.Enter(t.Context()); err != nil || first.Reason() != affinity.ReasonNew {
		t.Errorf("Enter() = %v, reason %v, want nil, %v", err, first.Reason(), affinity.ReasonNew)
	}
	if load := g.table.Load(first.decision.Endpoint); load.InFlight != 1 {
		t.Errorf("requests in flight after Enter = %d, want 1", load.InFlight)
	}
	first.Done(endpoint.OutcomeOK)
	if got, reason := g.visit(t, p, from("K-Session", "s-1")); got != first.Target() || reason != affinity.ReasonBound {
		t.Errorf("next visit = %v, %v, want %v, %v", got, reason, first.Target(), affinity.ReasonBound)
	}
	g.choose(t, p, from("K-Session", "s-2")).Done(endpoint.OutcomeUnknown) // without Enter
}

func TestEnterWaitsForTheFirstEndpointOfTheRevisionThatWasChosen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGateway(t, binding.NewMemory(binding.MemoryOptions{}))
		g.fill(100, 0)
		g.members(1)
		p := policy(t, affinity.Policy{Session: &affinity.SessionAffinity{}, Revision: &affinity.RevisionAffinity{}})
		for _, m := range []*message{from(), from("K-Session", "s-1"), from("K-Revision", "f-1")} {
			pick := g.choose(t, p, m)
			reason := pick.Reason()
			g.weigh(1, 99) // whoever is chosen now goes elsewhere
			entered := make(chan error, 1)
			go func() { entered <- pick.Enter(t.Context()) }()
			synctest.Wait()
			g.members(2, "a")
			synctest.Wait()
			g.members(1, "a")
			if err := <-entered; err != nil || pick.Target().String() != "demo-00001/demo-00001-a" || pick.Reason() != reason {
				t.Errorf("Enter() = %v at %v, %v, want nil at demo-00001/demo-00001-a, %v", err, pick.Target(), pick.Reason(), reason)
			}
			pick.Done(endpoint.OutcomeOK)
			g.members(1)
			g.weigh(100, 0)
		}
	})
}

func TestEnterGivesUpWithItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGateway(t, binding.NewMemory(binding.MemoryOptions{}))
		g.fill(100)
		g.members(1)
		pick := g.choose(t, nil, from())
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if err := pick.Enter(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("Enter() = %v, want %v", err, context.DeadlineExceeded)
		}
		pick.Done(endpoint.OutcomeUnknown)
	})
}

func TestEnterLeavesARevisionThatMayNotBeChosenAnyLonger(t *testing.T) {
	g := newGateway(t, binding.NewMemory(binding.MemoryOptions{}))
	g.fill(100, 0)
	g.members(1)
	pick := g.choose(t, nil, from())
	g.weigh(0, 100)
	if err := pick.Enter(t.Context()); err != nil || pick.Target().Revision != "demo-00002" {
		t.Errorf("Enter() = %v at %v, want nil at demo-00002", err, pick.Target())
	}
	pick.Done(endpoint.OutcomeOK)
}

func TestSpillAfterEnterKeepsTheBindingAndTriesEachEndpointOnce(t *testing.T) {
	g := limited(t)
	p := policy(t, affinity.Policy{Session: &affinity.SessionAffinity{Overflow: affinity.OverflowSpill}})
	m := from("K-Session", "alice")
	home, _ := g.visit(t, p, m)
	pick := g.choose(t, p, m)
	if err := pick.Enter(t.Context()); err != nil || pick.Target() != home {
		t.Fatalf("Enter() = %v at %v, want nil at %v", err, pick.Target(), home)
	}
	seen := map[string]bool{home.Endpoint: true}
	for range 2 {
		if err := pick.Spill(t.Context()); err != nil || seen[pick.Target().Endpoint] || pick.Reason() != affinity.ReasonOverflow {
			t.Errorf("Spill() = %v at %v, %v, want nil at an endpoint other than %v, overflow", err, pick.Target(), pick.Reason(), seen)
		}
		seen[pick.Target().Endpoint] = true
	}
	if err := pick.Spill(t.Context()); !errors.Is(err, endpoint.ErrBusy) {
		t.Errorf("Spill() when each was tried = %v, want %v", err, endpoint.ErrBusy)
	}
	pick.Done(endpoint.OutcomeUnknown)
	if got, reason := g.visit(t, p, m); got != home || reason != affinity.ReasonBound {
		t.Errorf("afterwards = %v, %v, want %v, bound", got, reason, home)
	}
}

func TestAdoptRenewsWhatTheRequestUsesAndTakesNoPlace(t *testing.T) {
	g := newGateway(t, binding.NewMemory(binding.MemoryOptions{}))
	g.fill(100)
	p := policy(t, affinity.Policy{Session: &affinity.SessionAffinity{}, Revision: &affinity.RevisionAffinity{}})
	pick := g.choose(t, p, from("K-Revision", "f-1"))
	endpoints := g.table.Snapshot(demo).Revision("demo-00001").Pool.Endpoints
	for i := range endpoints {
		e := &endpoints[i]
		pick.Adopt(e)
		if load := g.table.Load(e); load.InFlight != 0 || pick.Target().Endpoint != e.Name || pick.Address() != e.Address || !pick.flight.listed {
			t.Errorf("Adopt(%s): %d requests in flight, at %v, %s, renewed %t, want none, that endpoint, true",
				e.Name, load.InFlight, pick.Target(), pick.Address(), pick.flight.listed)
		}
	}
	pick.Done(endpoint.OutcomeOK)
	if pick.flight.listed {
		t.Error("after Done the pick is renewed still")
	}
}

func TestAKeyedChoiceLeavesRequestsWithoutAKeyAlone(t *testing.T) {
	g := newGateway(t, binding.NewMemory(binding.MemoryOptions{}))
	g.fill(50, 50)
	p := policy(t, affinity.Policy{Session: &affinity.SessionAffinity{}})
	var pick Pick
	for _, m := range []*message{from(), from("K-Session", "s-1"), from(), from("K-Session", "s-1")} { // in one place, one after the other
		keyed, err := g.ChooseKeyed(t.Context(), &pick, &Request{Service: demo, Policy: p, Message: m})
		if want := len(m.header) > 0; err != nil || keyed != want {
			t.Fatalf("ChooseKeyed(%v) = %v, %v, want %v, nil", m.header, keyed, err, want)
		}
		if !keyed {
			continue
		}
		if err := pick.Enter(t.Context()); err != nil {
			t.Fatalf("Enter() = %v", err)
		}
		home, _ := g.visit(t, p, m)
		if pick.Target() != home {
			t.Errorf("ChooseKeyed(%v) leads to %v, want %v as Pick", m.header, pick.Target(), home)
		}
		pick.Done(endpoint.OutcomeOK)
	}
	if keyed, err := g.ChooseKeyed(t.Context(), &pick, &Request{Service: demo, Policy: p, Message: from("K-Session", strings.Repeat("x", 2000))}); keyed || err == nil {
		t.Errorf("ChooseKeyed(an id that is too long) = %v, %v, want an error", keyed, err)
	}
}

func TestTryEnterTakesAPlaceOrNothing(t *testing.T) {
	g := limited(t)
	p := policy(t, affinity.Policy{Session: &affinity.SessionAffinity{}})
	m := from("K-Session", "alice")
	first, second := g.choose(t, p, m), g.choose(t, p, m)
	if !first.TryEnter(t.Context()) || !first.flight.listed {
		t.Errorf("TryEnter() at a free endpoint = false, or it is not renewed, want true")
	}
	if second.TryEnter(t.Context()) || second.placed || second.flight.listed || second.Target() != first.Target() {
		t.Errorf("TryEnter() at a full endpoint = true, or it changed the pick, want false and nothing else")
	}
	first.Done(endpoint.OutcomeOK)
	if err := second.Enter(t.Context()); err != nil || second.Target() != first.Target() {
		t.Errorf("Enter() after TryEnter = %v at %v, want nil at %v", err, second.Target(), first.Target())
	}
	second.Done(endpoint.OutcomeOK)
	if load := g.table.Load(first.decision.Endpoint); load.InFlight != 0 {
		t.Errorf("requests in flight afterwards = %d, want none", load.InFlight)
	}
}

func TestTryEnterFindsNothingWhereNoEndpointIsReady(t *testing.T) {
	g := newGateway(t, binding.NewMemory(binding.MemoryOptions{}))
	g.fill(100)
	g.members(1)
	pick := g.choose(t, policy(t, affinity.Policy{Session: &affinity.SessionAffinity{}}), from("K-Session", "s-1"))
	if pick.TryEnter(t.Context()) {
		t.Error("TryEnter() without an endpoint = true, want false")
	}
	pick.Done(endpoint.OutcomeUnknown)
}
