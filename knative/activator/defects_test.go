package activator

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"knative.dev/pkg/apis"
	fakekube "knative.dev/pkg/client/injection/kube/client/fake"
	serving "knative.dev/serving/pkg/activator"
	v1 "knative.dev/serving/pkg/apis/serving/v1"
	fakeserving "knative.dev/serving/pkg/client/injection/client/fake"

	"github.com/limpet-project/limpet/affinity"
)

// Protects against prototype defects 13 and 14: a session's id led to the revision of another tenant that had the same one.
func TestEqualIDsOfTwoNamespacesAreTwoSessions(t *testing.T) {
	c := newCluster(t)
	c.revision("demo-00001", 0)
	c.pod("demo-00001", "pod-a", "pod-b")
	c.route(nil, share{"demo-00001", 100, ""})
	c.tenant("cart", "demo.cart.example.com", "demo-00001", "pod-x", "pod-y")
	a := c.activators(memory(), "activator-1")[0]
	a.knows("demo-00001", 2)
	a.eventually("the other tenant's pods are known", func() bool {
		s := a.table.Snapshot(affinity.ServiceName{Namespace: "cart", Name: "demo"})
		return s != nil && s.Revision("demo-00001") != nil && s.Revision("demo-00001").Pool.Ready() == 2
	})
	for i := range 20 {
		own := session(fmt.Sprintf("session-%d", i))
		other := session(fmt.Sprintf("session-%d", i))
		other.host, other.header[serving.RevisionHeaderNamespace] = "demo.cart.example.com", "cart"
		home, otherHome := a.get(own), a.get(other)
		if home != "pod-a" && home != "pod-b" || otherHome != "pod-x" && otherHome != "pod-y" {
			t.Errorf("session %d = %s in %s and %s in cart, want each at a pod of its own namespace", i, home, shop, otherHome)
		}
		if got, gotOther := a.get(own), a.get(other); got != home || gotOther != otherHome {
			t.Errorf("session %d afterwards = %s and %s, want %s and %s as before", i, got, gotOther, home, otherHome)
		}
		crossed := session(fmt.Sprintf("session-%d", i))
		crossed.host = "demo.cart.example.com" // the ingress says another namespace than the host's
		if got := a.get(crossed); got != "pod-a" && got != "pod-b" {
			t.Errorf("session %d with the other tenant's host = %s, want a pod of the namespace that the ingress says", i, got)
		}
	}
}

// tenant puts a Route and a revision with pods in force in another namespace.
func (c *cluster) tenant(namespace, host, revision string, uids ...string) {
	c.Helper()
	route := newRoute(nil, share{revision, 100, ""})
	route.Namespace, route.Status.URL, route.Status.Address = namespace, apis.HTTP(host), nil
	_, err := fakeserving.Get(c.ctx).ServingV1().Routes(namespace).Create(c.ctx, route, metav1.CreateOptions{})
	c.must(err)
	r := &v1.Revision{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: revision}}
	r.Spec.ContainerConcurrency, r.Spec.TimeoutSeconds = new(int64(0)), new(int64(30))
	_, err = fakeserving.Get(c.ctx).ServingV1().Revisions(namespace).Create(c.ctx, r, metav1.CreateOptions{})
	c.must(err)
	s := &corev1.Service{ObjectMeta: metav1.ObjectMeta{
		Namespace: namespace, Name: revision, Labels: map[string]string{"networking.internal.knative.dev/serviceType": "Public"},
	}}
	s.Spec.Ports = []corev1.ServicePort{{Name: "http", Port: 80}}
	_, err = fakekube.Get(c.ctx).CoreV1().Services(namespace).Create(c.ctx, s, metav1.CreateOptions{})
	c.must(err)
	for _, uid := range uids {
		p := &pod{uid: uid}
		p.Server = httptest.NewServer(p)
		c.Cleanup(p.Close)
		ip, port := split(c.TB, p.Listener.Addr().String())
		slice := &discoveryv1.EndpointSlice{
			ObjectMeta: metav1.ObjectMeta{
				Namespace: namespace, Name: uid, Labels: map[string]string{discoveryv1.LabelServiceName: revision + "-private"},
			},
			AddressType: discoveryv1.AddressTypeIPv4,
			Ports:       []discoveryv1.EndpointPort{{Name: new("http"), Port: &port}},
			Endpoints:   []discoveryv1.Endpoint{{Addresses: []string{ip}, TargetRef: &corev1.ObjectReference{Kind: "Pod", UID: types.UID(uid)}}},
		}
		_, err = fakekube.Get(c.ctx).DiscoveryV1().EndpointSlices(namespace).Create(c.ctx, slice, metav1.CreateOptions{})
		c.must(err)
	}
}

