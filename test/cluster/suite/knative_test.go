package suite

import (
	"context"
	"fmt"
	"net/http"
	"strconv"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"

	"github.com/limpet-project/limpet/test/cluster"
)

const (
	configurationKind = "serving.knative.dev/v1/Configuration"
	revisionKind      = "serving.knative.dev/v1/Revision"
)

func TestTheActivatorSplitsASessionOverThreePodsWhichScaleToZeroAndWake(t *testing.T) {
	e := cluster.Start(t, cluster.Knative)
	revision := deployKnativeService(t, e, e.Image(counter))
	activator := serviceAddress(t, e, "knative-serving", "activator-service")
	header := http.Header{"Knative-Serving-Namespace": {e.Namespace}, "Knative-Serving-Revision": {revision}}
	waitForReplicas(t, e, revision, 3)

	const requests = 60
	counts := map[string]int{}
	ask := func(ctx context.Context) string {
		t.Helper()
		got, err := incr(ctx, patience, activator, header)
		if err != nil {
			t.Fatalf("request through the activator: %v", err)
		}
		counts[got.name]++
		if want := strconv.Itoa(counts[got.name]); got.count != want {
			t.Errorf("pod %s counts %s, want %s: it alone sees its requests", got.name, got.count, want)
		}
		return got.name
	}
	e.WaitFor(patience, "an activator that knows three pods", func(ctx context.Context) error {
		if ask(ctx); len(counts) < 3 {
			return fmt.Errorf("the pods that answered are %v", counts)
		}
		return nil
	})
	reached := map[string]int{}
	for range requests {
		reached[ask(t.Context())]++
	}
	// Each request picks the better of two random pods, so a pod that gets none of 60 is a chance of (1/3)^60 at most.
	if len(reached) != 3 {
		t.Errorf("%d requests of one session reached %d pods (%v), want 3: there is no affinity yet", requests, len(reached), reached)
	}
	t.Logf("counts by pod: %v", counts)

	allowZero(t, e, revision)
	began := time.Now()
	waitForReplicas(t, e, revision, 0)
	e.WaitFor(2*time.Minute, "the last pod's end", func(ctx context.Context) error {
		pods, err := e.CoreV1().Pods(e.Namespace).List(ctx, metav1.ListOptions{})
		if err == nil && len(pods.Items) > 0 {
			err = fmt.Errorf("%d pods are left", len(pods.Items))
		}
		return err
	})
	t.Logf("scaled to zero in %v", time.Since(began).Round(time.Millisecond))

	began = time.Now()
	got, err := incr(t.Context(), patience, activator, header)
	if err != nil {
		t.Fatalf("request that wakes the revision: %v", err)
	}
	if got.count != "1" || counts[got.name] != 0 {
		t.Errorf("the request that woke the revision was answered by %s with count %s, want a new pod with count 1", got.name, got.count)
	}
	t.Logf("woken in %v", time.Since(began).Round(time.Millisecond))
}

// deployKnativeService makes a Knative Service that keeps three pods, and returns its revision.
func deployKnativeService(t *testing.T, e *cluster.Env, image string) string {
	t.Helper()
	e.Apply(fmt.Sprintf(`
apiVersion: serving.knative.dev/v1
kind: Service
metadata: {name: counter}
spec:
  template:
    metadata:
      annotations:
        autoscaling.knative.dev/min-scale: "3"
        autoscaling.knative.dev/window: 6s
        autoscaling.knative.dev/target-burst-capacity: "-1" # the activator stays in the path
    spec:
      containers:
      - image: %s
        env: [{name: COUNTER_LISTEN, value: "0.0.0.0:8080"}]
        ports: [{containerPort: 8080}]
`, image))
	e.WaitForCondition(configurationKind, "counter", "Ready", 2*time.Minute)
	c, err := e.Object(t.Context(), configurationKind, "counter")
	if err != nil {
		t.Fatal(err)
	}
	name, _, err := unstructured.NestedString(c.Object, "status", "latestReadyRevisionName")
	if err != nil || name == "" {
		t.Fatalf("configuration counter names no ready revision (%v)", err)
	}
	return name
}

func serviceAddress(t *testing.T, e *cluster.Env, namespace, name string) string {
	t.Helper()
	s, err := e.CoreV1().Services(namespace).Get(t.Context(), name, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return s.Spec.ClusterIP
}

func waitForReplicas(t *testing.T, e *cluster.Env, revision string, want int32) {
	t.Helper()
	e.WaitFor(2*time.Minute, fmt.Sprintf("revision %s with %d replicas", revision, want), func(ctx context.Context) error {
		d, err := e.AppsV1().Deployments(e.Namespace).Get(ctx, revision+"-deployment", metav1.GetOptions{})
		if err != nil {
			return err
		}
		if d.Status.Replicas != want || d.Status.ReadyReplicas != want {
			return fmt.Errorf("%d replicas, %d ready", d.Status.Replicas, d.Status.ReadyReplicas)
		}
		return nil
	})
}

// allowZero takes the lower bound of a revision's scale away.
func allowZero(t *testing.T, e *cluster.Env, revision string) {
	t.Helper()
	o, err := e.Object(t.Context(), revisionKind, revision)
	if err != nil {
		t.Fatal(err)
	}
	resource, err := e.Resource(e.Namespace, o)
	if err != nil {
		t.Fatal(err)
	}
	patch := []byte(`{"metadata":{"annotations":{"autoscaling.knative.dev/min-scale":"0"}}}`)
	if _, err := resource.Patch(t.Context(), revision, types.MergePatchType, patch, metav1.PatchOptions{}); err != nil {
		t.Fatal(err)
	}
}
