package activator

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/types"
	"knative.dev/serving/pkg/queue"

	"github.com/limpet-project/limpet/affinity"
)

// Protects against prototype defects 20 to 23: the limit of a pod did not hold for requests with a session, nor over several activators.
func TestThePodsLimitHoldsOverTwoActivators(t *testing.T) {
	for _, limit := range []int64{0, 1, 10} {
		t.Run(fmt.Sprintf("containerConcurrency %d", limit), func(t *testing.T) {
			c := newCluster(t)
			c.revision("demo-00001", limit)
			c.pod("demo-00001", "pod-a", "pod-b", "pod-c")
			c.route(waits, share{"demo-00001", 100, ""})
			all := c.activators(memory(), "activator-1", "activator-2")
			for _, a := range all {
				a.knows("demo-00001", 3)
			}
			homes := c.load(all, 400)
			for id, pods := range homes {
				if id != "" && len(pods) != 1 {
					t.Errorf("session %q was on %v, want one pod", id, pods)
				}
			}
			for uid, p := range c.pods {
				if most := p.most.Load(); limit > 0 && most > limit {
					t.Errorf("%s had %d requests at once, want at most %d", uid, most, limit)
				}
			}
		})
	}
}

// load sends that many requests, some of 20 sessions and some of none, through all activators at once. It returns the pods of each session.
func (c *cluster) load(all []*activator, requests int) map[string]map[string]bool {
	c.Helper()
	var mu sync.Mutex
	homes := make(map[string]map[string]bool)
	var workers sync.WaitGroup
	for w := range 40 {
		workers.Go(func() {
			for i := w; i < requests; i += 40 {
				one := session(fmt.Sprintf("session-%d", i%20))
				if i%5 == 0 {
					one = call{revision: "demo-00001"}
				}
				if i%3 == 0 {
					one.body = "amount=1"
				}
				got, err := all[i/7%len(all)].send(c.ctx, one)
				if err != nil || got.status != http.StatusOK {
					c.Errorf("%+v = %v, %v, want 200", one, got, err)
					continue
				}
				mu.Lock()
				id := one.header["K-Session"]
				if homes[id] == nil {
					homes[id] = make(map[string]bool)
				}
				homes[id][got.pod] = true
				mu.Unlock()
			}
		})
	}
	workers.Wait()
	return homes
}

// remoteSession returns a session whose pod another activator than a counts for.
func (a *activator) remoteSession() (call, string) {
	a.c.Helper()
	for i := range 100 {
		one := session(fmt.Sprintf("session-%d", i))
		if home := a.get(one); !a.peers.counts(home) {
			return one, home
		}
	}
	a.c.Fatalf("100 sessions are at pods of %s", a.name)
	return call{}, ""
}

func TestARequestIsReportedWhereItCameIn(t *testing.T) {
	c := newCluster(t)
	c.revision("demo-00001", 2)
	c.pod("demo-00001", "pod-a", "pod-b", "pod-c", "pod-d", "pod-e", "pod-f")
	c.route(nil, share{"demo-00001", 100, ""})
	all := c.activators(memory(), "activator-1", "activator-2")
	for _, a := range all {
		a.knows("demo-00001", 6)
	}
	one, home := all[0].remoteSession()
	if got := all[0].get(one); got != home {
		t.Errorf("the session again = %s, want %s", got, home)
	}
	if n := all[1].stats.Load(); n != 0 {
		t.Errorf("the owner told the autoscaler of %d requests that were forwarded to it, want none", n)
	}
	all[0].eventually("who took the requests in has told the autoscaler", func() bool { return all[0].stats.Load() > 0 })
}

func TestASessionStaysWhenTheActivatorThatCountsForItsPodDies(t *testing.T) {
	c := newCluster(t)
	c.revision("demo-00001", 2)
	c.pod("demo-00001", "pod-a", "pod-b", "pod-c", "pod-d", "pod-e", "pod-f")
	c.route(nil, share{"demo-00001", 100, ""})
	all := c.activators(memory(), "activator-1", "activator-2", "activator-3")
	for _, a := range all {
		a.knows("demo-00001", 6)
	}
	one, home := all[0].remoteSession()
	owner, _ := all[0].peers.owner(home, nil)
	for _, a := range all {
		if a.name == owner.name {
			a.stop() // it is listed still
		}
	}
	for range 5 {
		got := all[0].get(one)
		one.body = "amount=1" // the first request found the connections to the owner broken
		if got != home {
			t.Errorf("the session without its owner = %s, want %s", got, home)
		}
	}
}

