// Package cost measures what a request costs the ingress in processor time, beside what it costs Knative's stock activator.
//
// It prints and does not judge: times depend on the machine. It runs with LIMPET_COST=1 only; run it alone.
package cost

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/limpet-project/limpet/test/cluster"
	"github.com/limpet-project/limpet/test/cluster/demo"
	"github.com/limpet-project/limpet/test/cluster/ingress"
)

const counter = "./examples/counter"

func TestMain(m *testing.M) {
	if os.Getenv("LIMPET_COST") == "" {
		fmt.Println("left out: LIMPET_COST is not set")
		return
	}
	os.Exit(cluster.MainWith(m, cluster.Needs{Tier: cluster.Knative, Images: []string{counter}, Ingress: true}))
}

const (
	rounds      = 7
	perRound    = 2000
	connections = 8
	sessions    = 500
)

// A way leads to the pods through a container whose processor time is measured.
type way struct {
	name           string
	namespace      string
	pod, container string
	address, host  string
	header         http.Header
	session        bool            // requests are of sessions
	costs          []time.Duration // per request, of each round
}

func TestWhatARequestCosts(t *testing.T) {
	e := cluster.Start(t, cluster.Knative)
	// The activator logs no requests.
	e.InstallIngress(ingress.Options{Replicas: 1, Redis: true, Set: map[string]string{"accessLog.file": "off"}})
	s := demo.Service{Name: "demo", Image: e.Image(counter), Revision: "demo-00001", Pods: 3}
	e.Apply(s.Manifest())
	e.WaitForCondition("serving.knative.dev/v1/Service", "demo", "Ready", 3*time.Minute)
	e.WaitForDeployment("demo-00001-deployment", 2*time.Minute)
	through := way{
		namespace: ingress.Namespace, pod: podOf(t, e, ingress.Namespace, ingress.Deployment), container: "ingress",
		address: net.JoinHostPort(e.IngressAddress(), "80"), host: "demo." + e.Namespace + "." + ingress.Domain,
	}
	sticky, loose := through, through
	sticky.name, sticky.session = "ingress to pod, session affinity on", true
	loose.name = "ingress to pod, requests without session"
	ways := []*way{&sticky, &loose, {
		name: "stock activator to pod", namespace: "knative-serving", pod: podOf(t, e, "knative-serving", "activator"),
		container: "activator", address: net.JoinHostPort(e.ServiceAddress("knative-serving", "activator-service"), "80"),
		header: http.Header{"Knative-Serving-Namespace": {e.Namespace}, "Knative-Serving-Revision": {"demo-00001"}},
	}}
	for round := range rounds + 1 { // the first warms up
		for _, w := range ways {
			cost := w.measure(t, e)
			if round > 0 {
				w.costs = append(w.costs, cost)
			}
		}
	}
	var b strings.Builder
	fmt.Fprintf(&b, "processor time per request, %d rounds of %d requests over %d connections, three warm pods:\n",
		rounds, perRound, connections)
	for _, w := range ways {
		slices.Sort(w.costs)
		fmt.Fprintf(&b, "  %-40s median %v, %v to %v\n", w.name, micros(median(w.costs)), micros(w.costs[0]), micros(w.costs[rounds-1]))
	}
	fmt.Fprintf(&b, "  ratio of the medians, the first to the last: %.2f\n", float64(median(sticky.costs))/float64(median(ways[2].costs)))
	t.Log(b.String())
}

func median(sorted []time.Duration) time.Duration { return sorted[len(sorted)/2] }

func micros(d time.Duration) time.Duration { return d.Round(100 * time.Nanosecond) }

// podOf returns the pod of a deployment that has one.
func podOf(t *testing.T, e *cluster.Env, namespace, deployment string) string {
	t.Helper()
	pods, err := e.CoreV1().Pods(namespace).List(t.Context(), metav1.ListOptions{LabelSelector: "app=" + deployment})
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range pods.Items {
		if p.DeletionTimestamp == nil && e.In(namespace).PodReady(t.Context(), p.Name) == nil {
			return p.Name
		}
	}
	t.Fatalf("deployment %s has no ready pod", deployment)
	return ""
}

// measure sends the requests of a round and returns the container's processor time for one.
func (w *way) measure(t *testing.T, e *cluster.Env) time.Duration {
	t.Helper()
	in := e.In(w.namespace)
	before, err := in.CPU(t.Context(), w.pod, w.container)
	if err != nil {
		t.Fatal(err)
	}
	if err := w.send(t.Context()); err != nil {
		t.Fatalf("%s: %v", w.name, err)
	}
	after, err := in.CPU(t.Context(), w.pod, w.container)
	if err != nil {
		t.Fatal(err)
	}
	return (after - before) / perRound
}

// send sends the requests of a round over some connections, for sessions in turn.
func (w *way) send(ctx context.Context) error {
	var wg sync.WaitGroup
	errs := make([]error, connections)
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: connections}, Timeout: 30 * time.Second}
	defer client.CloseIdleConnections()
	for c := range connections {
		wg.Go(func() {
			for n := c; n < perRound && errs[c] == nil; n += connections {
				errs[c] = w.ask(ctx, client, n)
			}
		})
	}
	wg.Wait()
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

func (w *way) ask(ctx context.Context, client *http.Client, n int) error {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+w.address+"/incr", nil)
	if err != nil {
		return err
	}
	for k, v := range w.header {
		r.Header[k] = v
	}
	r.Host = w.host
	if w.session {
		r.Header.Set("K-Session", fmt.Sprintf("user-%05d", n%sessions))
	}
	resp, err := client.Do(r)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if _, err := io.Copy(io.Discard, resp.Body); err != nil {
		return err
	}
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("%s", resp.Status)
	}
	return nil
}
