package activator

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/limpet-project/limpet/binding"
)

func memory() binding.Store { return binding.NewMemory(binding.MemoryOptions{}) }

// Protects against prototype defects 1, 20 and 21: sessions went to other pods as soon as there were two activators.
func TestASessionIsOnOnePodThroughAnyActivator(t *testing.T) {
	c := newCluster(t)
	c.revision("demo-00001", 0)
	c.revision("demo-00002", 0)
	c.pod("demo-00001", "pod-a", "pod-b", "pod-c")
	c.pod("demo-00002", "pod-d", "pod-e", "pod-f")
	c.route(nil, share{"demo-00001", 50, ""}, share{"demo-00002", 50, ""})
	all := c.activators(memory(), "activator-1", "activator-2")
	for _, a := range all {
		a.knows("demo-00001", 3)
		a.knows("demo-00002", 3)
	}
	pods := make(map[string]int)
	for i := range 60 {
		one := session(fmt.Sprintf("session-%d", i))
		home := all[i%2].get(one)
		pods[home]++
		one.revision = "demo-00002" // the ingress' split says something else each time
		for _, a := range all {
			if got := a.get(one); got != home {
				t.Errorf("%s through %s = %s, want %s", one.header, a.name, got, home)
			}
		}
	}
	if len(pods) != 6 {
		t.Errorf("60 sessions are on %v, want them on all 6 pods", pods)
	}
}

// Protects against prototype defects 16 and 28: a tag's host or header was overridden, and any client's ids counted.
func TestAnExplicitTagIsNeverOverridden(t *testing.T) {
	c := newCluster(t)
	c.revision("demo-00001", 0)
	c.revision("demo-00002", 0)
	c.pod("demo-00001", "pod-a")
	c.pod("demo-00002", "pod-b")
	c.route(nil, share{"demo-00001", 100, ""}, share{"demo-00002", 0, "blue"})
	a := c.activators(memory(), "activator-1")[0]
	a.knows("demo-00001", 1)
	a.knows("demo-00002", 1)
	if got := a.get(session("session-1")); got != "pod-a" {
		t.Fatalf("the session = %s, want pod-a", got)
	}
	for _, h := range []string{tagHost, "blue-demo.shop.svc.cluster.local", "blue-demo.shop.svc", "blue-demo.shop"} {
		tagged := session("session-1")
		tagged.host, tagged.revision = h, "demo-00002"
		if got := a.get(tagged); got != "pod-b" {
			t.Errorf("the session at %s = %s, want pod-b", h, got)
		}
	}
	if got := a.get(session("session-1")); got != "pod-a" {
		t.Errorf("the session afterwards = %s, want pod-a as before", got)
	}
	a.source.byHeader.Store(true)
	byHeader := session("session-1")
	byHeader.revision, byHeader.header["Knative-Serving-Tag"] = "demo-00002", "blue"
	if got := a.get(byHeader); got != "pod-b" {
		t.Errorf("the session with the tag in a header = %s, want pod-b", got)
	}
	byHeader.revision, byHeader.header["Knative-Serving-Tag"] = "demo-00001", "green"
	if got := a.get(byHeader); got != "pod-a" {
		t.Errorf("the session with a tag that does not exist = %s, want pod-a", got)
	}
}

// Protects against prototype defects 26, 27 and 29: weights did not count, and a revision that left the split kept its clients.
func TestARevisionThatLeavesTheSplitLosesItsSessions(t *testing.T) {
	c := newCluster(t)
	c.revision("demo-00001", 0)
	c.revision("demo-00002", 0)
	c.pod("demo-00001", "pod-a")
	c.pod("demo-00002", "pod-b")
	c.route(nil, share{"demo-00001", 100, ""}, share{"demo-00002", 0, ""})
	a := c.activators(memory(), "activator-1")[0]
	a.knows("demo-00001", 1)
	for i := range 10 {
		if got := a.get(session(fmt.Sprintf("session-%d", i))); got != "pod-a" {
			t.Fatalf("session %d = %s, want pod-a", i, got)
		}
	}
	c.route(nil, share{"demo-00001", 50, ""}, share{"demo-00002", 50, ""})
	a.weighs("demo-00001", 50)
	a.knows("demo-00002", 1)
	if got := a.get(session("session-1")); got != "pod-a" {
		t.Errorf("a session while its revision keeps a share = %s, want pod-a", got)
	}
	c.route(nil, share{"demo-00001", 0, ""}, share{"demo-00002", 100, ""})
	a.weighs("demo-00002", 100)
	for i := range 10 {
		if got := a.get(session(fmt.Sprintf("session-%d", i))); got != "pod-b" {
			t.Errorf("session %d after the weights changed = %s, want pod-b", i, got)
		}
	}
}