// A clerk is a pod that writes down what it is sent.
type clerk struct {
	mu       sync.Mutex
	requests []*http.Request
}

func (k *clerk) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.Header.Get("K-Network-Probe") != "" {
		io.WriteString(w, "queue")
		return
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.requests = append(k.requests, r)
}

// take returns what was written down since the last call.
func (k *clerk) take() []*http.Request {
	k.mu.Lock()
	defer k.mu.Unlock()
	taken := k.requests
	k.requests = nil
	return taken
}

// clerk starts a pod that writes down what it is sent, and lists it.
func (c *cluster) clerk(revision, uid string) *clerk {
	c.Helper()
	k := &clerk{}
	s := httptest.NewServer(k)
	c.Cleanup(s.Close)
	c.list(revision, uid, s.Listener.Addr().String())
	return k
}

// Protects against prototype defects 17 and 18: a header that a client could set had requests of another kind sent to the pod, on a path that
// an id could lead out of, and the session's header reached the pod twice, or for sessions that had none.
func TestAPodSeesWhatTheClientSentAndNothingElse(t *testing.T) {
	c := newCluster(t)
	c.revision("demo-00001", 0)
	k := c.clerk("demo-00001", "pod-a")
	c.route(map[string]string{
		"activator.knative.dev/sticky-session-header-name":  "K-Session",
		"activator.knative.dev/sticky-session-path-segment": "2",
	}, share{"demo-00001", 100, ""})
	a := c.activators(memory(), "activator-1")[0]
	a.knows("demo-00001", 1)
	for _, tt := range []struct {
		name string
		one  call
		want []string // K-Session as the pod sees it
	}{
		{"an id in the header", call{path: "/cart/1", header: map[string]string{"K-Session": "session-1"}}, []string{"session-1"}},
		{"an id in the path", call{path: "/cart/session-2/incr"}, nil},
		{"an id that looks like a way out", call{path: "/cart/..%2f..%2fadmin/incr"}, nil},
		{"a header of the prototype", call{path: "/cart/3", header: map[string]string{"K-Deactivate": "true"}}, nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			tt.one.revision = "demo-00001"
			if got, err := a.send(t.Context(), tt.one); err != nil || got.status != http.StatusOK {
				t.Fatalf("%+v = %v, %v, want 200", tt.one, got, err)
			}
			seen := k.take()
			if len(seen) != 1 {
				t.Fatalf("the pod saw %d requests, want 1", len(seen))
			}
			r := seen[0]
			if got := r.Header["K-Session"]; fmt.Sprint(got) != fmt.Sprint(tt.want) || r.Method != http.MethodGet || r.RequestURI != tt.one.path {
				t.Errorf("the pod saw %s %s with the sessions %q, want GET %s with %q", r.Method, r.RequestURI, got, tt.one.path, tt.want)
			}
			for name := range r.Header {
				if strings.HasPrefix(name, "Limpet-") {
					t.Errorf("the pod saw the header %s", name)
				}
			}
		})
	}
}

// A slow pod takes a while for each request, so that requests that it should not have at once meet there.
type slow struct{ inFlight, most, served atomic.Int64 }

func (s *slow) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.Header.Get("K-Network-Probe") != "" {
		io.WriteString(w, "queue")
		return
	}
	n := s.inFlight.Add(1)
	defer s.inFlight.Add(-1)
	for most := s.most.Load(); n > most && !s.most.CompareAndSwap(most, n); most = s.most.Load() {
	}
	time.Sleep(3 * time.Millisecond) // a test of what is right passes however long it takes
	s.served.Add(1)
}

// slow starts a slow pod and lists it.
func (c *cluster) slow(revision, uid string) *slow {
	c.Helper()
	p := &slow{}
	s := httptest.NewServer(p)
	c.Cleanup(s.Close)
	c.list(revision, uid, s.Listener.Addr().String())
	return p
}

