package router

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/limpet-project/limpet/affinity"
	"github.com/limpet-project/limpet/binding"
	"github.com/limpet-project/limpet/endpoint"
)

func TestSessionStaysOnItsEndpointWhateverJoins(t *testing.T) {
	g := newGateway(t, binding.NewMemory(binding.MemoryOptions{}))
	g.fill(50, 50)
	p := policy(t, affinity.Policy{})
	for i := range 200 {
		m := from("K-Session", fmt.Sprintf("session-%d", i))
		want, reason := g.visit(t, p, m)
		if reason != affinity.ReasonNew {
			t.Fatalf("first visit of session-%d: reason %v, want new", i, reason)
		}
		g.members(1, "a", "b", "c", "d")
		if got, reason := g.visit(t, p, m); got != want || reason != affinity.ReasonBound {
			t.Fatalf("second visit of session-%d = %v, %v, want %v, bound", i, got, reason, want)
		}
		g.members(1, "a", "b", "c")
	}
}

func TestTwoGatewaysThatRaceEndOnOneTarget(t *testing.T) {
	store := binding.NewMemory(binding.MemoryOptions{})
	a, b := newGateway(t, store), newGateway(t, store)
	a.fill(50, 50)
	b.fill(95, 5) // gateways may see different weights for a while
	p := policy(t, affinity.Policy{})
	for i := range 200 {
		m := from("K-Session", fmt.Sprintf("session-%d", i), "K-Revision", fmt.Sprintf("flow-%d", i))
		var wg sync.WaitGroup
		var got [8]affinity.Target
		for j := range got {
			g := []gateway{a, b}[j%2]
			wg.Go(func() {
				pick, err := g.Pick(t.Context(), &Request{Service: demo, Policy: p, Message: m})
				if err != nil {
					t.Errorf("Pick() = %v", err)
					return
				}
				got[j] = pick.Target()
				pick.Done(endpoint.OutcomeOK)
			})
		}
		wg.Wait()
		for j := range got {
			if got[j] != got[0] {
				t.Fatalf("session-%d: request %d went to %v, request 0 to %v", i, j, got[j], got[0])
			}
		}
	}
}

func TestFlowIsBoundFirstAndTheSessionFollowsIt(t *testing.T) {
	g := newGateway(t, binding.NewMemory(binding.MemoryOptions{}))
	g.fill(50, 50)
	p := policy(t, affinity.Policy{})
	for i := range 100 {
		flow := fmt.Sprintf("flow-%d", i)
		byFlow, _ := g.visit(t, p, from("K-Revision", flow))
		both, reason := g.visit(t, p, from("K-Revision", flow, "K-Session", fmt.Sprintf("session-%d", i)))
		if both.Revision != byFlow.Revision || reason != affinity.ReasonNew {
			t.Fatalf("session of %s = %v, %v, want revision %s, new", flow, both, reason, byFlow.Revision)
		}
	}
}

func TestNewFlowBesideAKnownSessionFollowsTheSession(t *testing.T) {
	g := newGateway(t, binding.NewMemory(binding.MemoryOptions{}))
	g.fill(50, 50)
	p := policy(t, affinity.Policy{})
	for i := range 100 {
		session, flow := fmt.Sprintf("session-%d", i), fmt.Sprintf("flow-%d", i)
		bound, _ := g.visit(t, p, from("K-Session", session))
		if got, reason := g.visit(t, p, from("K-Session", session, "K-Revision", flow)); got != bound || reason != affinity.ReasonBound {
			t.Fatalf("session with a new flow = %v, %v, want %v, bound", got, reason, bound)
		}
		if got, _ := g.visit(t, p, from("K-Revision", flow)); got.Revision != bound.Revision {
			t.Fatalf("the flow alone went to %s, its session to %s", got.Revision, bound.Revision)
		}
	}
}

func TestBindingToAnEndpointNotSeenYetWaitsForIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := binding.NewMemory(binding.MemoryOptions{})
		early, late := newGateway(t, store), newGateway(t, store)
		early.fill(100)
		late.fill(100)
		time.Sleep(time.Minute) // so that what follows is not part of the first synchronisation
		early.members(1, "d")
		p := policy(t, affinity.Policy{})
		m := from("K-Session", "alice")
		want, _ := early.visit(t, p, m)
		start := time.Now()
		go func() {
			time.Sleep(time.Second)
			late.members(1, "a", "b", "c", "d")
		}()
		got, reason := late.visit(t, p, m)
		if got != want || reason != affinity.ReasonBound || time.Since(start) != time.Second {
			t.Errorf("late gateway: %v, %v after %v, want %v, bound after 1s", got, reason, time.Since(start), want)
		}
	})
}

