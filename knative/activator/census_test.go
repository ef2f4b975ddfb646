package activator

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	fakekube "knative.dev/pkg/client/injection/kube/client/fake"
	fakeserving "knative.dev/serving/pkg/client/injection/client/fake"

	"github.com/limpet-project/limpet/affinity"
	"github.com/limpet-project/limpet/knative/policy"
)

// censuses are those of activators that reach each other.
func (c *cluster) censuses(all ...*activator) []*Census {
	c.Helper()
	var list []*Census
	var peers []peer
	for _, a := range all {
		census := NewCensus(CensusOptions{Source: a.source, Table: a.table, Peers: a.peers})
		address := c.listening(census.Handler(http.NotFoundHandler()))
		peers = append(peers, peer{name: a.name, url: "http://" + address})
		list = append(list, census)
	}
	for _, a := range all {
		a.peers.list.Store(&peers)
	}
	return list
}

// listening starts a server and returns where it is.
func (c *cluster) listening(h http.Handler) string {
	s := httptest.NewUnstartedServer(h)
	s.Config.Protocols = new(http.Protocols)
	s.Config.Protocols.SetUnencryptedHTTP2(true)
	s.Start()
	c.Cleanup(s.Close)
	return s.Listener.Addr().String()
}

// hold binds sessions to a pod of demo-00001.
func (a *activator) hold(pod string, sessions int) {
	a.table.Count(policy.ServiceName(shop, "demo", ""), affinity.Target{Revision: "demo-00001", Endpoint: pod}, sessions)
}

// counted returns what a census counts, as "pod sessions", by name.
func (c *cluster) counted(census *Census) map[string]string {
	c.Helper()
	pods, err := census.Count(c.ctx)
	c.must(err)
	counts := make(map[string]string)
	for _, p := range pods {
		counts[p.Name] = fmt.Sprintf("%s/%s %d", p.Namespace, p.Revision, p.Sessions)
		if p.Unknown {
			counts[p.Name] = "unknown"
		}
		if p.Fixed {
			counts[p.Name] += " fixed"
		}
	}
	return counts
}

// named gives the pod of a slice a name, which the harness leaves out.
func (c *cluster) named(uids ...string) {
	c.Helper()
	slices := fakekube.Get(c.ctx).DiscoveryV1().EndpointSlices(shop)
	for _, uid := range uids {
		s, err := slices.Get(c.ctx, uid, metav1.GetOptions{})
		c.must(err)
		s.Endpoints[0].TargetRef.Name = "demo-00001-deployment-" + uid
		_, err = slices.Update(c.ctx, s, metav1.UpdateOptions{})
		c.must(err)
	}
}

// bound is a Service whose sessions are remembered.
func (c *cluster) bound() {
	c.Helper()
	c.revision("demo-00001", 0)
	c.pod("demo-00001", "pod-a", "pod-b", "pod-c")
	c.named("pod-a", "pod-b", "pod-c")
	c.route(nil, share{"demo-00001", 100, ""})
}

func TestSessionsAreCountedOverAllActivators(t *testing.T) {
	c := newCluster(t)
	c.bound()
	all := c.activators(memory(), "activator-1", "activator-2", "activator-3")
	for _, a := range all {
		a.knows("demo-00001", 3)
	}
	list := c.censuses(all...)
	all[0].hold("pod-a", 2)
	all[1].hold("pod-a", 3)
	all[2].hold("pod-b", 40)
	want := map[string]string{
		"demo-00001-deployment-pod-a": "shop/demo-00001 5", "demo-00001-deployment-pod-b": "shop/demo-00001 40",
		"demo-00001-deployment-pod-c": "shop/demo-00001 0",
	}
	for i, census := range list {
		all[0].eventually("the pods have their names", func() bool { // two and one without a name are three as well
			counts := c.counted(census)
			_, nameless := counts[""]
			return len(counts) == 3 && !nameless
		})
		if diff := cmp.Diff(want, c.counted(census)); diff != "" {
			t.Errorf("as activator-%d counts (-want +got):\n%s", i+1, diff)
		}
	}
}

