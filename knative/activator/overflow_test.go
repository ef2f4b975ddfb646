package activator

import (
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/limpet-project/limpet/affinity"
	"github.com/limpet-project/limpet/knative/policy"
)

// free waits until no activator counts a request at the pod: a client may have its answer before.
func (a *activator) free(home string) {
	a.c.Helper()
	a.eventually("no request is at "+home, func() bool {
		for _, one := range a.c.activating {
			if one.peers != nil {
				if n, _ := one.peers.ledger.state(home); n != 0 {
					return false
				}
			}
			r := one.table.Snapshot(policy.ServiceName(shop, "demo", "")).Revision("demo-00001")
			for i := range r.Pool.Endpoints {
				if e := &r.Pool.Endpoints[i]; e.Name == home && one.table.Load(e).InFlight != 0 {
					return false
				}
			}
		}
		return true
	})
}

// holdAt sends a request that stays at its pod, and waits until it is there. The function ends all that are held at the pod.
func (a *activator) holdAt(home string, one call) (end func()) {
	a.c.Helper()
	held := call{revision: one.revision, host: one.host, header: map[string]string{"Hold": "1"}}
	for name, value := range one.header {
		held.header[name] = value
	}
	a.free(home)
	p, before := a.c.pods[home], a.c.pods[home].inFlight.Load()
	var sent sync.WaitGroup
	sent.Go(func() {
		if got, err := a.send(a.c.ctx, held); err != nil || got.pod != home {
			a.c.Errorf("the request that is held = %v, %v, want %s", got, err, home)
		}
	})
	a.eventually("the request is at the pod", func() bool { return p.inFlight.Load() > before })
	end = sync.OnceFunc(func() { close(p.hold); sent.Wait() })
	a.c.Cleanup(end)
	return end
}

// Protects against prototype defect 25: there was no rule for a pod that is full, and none for one that is full by another activator.
func TestARequestGoesElsewhereOnceIfItsPodIsFullByAnotherActivator(t *testing.T) {
	c := newCluster(t)
	c.revision("demo-00001", 1)
	c.pod("demo-00001", "pod-a", "pod-b", "pod-c", "pod-d", "pod-e", "pod-f")
	c.route(map[string]string{"affinity.limpet.dev/policy": "session: {overflow: spill, queueTimeout: 10m}"}, share{"demo-00001", 100, ""})
	all := c.activators(memory(), "activator-1", "activator-2")
	for _, a := range all {
		a.knows("demo-00001", 6)
	}
	one, home := all[0].remoteSession()
	end := all[1].holdAt(home, one)
	spilled := one
	spilled.body = strings.Repeat("amount=1&", 20_000)
	for range 3 {
		begin := time.Now()
		got, err := all[0].send(c.ctx, spilled)
		if err != nil || got.status != http.StatusOK || got.pod == home || got.header.Get(headerReason) != "overflow" {
			t.Errorf("while its pod is full = %v, reason %q, %v, want 200 of another pod than %s, overflow", got, got.header.Get(headerReason), err, home)
		}
		if took := time.Since(begin); took > time.Minute {
			t.Errorf("it took %v, want it to wait for nothing", took)
		}
	}
	end()
	all[0].free(home)
	got, err := all[0].send(c.ctx, one)
	if err != nil || got.pod != home || got.header.Get(headerReason) != "" {
		t.Errorf("afterwards = %v, reason %q, %v, want %s and no reason", got, got.header.Get(headerReason), err, home)
	}
}

