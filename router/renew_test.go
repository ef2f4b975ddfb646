package router

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/limpet-project/limpet/affinity"
	"github.com/limpet-project/limpet/binding"
	"github.com/limpet-project/limpet/endpoint"
)

func TestUseRenewsASessionSoThatItOutlivesIdle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := &touches{Store: binding.NewMemory(binding.MemoryOptions{})}
		g := newGateway(t, store)
		g.fill(50, 50)
		g.start(t)
		p := policy(t, affinity.Policy{Session: &affinity.SessionAffinity{Idle: hour}})
		m := from("K-Session", "alice")
		want, _ := g.visit(t, p, m)
		for i := range 20 {
			time.Sleep(50 * time.Minute)
			if got, reason := g.visit(t, p, m); got != want || reason != affinity.ReasonBound {
				t.Fatalf("visit %d, 50 minutes after the last = %v, %v, want %v, bound", i, got, reason, want)
			}
		}
		time.Sleep(76 * time.Minute)
		if _, reason := g.visit(t, p, m); reason != affinity.ReasonNew {
			t.Errorf("76 minutes after the last = %v, want new: idle is 1h, a quarter more is kept", reason)
		}
	})
}

func TestRenewalsComeAtMostEveryQuarterOfIdle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := &touches{Store: binding.NewMemory(binding.MemoryOptions{})}
		g := newGateway(t, store)
		g.fill(100)
		g.start(t)
		p := policy(t, affinity.Policy{Session: &affinity.SessionAffinity{Idle: hour}})
		for range 3600 {
			g.visit(t, p, from("K-Session", "alice"))
			time.Sleep(time.Second)
		}
		if store.n > 4 || store.n < 3 {
			t.Errorf("%d renewals in an hour of a request each second, want 3 or 4", store.n)
		}
	})
}

func TestTwoGatewaysThatShareASessionDoNotRenewInTurns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := &touches{Store: binding.NewMemory(binding.MemoryOptions{})}
		a, b := newGateway(t, store), newGateway(t, store)
		for _, g := range []gateway{a, b} {
			g.fill(100)
			g.start(t)
		}
		p := policy(t, affinity.Policy{Session: &affinity.SessionAffinity{Idle: hour}})
		for i := range 3600 {
			[]gateway{a, b}[i%2].visit(t, p, from("K-Session", "alice"))
			time.Sleep(time.Second)
		}
		if store.n > 5 {
			t.Errorf("%d renewals in an hour of a request each second, want at most 5", store.n)
		}
	})
}

func TestRequestInFlightKeepsItsSession(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGateway(t, binding.NewMemory(binding.MemoryOptions{}))
		g.fill(50, 50)
		g.start(t)
		p := policy(t, affinity.Policy{Session: &affinity.SessionAffinity{Idle: affinity.Duration(time.Minute)}})
		m := from("K-Session", "alice")
		socket := g.pick(t, p, m)
		time.Sleep(3 * time.Hour)
		got, reason := g.visit(t, p, m)
		if got != socket.Target() || reason != affinity.ReasonBound {
			t.Errorf("beside a WebSocket of three hours = %v, %v, want %v, bound", got, reason, socket.Target())
		}
		socket.Done(endpoint.OutcomeOK)
		time.Sleep(59 * time.Second)
		if got, reason := g.visit(t, p, m); got != socket.Target() || reason != affinity.ReasonBound {
			t.Errorf("59s after its end = %v, %v, want %v, bound: idle is 1m", got, reason, socket.Target())
		}
	})
}

func TestAbsoluteEndIsNotRenewedAndSurvivesAMove(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGateway(t, binding.NewMemory(binding.MemoryOptions{}))
		g.fill(100)
		g.start(t)
		p := policy(t, affinity.Policy{Session: &affinity.SessionAffinity{Idle: hour, Absolute: 2 * hour}})
		m := from("K-Session", "alice")
		before, _ := g.visit(t, p, m)
		for range 3 {
			time.Sleep(30 * time.Minute)
			g.visit(t, p, m)
		}
		var left []string
		for _, l := range []string{"a", "b", "c"} {
			if "demo-00001-"+l != before.Endpoint {
				left = append(left, l)
			}
		}
		g.members(1, left...)
		if _, reason := g.visit(t, p, m); reason != affinity.ReasonEndpointGone {
			t.Fatalf("after its endpoint left = %v, want endpoint-gone", reason)
		}
		time.Sleep(31 * time.Minute)
		if _, reason := g.visit(t, p, m); reason != affinity.ReasonNew && reason != affinity.ReasonExpired {
			t.Errorf("2h1m after it began = %v, want new or expired", reason)
		}
	})
}
