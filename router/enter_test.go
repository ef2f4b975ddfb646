package router

import (
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/limpet-project/limpet/affinity"
	"github.com/limpet-project/limpet/binding"
	"github.com/limpet-project/limpet/endpoint"
)

// limited returns a gateway whose endpoints take one request each.
func limited(t *testing.T) gateway {
	g := newGateway(t, binding.NewMemory(binding.MemoryOptions{}))
	g.fill(100)
	var m []endpoint.Member
	for _, l := range []string{"a", "b", "c"} {
		m = append(m, endpoint.Member{Name: "demo-00001-" + l, Address: "192.0.2.1:8080", Limit: 1})
	}
	g.table.SetMembers(endpoint.RevisionName{Namespace: demo.Namespace, Name: "demo-00001"}, m)
	return g
}

// Defects 22 to 25: the prototype's sticky requests took no place, and one for a busy pod held back all others.
func TestBoundRequestWaitsForItsFullEndpointAndHoldsBackNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := limited(t)
		p := policy(t, affinity.Policy{Session: &affinity.SessionAffinity{QueueTimeout: affinity.Duration(10 * time.Second)}})
		m := from("K-Session", "alice")
		first := g.pick(t, p, m)
		start := time.Now()
		go func() {
			time.Sleep(3 * time.Second)
			first.Done(endpoint.OutcomeOK)
		}()
		other := g.pick(t, p, from("K-Session", "bob"))
		if time.Since(start) != 0 || other.Target() == first.Target() {
			t.Errorf("a new session: %v after %v, want another endpoint than %v at once", other.Target(), time.Since(start), first.Target())
		}
		second := g.pick(t, p, m)
		if second.Target() != first.Target() || time.Since(start) != 3*time.Second {
			t.Errorf("the second request: %v after %v, want %v after 3s", second.Target(), time.Since(start), first.Target())
		}
		second.Done(endpoint.OutcomeOK)
		other.Done(endpoint.OutcomeOK)
	})
}

func TestWaitForAFullEndpointEndsAtTheQueueTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := limited(t)
		p := policy(t, affinity.Policy{Session: &affinity.SessionAffinity{QueueTimeout: affinity.Duration(2 * time.Second)}})
		m := from("K-Session", "alice")
		first := g.pick(t, p, m)
		defer first.Done(endpoint.OutcomeOK)
		start := time.Now()
		_, err := g.Pick(t.Context(), &Request{Service: demo, Policy: p, Message: m})
		if !errors.Is(err, endpoint.ErrBusy) || time.Since(start) != 2*time.Second {
			t.Errorf("Pick() = %v after %v, want ErrBusy after 2s", err, time.Since(start))
		}
	})
}

func TestSpillPlacesOneRequestElsewhereAndKeepsTheBinding(t *testing.T) {
	g := limited(t)
	p := policy(t, affinity.Policy{Session: &affinity.SessionAffinity{Overflow: affinity.OverflowSpill}})
	m := from("K-Session", "alice")
	first := g.pick(t, p, m)
	spilled := g.pick(t, p, m)
	if spilled.Target() == first.Target() || spilled.Reason() != affinity.ReasonOverflow {
		t.Errorf("second request = %v, %v, want another endpoint than %v, overflow", spilled.Target(), spilled.Reason(), first.Target())
	}
	spilled.Done(endpoint.OutcomeOK)
	first.Done(endpoint.OutcomeOK)
	if got, reason := g.visit(t, p, m); got != first.Target() || reason != affinity.ReasonBound {
		t.Errorf("afterwards = %v, %v, want %v, bound", got, reason, first.Target())
	}
}

func TestSpillWithEverythingFullIsBusyAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := limited(t)
		p := policy(t, affinity.Policy{Session: &affinity.SessionAffinity{Overflow: affinity.OverflowSpill}})
		for _, id := range []string{"alice", "bob", "carol"} {
			defer g.pick(t, p, from("K-Session", id)).Done(endpoint.OutcomeOK)
		}
		start := time.Now()
		_, err := g.Pick(t.Context(), &Request{Service: demo, Policy: p, Message: from("K-Session", "alice")})
		if !errors.Is(err, endpoint.ErrBusy) || time.Since(start) != 0 {
			t.Errorf("Pick() = %v after %v, want ErrBusy at once", err, time.Since(start))
		}
	})
}

func TestRejectAnswersBusyAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := limited(t)
		p := policy(t, affinity.Policy{Session: &affinity.SessionAffinity{Overflow: affinity.OverflowReject}})
		m := from("K-Session", "alice")
		defer g.pick(t, p, m).Done(endpoint.OutcomeOK)
		start := time.Now()
		_, err := g.Pick(t.Context(), &Request{Service: demo, Policy: p, Message: m})
		if !errors.Is(err, endpoint.ErrBusy) || time.Since(start) != 0 {
			t.Errorf("Pick() = %v after %v, want ErrBusy at once", err, time.Since(start))
		}
	})
}

func TestEndpointThatGoesWhileARequestWaitsForItIsReplaced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := limited(t)
		p := policy(t, affinity.Policy{})
		m := from("K-Session", "alice")
		first := g.pick(t, p, m)
		defer first.Done(endpoint.OutcomeOK)
		go func() {
			time.Sleep(time.Second)
			var left []string
			for _, l := range []string{"a", "b", "c"} {
				if "demo-00001-"+l != first.Target().Endpoint {
					left = append(left, l)
				}
			}
			g.members(1, left...)
		}()
		second := g.pick(t, p, m)
		defer second.Done(endpoint.OutcomeOK)
		if second.Target() == first.Target() || second.Reason() != affinity.ReasonEndpointGone {
			t.Errorf("the waiting request = %v, %v, want another endpoint than %v, endpoint-gone", second.Target(), second.Reason(), first.Target())
		}
	})
}
