// Package e2e tests the Knative ingress with real Services: what Knative does to Routes, revisions and pods, and what becomes of
// sessions then.
package e2e

import (
	"context"
	"fmt"
	"net"
	"os"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/limpet-project/limpet/test/cluster"
	"github.com/limpet-project/limpet/test/cluster/demo"
	"github.com/limpet-project/limpet/test/cluster/ingress"
	"github.com/limpet-project/limpet/test/cluster/kube"
)

const (
	counter     = "./examples/counter"
	stickyrev   = "./examples/stickyrev"
	serviceKind = "serving.knative.dev/v1/Service"
	routeKind   = "serving.knative.dev/v1/Route"
)

func TestMain(m *testing.M) {
	os.Exit(cluster.MainWith(m, cluster.Needs{
		Tier: cluster.Knative, Images: []string{counter, stickyrev}, Programs: []string{stickyrev}, Ingress: true,
	}))
}

// A world is a test's part of a cluster with two replicas of the ingress.
type world struct {
	*cluster.Env
	t       *testing.T
	image   string
	address string
}

func start(t *testing.T) *world {
	t.Helper()
	e := cluster.Start(t, cluster.Knative)
	// The default is for machines that do not run clients, pods and a whole control plane on the same two processors.
	e.InstallIngress(ingress.Options{Replicas: 2, Redis: true, Set: map[string]string{"store.redis.timeout": "5s"}})
	return &world{Env: e, t: t, image: e.Image(counter), address: net.JoinHostPort(e.IngressAddress(), "80")}
}

// deploy applies a Service and waits until it is ready.
func (w *world) deploy(s demo.Service) {
	w.t.Helper()
	s.Image = w.image
	w.Apply(s.Manifest())
	w.WaitForCondition(serviceKind, s.Name, "Ready", 3*time.Minute)
}

// client asks a Service's host, each request by a connection of its own.
func (w *world) client(service string) *demo.Client {
	return &demo.Client{Address: w.address, Host: service + "." + w.Namespace + "." + ingress.Domain}
}

// waitForPods waits until so many pods of a revision are there and ready, and no other.
func (w *world) waitForPods(revision string, want int) {
	w.t.Helper()
	w.WaitFor(3*time.Minute, fmt.Sprintf("%d pods of %s", want, revision), func(ctx context.Context) error {
		pods, err := w.CoreV1().Pods(w.Namespace).List(ctx, metav1.ListOptions{LabelSelector: "serving.knative.dev/revision=" + revision})
		if err != nil {
			return err
		}
		if len(pods.Items) != want {
			return fmt.Errorf("%d pods", len(pods.Items))
		}
		for i := range pods.Items {
			if err := w.PodReady(ctx, pods.Items[i].Name); err != nil {
				return err
			}
		}
		return nil
	})
}

func session(id string) demo.Request { return demo.Request{Header: map[string]string{"K-Session": id}} }

func flow(id string) demo.Request { return demo.Request{Header: map[string]string{"K-Revision": id}} }

// series sends a request several times; the test fails if a counter does not answer each.
func (w *world) series(c *demo.Client, n int, r demo.Request) []demo.Answer {
	w.t.Helper()
	answers, err := c.Series(w.t.Context(), n, r)
	if err != nil {
		w.t.Fatal(err)
	}
	return answers
}

// sticks returns nil if one pod gave all answers and its count went up by one with each.
func sticks(answers []demo.Answer) error {
	if pods := demo.Pods(answers); len(pods) != 1 {
		return fmt.Errorf("%d pods answered one session: %v", len(pods), pods)
	}
	for i, a := range answers {
		if want := answers[0].Count + i; a.Count != want {
			return fmt.Errorf("answer %d has count %d, want %d", i+1, a.Count, want)
		}
	}
	return nil
}

// eventually asks until the answers are as check wants, for changes that reach the ingress a moment after they are made.
func (w *world) eventually(c *demo.Client, n int, r demo.Request, what string, check func([]demo.Answer) error) []demo.Answer {
	w.t.Helper()
	var answers []demo.Answer
	err := kube.Until(w.t.Context(), 3*time.Minute, what, func(ctx context.Context) error {
		var err error
		if answers, err = c.Series(ctx, n, r); err != nil {
			return err
		}
		return check(answers)
	})
	if err != nil {
		w.t.Fatal(err)
	}
	return answers
}

// known waits until both replicas of the ingress know the pods of a Service: they keep a session that nobody had asked for before. One that
// does not know them has each of its requests at any of two pods at least: all of 50 are at one with a chance of 6e-7.
func (w *world) known(c *demo.Client) {
	w.t.Helper()
	n := 0
	w.WaitFor(3*time.Minute, "replicas of the ingress that know the pods", func(ctx context.Context) error {
		n++
		answers, err := c.Series(ctx, 50, session(fmt.Sprintf("settle-%d", n)))
		if err != nil {
			return err
		}
		return sticks(answers)
	})
}

// by returns a check that one revision answered.
func by(revision string) func([]demo.Answer) error {
	return func(answers []demo.Answer) error {
		for _, a := range answers {
			if a.Revision() != revision {
				return fmt.Errorf("%s answered, want %s", a.Pod, revision)
			}
		}
		return nil
	}
}

// twoRevisions deploys demo-00001 and demo-00002 and splits traffic. Both keep so many pods.
func (w *world) twoRevisions(pods, first, second int, annotations map[string]string) {
	w.t.Helper()
	s := demo.Service{Name: "demo", Revision: "demo-00001", Pods: pods, Annotations: annotations}
	w.deploy(s)
	s.Revision = "demo-00002"
	s.Traffic = split(first, second)
	w.deploy(s)
}

func split(first, second int) []demo.Target {
	return []demo.Target{
		{Revision: "demo-00001", Percent: first, Tag: "stable"},
		{Revision: "demo-00002", Percent: second, Tag: "canary"},
	}
}

// undoing returns a context for what is undone at the end of a test, when the test's own has ended.
func undoing(t *testing.T) (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.WithoutCancel(t.Context()), 2*time.Minute)
}
