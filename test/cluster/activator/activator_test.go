package activator_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/limpet-project/limpet/test/cluster"
	"github.com/limpet-project/limpet/test/cluster/activator"
	"github.com/limpet-project/limpet/test/cluster/demo"
	"github.com/limpet-project/limpet/test/cluster/ingress"
)

const (
	counter     = "./examples/counter"
	serviceKind = "serving.knative.dev/v1/Service"
)

func TestMain(m *testing.M) {
	os.Exit(cluster.MainWith(m, cluster.Needs{Tier: cluster.Knative, Images: []string{counter}, Ingress: true, Activator: true}))
}

// A world is a test's part of a cluster with two activators that share a store. The ingress is there to make Routes ready; requests
// go to the activators themselves.
type world struct {
	*cluster.Env
	t          *testing.T
	activators []corev1.Pod
	clients    map[string][]*demo.Client // by host, one for each activator
}

func start(t *testing.T) *world {
	t.Helper()
	e := cluster.Start(t, cluster.Knative)
	e.InstallIngress(ingress.Options{Replicas: 1, Redis: true}) // with a store the default is to remember sessions
	e.InstallActivator(activator.Options{Replicas: 2, Redis: true, Set: map[string]string{"store.redis.timeout": "5s"}})
	pods, err := e.In(activator.Namespace).Pods(t.Context(), "app="+activator.Deployment)
	if err != nil {
		t.Fatal(err)
	}
	return &world{Env: e, t: t, activators: pods, clients: map[string][]*demo.Client{}}
}

// deploy applies a Service whose activators stay in the path, and waits until it is ready.
func (w *world) deploy(s demo.Service) {
	w.t.Helper()
	s.Name, s.Image = "demo", w.Image(counter)
	if s.Template == nil {
		s.Template = map[string]string{}
	}
	s.Template["autoscaling.knative.dev/target-burst-capacity"] = "-1"
	w.Apply(s.Manifest())
	w.WaitForCondition(serviceKind, s.Name, "Ready", 3*time.Minute)
}

// twoRevisions deploys demo-00001 and demo-00002 with half of the traffic each, the second with the tag canary.
func (w *world) twoRevisions() {
	w.t.Helper()
	s := demo.Service{Revision: "demo-00001", Pods: 2}
	w.deploy(s)
	s.Revision = "demo-00002"
	s.Traffic = []demo.Target{{Revision: "demo-00001", Percent: 50}, {Revision: "demo-00002", Percent: 50, Tag: "canary"}}
	w.deploy(s)
}

// host returns that of a Service or of a tag of it ("canary-demo").
func (w *world) host(name string) string { return name + "." + w.Namespace + "." + ingress.Domain }

// ask sends requests one after the other, each to any activator and with one of the revisions in its headers, as an ingress does that
// has drawn it.
func (w *world) ask(n int, host, header, value string, revisions ...string) []demo.Answer {
	w.t.Helper()
	var all []demo.Answer
	for range n {
		all = append(all, w.askAt(rand.IntN(len(w.activators)), host, header, value, revisions...))
	}
	return all
}

// askAt sends one request to an activator.
func (w *world) askAt(activator int, host, header, value string, revisions ...string) demo.Answer {
	w.t.Helper()
	a, err := w.try(w.t.Context(), activator, host, header, value, revisions...)
	if err != nil {
		w.t.Fatal(err)
	}
	return a
}

// try sends one request to an activator. An answer that no counter gave is an error.
func (w *world) try(ctx context.Context, activator int, host, header, value string, revisions ...string) (demo.Answer, error) {
	if w.clients[host] == nil {
		for _, p := range w.activators {
			c := &demo.Client{Address: net.JoinHostPort(p.Status.PodIP, "8012"), Host: host, Limit: 2 * time.Minute}
			w.clients[host] = append(w.clients[host], c)
		}
	}
	r := demo.Request{Header: map[string]string{
		"Knative-Serving-Namespace": w.Namespace, "Knative-Serving-Revision": revisions[rand.IntN(len(revisions))], header: value,
	}}
	a, err := w.clients[host][activator].Ask(ctx, r)
	if err == nil {
		err = a.OK()
	}
	return a, err
}

// settle waits until both activators know the Route and its pods: they keep a session that nobody had asked for before. One that does not
// know them has each request at any of two pods at least: all of 24 are at one with a chance of 1e-7.
func (w *world) settle(revisions ...string) {
	w.t.Helper()
	n := 0
	w.WaitFor(3*time.Minute, "activators that know the Route", func(ctx context.Context) error {
		n++
		var answers []demo.Answer
		for i := range 24 * len(w.activators) {
			a, err := w.try(ctx, i%len(w.activators), w.host("demo"), "K-Session", fmt.Sprintf("settle-%d", n), revisions...)
			if err != nil {
				return err
			}
			answers = append(answers, a)
		}
		if pods := demo.Pods(answers); len(pods) != 1 {
			return fmt.Errorf("a session has %d pods", len(pods))
		}
		return nil
	})
}