// Protects against prototype defects 20 to 22: where the session and not the ingress had chosen the revision, requests came to activators that
// Serving had not meant for it, and each of them let in as many as all pods may have.
func TestTheLimitHoldsAtARevisionThatTheIngressDidNotChoose(t *testing.T) {
	for _, limit := range []int64{1, 3} {
		t.Run(fmt.Sprintf("containerConcurrency %d", limit), func(t *testing.T) {
			c := newCluster(t)
			c.revision("demo-00001", limit)
			c.revision("demo-00002", limit)
			pods := []*slow{c.slow("demo-00001", "pod-a"), c.slow("demo-00001", "pod-b")}
			c.pod("demo-00002", "pod-c")
			c.route(waits, share{"demo-00001", 99, ""}, share{"demo-00002", 1, ""})
			all := c.activators(memory(), "activator-1", "activator-2", "activator-3")
			for _, a := range all {
				a.knows("demo-00001", 2)
				a.knows("demo-00002", 1)
			}
			var senders sync.WaitGroup
			for i := range 120 {
				senders.Go(func() {
					one := session(fmt.Sprintf("session-%d", i%8))
					one.revision = "demo-00002"
					if got, err := all[i%len(all)].send(c.ctx, one); err != nil || got.status != http.StatusOK {
						t.Errorf("%+v = %v, %v, want 200", one, got, err)
					}
				})
			}
			senders.Wait()
			served := int64(0)
			for i, p := range pods {
				served += p.served.Load()
				if most := p.most.Load(); most > limit {
					t.Errorf("pod %d of demo-00001 had %d requests at once, want at most %d", i, most, limit)
				}
			}
			if served == 0 {
				t.Error("no session was on demo-00001, want nearly all")
			}
		})
	}
}

// Protects against prototype defect 23: requests of sessions did not count, so that new ones came to the pods that were busiest.
func TestNewSessionsKeepAwayFromABusyPod(t *testing.T) {
	c := newCluster(t)
	c.revision("demo-00001", 0)
	c.pod("demo-00001", "pod-a", "pod-b", "pod-c")
	c.route(nil, share{"demo-00001", 100, ""})
	a := c.activators(memory(), "activator-1")[0]
	a.knows("demo-00001", 3)
	var busy []call
	for i := 0; i < 60 && len(busy) < 8; i++ {
		if one := session(fmt.Sprintf("session-%d", i)); a.get(one) == "pod-a" {
			busy = append(busy, one)
		}
	}
	var held sync.WaitGroup
	for _, one := range busy {
		one.header["Hold"] = "1"
		held.Go(func() { _, _ = a.send(c.ctx, one) })
	}
	a.eventually("pod-a is busy", func() bool { return c.pods["pod-a"].inFlight.Load() == int64(len(busy)) })
	idle := c.activators(memory(), "activator-2")[0] // where no pod is busy
	idle.knows("demo-00001", 3)
	for i, late := 0, 0; late < 4; i++ { // so few that the sessions of the others do not count against them
		one := session(fmt.Sprintf("late-%d", i))
		if idle.get(one) != "pod-a" {
			continue
		}
		late++
		if got := a.get(one); got == "pod-a" {
			t.Errorf("new session %d = %s, which has %d requests while others have none", i, got, len(busy))
		}
	}
	close(c.pods["pod-a"].hold)
	held.Wait()
}