// Protects against prototype defects 26, 35 and 36: a revision that was gone, or an informer that lagged, made for 404.
func TestADeletedRevisionMovesItsSessions(t *testing.T) {
	c := newCluster(t)
	c.revision("demo-00001", 0)
	c.revision("demo-00002", 0)
	c.pod("demo-00001", "pod-a")
	c.pod("demo-00002", "pod-b")
	c.route(nil, share{"demo-00001", 100, ""}, share{"demo-00002", 0, ""})
	a := c.activators(memory(), "activator-1")[0]
	a.knows("demo-00001", 1)
	if got := a.get(session("session-1")); got != "pod-a" {
		t.Fatalf("the session = %s, want pod-a", got)
	}
	c.route(nil, share{"demo-00001", 1, ""}, share{"demo-00002", 99, ""})
	a.weighs("demo-00002", 99)
	a.knows("demo-00002", 1)
	c.deleteRevision("demo-00001")
	a.eventually("the session is on pod-b", func() bool {
		one := session("session-1")
		one.revision = "demo-00002"
		return a.get(one) == "pod-b" // it is 200 all the time
	})
}

// Protects against prototype defects 13 and 14: a session of one Route led to another Route's revision, of any tenant.
func TestWhatNoRouteOfTheNamespaceHasPassesUntouched(t *testing.T) {
	c := newCluster(t)
	c.revision("demo-00001", 0)
	c.revision("demo-00002", 0)
	c.pod("demo-00001", "pod-a")
	c.pod("demo-00002", "pod-b")
	c.route(nil, share{"demo-00001", 100, ""}, share{"demo-00002", 0, ""})
	a := c.activators(memory(), "activator-1")[0]
	a.knows("demo-00001", 1)
	for name, one := range map[string]call{
		"a host that no Route has": {host: "cart.shop.example.com", revision: "demo-00002", header: map[string]string{"K-Session": "session-1"}},
		"no session":               {revision: "demo-00002"},
	} {
		if got := a.get(one); got != "pod-b" {
			t.Errorf("%s = %s, want pod-b as the headers say", name, got)
		}
	}
	c.route(map[string]string{"affinity.limpet.dev/policy": "off"}, share{"demo-00001", 100, ""}, share{"demo-00002", 0, ""})
	a.eventually("the Route has no affinity", func() bool { return len(a.source.index.Load().hosts) == 0 })
	off := session("session-1")
	off.revision = "demo-00002"
	if got := a.get(off); got != "pod-b" {
		t.Errorf("without affinity = %s, want pod-b as the headers say", got)
	}
}

// Protects against prototype defects 16, 37 to 41 and 43: ids were taken as they came.
func TestAnIDThatCannotBeUsedIsRefused(t *testing.T) {
	c := newCluster(t)
	c.revision("demo-00001", 0)
	c.pod("demo-00001", "pod-a")
	c.route(map[string]string{"activator.knative.dev/sticky-session-path-segment": "2"}, share{"demo-00001", 100, ""})
	a := c.activators(memory(), "activator-1")[0]
	a.knows("demo-00001", 1)
	got, err := a.send(t.Context(), call{revision: "demo-00001", path: "/cart/%zz"})
	if err == nil {
		t.Fatalf("a path that does not decode = %v: expected the client to refuse it", got)
	}
	long := make([]byte, 1100)
	for i := range long {
		long[i] = 'a'
	}
	got, err = a.send(t.Context(), call{revision: "demo-00001", path: "/cart/" + string(long)})
	if err != nil || got.status != 400 || got.header.Get(headerReason) != "bad-id" {
		t.Errorf("an id of 1100 bytes = %v, %v, want 400 bad-id", got, err)
	}
}