func TestSessionsAreUnknownUnlessAllActivatorsAnswer(t *testing.T) {
	c := newCluster(t)
	c.bound()
	all := c.activators(memory(), "activator-1", "activator-2")
	for _, a := range all {
		a.knows("demo-00001", 3)
	}
	list := c.censuses(all...)
	all[0].hold("pod-a", 2)
	good := *all[0].peers.all()
	listening := func(h http.HandlerFunc) string { return c.listening(h) }
	for _, tt := range []struct {
		name    string
		address string
	}{
		{"nobody listens", "127.0.0.1:1"},
		{"Serving's own activator answers", listening(http.NotFound)},
		{"what answers is no census", listening(func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "ok") })},
		{"it answers without end", listening(func(w http.ResponseWriter, _ *http.Request) {
			for range maxReport/1024 + 1 {
				io.WriteString(w, strings.Repeat(" ", 1024))
			}
			io.WriteString(w, "{}")
		})},
		{"it sends elsewhere", listening(func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, good[1].url+censusPath, http.StatusFound)
		})},
		{"it had too many pods", listening(func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, `{"pods":[],"cut":true}`) })},
	} {
		t.Run(tt.name, func(t *testing.T) {
			all[0].peers.list.Store(&[]peer{good[0], {name: "activator-2", url: "http://" + tt.address}})
			for name, got := range c.counted(list[0]) {
				if got != "unknown" {
					t.Errorf("Count() has %s of %s, want unknown", got, name)
				}
			}
		})
	}
	all[0].peers.list.Store(&good)
	all[0].eventually("it is known when all answer", func() bool {
		return c.counted(list[0])["demo-00001-deployment-pod-a"] == "shop/demo-00001 2"
	})
	others := good[1:]
	all[0].peers.list.Store(&others)
	if _, err := list[0].Count(c.ctx); err == nil {
		t.Error("Count() by an activator that is not listed is good, want an error: others may not be listed either")
	}
}

func TestWhoCannotSealLearnsNothing(t *testing.T) {
	c := newCluster(t)
	c.bound()
	all := c.activators(memory(), "activator-1", "activator-2")
	list := c.censuses(all...)
	all[0].hold("pod-a", 2)
	next := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusTeapot) })
	h := list[0].Handler(next)
	now := time.Now()
	seal := all[1].peers.seal
	foreign := newTestSealer(t, strings.Repeat("b", 32))
	for _, tt := range []struct {
		name, path, sealed string
		want               int
	}{
		{"sealed", censusPath, seal.seal(claim{Ask: askCensus, To: "activator-1"}, now), http.StatusOK},
		{"no header", censusPath, "", http.StatusTeapot},
		{"another path", "/incr", seal.seal(claim{Ask: askCensus, To: "activator-1"}, now), http.StatusTeapot},
		{"not sealed", censusPath, "activator-1", http.StatusForbidden},
		{"sealed with another secret", censusPath, foreign.seal(claim{Ask: askCensus, To: "activator-1"}, now), http.StatusForbidden},
		{"sealed long ago", censusPath, seal.seal(claim{Ask: askCensus, To: "activator-1"}, now.Add(-time.Hour)), http.StatusForbidden},
		{"sealed for another activator", censusPath, seal.seal(claim{Ask: askCensus, To: "activator-2"}, now), http.StatusForbidden},
		{"sealed for a place", censusPath, seal.seal(claim{Ask: askPlace, To: "activator-1", Pod: "pod-a"}, now), http.StatusForbidden},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := httptest.NewRequest(http.MethodGet, tt.path, nil)
			if tt.sealed != "" {
				r.Header.Set(headerCensus, tt.sealed)
			}
			w := httptest.NewRecorder()
			h.ServeHTTP(w, r)
			if w.Code != tt.want || w.Code == http.StatusForbidden && strings.Contains(w.Body.String(), "pod-a") {
				t.Errorf("%s = %d %q, want %d", tt.path, w.Code, w.Body.String(), tt.want)
			}
		})
	}
}