func TestASessionKeepsItsPodAndAFlowItsRevisionAtAnyActivator(t *testing.T) {
	w := start(t)
	w.twoRevisions()
	both := []string{"demo-00001", "demo-00002"}
	w.settle(both...)
	pods, revisions := map[string]int{}, map[string]int{}
	for i := range 24 {
		id := fmt.Sprintf("user-%03d", i)
		answers := w.ask(8, w.host("demo"), "K-Session", id, both...)
		if got := demo.Pods(answers); len(got) != 1 {
			t.Errorf("session %s: answers by pod %v, want one pod", id, got)
		}
		if last := answers[len(answers)-1]; last.Count != len(answers) {
			t.Errorf("session %s: count %d after %d requests", id, last.Count, len(answers))
		}
		pods[answers[0].Pod]++
		flow := w.ask(8, w.host("demo"), "K-Revision", id, both...)
		if got := demo.Revisions(flow); len(got) != 1 {
			t.Errorf("flow %s: answers by revision %v, want one revision", id, got)
		}
		revisions[flow[0].Revision()]++
	}
	if len(pods) < 3 || len(revisions) != 2 { // chance puts 24 on two of four pods, or on one of two revisions, once in two million runs
		t.Errorf("24 sessions are at %v, 24 flows at %v, want them spread", pods, revisions)
	}
	w.serving()
}

func TestATagIsNeverOverriddenAndBindsNobodyElsewhere(t *testing.T) {
	w := start(t)
	w.twoRevisions()
	both := []string{"demo-00001", "demo-00002"}
	w.settle(both...)
	for i := range 10 {
		id := fmt.Sprintf("user-%03d", i)
		before := w.ask(2, w.host("demo"), "K-Session", id, both...)
		tagged := w.ask(4, w.host("canary-demo"), "K-Session", id, "demo-00002")
		after := w.ask(2, w.host("demo"), "K-Session", id, both...)
		if got := demo.Revisions(tagged); len(got) != 1 || got["demo-00002"] == 0 {
			t.Errorf("session %s at the tag's host: answers by revision %v, want demo-00002", id, got)
		}
		if got := demo.Pods(append(before, after...)); len(got) != 1 {
			t.Errorf("session %s before and after a request for the tag: answers by pod %v, want one pod", id, got)
		}
	}
}

func TestASessionWakesItsRevisionAndKeepsTheNewPod(t *testing.T) {
	w := start(t)
	w.deploy(demo.Service{Revision: "demo-00001"})
	first := w.ask(3, w.host("demo"), "K-Session", "user-001", "demo-00001")
	w.asleep()
	woken := w.ask(6, w.host("demo"), "K-Session", "user-001", "demo-00001")
	if got := demo.Pods(woken); len(got) != 1 || got[first[0].Pod] > 0 {
		t.Errorf("answers by pod after scale from zero %v, want one pod other than %s", got, first[0].Pod)
	}
	if last := woken[len(woken)-1]; last.Count != len(woken) {
		t.Errorf("count %d after %d requests, want as many: nothing may be sent twice", last.Count, len(woken))
	}
}

// A pod that waits for the kubelet's first look at it serves already: activators have asked it themselves, as Serving's do.
func TestASessionWakesAPodAndKeepsItBeforeTheKubeletCallsItReady(t *testing.T) {
	w := start(t)
	w.deploy(demo.Service{Revision: "demo-00001", ReadyAfter: 45})
	w.asleep()
	early := w.ask(6, w.host("demo"), "K-Session", "user-001", "demo-00001")
	pod, err := w.CoreV1().Pods(w.Namespace).Get(t.Context(), early[0].Pod, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if podReady(pod) {
		t.Errorf("pod %s was ready when six requests had been served, want it to have served before", pod.Name)
	}
	w.WaitFor(3*time.Minute, "the pod to be ready", func(ctx context.Context) error { return w.In(w.Namespace).PodReady(ctx, pod.Name) })
	late := w.ask(6, w.host("demo"), "K-Session", "user-001", "demo-00001")
	if got := demo.Pods(append(early, late...)); len(got) != 1 {
		t.Errorf("answers by pod %v before and after it was ready, want one pod", got)
	}
	if last := late[len(late)-1]; last.Count != 12 {
		t.Errorf("count %d after 12 requests", last.Count)
	}
}

func podReady(p *corev1.Pod) bool {
	return slices.ContainsFunc(p.Status.Conditions, func(c corev1.PodCondition) bool {
		return c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue
	})
}

// asleep waits until no pod is left.
func (w *world) asleep() {
	w.t.Helper()
	w.WaitFor(3*time.Minute, "the revision to be scaled to zero", func(ctx context.Context) error {
		pods, err := w.CoreV1().Pods(w.Namespace).List(ctx, metav1.ListOptions{})
		if err == nil && len(pods.Items) > 0 {
			err = fmt.Errorf("%d pods", len(pods.Items))
		}
		return err
	})
}

// serving checks that no activator was refused what it asks the API server for, nor began anew.
func (w *world) serving() {
	w.t.Helper()
	for _, p := range w.activators {
		stream, err := w.CoreV1().Pods(p.Namespace).GetLogs(p.Name, &corev1.PodLogOptions{}).Stream(w.t.Context())
		if err != nil {
			w.t.Fatal(err)
		}
		text, err := io.ReadAll(stream)
		stream.Close()
		if err != nil {
			w.t.Fatal(err)
		}
		for line := range bytes.Lines(text) {
			if l := strings.ToLower(string(line)); strings.Contains(l, "forbidden") || strings.Contains(l, "unauthorized") {
				w.t.Errorf("the log of %s has %s", p.Name, line)
			}
		}
		now, err := w.CoreV1().Pods(p.Namespace).Get(w.t.Context(), p.Name, metav1.GetOptions{})
		if err != nil {
			w.t.Fatal(err)
		}
		if n := now.Status.ContainerStatuses[0].RestartCount; n > 0 {
			w.t.Errorf("%s was restarted %d times", p.Name, n)
		}
	}
}
