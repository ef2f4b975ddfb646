package activator

import (
	"context"
	"fmt"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	fakekube "knative.dev/pkg/client/injection/kube/client/fake"

	"github.com/limpet-project/limpet/endpoint"
)

// A traffic is requests of sessions and of none that go on until it ends.
type traffic struct {
	c       *cluster
	workers sync.WaitGroup
	stop    context.CancelFunc

	sent   atomic.Int64
	mu     sync.Mutex
	homes  map[string]map[string]bool // pods of each session
	failed []string
}

// traffic sends through those activators, more at once than the pods may have.
func (c *cluster) traffic(through ...*activator) *traffic {
	ctx, cancel := context.WithCancel(c.ctx)
	f := &traffic{c: c, stop: cancel, homes: make(map[string]map[string]bool)}
	for w := range 24 {
		f.workers.Go(func() {
			for i := w; ctx.Err() == nil; i += 7 {
				one := session(fmt.Sprintf("session-%d", i%12))
				if i%4 == 0 {
					one = call{revision: "demo-00001", header: make(map[string]string)}
				}
				if i%3 == 0 {
					one.body = "amount=1"
				}
				one.header["Last"] = "3ms"
				f.note(one, through[(i/7)%len(through)])
			}
		})
	}
	c.Cleanup(func() { cancel(); f.workers.Wait() })
	return f
}

func (f *traffic) note(one call, through *activator) {
	got, err := through.send(f.c.ctx, one) // it ends by itself: a request that is cut short would go on at the pod for a moment
	f.mu.Lock()
	defer f.mu.Unlock()
	f.sent.Add(1)
	id := one.header["K-Session"]
	switch {
	case err != nil || got.status != http.StatusOK:
		f.failed = append(f.failed, fmt.Sprintf("%v through %s: %v, %v", one.header, through.name, got, err))
	case id != "" && f.homes[id] == nil:
		f.homes[id] = map[string]bool{got.pod: true}
	case id != "":
		f.homes[id][got.pod] = true
	}
}

// more waits until so many more requests have ended.
func (f *traffic) more(n int64) {
	f.c.Helper()
	begin := f.sent.Load()
	for end := time.Now().Add(time.Minute); f.sent.Load() < begin+n; time.Sleep(2 * time.Millisecond) {
		if time.Now().After(end) {
			f.c.Fatalf("in a minute %d requests have ended, want %d", f.sent.Load()-begin, n)
		}
	}
}

// end stops the traffic and checks it: nothing failed, sessions stayed, and no pod had more than its limit.
func (f *traffic) end(limit int64) {
	f.c.Helper()
	f.stop()
	f.workers.Wait()
	for i, text := range f.failed {
		if i < 5 {
			f.c.Error(text)
		}
	}
	for id, pods := range f.homes {
		if len(pods) != 1 {
			f.c.Errorf("session %s was on %v, want one pod", id, pods)
		}
	}
	for uid, p := range f.c.pods {
		if most := p.most.Load(); most > limit {
			f.c.Errorf("%s had %d requests at once, want at most %d", uid, most, limit)
		}
	}
	f.c.Logf("%d requests", f.sent.Load())
}

// join starts one more activator and waits until all know it.
func (c *cluster) join(name string, revision string, pods int, others []*activator) *activator {
	c.Helper()
	a := c.activator(others[0].store, name, true)
	a.knows(revision, pods)
	for _, one := range append(others, a) {
		one.eventually("all activators are known", func() bool { return len(*one.peers.list.Load()) == len(others)+1 })
	}
	return a
}

// unready says that an activator takes no requests any longer; it serves what comes all the same.
func (a *activator) unready() {
	a.c.Helper()
	client := fakekube.Get(a.c.ctx).DiscoveryV1().EndpointSlices("knative-serving")
	s, err := client.Get(a.c.ctx, a.name, metav1.GetOptions{})
	a.c.must(err)
	s = s.DeepCopy()
	s.ResourceVersion = "2"
	s.Endpoints[0].Conditions.Ready, s.Endpoints[0].Conditions.Terminating = new(false), new(true)
	_, err = client.Update(a.c.ctx, s, metav1.UpdateOptions{})
	a.c.must(err)
}