func TestOnlyPodsWithBoundSessionsAreCounted(t *testing.T) {
	c := newCluster(t)
	c.bound()
	a := c.activators(memory(), "activator-1")[0]
	a.knows("demo-00001", 3)
	census := NewCensus(CensusOptions{Source: a.source, Table: a.table})
	slices := fakekube.Get(c.ctx).DiscoveryV1().EndpointSlices(shop)
	all := map[string]string{
		"demo-00001-deployment-pod-a": "shop/demo-00001 0", "demo-00001-deployment-pod-b": "shop/demo-00001 0",
		"demo-00001-deployment-pod-c": "shop/demo-00001 0",
	}
	fixed := make(map[string]string)
	for name, count := range all {
		fixed[name] = count + " fixed"
	}
	for _, step := range []struct {
		name string
		do   func()
		want map[string]string
	}{
		{"all pods", func() {}, all},
		{"sessions that nobody remembers", func() {
			c.route(map[string]string{policy.Structured: "session: {mode: token, token: {cookie: shop}}"}, share{"demo-00001", 100, ""})
		}, map[string]string{}},
		{"flows alone", func() { c.route(map[string]string{policy.Structured: "revision: {}"}, share{"demo-00001", 100, ""}) }, map[string]string{}},
		{"sessions again", func() { c.route(nil, share{"demo-00001", 100, ""}) }, all},
		{"a user who says what his pods cost", func() {
			revisions := fakeserving.Get(c.ctx).ServingV1().Revisions(shop)
			r, err := revisions.Get(c.ctx, "demo-00001", metav1.GetOptions{})
			c.must(err)
			r.Annotations = map[string]string{corev1.PodDeletionCost: "7"}
			_, err = revisions.Update(c.ctx, r, metav1.UpdateOptions{})
			c.must(err)
		}, fixed},
		{"a pod that terminates", func() {
			for _, uid := range []string{"pod-a", "pod-b"} {
				s, err := slices.Get(c.ctx, uid, metav1.GetOptions{})
				c.must(err)
				s.Endpoints[0].Conditions.Terminating = new(true)
				_, err = slices.Update(c.ctx, s, metav1.UpdateOptions{})
				c.must(err)
			}
		}, map[string]string{"demo-00001-deployment-pod-c": "shop/demo-00001 0 fixed"}},
	} {
		step.do()
		a.eventually(step.name, func() bool { return cmp.Equal(c.counted(census), step.want) })
	}
}

func TestALargeCensusIsCut(t *testing.T) {
	all := make(sessions)
	for i := range maxReported + 1 {
		all[podKey{shop, "demo-00001", fmt.Sprintf("6f0c1d52-3b0e-4a53-9b0f-%012d", i)}] = 1
	}
	if got := all.report(); len(got.Pods) != maxReported || !got.Cut {
		t.Errorf("a report of %d pods has %d, cut %t, want %d and cut", len(all), len(got.Pods), got.Cut, maxReported)
	}
}

func TestACensusThatHangsEndsWithItsContext(t *testing.T) {
	c := newCluster(t)
	c.bound()
	all := c.activators(memory(), "activator-1", "activator-2")
	list := c.censuses(all...)
	asked := make(chan struct{}, 1)
	address := c.listening(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		asked <- struct{}{}
		<-r.Context().Done()
	}))
	good := *all[0].peers.all()
	all[0].peers.list.Store(&[]peer{good[0], {name: "activator-2", url: "http://" + address}})
	ctx, cancel := context.WithCancel(c.ctx)
	defer cancel()
	go func() { <-asked; cancel() }()
	pods, err := list[0].Count(ctx)
	c.must(err)
	for _, p := range pods {
		if !p.Unknown {
			t.Errorf("Count() knows %d sessions of %s, want unknown", p.Sessions, p.Name)
		}
	}
}

func FuzzReadReport(f *testing.F) {
	f.Add(`{"pods":[{"namespace":"shop","revision":"demo-00001","pod":"6f0c1d52","sessions":12}]}`)
	f.Add(`{"cut":true}`)
	f.Fuzz(func(t *testing.T, text string) {
		r, err := readReport(strings.NewReader(text))
		if err != nil {
			return
		}
		total := make(sessions)
		total.add(r)
		for pod, n := range total {
			if n < 0 {
				t.Errorf("readReport(%q) has %d sessions of %v, want none or more", text, n, pod)
			}
		}
	})
}