// Protects against prototype defects 17 and 18: what clients said in internal headers counted.
func TestAClientsClaimIsRemoved(t *testing.T) {
	c := newCluster(t)
	c.revision("demo-00001", 2)
	c.pod("demo-00001", "pod-a")
	c.route(nil, share{"demo-00001", 100, ""})
	all := c.activators(memory(), "activator-1", "activator-2")
	for _, a := range all {
		a.knows("demo-00001", 1)
	}
	foreign, err := affinity.NewDigester([]byte("another secret of thirty-two bytes"))
	c.must(err)
	forged := newSealer(foreign).seal(claim{Ask: askPlace, From: "activator-1", Pod: "pod-a", Limit: 2}, time.Now())
	for _, value := range []string{"x", "", ".", forged} {
		one := session("session-1")
		one.path, one.header[headerPlace], one.header["Limpet-Debug"] = placePath, value, "1"
		for _, a := range all {
			if got := a.get(one); got != "pod-a" {
				t.Errorf("with the claim %q = %s, want pod-a", value, got)
			}
		}
	}
	for _, a := range all {
		a.eventually(a.name+" has told the autoscaler of its clients' requests", func() bool { return a.stats.Load() > 0 })
	}
}

// Protects against prototype defect 24: a request that waited for its pod held up requests for others.
func TestABusyPodHoldsUpNobodyElse(t *testing.T) {
	c := newCluster(t)
	c.revision("demo-00001", 1)
	c.pod("demo-00001", "pod-a", "pod-b")
	c.route(waits, share{"demo-00001", 100, ""})
	all := c.activators(memory(), "activator-1", "activator-2")
	homes := make(map[string]call)
	for _, a := range all {
		a.knows("demo-00001", 2)
	}
	for i := 0; len(homes) < 2; i++ {
		one := session(fmt.Sprintf("session-%d", i))
		homes[all[0].get(one)] = one
	}
	held := session(homes["pod-a"].header["K-Session"])
	held.header["Hold"] = "1"
	var waiting sync.WaitGroup
	for i := range 21 {
		waiting.Go(func() {
			if got, err := all[i%2].send(c.ctx, held); err != nil || got.pod != "pod-a" {
				t.Errorf("a request that waited for pod-a = %v, %v, want pod-a", got, err)
			}
		})
	}
	all[0].eventually("pod-a is busy", func() bool { return c.pods["pod-a"].inFlight.Load() == 1 })
	for range 10 {
		for _, a := range all {
			others := []call{homes["pod-b"]}
			if a.peers.counts("pod-b") { // the other one has no pod but pod-a of its own for requests without a session, as in Serving
				others = append(others, call{revision: "demo-00001"})
			}
			for _, one := range others {
				if got, err := a.send(c.ctx, one); err != nil || got.pod != "pod-b" {
					t.Errorf("%v through %s while pod-a is busy = %v, %v, want pod-b", one.header, a.name, got, err)
				}
			}
		}
	}
	close(c.pods["pod-a"].hold)
	waiting.Wait()
	if most := c.pods["pod-a"].most.Load(); most != 1 {
		t.Errorf("pod-a had %d requests at once, want 1", most)
	}
}

// Protects against prototype defect 25: there was no rule for a pod that is full.
func TestAFullPodIsAnswered503WhereThePolicyRejects(t *testing.T) {
	c := newCluster(t)
	c.revision("demo-00001", 1)
	c.pod("demo-00001", "pod-a")
	c.route(map[string]string{"affinity.limpet.dev/policy": "session: {overflow: reject}"}, share{"demo-00001", 100, ""})
	all := c.activators(memory(), "activator-1", "activator-2")
	for _, a := range all {
		a.knows("demo-00001", 1)
		a.get(session("session-1"))
		a.free("pod-a") // so that the next one finds it free
	}
	held := session("session-1")
	held.header["Hold"] = "1"
	done := make(chan struct{})
	go func() {
		defer close(done)
		_, _ = all[0].send(c.ctx, held)
	}()
	all[0].eventually("pod-a is busy", func() bool { return c.pods["pod-a"].inFlight.Load() == 1 })
	for _, a := range all {
		got, err := a.send(t.Context(), session("session-1"))
		if err != nil || got.status != 503 || got.header.Get("Retry-After") != "1" || got.header.Get(headerPlace) != "" {
			t.Errorf("%s while pod-a is full = %v, %v, %v, want 503, Retry-After and nothing between activators", a.name, got, got.header, err)
		}
	}
	close(c.pods["pod-a"].hold)
	<-done
}