func TestASessionThatMayNotWaitIsRefusedAtOnceByAnyActivator(t *testing.T) {
	for _, overflow := range []affinity.Overflow{affinity.OverflowSpill, affinity.OverflowReject} {
		t.Run(string(overflow), func(t *testing.T) {
			c := newCluster(t)
			c.revision("demo-00001", 1)
			c.pod("demo-00001", "pod-a")
			c.route(map[string]string{"affinity.limpet.dev/policy": fmt.Sprintf("session: {overflow: %s}", overflow)}, share{"demo-00001", 100, ""})
			all := c.activators(memory(), "activator-1", "activator-2", "activator-3")
			for _, a := range all {
				a.knows("demo-00001", 1)
			}
			all[0].holdAt("pod-a", session("session-1"))
			for _, a := range all {
				got, err := a.send(c.ctx, session("session-1"))
				if err != nil || got.status != 503 || got.header.Get(headerReason) != "busy" || got.header.Get("Retry-After") == "" {
					t.Errorf("through %s = %v, %v, %v, want 503 busy and when to come again", a.name, got, got.header, err)
				}
			}
		})
	}
}

// A flow is bound to a revision: that one pod is full is no reason to wait while another one is free.
func TestAFlowTakesAnyFreePodOfItsRevision(t *testing.T) {
	c := newCluster(t)
	c.revision("demo-00001", 1)
	c.revision("demo-00002", 1)
	c.pod("demo-00001", "pod-a", "pod-b", "pod-c", "pod-d")
	c.pod("demo-00002", "pod-e", "pod-f", "pod-g", "pod-h")
	c.route(nil, share{"demo-00001", 50, ""}, share{"demo-00002", 50, ""})
	a := c.activators(memory(), "activator-1")[0]
	a.knows("demo-00001", 4)
	a.knows("demo-00002", 4)
	flow := call{revision: "demo-00001", header: map[string]string{"K-Revision": "flow-1"}}
	first := a.get(flow)
	revision, pods := "demo-00001", []string{"pod-a", "pod-b", "pod-c", "pod-d"}
	if first >= "pod-e" {
		revision, pods = "demo-00002", []string{"pod-e", "pod-f", "pod-g", "pod-h"}
	}
	var sent sync.WaitGroup
	held := call{revision: "demo-00001", header: map[string]string{"K-Revision": "flow-1", "Hold": "1"}}
	for range pods {
		sent.Go(func() {
			if got, err := a.send(c.ctx, held); err != nil || got.status != http.StatusOK {
				t.Errorf("a request of the flow = %v, %v, want 200", got, err)
			}
		})
	}
	a.eventually("each pod of the revision has one", func() bool {
		for _, uid := range pods {
			if c.pods[uid].inFlight.Load() != 1 {
				return false
			}
		}
		return true
	})
	got := make(chan string, 1)
	sent.Go(func() { got <- a.get(flow) })
	a.eventually("one more waits for any of them", func() bool {
		var all int64
		pool := a.table.Snapshot(policy.ServiceName(shop, "demo", "")).Revision(revision).Pool
		for i := range pool.Endpoints {
			all += a.table.Load(&pool.Endpoints[i]).InFlight
		}
		return all == 5
	})
	close(c.pods[pods[2]].hold)
	if pod := <-got; pod != pods[2] {
		t.Errorf("it went to %s, want %s, which is free", pod, pods[2])
	}
	for _, uid := range pods {
		if uid != pods[2] {
			close(c.pods[uid].hold)
		}
	}
	sent.Wait()
}

// Protects against prototype defects 32 and 49: a client could not know that its session had lost its pod.
func TestTheAnswerSaysWhyASessionMoved(t *testing.T) {
	c := newCluster(t)
	c.revision("demo-00001", 0)
	c.pod("demo-00001", "pod-a", "pod-b")
	c.route(nil, share{"demo-00001", 100, ""})
	a := c.activators(memory(), "activator-1")[0]
	a.knows("demo-00001", 2)
	expect := func(step, want string) string {
		t.Helper()
		got, err := a.send(c.ctx, session("session-1"))
		if err != nil || got.header.Get(headerReason) != want {
			t.Errorf("%s = %v, reason %q, %v, want %q", step, got, got.header.Get(headerReason), err, want)
		}
		return got.pod
	}
	home := expect("the first request", "")
	expect("the second", "")
	c.unlist("demo-00001", home)
	a.knows("demo-00001", 1)
	expect("the first without its pod", "endpoint-gone")
	expect("the one after", "")
}
