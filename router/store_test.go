package router

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/limpet-project/limpet/affinity"
	"github.com/limpet-project/limpet/binding"
	"github.com/limpet-project/limpet/endpoint"
)

// Defect 11: the prototype asked Redis under the locks of a revision, so that one slow call stalled all of it.
func TestStoreThatHangsStallsNeitherChangesNorOtherRequests(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := &awaySoon{Store: binding.NewMemory(binding.MemoryOptions{}), hang: true}
		g := newGateway(t, store, func(o *Options) { o.StoreTimeout = time.Hour })
		g.fill(100)
		ctx, cancel := context.WithCancel(t.Context())
		hung := make(chan error, 1)
		go func() {
			pick, err := g.Pick(ctx, &Request{Service: demo, Policy: policy(t, affinity.Policy{}), Message: from("K-Session", "alice")})
			if err == nil {
				pick.Done(endpoint.OutcomeOK)
			}
			hung <- err
		}()
		synctest.Wait()
		start := time.Now()
		g.members(1, "d")
		target, _ := g.visit(t, policy(t, affinity.Policy{}), from())
		if target.Endpoint != "demo-00001-d" || time.Since(start) != 0 {
			t.Errorf("request without an id = %v after %v, want demo-00001-d at once", target, time.Since(start))
		}
		cancel()
		<-hung
	})
}

// contested is a store in which somebody is always quicker.
type contested struct {
	binding.Store
	swaps  int
	winner func(k affinity.Key) binding.Binding
}

func (s *contested) Swap(_ context.Context, k affinity.Key, _ binding.Version, _ affinity.Target, _ binding.Life) (binding.Binding, error) {
	s.swaps++
	return s.winner(k), binding.ErrConflict
}

// Defect 44: the prototype queued a request again and again as long as it lost the race to bind.
func TestRaceThatIsLostForEverEnds(t *testing.T) {
	for name, c := range map[string]struct {
		winner func(affinity.Key) binding.Binding
		swaps  int
		reason affinity.Reason
	}{
		"to a valid binding": {func(affinity.Key) binding.Binding {
			return binding.Binding{
				Target:  affinity.Target{Revision: "demo-00001", Endpoint: "demo-00001-b"},
				Version: binding.Version{Made: time.Now().UnixMicro(), Nonce: 1},
			}
		}, 1, affinity.ReasonBound},
		"to bindings that end at once": {func(affinity.Key) binding.Binding { return binding.Binding{} }, maxRounds, affinity.ReasonNew},
	} {
		store := &contested{Store: binding.NewMemory(binding.MemoryOptions{}), winner: c.winner}
		g := newGateway(t, store)
		g.fill(100)
		p := policy(t, affinity.Policy{Session: &affinity.SessionAffinity{}})
		if target, reason := g.visit(t, p, from("K-Session", "alice")); store.swaps != c.swaps || reason != c.reason || target.Endpoint == "" {
			t.Errorf("%s: %v, %v after %d swaps, want an endpoint, %v after %d", name, target, reason, store.swaps, c.reason, c.swaps)
		}
	}
}

// The first requests to a store that has gone use up their time with asking it. What they were given is remembered here all the same:
// otherwise their sessions would move once endpoints come or go.
func TestRequestThatUsedUpItsTimeForTheStoreIsRememberedHere(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := &awaySoon{Store: binding.NewMemory(binding.MemoryOptions{}), hang: true}
		g := newGateway(t, binding.NewDegraded(store, binding.DegradedOptions{Failures: 100}))
		g.fill(100)
		p := policy(t, affinity.Policy{})
		first := make(map[string]affinity.Target)
		for _, id := range []string{"alice", "bob", "carol", "dave", "erin"} {
			first[id], _ = g.visit(t, p, from("K-Session", id))
		}
		g.members(1, "a", "b", "c", "d", "e", "f", "g", "h")
		store.hang = false
		for id, want := range first {
			if got, _ := g.visit(t, p, from("K-Session", id)); got != want {
				t.Errorf("%s when the store is back = %v, want %v as before", id, got, want)
			}
		}
	})
}