// Protects against prototype defect 50: a pod that was dead was tried until its Endpoints changed.
func TestAPodThatCannotBeReachedIsReplaced(t *testing.T) {
	for _, limit := range []int64{0, 2} {
		t.Run(fmt.Sprintf("containerConcurrency %d", limit), func(t *testing.T) {
			c := newCluster(t)
			c.revision("demo-00001", limit)
			c.pod("demo-00001", "pod-a", "pod-b", "pod-c")
			for _, p := range c.pods { // what is written to a connection whose end was not heard of yet is not sent twice
				p.Config.SetKeepAlivesEnabled(false)
			}
			c.route(nil, share{"demo-00001", 100, ""})
			a := c.activators(memory(), "activator-1")[0]
			a.knows("demo-00001", 3)
			one := session("session-1")
			dead := a.get(one)
			c.dies(dead)
			one.body = strings.Repeat("amount=1&", 1000)
			next := a.get(one)
			if next == dead {
				t.Fatalf("after its pod died the session = %s, want another", next)
			}
			for range 5 {
				if got := a.get(one); got != next {
					t.Errorf("the session then = %s, want %s", got, next)
				}
			}
			if limit > 0 {
				for range 10 {
					a.get(call{revision: "demo-00001"})
				}
			}
		})
	}
}

// dies ends a pod, which is listed still. Its port stays taken until the test ends, by a client's connection, so that nobody else answers there.
func (c *cluster) dies(uid string) {
	c.Helper()
	elsewhere, err := net.Listen("tcp", "127.0.0.1:0")
	c.must(err)
	c.Cleanup(func() { elsewhere.Close() })
	at := c.pods[uid].Listener.Addr()
	c.pods[uid].Close()
	client := net.Dialer{LocalAddr: at, Control: func(_, _ string, raw syscall.RawConn) error {
		return raw.Control(func(fd uintptr) { // connections that have ended may have the port still; if this fails, so does the bind
			_ = syscall.SetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_REUSEADDR, 1)
		})
	}}
	conn, err := client.DialContext(c.ctx, "tcp", elsewhere.Addr().String())
	c.must(err)
	c.Cleanup(func() { conn.Close() })
}

func TestQueuesAreBounded(t *testing.T) {
	var q queues
	key := types.NamespacedName{Namespace: shop, Name: "demo-00001"}
	for range maxWaiting {
		if !q.join(key) {
			t.Fatal("join() = false before the bound")
		}
	}
	if err := q.wait(key, func() error { return nil }); !errors.Is(err, queue.ErrRequestQueueFull) {
		t.Errorf("wait() = %v, want %v", err, queue.ErrRequestQueueFull)
	}
	other := types.NamespacedName{Namespace: shop, Name: "demo-00002"}
	if err := q.wait(other, func() error { return nil }); err != nil {
		t.Errorf("wait() for another revision = %v, want nil", err)
	}
	for range maxWaiting {
		q.leave(key)
	}
	if len(q.waiting) != 0 {
		t.Errorf("waiting afterwards = %v, want none", q.waiting)
	}
}

// A thrower is a Throttler under test.
type thrower interface {
	Try(ctx context.Context, revision types.NamespacedName, function func(string, bool) error) error
}

