package binding_test

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/limpet-project/limpet/binding"
)

func TestTwoGatewaysThatMovedASessionAlikeWhileTheStoreWasAwayKeepItThere(t *testing.T) {
	for _, emptied := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			r := newRemote(time.Now)
			var gateways [2]*rig
			for i := range gateways {
				n := binding.NewNear(r.gateway(), binding.NearOptions{})
				d := binding.NewDegraded(n, binding.DegradedOptions{})
				run(t, n)
				run(t, d)
				gateways[i] = &rig{t, r, n, d, r.gateway()}
			}
			synctest.Wait()
			const sessions = 2000
			id := func(i int) string { return fmt.Sprintf("s-%d", i) }
			for i := range sessions {
				mustSwap(t, gateways[0].degraded, session(id(i)), unbound, pod1)
				wantTarget(t, gateways[1].degraded, session(id(i)), pod1)
			}
			gateways[0].fail(refuses)
			gateways[1].fail(refuses)
			if emptied {
				r.empty()
			}
			for i := range sessions { // pod1 is gone; some sessions move at one gateway, some at both
				for g := range gateways {
					if i%3 != g {
						k := session(id(i))
						mustSwap(t, gateways[g].degraded, k, wantTarget(t, gateways[g].degraded, k, pod1).Version, pod2)
					}
				}
			}
			r.set(works)
			for range 200 {
				time.Sleep(10 * time.Millisecond)
				for i := 0; i < sessions; i += 97 {
					for g := range gateways {
						if gateways[g].degraded.State().Open {
							continue
						}
						if b, ok := gateways[g].degraded.Peek(session(id(i))); ok && b.Target != pod2 && i%3 != g {
							t.Fatalf("gateway %d, %s, emptied %v: Peek = %+v, want %v or nothing", g, id(i), emptied, b, pod2)
						}
						b, err := gateways[g].degraded.Get(t.Context(), session(id(i)))
						if err != nil || b.Target != pod2 && i%3 != g {
							t.Fatalf("gateway %d, %s, emptied %v: %+v, %v, want %v", g, id(i), emptied, b, err, pod2)
						}
					}
				}
			}
			time.Sleep(10 * time.Second)
			for i := range sessions {
				for g := range gateways {
					wantTarget(t, gateways[g].degraded, session(id(i)), pod2)
				}
			}
		})
	}
}
