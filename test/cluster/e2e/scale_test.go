package e2e

import (
	"context"
	"fmt"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/limpet-project/limpet/test/cluster/demo"
	"github.com/limpet-project/limpet/test/cluster/ingress"
)

func TestASessionWakesARevisionAndSticksToItsPod(t *testing.T) {
	w := start(t)
	w.deploy(demo.Service{Name: "demo", Revision: "demo-00001", Template: map[string]string{
		"autoscaling.knative.dev/max-scale": "3", "autoscaling.knative.dev/initial-scale": "1",
	}})
	w.waitForPods("demo-00001", 0)
	began := time.Now()
	c := w.client("demo")
	answers := w.series(c, 12, session("alice"))
	t.Logf("woken and asked 12 times in %v", time.Since(began).Round(time.Millisecond))
	if err := sticks(answers); err != nil {
		t.Error(err)
	}
	if answers[0].Count != 1 {
		t.Errorf("the first answer has count %d, want 1", answers[0].Count)
	}
}

func TestASessionStaysOnItsRevisionWhileThatIsAtZero(t *testing.T) {
	w := start(t)
	s := demo.Service{Name: "demo", Revision: "demo-00001", Template: map[string]string{"autoscaling.knative.dev/initial-scale": "1"}}
	w.deploy(s)
	s.Revision, s.Traffic = "demo-00002", split(50, 50)
	w.deploy(s)
	c := w.client("demo")
	held := map[string]string{}
	for i := range 6 {
		id := fmt.Sprintf("user-%05d", i)
		held[id] = w.series(c, 1, session(id))[0].Revision()
	}
	w.waitForPods("demo-00001", 0)
	w.waitForPods("demo-00002", 0)
	for id, revision := range held {
		if err := by(revision)(w.series(c, 2, session(id))); err != nil {
			t.Errorf("session %s after a scale to zero: %v", id, err)
		}
	}
}

func TestARevisionThatKeepsTheActivatorInTheWayIsServed(t *testing.T) {
	w := start(t)
	w.deploy(demo.Service{Name: "demo", Revision: "demo-00001", Pods: 2, Template: map[string]string{
		"autoscaling.knative.dev/target-burst-capacity": "-1",
	}})
	w.waitForPods("demo-00001", 2)
	c := w.client("demo")
	w.series(c, 20, session("alice")) // the pod is the activator's choice
	if err := w.steady(c, 10*time.Second); err != nil {
		t.Errorf("the autoscaler counts what passes the activator, so the pods stay: %v", err)
	}
}

// steady asks for a time and returns an error if an answer is not a counter's.
func (w *world) steady(c *demo.Client, d time.Duration) error {
	for end := time.Now().Add(d); time.Now().Before(end); {
		if _, err := c.Series(w.t.Context(), 5, session("bob")); err != nil {
			return err
		}
	}
	return nil
}

func TestAServiceGetsReadyAfterTheLeaderWasKilled(t *testing.T) {
	w := start(t)
	w.deploy(demo.Service{Name: "demo", Pods: 2})
	c := w.client("demo")
	w.known(c)
	held := w.series(c, 3, session("alice"))
	for _, pod := range w.leaders() {
		t.Logf("killing %s", pod)
		grace := int64(0)
		if err := w.CoreV1().Pods(ingress.Namespace).Delete(t.Context(), pod, metav1.DeleteOptions{GracePeriodSeconds: &grace}); err != nil {
			t.Fatal(err)
		}
	}
	began := time.Now()
	w.deploy(demo.Service{Name: "other", Pods: 1})
	t.Logf("a new Service was ready %v after the leader's end", time.Since(began).Round(100*time.Millisecond))
	// Where both replicas held a lease both are replaced, and connections find none for a moment.
	w.eventually(w.client("other"), 3, demo.Request{}, "the new Service", func([]demo.Answer) error { return nil })
	w.eventually(c, 3, session("alice"), "the session on its pod", func(a []demo.Answer) error {
		return sticks(append([]demo.Answer{{Pod: held[0].Pod, Count: a[0].Count - 1}}, a...))
	})
	w.WaitFor(3*time.Minute, "two replicas", func(ctx context.Context) error {
		return w.Available(ctx, ingress.Namespace, ingress.Deployment)
	})
}

// leaders returns the pods that hold a lease of the ingress.
func (w *world) leaders() []string {
	w.t.Helper()
	leases, err := w.CoordinationV1().Leases(ingress.Namespace).List(w.t.Context(), metav1.ListOptions{})
	if err != nil {
		w.t.Fatal(err)
	}
	pods, err := w.CoreV1().Pods(ingress.Namespace).List(w.t.Context(), metav1.ListOptions{})
	if err != nil {
		w.t.Fatal(err)
	}
	var leaders []string
	for _, p := range pods.Items {
		for _, l := range leases.Items {
			if h := l.Spec.HolderIdentity; h != nil && len(*h) >= len(p.Name) && (*h)[:len(p.Name)] == p.Name {
				leaders = append(leaders, p.Name)
				break
			}
		}
	}
	if len(leaders) == 0 {
		w.t.Fatalf("no pod of %s holds one of its %d leases", ingress.Namespace, len(leases.Items))
	}
	return leaders
}

func TestAKilledPodsSessionsMoveWithinItsRevision(t *testing.T) {
	w := start(t)
	w.twoRevisions(2, 50, 50, nil)
	c := w.client("demo")
	held := w.series(c, 2, session("alice"))[0]
	w.KillContainer(held.Pod, "user-container")
	after := w.eventually(c, 4, session("alice"), "the session on one pod again", sticks)
	if after[0].Revision() != held.Revision() {
		t.Errorf("the session moved from %s to %s", held.Pod, after[0].Pod)
	}
}

func TestAFlowStaysOnItsRevision(t *testing.T) {
	w := start(t)
	w.twoRevisions(2, 50, 50, nil)
	c := w.client("demo")
	revisions := map[string]int{}
	for i := range 24 {
		answers := w.series(c, 5, flow(fmt.Sprintf("tenant-%05d", i)))
		if err := by(answers[0].Revision())(answers); err != nil {
			t.Error(err)
		}
		revisions[answers[0].Revision()]++
	}
	if len(revisions) != 2 { // a chance of 1 in 8 million
		t.Errorf("24 flows are all on one revision: %v", revisions)
	}
}

// deleteService deletes a Knative Service.
func (w *world) deleteService(name string) {
	w.t.Helper()
	o, err := w.Object(w.t.Context(), serviceKind, name)
	if err != nil {
		w.t.Fatal(err)
	}
	resource, err := w.Resource(w.Namespace, o)
	if err == nil {
		err = resource.Delete(w.t.Context(), name, metav1.DeleteOptions{})
	}
	if err != nil {
		w.t.Fatal(err)
	}
}