func TestThePodsLimitHoldsWhenActivatorsComeAndGo(t *testing.T) {
	for _, limit := range []int64{1, 10} {
		t.Run(fmt.Sprintf("containerConcurrency %d", limit), func(t *testing.T) {
			c := newCluster(t)
			c.revision("demo-00001", limit)
			c.pod("demo-00001", "pod-a", "pod-b", "pod-c", "pod-d")
			c.route(waits, share{"demo-00001", 100, ""})
			all := c.activators(memory(), "activator-1", "activator-2")
			for _, a := range all {
				a.knows("demo-00001", 4)
			}
			a := all[0]
			f := c.traffic(a)
			f.more(100)
			third := c.join("activator-3", "demo-00001", 4, all)
			g := c.traffic(third)
			f.more(100)
			all[1].kill()
			f.more(100)
			fourth := c.join("activator-4", "demo-00001", 4, []*activator{a, all[1], third})
			f.more(100)
			third.unready()
			a.eventually("activator-3 is not ready", func() bool { return len(*a.peers.list.Load()) == 3 })
			f.more(100)
			h := c.traffic(fourth)
			h.more(50)
			for _, one := range []*traffic{f, g, h} {
				one.end(limit)
			}
		})
	}
}

// TestAnActivatorThatComesCountsWhatOthersHave holds a request at a pod while the count goes to an activator that comes, back to one that
// stays because that one goes, and lets nothing else in all the time.
func TestAnActivatorThatComesCountsWhatOthersHave(t *testing.T) {
	c := newCluster(t)
	c.revision("demo-00001", 1)
	pods := make([]string, 12)
	for i := range pods {
		pods[i] = fmt.Sprintf("pod-%d", i)
	}
	c.pod("demo-00001", pods...)
	c.route(waits, share{"demo-00001", 100, ""})
	all := c.activators(memory(), "activator-1", "activator-2")
	for _, a := range all {
		a.knows("demo-00001", len(pods))
	}
	next := &Peers{o: PeersOptions{PodName: "activator-3"}}
	next.list.Store(&[]peer{{name: "activator-1"}, {name: "activator-2"}, {name: "activator-3"}})
	var held call
	home := ""
	for i := 0; home == "" || next.owned(home) != "activator-3"; i++ { // a pod that the third will count for
		held = session(fmt.Sprintf("session-%d", i))
		home = all[0].get(held)
	}
	quick := session(held.header["K-Session"])
	held.header["Hold"] = "1"
	var waiting sync.WaitGroup
	through := func(a *activator, one call) {
		waiting.Go(func() {
			if got, err := a.send(c.ctx, one); err != nil || got.pod != home {
				t.Errorf("%v through %s = %v, %v, want %s", one.header, a.name, got, err, home)
			}
		})
	}
	through(all[0], held)
	all[0].eventually("the request is at the pod", func() bool { return c.pods[home].inFlight.Load() == 1 })
	third := c.join("activator-3", "demo-00001", len(pods), all)
	for i, a := range []*activator{third, all[0], all[1]} {
		if _, err := a.peers.seat(c.ctx, home, 1, 0); err != endpoint.ErrBusy {
			t.Errorf("a place at once by %s = %v, want %v", a.name, err, endpoint.ErrBusy)
		}
		if n, _ := third.peers.ledger.state(home); n != 1 {
			t.Errorf("activator-3 counts %d at step %d, want the request that was there", n, i)
		}
	}
	third.unready()
	all[1].eventually("activator-3 is not ready", func() bool { return len(*all[1].peers.list.Load()) == 2 })
	for _, a := range all {
		if _, err := a.peers.seat(c.ctx, home, 1, 0); err != endpoint.ErrBusy {
			t.Errorf("a place at once by %s, when activator-3 has gone, = %v, want %v", a.name, err, endpoint.ErrBusy)
		}
		through(a, quick)
	}
	close(c.pods[home].hold)
	waiting.Wait()
	if most := c.pods[home].most.Load(); most != 1 {
		t.Errorf("the pod had %d requests at once, want 1", most)
	}
}