// Protects against prototype defect 26: a revision counted as valid as long as the object was there.
func TestARevisionThatCannotServeLosesItsSessions(t *testing.T) {
	ready := func(status corev1.ConditionStatus) func(*v1.Revision) {
		return func(r *v1.Revision) {
			r.Status.Conditions = append(r.Status.Conditions, apis.Condition{Type: v1.RevisionConditionReady, Status: status})
		}
	}
	for _, tt := range []struct {
		name string
		edit func(*v1.Revision)
		want string
	}{
		{"it has failed", ready(corev1.ConditionFalse), "pod-b"},
		{"it is being deleted", func(r *v1.Revision) { r.DeletionTimestamp, r.Finalizers = new(metav1.Now()), []string{"demo"} }, "pod-b"},
		{"nothing is known of it yet", ready(corev1.ConditionUnknown), "pod-a"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := newCluster(t)
			c.revision("demo-00001", 0)
			c.revision("demo-00002", 0)
			c.pod("demo-00001", "pod-a")
			c.pod("demo-00002", "pod-b")
			c.route(nil, share{"demo-00001", 50, ""}, share{"demo-00002", 50, ""})
			a := c.activators(memory(), "activator-1")[0]
			a.knows("demo-00001", 1)
			a.knows("demo-00002", 1)
			one := a.sessionAt("pod-a")
			client := fakeserving.Get(c.ctx).ServingV1().Revisions(shop)
			r, err := client.Get(c.ctx, "demo-00001", metav1.GetOptions{})
			c.must(err)
			tt.edit(r)
			r.ResourceVersion = "2"
			_, err = client.Update(c.ctx, r, metav1.UpdateOptions{})
			c.must(err)
			a.eventually("the informer has heard of it", func() bool {
				known, err := a.source.revision(types.NamespacedName{Namespace: shop, Name: "demo-00001"})
				return err == nil && known.ResourceVersion == "2"
			})
			if tt.want == "pod-b" {
				a.eventually("the session has moved", func() bool { return a.get(one) == "pod-b" })
				return
			}
			for range 5 {
				if got := a.get(one); got != "pod-a" {
					t.Errorf("the session = %s, want pod-a", got)
				}
			}
		})
	}
}

// sessionAt returns a session whose pod is that one.
func (a *activator) sessionAt(uid string) call {
	a.c.Helper()
	for i := range 200 {
		if one := session(fmt.Sprintf("session-%d", i)); a.get(one) == uid {
			return one
		}
	}
	a.c.Fatalf("none of 200 sessions is at %s", uid)
	return call{}
}

// Protects against prototype defects 30 and 32: a new pod at the address of one that went was taken for it, and nobody was told.
func TestANewPodAtAnOldAddressIsAnotherPod(t *testing.T) {
	c := newCluster(t)
	w := &witness{}
	c.observer = w
	c.revision("demo-00001", 0)
	c.pod("demo-00001", "pod-a")
	c.route(nil, share{"demo-00001", 100, ""})
	a := c.activators(memory(), "activator-1")[0]
	a.knows("demo-00001", 1)
	a.get(session("session-1"))
	a.eventually("the first request has ended", func() bool { _, ended := w.last(); return ended })
	c.unlist("demo-00001", "pod-a")
	a.knows("demo-00001", 0)
	c.list("demo-00001", "pod-b", c.pods["pod-a"].Listener.Addr().String())
	a.knows("demo-00001", 1)
	a.get(session("session-1"))
	a.eventually("the request has ended", func() bool { _, ended := w.last(); return ended })
	if got, _ := w.last(); got.Target.Endpoint != "pod-b" || got.Reason != affinity.ReasonEndpointGone {
		t.Errorf("the session afterwards = %v, %v, want pod-b, %v", got.Target, got.Reason, affinity.ReasonEndpointGone)
	}
}

// Protects against prototype defect 31: a pod that terminated vanished for its sessions at once.
func TestATerminatingPodKeepsItsSessionsAndGetsNoNewOnes(t *testing.T) {
	for _, limit := range []int64{0, 2} {
		t.Run(fmt.Sprintf("containerConcurrency %d", limit), func(t *testing.T) {
			c := newCluster(t)
			c.revision("demo-00001", limit)
			c.pod("demo-00001", "pod-a", "pod-b")
			c.route(nil, share{"demo-00001", 100, ""})
			all := c.activators(memory(), "activator-1", "activator-2")
			for _, a := range all {
				a.knows("demo-00001", 2)
			}
			one := all[0].sessionAt("pod-a")
			c.terminate("demo-00001", "pod-a")
			for _, a := range all {
				a.knows("demo-00001", 1)
				if got := a.get(one); got != "pod-a" {
					t.Errorf("the session through %s = %s, want pod-a as long as it serves", a.name, got)
				}
			}
			for i := range 20 {
				if got := all[i%2].get(session(fmt.Sprintf("new-%d", i))); got != "pod-b" {
					t.Errorf("a new session = %s, want pod-b", got)
				}
				if got := all[i%2].get(call{revision: "demo-00001"}); limit > 0 && got != "pod-b" {
					t.Errorf("a request without a session = %s, want pod-b", got)
				}
			}
		})
	}
}

