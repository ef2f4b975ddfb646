package activator

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	netheader "knative.dev/networking/pkg/http/header"
	activatorhandler "knative.dev/serving/pkg/activator/handler"
	v1 "knative.dev/serving/pkg/apis/serving/v1"
	fakeserving "knative.dev/serving/pkg/client/injection/client/fake"
	fakerevisions "knative.dev/serving/pkg/client/injection/informers/serving/v1/revision/fake"

	"github.com/limpet-project/limpet/endpoint"
)

// early starts a pod and lists it as not Ready.
func (c *cluster) early(revision, uid string, silent bool) *pod {
	c.Helper()
	p := c.start(uid)
	p.silent.Store(silent)
	c.listAs(revision, uid, p.Listener.Addr().String(), false)
	return p
}

func TestASessionStartsOnAPodThatAnswersBeforeItIsReadyAndStays(t *testing.T) {
	for _, limit := range []int64{0, 10} {
		t.Run(fmt.Sprintf("containerConcurrency %d", limit), func(t *testing.T) {
			c := newCluster(t)
			c.revision("demo-00001", limit)
			c.route(nil, share{"demo-00001", 100, ""})
			a := c.activators(memory(), "activator-1")[0]
			first := make(chan string, 1)
			go func() {
				got, err := a.send(c.ctx, session("user-00001"))
				first <- fmt.Sprint(got.status, " ", got.pod, " ", err)
			}()
			c.early("demo-00001", "pod-a", false) // a cold start: the request waits for it
			if got, want := <-first, "200 pod-a <nil>"; got != want {
				t.Fatalf("the session's first request = %s, want %s: the pod answers probes", got, want)
			}
			c.becomes("demo-00001", "pod-a", true)
			c.pod("demo-00001", "pod-b", "pod-c")
			a.knows("demo-00001", 3)
			for range 5 {
				if got := a.get(session("user-00001")); got != "pod-a" {
					t.Fatalf("the session = %s after its pod became Ready, want pod-a", got)
				}
			}
		})
	}
}

func TestAPodThatFailsItsProbeGetsNothingUntilItAnswers(t *testing.T) {
	c := newCluster(t)
	c.revision("demo-00001", 0)
	c.pod("demo-00001", "pod-a")
	silent := c.early("demo-00001", "pod-b", true)
	c.route(nil, share{"demo-00001", 100, ""})
	a := c.activators(memory(), "activator-1")[0]
	a.knows("demo-00001", 1)
	for i := range 20 {
		if got := a.get(session(fmt.Sprintf("user-%05d", i))); got != "pod-a" {
			t.Fatalf("a new session = %s, want pod-a, which is Ready", got)
		}
	}
	silent.silent.Store(false)
	a.knows("demo-00001", 2)
}

func TestASessionStaysOnAPodThatIsReadyNoLongerAsLongAsItAnswers(t *testing.T) {
	c := newCluster(t)
	c.revision("demo-00001", 0)
	c.pod("demo-00001", "pod-a", "pod-b")
	c.route(nil, share{"demo-00001", 100, ""})
	a := c.activators(memory(), "activator-1")[0]
	a.knows("demo-00001", 2)
	home := a.get(session("user-00001"))
	early := func() int {
		a.source.prober.mu.Lock()
		defer a.source.prober.mu.Unlock()
		return len(a.source.prober.early)
	}
	c.becomes("demo-00001", home, false)
	a.eventually("the pod is known to be Ready no longer", func() bool { return early() == 1 })
	for end := time.Now().Add(500 * time.Millisecond); time.Now().Before(end); {
		if got := a.get(session("user-00001")); got != home {
			t.Fatalf("the session = %s while its pod answers probes, want %s", got, home)
		}
	}
	c.becomes("demo-00001", home, true)
	a.eventually("the pod is known to be Ready", func() bool { return early() == 0 })
	c.pods[home].silent.Store(true)
	c.becomes("demo-00001", home, false)
	a.knows("demo-00001", 1)
	if got := a.get(session("user-00001")); got == home {
		t.Errorf("the session = %s, which is not Ready and fails its probe, want the other pod", got)
	}
}