// TestRequestsWithoutAffinityFareAsInServing gives the same events to Serving's own Throttler and to ours, in front of one that is never
// asked, and compares how many requests each lets in, where to, and how it refuses the others.
func TestRequestsWithoutAffinityFareAsInServing(t *testing.T) {
	for _, limit := range []int64{0, 1, 10} {
		t.Run(fmt.Sprintf("containerConcurrency %d", limit), func(t *testing.T) {
			c := newCluster(t)
			c.revision("demo-00001", limit)
			c.route(nil, share{"demo-00001", 100, ""})
			a := c.activators(memory(), "activator-1")[0]
			a.weighs("demo-00001", 100)
			stock := a.stock
			ours := &throttler{source: a.source, table: a.table, stock: stock}
			for step, change := range []func() int{
				func() int { return 0 },
				func() int { c.pod("demo-00001", "pod-a"); return 1 },
				func() int { c.pod("demo-00001", "pod-b", "pod-c"); return 3 },
				func() int { c.unlist("demo-00001", "pod-b"); return 2 },
				func() int { c.unlist("demo-00001", "pod-a"); c.unlist("demo-00001", "pod-c"); return 0 },
			} {
				pods := change()
				a.knows("demo-00001", pods)
				want := a.settled(stock, pods, limit)
				if got := c.flood(ours, limit, want.entered); got != want {
					t.Errorf("step %d: ours %s, Serving's %s", step, got, want)
				}
			}
			unknown := types.NamespacedName{Namespace: shop, Name: "demo-00009"}
			for _, one := range []thrower{stock, ours} {
				err := one.Try((&trip{}).in(t.Context()), unknown, func(string, bool) error { return nil })
				if err == nil || !strings.Contains(err.Error(), "not found") {
					t.Errorf("%T of a revision that does not exist = %v, want not found", one, err)
				}
			}
		})
	}
}

// settled floods Serving's Throttler until it has heard of all pods and lets in what they may have, and returns what it did then.
func (a *activator) settled(stock thrower, pods int, limit int64) (got flooded) {
	a.c.Helper()
	may := floodOf(limit)
	if limit > 0 || pods == 0 {
		may = pods * int(limit)
	}
	a.eventually("Serving's Throttler has heard of the pods", func() bool {
		got = a.c.flood(stock, limit, 0)
		return got.pods == pods && got.entered == may
	})
	return got
}

// floodOf is how many requests a flood has: twice as many as three pods may have.
func floodOf(limit int64) int { return int(max(30, 6*limit)) }

// A surge is the context of a flood: it ends as one whose time is over, when the test says so.
type surge struct {
	context.Context
	over chan struct{}
}

// Deadline implements context.Context.
func (surge) Deadline() (time.Time, bool) { return time.Time{}, false }

// Done implements context.Context.
func (s surge) Done() <-chan struct{} { return s.over }

// Err implements context.Context.
func (s surge) Err() error {
	select {
	case <-s.over:
		return context.DeadlineExceeded
	default:
		return nil
	}
}

// A flooded is what a Throttler did with more requests than its pods may have.
type flooded struct {
	pods, entered, refused int
	why                    string
}

func (f flooded) String() string {
	return fmt.Sprintf("let %d in to %d pods and refused %d: %s", f.entered, f.pods, f.refused, f.why)
}

// flood tries that many requests at once. Who gets in stays until all others were refused, which they are 100 ms after as many are in as
// may be: however slow the machine is, none of those is late, and one too many had its chance.
func (c *cluster) flood(one thrower, limit int64, may int) (f flooded) {
	ctx := surge{c.ctx, make(chan struct{})}
	var mu sync.Mutex
	pods := make(map[string]bool)
	entered := make(chan struct{}, floodOf(limit))
	var decided, all sync.WaitGroup
	over := make(chan struct{})
	for range floodOf(limit) {
		decided.Add(1)
		all.Go(func() {
			settle := sync.OnceFunc(decided.Done)
			err := one.Try((&trip{answer: http.Header{}}).in(ctx), types.NamespacedName{Namespace: shop, Name: "demo-00001"}, func(at string, _ bool) error {
				mu.Lock()
				pods[at] = true
				f.entered++
				mu.Unlock()
				entered <- struct{}{}
				settle()
				<-over
				return nil
			})
			settle()
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				f.refused++
				f.why = err.Error()
			}
		})
	}
	c.await(entered, may)
	time.AfterFunc(100*time.Millisecond, func() { close(ctx.over) })
	decided.Wait()
	<-ctx.over
	close(over)
	all.Wait()
	f.pods = len(pods)
	return f
}

// await waits until so many have entered, or for a minute: the caller sees that fewer did.
func (c *cluster) await(entered <-chan struct{}, many int) {
	late := time.NewTimer(time.Minute)
	defer late.Stop()
	for range many {
		select {
		case <-entered:
		case <-late.C:
			return
		}
	}
}