// terminate has a pod end, as its slice says: it serves what it has, and is listed for others no longer.
func (c *cluster) terminate(revision, uid string) {
	c.Helper()
	client := fakekube.Get(c.ctx).DiscoveryV1().EndpointSlices(shop)
	s, err := client.Get(c.ctx, uid, metav1.GetOptions{})
	c.must(err)
	s = s.DeepCopy()
	s.ResourceVersion = "2"
	s.Endpoints[0].Conditions = discoveryv1.EndpointConditions{Ready: new(false), Serving: new(true), Terminating: new(true)}
	_, err = client.Update(c.ctx, s, metav1.UpdateOptions{})
	c.must(err)
	_, port := split(c.TB, c.pods[uid].Listener.Addr().String())
	c.removeEndpoint(revision, port)
}

// Protects against prototype defect 36: what an informer had not heard of yet was answered 404.
func TestWhatIsNotHeardOfYetIsNoReasonToRefuse(t *testing.T) {
	c := newCluster(t)
	c.revision("demo-00001", 0)
	c.pod("demo-00001", "pod-a")
	c.route(nil, share{"demo-00001", 1, ""}, share{"demo-00002", 99, ""}) // demo-00002 has just been made
	a := c.activators(memory(), "activator-1")[0]
	a.weighs("demo-00002", 99)
	a.knows("demo-00001", 1)
	for i := range 20 {
		for _, one := range []call{session(fmt.Sprintf("session-%d", i)), {revision: "demo-00001"}} {
			if got := a.get(one); got != "pod-a" {
				t.Errorf("%+v = %s, want pod-a, which the ingress chose", one, got)
			}
		}
	}
}

// Protects against prototype defects 37 and 43: the segments of a path were counted from 0, and of a path that was decoded before.
func TestTheSegmentsOfAPathAreThoseThatTheClientSent(t *testing.T) {
	c := newCluster(t)
	c.revision("demo-00001", 0)
	c.pod("demo-00001", "pod-a", "pod-b", "pod-c", "pod-d", "pod-e", "pod-f")
	c.route(map[string]string{"activator.knative.dev/sticky-session-path-segment": "2"}, share{"demo-00001", 100, ""})
	a := c.activators(memory(), "activator-1")[0]
	a.knows("demo-00001", 6)
	at := func(path string) string { return a.get(call{revision: "demo-00001", path: path}) }
	pods := make(map[string]bool)
	for i := range 40 {
		id := fmt.Sprintf("session %d/%d", i, i)
		home := at("/cart/" + url.PathEscape(id) + "/incr")
		pods[home] = true
		for _, first := range []string{"/order/", "/order%2Fnew/", "//"} {
			if path := first + url.PathEscape(id) + "/get?id=other"; at(path) != home {
				t.Errorf("%s is not at %s, want it there: its second segment is %q", path, home, id)
			}
		}
	}
	if len(pods) < 4 {
		t.Errorf("40 sessions are on %v, want them on all pods", pods)
	}
}

// Protects against prototype defects 38 and 41: an annotation that made no sense broke the service, or meant something else.
func TestWrongAnnotationsCostTheAffinityAndNothingElse(t *testing.T) {
	for _, wrong := range []map[string]string{
		{"activator.knative.dev/sticky-session-path-segment": "-1"},
		{"activator.knative.dev/sticky-session-path-segment": "0"},
		{"activator.knative.dev/sticky-session-path-segment": "two"},
		{"activator.knative.dev/sticky-session-header": "X-Session"},
		{"activator.knative.dev/sticky-session-header-name": "X Session"},
	} {
		t.Run(fmt.Sprint(wrong), func(t *testing.T) {
			c := newCluster(t)
			c.revision("demo-00001", 0)
			c.revision("demo-00002", 0)
			c.pod("demo-00001", "pod-a")
			c.pod("demo-00002", "pod-b")
			c.route(wrong, share{"demo-00001", 50, ""}, share{"demo-00002", 50, ""})
			a := c.activators(memory(), "activator-1")[0]
			for i := range 10 {
				one := session(fmt.Sprintf("session-%d", i))
				one.path = "/cart/1"
				for revision, want := range map[string]string{"demo-00001": "pod-a", "demo-00002": "pod-b"} {
					one.revision = revision
					if got := a.get(one); got != want {
						t.Errorf("session %d with %s = %s, want %s as the ingress says", i, revision, got, want)
					}
				}
			}
		})
	}
}