// TestAPlaceGivenWhileTheCountGoesOnIsCounted lets an activator that has answered who begins to count have a place of the one that counted,
// which has not been asked yet.
func TestAPlaceGivenWhileTheCountGoesOnIsCounted(t *testing.T) {
	guest, before, next := newTestPeers(t, "activator-1", nil), newTestPeers(t, "activator-2", nil), newTestPeers(t, "activator-3", nil)
	pod := "pod-0"
	for i := 0; score("activator-3", pod) < max(score("activator-2", pod), score("activator-1", pod)); i++ {
		pod = fmt.Sprintf("pod-%d", i)
	}
	answered, given := make(chan struct{}), make(chan struct{})
	first := sync.OnceFunc(func() { close(answered) })
	list := []peer{
		guest.listenWith(t, nil, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			guest.Handler(http.NotFoundHandler()).ServeHTTP(w, r)
			first()
		})),
		before.listenWith(t, nil, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if c, err := before.seal.open(r.Header.Get(headerPlace), time.Now()); err == nil && c.Ask == askTake {
				<-given
			}
			before.Handler(http.NotFoundHandler()).ServeHTTP(w, r)
		})),
		next.listen(t, nil),
	}
	for _, p := range []*Peers{guest, before, next} {
		p.known.Store(&list)
		p.list.Store(&list)
	}
	account := before.ledger.open(pod)
	if _, taken := before.ledger.take(account, before.ledger.now(account), 0); !taken {
		t.Fatal("take() = false, want activator-2 to count")
	}
	busy := make(chan error, 1)
	go func() {
		s, err := next.seat(t.Context(), pod, 1, 0)
		s.leave()
		busy <- err
	}()
	<-answered
	s, _, err := guest.lease(t.Context(), guest.ledger.open(pod), list[1], claim{Ask: askPlace, From: "activator-1", Pod: pod, Limit: 1})
	close(given)
	if err != nil || s == nil {
		t.Fatalf("a place of activator-2, which counts still, = %v, %v, want one", s, err)
	}
	if err := <-busy; err != endpoint.ErrBusy {
		t.Errorf("a place of activator-3 meanwhile = %v, want %v", err, endpoint.ErrBusy)
	}
	s.leave()
	last, err := next.seat(t.Context(), pod, 1, time.Minute)
	if err != nil || last == nil {
		t.Errorf("a place of activator-3 afterwards = %v, %v, want one", last, err)
	}
	last.leave()
}

// Others may have read of an activator before it has read of them.
func TestAnActivatorThatKnowsNobodyYetGivesNoPlaces(t *testing.T) {
	one, two := newTestPeers(t, "activator-1", nil), newTestPeers(t, "activator-2", nil)
	list := []peer{one.listen(t, nil), two.listen(t, nil)}
	only := list[1:] // counts for all pods
	one.known.Store(&list)
	one.list.Store(&only)
	held, err := one.seat(t.Context(), "pod-a", 1, 0)
	if err != nil || held == nil {
		t.Fatalf("a place while activator-2 knows nobody = %v, %v, want one that activator-1 counts", held, err)
	}
	if n, _ := two.ledger.state("pod-a"); n != 0 {
		t.Errorf("activator-2 counts %d before it knows whom to ask, want 0", n)
	}
	two.known.Store(&list)
	two.list.Store(&only)
	if _, err := one.seat(t.Context(), "pod-a", 1, 0); err != endpoint.ErrBusy {
		t.Errorf("a place while the first is taken = %v, want %v", err, endpoint.ErrBusy)
	}
	held.leave()
}

// Requests that came by another activator go on when the one dies that counts for their pod, and the next one counts them.
func TestWhatIsUnderWaySurvivesTheActivatorThatCounts(t *testing.T) {
	c := newCluster(t)
	c.revision("demo-00001", 1)
	c.pod("demo-00001", "pod-a", "pod-b", "pod-c", "pod-d", "pod-e", "pod-f")
	c.route(nil, share{"demo-00001", 100, ""})
	all := c.activators(memory(), "activator-1", "activator-2", "activator-3")
	for _, a := range all {
		a.knows("demo-00001", 6)
	}
	held, home := all[0].remoteSession()
	held.body, held.header["Hold"] = "amount=1", "1"
	answers := make(chan answer, 1)
	go func() {
		got, err := all[0].send(c.ctx, held)
		if err != nil {
			t.Errorf("the request under way = %v, want an answer", err)
		}
		answers <- got
	}()
	all[0].eventually("the request is at the pod", func() bool { return c.pods[home].inFlight.Load() == 1 })
	var left *activator
	for _, a := range all {
		if a.name == all[0].peers.owned(home) {
			a.kill()
		} else if a != all[0] {
			left = a
		}
	}
	for _, a := range []*activator{left, all[0]} {
		if _, err := a.peers.seat(c.ctx, home, 1, 0); err != endpoint.ErrBusy {
			t.Errorf("a place at once by %s = %v, want %v", a.name, err, endpoint.ErrBusy)
		}
	}
	close(c.pods[home].hold)
	if got := <-answers; got.status != http.StatusOK || got.pod != home {
		t.Errorf("the request under way = %v, want 200 %s", got, home)
	}
	left.eventually("its end is known", func() bool {
		s, err := left.peers.seat(c.ctx, home, 1, 0)
		s.leave()
		return err == nil
	})
}