func TestUnknownTargetIsGoneWhenSettleIsOver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := binding.NewMemory(binding.MemoryOptions{})
		early, late := newGateway(t, store), newGateway(t, store)
		early.fill(100)
		late.fill(100)
		time.Sleep(time.Minute)
		early.members(1, "d")
		p := policy(t, affinity.Policy{Settle: affinity.Duration(3 * time.Second)})
		m := from("K-Session", "alice")
		early.visit(t, p, m)
		start := time.Now()
		got, reason := late.visit(t, p, m)
		if reason != affinity.ReasonEndpointGone || time.Since(start) != 3*time.Second {
			t.Errorf("late gateway: %v, %v after %v, want endpoint-gone after 3s", got, reason, time.Since(start))
		}
	})
}

func TestWaitersForUnknownTargetsAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := binding.NewMemory(binding.MemoryOptions{})
		early := newGateway(t, store)
		late := newGateway(t, store, func(o *Options) { o.MaxWaiters = 2 })
		early.fill(100)
		late.fill(100)
		time.Sleep(time.Minute)
		early.members(1, "d")
		p := policy(t, affinity.Policy{})
		var wg sync.WaitGroup
		atOnce := 0
		var mu sync.Mutex
		for i := range 10 {
			m := from("K-Session", fmt.Sprintf("session-%d", i))
			early.visit(t, p, m)
			wg.Go(func() {
				start := time.Now()
				late.visit(t, p, m)
				mu.Lock()
				defer mu.Unlock()
				if time.Since(start) == 0 {
					atOnce++
				}
			})
		}
		wg.Wait()
		if atOnce != 8 {
			t.Errorf("%d of 10 requests did not wait, want 8: MaxWaiters is 2", atOnce)
		}
	})
}

func TestStoreThatHangsCostsItsTimeoutOnceAndNoError(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := &awaySoon{Store: binding.NewMemory(binding.MemoryOptions{}), hang: true}
		g := newGateway(t, store, func(o *Options) { o.StoreTimeout = 50 * time.Millisecond })
		g.fill(50, 50)
		start := time.Now()
		_, reason := g.visit(t, policy(t, affinity.Policy{}), from("K-Session", "alice", "K-Revision", "canary"))
		if reason != affinity.ReasonDegraded || time.Since(start) != 50*time.Millisecond {
			t.Errorf("reason %v after %v, want degraded after 50ms", reason, time.Since(start))
		}
	})
}

func TestGatewaysAgreeWithoutAStore(t *testing.T) {
	store := &awaySoon{refuse: true}
	a, b := newGateway(t, store), newGateway(t, store)
	a.fill(50, 50)
	b.fill(50, 50)
	p := policy(t, affinity.Policy{})
	for i := range 200 {
		m := from("K-Session", fmt.Sprintf("session-%d", i))
		atA, _ := a.visit(t, p, m)
		atB, reason := b.visit(t, p, m)
		if atA != atB || reason != affinity.ReasonDegraded {
			t.Fatalf("session-%d: %v and %v, %v, want equal and degraded", i, atA, atB, reason)
		}
	}
}

// counts is an Observer.
type counts struct {
	mu              sync.Mutex
	full, conflicts int
}

func (c *counts) StoreFull(affinity.ServiceName) { c.mu.Lock(); c.full++; c.mu.Unlock() }
func (c *counts) Conflict(affinity.ServiceName)  { c.mu.Lock(); c.conflicts++; c.mu.Unlock() }
func (c *counts) Waiters(int)                    {}
func (c *counts) RenewalsDropped(int)            {}

func TestFullServicePlacesNewSessionsByHashAndKeepsItsOwn(t *testing.T) {
	seen := &counts{}
	g := newGateway(t, binding.NewMemory(binding.MemoryOptions{}), func(o *Options) { o.Observer = seen })
	g.fill(100)
	p := policy(t, affinity.Policy{Session: &affinity.SessionAffinity{}, Quota: 1})
	g.visit(t, p, from("K-Session", "first"))
	first, reason := g.visit(t, p, from("K-Session", "second"))
	again, _ := g.visit(t, p, from("K-Session", "second"))
	if first != again || reason != affinity.ReasonNone || seen.full != 2 {
		t.Errorf("session over quota: %v then %v, %v, counted %d times, want equal, none, 2", first, again, reason, seen.full)
	}
	if _, reason := g.visit(t, p, from("K-Session", "first")); reason != affinity.ReasonBound {
		t.Errorf("the session within the quota: %v, want bound", reason)
	}
}

func TestUnreachableEndpointMovesTheSessionWithinItsRevisionAndBindsItAgain(t *testing.T) {
	g := newGateway(t, binding.NewMemory(binding.MemoryOptions{}))
	g.fill(50, 50)
	p := policy(t, affinity.Policy{})
	m := from("K-Session", "alice")
	before, _ := g.visit(t, p, m)
	pick := g.pick(t, p, m)
	if err := pick.Another(t.Context()); err != nil {
		t.Fatalf("Another() = %v", err)
	}
	pick.Done(endpoint.OutcomeOK)
	moved := pick.Target()
	if moved.Revision != before.Revision || moved.Endpoint == before.Endpoint || pick.Reason() != affinity.ReasonEndpointGone {
		t.Errorf("Another() went to %v, %v, want another endpoint of %s, endpoint-gone", moved, pick.Reason(), before.Revision)
	}
	if got, reason := g.visit(t, p, m); got != moved || reason != affinity.ReasonBound {
		t.Errorf("the next request went to %v, %v, want %v, bound", got, reason, moved)
	}
}