// Protects against prototype defects 15, 39 and 40: a fixed header went before the source that was configured, an annotation that yielded
// nothing kept others from being looked at, and one for sessions switched flows off. Ids of both kinds overwrote each other.
func TestTheConfiguredSourcesOfBothKindsCountAndNoOthers(t *testing.T) {
	c := newCluster(t)
	c.revision("demo-00001", 0)
	c.revision("demo-00002", 0)
	c.pod("demo-00001", "pod-a", "pod-b", "pod-c")
	c.pod("demo-00002", "pod-d", "pod-e", "pod-f")
	c.route(map[string]string{
		"activator.knative.dev/sticky-session-header-name":     "X-Cart",
		"activator.knative.dev/sticky-session-query-parameter": "cart",
		"activator.knative.dev/sticky-revision-header-name":    "X-User",
	}, share{"demo-00001", 50, ""}, share{"demo-00002", 50, ""})
	a := c.activators(memory(), "activator-1")[0]
	a.knows("demo-00001", 3)
	a.knows("demo-00002", 3)
	revisionOf := func(pod string) string {
		return map[bool]string{true: "demo-00001", false: "demo-00002"}[pod <= "pod-c"]
	}
	moved := make(map[string]bool) // by what does not count
	for i := range 12 {
		id := fmt.Sprintf("id-%d", i)
		header := func(name, other string) call {
			return call{revision: "demo-00001", path: "/", header: map[string]string{name: id, "K-Session": other, "K-Revision": other}}
		}
		byHeader, byQuery, flow := header("X-Cart", "1"), call{revision: "demo-00002", path: "/?cart=" + id}, header("X-User", "1")
		home := a.get(byHeader)
		if got := a.get(byQuery); got != home {
			t.Errorf("%s in the query = %s, want %s as in the header", id, got, home)
		}
		keeps := revisionOf(a.get(flow))
		for other := range 5 {
			if got := a.get(header("X-Cart", fmt.Sprint(other))); got != home {
				t.Errorf("%s with K-Session %d = %s, want %s", id, other, got, home)
			}
			flow := header("X-User", fmt.Sprint(other))
			flow.revision = fmt.Sprintf("demo-0000%d", 1+other%2)
			if got := revisionOf(a.get(flow)); got != keeps {
				t.Errorf("the flow %s with K-Session %d = %s, want %s", id, other, got, keeps)
			}
			plain := header("X-Nothing", id)
			plain.revision = fmt.Sprintf("demo-0000%d", 1+other%2)
			moved[revisionOf(a.get(plain))] = true
		}
		if got := a.get(byHeader); got != home {
			t.Errorf("%s after the flow of that id = %s, want %s", id, got, home)
		}
	}
	if len(moved) != 2 {
		t.Errorf("what has K-Session only was at %v, want it where the ingress says", moved)
	}
}

// Protects against prototype defects 22 and 46: what did not come to its end as it should kept its place at the pod, or never had one.
func TestAPlaceComesBackHoweverItsRequestEnds(t *testing.T) {
	c := newCluster(t)
	c.revision("demo-00001", 1)
	c.pod("demo-00001", "pod-a")
	c.route(waits, share{"demo-00001", 100, ""})
	all := c.activators(memory(), "activator-1", "activator-2")
	for _, a := range all {
		a.knows("demo-00001", 1)
	}
	held := session("session-1")
	held.header["Hold"] = "1"
	plain := call{revision: "demo-00001", header: map[string]string{"Hold": "1"}}
	for range 3 {
		for _, a := range all {
			for _, one := range []call{held, plain} {
				ctx, cancel := context.WithCancel(t.Context())
				ended := make(chan struct{})
				go func() {
					defer close(ended)
					_, _ = a.send(ctx, one)
				}()
				a.eventually("the request is at the pod", func() bool { return c.pods["pod-a"].inFlight.Load() == 1 })
				cancel()
				<-ended
				a.eventually("the pod is told", func() bool { return c.pods["pod-a"].inFlight.Load() == 0 })
				if got := a.get(session("session-1")); got != "pod-a" {
					t.Errorf("after a client went away = %s, want pod-a", got)
				}
			}
		}
	}
	if most := c.pods["pod-a"].most.Load(); most != 1 {
		t.Errorf("pod-a had %d requests at once, want 1", most)
	}
}