// Protects against prototype defect 42: clients without an id had no session.
func TestATokenIsSetAndNotShownToThePod(t *testing.T) {
	c := newCluster(t)
	c.revision("demo-00001", 0)
	c.pod("demo-00001", "pod-a", "pod-b", "pod-c")
	c.route(map[string]string{"affinity.limpet.dev/policy": "session: {mode: token}"}, share{"demo-00001", 100, ""})
	all := c.activators(memory(), "activator-1")
	a := all[0]
	a.knows("demo-00001", 3)
	first, err := a.send(t.Context(), call{revision: "demo-00001"})
	if err != nil || first.status != 200 || first.header.Get("Set-Cookie") == "" {
		t.Fatalf("the first request = %v, %v, %v, want 200 and a cookie", first, first.header, err)
	}
	cookie, _, _ := cut(first.header.Get("Set-Cookie"))
	for range 10 {
		got, err := a.send(t.Context(), call{revision: "demo-00001", header: map[string]string{"Cookie": "theme=dark; " + cookie}})
		if err != nil || got.pod != first.pod || got.header.Get("Cookies") != "theme=dark" {
			t.Errorf("with the token = %v, the pod saw %q, want %s and no token", got, got.header.Get("Cookies"), first.pod)
		}
	}
}

func cut(cookie string) (pair, rest string, found bool) {
	for i := range cookie {
		if cookie[i] == ';' {
			return cookie[:i], cookie[i:], true
		}
	}
	return cookie, "", false
}

func TestAColdRevisionIsWaitedForAndItsFirstPodBindsTheSession(t *testing.T) {
	c := newCluster(t)
	for name, limit := range map[string]int64{"demo-00001": 0, "demo-00002": 1} {
		c.revision(name, limit)
	}
	c.route(nil, share{"demo-00001", 100, ""}, share{"demo-00002", 0, "blue"})
	a := c.activators(memory(), "activator-1")[0]
	a.weighs("demo-00001", 100)
	waiting := session("session-1")
	tagged := session("session-1")
	tagged.host, tagged.revision = tagHost, "demo-00002"
	plain := call{host: tagHost, revision: "demo-00002"}
	answers := make(chan answer, 3)
	for _, one := range []call{waiting, tagged, plain} {
		go func() {
			got, err := a.send(t.Context(), one)
			if err != nil {
				t.Errorf("%+v = %v, want no error", one, err)
			}
			answers <- got
		}()
	}
	a.eventually("the autoscaler was told of both revisions", func() bool { return a.stats.Load() >= 2 })
	c.pod("demo-00001", "pod-a")
	c.pod("demo-00002", "pod-b")
	for range 3 {
		select {
		case got := <-answers:
			if got.status != 200 {
				t.Errorf("a request that waited = %v, want 200", got)
			}
		case <-time.After(time.Minute):
			t.Fatal("a request still waits although there is a pod")
		}
	}
	c.pod("demo-00001", "pod-c", "pod-d")
	a.knows("demo-00001", 3)
	if got := a.get(waiting); got != "pod-a" {
		t.Errorf("the session afterwards = %s, want pod-a", got)
	}
}

// Protects against prototype defect 4: a request that could not be placed spun, and did not end with its client.
func TestAWaitForAPodEndsWithTheClient(t *testing.T) {
	c := newCluster(t)
	c.revision("demo-00001", 1)
	c.route(nil, share{"demo-00001", 100, ""})
	a := c.activators(memory(), "activator-1")[0]
	a.weighs("demo-00001", 100)
	for _, one := range []call{session("session-1"), {revision: "demo-00001"}} {
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		got, err := a.send(ctx, one)
		cancel()
		if err == nil {
			t.Errorf("%+v without a pod = %v, want the client's own time-out", one, got)
		}
	}
}