func TestNoEndpointLeftIsAnErrorAndNotALoop(t *testing.T) {
	g := newGateway(t, binding.NewMemory(binding.MemoryOptions{}))
	g.fill(100)
	pick := g.pick(t, policy(t, affinity.Policy{}), from("K-Session", "alice"))
	var err error
	for range 3 {
		if err = pick.Another(t.Context()); err != nil {
			break
		}
	}
	if !errors.Is(err, affinity.ErrNoEndpoint) {
		t.Errorf("Another() after three endpoints = %v, want ErrNoEndpoint", err)
	}
	if got := pick.Address(); got != "" {
		t.Errorf("Address() without an endpoint = %q, want none", got)
	}
	pick.Done(endpoint.OutcomeFailed)
}

func TestUnknownServiceIsAnError(t *testing.T) {
	g := newGateway(t, binding.NewMemory(binding.MemoryOptions{}))
	_, err := g.Pick(t.Context(), &Request{Service: demo, Message: from()})
	if !errors.Is(err, ErrUnknownService) {
		t.Errorf("Pick() = %v, want ErrUnknownService", err)
	}
}

// Defects 13 to 16: the prototype found the binding of another tenant, service or kind by an equal id.
func TestEqualIDsOfTwoTenantsAreTwoSessions(t *testing.T) {
	g := newGateway(t, binding.NewMemory(binding.MemoryOptions{}))
	other := affinity.ServiceName{Namespace: "other", Name: "demo"}
	g.table.SetServices([]endpoint.Service{
		{Name: demo, Revisions: []endpoint.Revision{{Name: "demo-00001", Weight: 1}}},
		{Name: other, Revisions: []endpoint.Revision{{Name: "shop-00001", Weight: 1}}},
	})
	g.members(1, "a")
	g.table.SetMembers(endpoint.RevisionName{Namespace: "other", Name: "shop-00001"}, []endpoint.Member{{Name: "shop-00001-a", Address: "192.0.2.9:80"}})
	g.table.SetSynced()
	p := policy(t, affinity.Policy{})
	g.visit(t, p, from("K-Session", "alice"))
	pick, err := g.Pick(t.Context(), &Request{Service: other, Policy: p, Message: from("K-Session", "alice")})
	if err != nil {
		t.Fatalf("Pick() = %v", err)
	}
	pick.Done(endpoint.OutcomeOK)
	if pick.Target().Revision != "shop-00001" || pick.Reason() != affinity.ReasonNew {
		t.Errorf("alice of another tenant = %v, %v, want shop-00001, new", pick.Target(), pick.Reason())
	}
}

func TestExplainNamesTheSourceTheKeyAndTheReasonAndChangesNothing(t *testing.T) {
	g := newGateway(t, binding.NewMemory(binding.MemoryOptions{}))
	g.fill(50, 50)
	p := policy(t, affinity.Policy{})
	req := &Request{Service: demo, Policy: p, Message: from("K-Session", "alice-secret")}
	before := g.Explain(context.Background(), req)
	want, reason := g.visit(t, p, from("K-Session", "alice-secret"))
	if reason != affinity.ReasonNew {
		t.Errorf("reason after Explain = %v, want new: it must not bind", reason)
	}
	after := g.Explain(context.Background(), req)
	if before.Reason != "new" || after.Reason != "bound" || after.Revision != want.Revision || after.Endpoint != want.Endpoint {
		t.Errorf("Explain() = %+v then %+v, want new, then bound to %v", before, after, want)
	}
	if text := strings.Join(after.Steps, "\n"); !strings.Contains(text, "header K-Session") || strings.Contains(text, "alice") {
		t.Errorf("steps = %s, want the source and not the id", text)
	}
}

func TestBindingFromTheFutureIsWaitedForNoLongerThanSettle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ahead := func() time.Time { return time.Now().Add(time.Hour) } // a gateway whose clock is wrong
		store := binding.NewMemory(binding.MemoryOptions{Now: ahead})
		early, late := newGateway(t, store), newGateway(t, store)
		early.fill(100)
		late.fill(100)
		time.Sleep(time.Minute)
		early.members(1, "d")
		p := policy(t, affinity.Policy{Settle: affinity.Duration(3 * time.Second)})
		m := from("K-Session", "alice")
		early.visit(t, p, m)
		start := time.Now()
		if late.visit(t, p, m); time.Since(start) != 3*time.Second {
			t.Errorf("waited %v, want 3s", time.Since(start))
		}
	})
}