func TestPodsThatOnlyTheKubeletCanProbeAreNotUsedEarly(t *testing.T) {
	exec := &corev1.Probe{ProbeHandler: corev1.ProbeHandler{Exec: &corev1.ExecAction{Command: []string{"true"}}}}
	get := &corev1.Probe{ProbeHandler: corev1.ProbeHandler{HTTPGet: &corev1.HTTPGetAction{Path: "/ready"}}}
	port := []corev1.ContainerPort{{ContainerPort: 8080}}
	for _, tt := range []struct {
		name       string
		containers []corev1.Container
		want       bool
	}{
		{"readiness over HTTP", []corev1.Container{{ReadinessProbe: get}}, true},
		{"readiness by exec", []corev1.Container{{ReadinessProbe: exec}}, false},
		{"a startup probe", []corev1.Container{{StartupProbe: get}}, false},
		{"a sidecar with readiness by exec", []corev1.Container{{Ports: port}, {ReadinessProbe: exec}}, true},
		{"a sidecar with a startup probe", []corev1.Container{{Ports: port}, {StartupProbe: get}}, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			spec := v1.RevisionSpec{PodSpec: corev1.PodSpec{Containers: tt.containers}}
			if got := answersForAll(&spec); got != tt.want {
				t.Errorf("answersForAll(%s) = %v, want %v", tt.name, got, tt.want)
			}
		})
	}
	c := newCluster(t)
	c.revision("demo-00001", 0)
	r, err := fakeserving.Get(c.ctx).ServingV1().Revisions(shop).Get(c.ctx, "demo-00001", metav1.GetOptions{})
	c.must(err)
	r = r.DeepCopy()
	r.Spec.Containers[0].StartupProbe = get
	_, err = fakeserving.Get(c.ctx).ServingV1().Revisions(shop).Update(c.ctx, r, metav1.UpdateOptions{})
	c.must(err)
	c.eventually("the informer has heard of the startup probe", func() bool { // else the pod is used as one without it
		known, err := fakerevisions.Get(c.ctx).Lister().Revisions(shop).Get("demo-00001")
		return err == nil && known.Spec.Containers[0].StartupProbe != nil
	})
	c.early("demo-00001", "pod-a", false)
	c.route(nil, share{"demo-00001", 100, ""})
	a := c.activators(memory(), "activator-1")[0]
	ctx, cancel := context.WithTimeout(c.ctx, 500*time.Millisecond)
	defer cancel()
	if got, err := a.send(ctx, session("user-00001")); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a session on a pod with a startup probe = %v, %v, want it to wait until the pod is Ready", got, err)
	}
	c.becomes("demo-00001", "pod-a", true)
	if got := a.get(session("user-00001")); got != "pod-a" {
		t.Errorf("a session on a pod that is Ready = %s, want pod-a", got)
	}
}

// A kubelet is pods in virtual time, as their probes see them.
type kubelet struct {
	mu      sync.Mutex
	answers map[string]bool // by address
	probes  map[string]int
}

// count returns how often a pod was probed.
func (k *kubelet) count(address string) int {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.probes[address]
}

func (k *kubelet) set(address string, answers bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.answers[address] = answers
}

func (k *kubelet) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.Header.Get(netheader.ProbeKey) != "queue" || r.URL.Path != "/healthz" {
		return nil, fmt.Errorf("%s %s is no probe", r.Method, r.URL)
	}
	k.mu.Lock()
	k.probes[r.URL.Host]++
	answers, listens := k.answers[r.URL.Host]
	k.mu.Unlock()
	if !listens {
		<-r.Context().Done()
		return nil, r.Context().Err()
	}
	resp := &http.Response{StatusCode: http.StatusServiceUnavailable, Body: http.NoBody, Request: r}
	if answers {
		resp.StatusCode, resp.Body = http.StatusOK, io.NopCloser(strings.NewReader("queue"))
	}
	return resp, nil
}

func TestProbesComeAsOftenAsInServingAndEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := &kubelet{answers: map[string]bool{"10.0.0.1:8012": false}, probes: make(map[string]int)}
		key := types.NamespacedName{Namespace: shop, Name: "demo-00001"}
		var found atomic.Int32
		p := newProber(Probing{Transport: k, Timeout: 300 * time.Millisecond, Frequency: 200 * time.Millisecond}, false,
			func(types.NamespacedName) { found.Add(1) })
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan struct{})
		go func() { p.run(ctx); close(ended) }()
		var before []endpoint.Member
		look := func(pods ...endpoint.Member) []endpoint.Member {
			p.admit(key, &v1.Revision{}, pods, before)
			before = slices.Clone(pods)
			return pods
		}
		one := endpoint.Member{Name: "pod-a", Address: "10.0.0.1:8012", NotReady: true}
		hangs := endpoint.Member{Name: "pod-b", Address: "10.0.0.2:8012", NotReady: true}
		look(one, hangs)
		time.Sleep(2*time.Second + 10*time.Millisecond)
		if got := k.count(one.Address); got != 11 {
			t.Errorf("probes of a pod that fails in 2 s = %d, want 11", got)
		}
		if got := k.count(hangs.Address); got != 6 {
			t.Errorf("probes of a pod that hangs in 2 s = %d, want 6: one takes 300 ms, and two never run at once", got)
		}
		k.set(one.Address, true)
		time.Sleep(200 * time.Millisecond)
		if got := look(one); got[0].NotReady || found.Load() != 1 {
			t.Errorf("a pod that answers = %+v, told %d times, want it ready, told once", got[0], found.Load())
		}
		n := k.count(one.Address)
		time.Sleep(time.Minute)
		if got := k.count(one.Address) - n; got != 0 {
			t.Errorf("probes of a pod after it answered = %d, want none", got)
		}
		ready := one
		ready.NotReady = false
		look(ready)
		k.set(one.Address, false)
		if got := look(one); got[0].NotReady {
			t.Errorf("a pod that is Ready no longer = %+v, want it ready until its probe fails", got[0])
		}
		synctest.Wait()
		if got := look(one); !got[0].NotReady || found.Load() != 2 {
			t.Errorf("a pod that is not Ready and fails = %+v, told %d times, want it not ready, told twice", got[0], found.Load())
		}
		look()
		synctest.Wait()
		if len(p.early) != 0 {
			t.Errorf("pods that are remembered = %v, want none: all have left", p.early)
		}
		cancel()
		<-ended
	})
}

// A scribe is a transport that keeps the requests that it is to send.
type scribe struct{ asked []*http.Request }

func (s *scribe) RoundTrip(r *http.Request) (*http.Response, error) {
	s.asked = append(s.asked, r)
	return nil, http.ErrServerClosed
}

func TestAProbeGoesTheWayOfRequests(t *testing.T) {
	key := types.NamespacedName{Namespace: shop, Name: "demo-00001"}
	for _, tt := range []struct {
		name         string
		tls, through bool
		url, host    string
		passes       string
	}{
		{name: "in clear", url: "http://10.0.0.1:8012/healthz"},
		{name: "with TLS inside the system", tls: true, url: "https://10.0.0.1:8012/healthz"},
		{
			name: "through a mesh", through: true, url: "http://10.0.0.1:8012/healthz", host: "demo-00001-private.shop", passes: "true",
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := &scribe{}
			p := newProber(Probing{Transport: s, UsePassthroughLb: tt.through, Timeout: time.Second}, tt.tls, nil)
			if p.probe(t.Context(), key, &earlyPod{revision: &v1.Revision{}, address: "10.0.0.1:8012"}) {
				t.Error("probe() = true though nobody answered, want false")
			}
			r := s.asked[0]
			if got := r.URL.String(); got != tt.url {
				t.Errorf("probe() asks %s, want %s", got, tt.url)
			}
			if got := r.Header.Get(netheader.PassthroughLoadbalancingKey); got != tt.passes || tt.host != "" && r.Host != tt.host {
				t.Errorf("probe() asks for host %s, passed through %q, want %s, %q", r.Host, got, tt.host, tt.passes)
			}
			if got := activatorhandler.RevIDFrom(r.Context()); got != key { // Serving's dialer of TLS needs it
				t.Errorf("probe() is of %v, want %v", got, key)
			}
		})
	}
}
