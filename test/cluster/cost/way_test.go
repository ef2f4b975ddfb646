package cost

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/limpet-project/limpet/test/cluster"
)

const (
	rounds      = 21
	perRound    = 2000
	connections = 8
	sessions    = 500
)

// A way leads to the pods through a container whose processor time is measured.
type way struct {
	name          string
	namespace     string
	pods          []string
	container     string
	address, host string
	header        http.Header
	session       bool            // requests are of sessions
	costs         []time.Duration // per request, of each round
}

// The median of 21 lies between the 6th and the 16th of them with a probability of 97 %: each is below it as often as a coin falls on one side.
const (
	lower = 5
	upper = rounds - 1 - lower
)

// compare measures all ways, round by round, each in another order, and prints the medians. The first round warms up.
func compare(t *testing.T, e *cluster.Env, ways []*way) {
	t.Helper()
	for round := range rounds + 1 {
		for _, i := range rand.Perm(len(ways)) {
			w := ways[i]
			cost := w.measure(t, e)
			if round > 0 {
				w.costs = append(w.costs, cost)
			}
		}
	}
	var b strings.Builder
	fmt.Fprintf(&b, "processor time per request, %d rounds of %d requests over %d connections, three warm pods; medians [97 %% intervals]:\n",
		rounds, perRound, connections)
	stock := ways[len(ways)-1]
	for _, w := range ways {
		ratios := make([]float64, rounds)
		for i := range ratios {
			ratios[i] = float64(w.costs[i]) / float64(stock.costs[i])
		}
		slices.Sort(ratios)
		sorted := slices.Sorted(slices.Values(w.costs))
		fmt.Fprintf(&b, "  %-56s %v [%v %v]; to the last way in the same round %.3f [%.3f %.3f]\n", w.name,
			micros(sorted[rounds/2]), micros(sorted[lower]), micros(sorted[upper]), ratios[rounds/2], ratios[lower], ratios[upper])
	}
	t.Log(b.String())
}

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

// measure sends the requests of a round and returns the containers' processor time for one.
func (w *way) measure(t *testing.T, e *cluster.Env) time.Duration {
	t.Helper()
	before := w.used(t, e)
	if err := w.send(t.Context()); err != nil {
		t.Fatalf("%s: %v", w.name, err)
	}
	return (w.used(t, e) - before) / perRound
}

// used returns the processor time that the containers have used.
func (w *way) used(t *testing.T, e *cluster.Env) time.Duration {
	t.Helper()
	sum := time.Duration(0)
	for _, pod := range w.pods {
		used, err := e.In(w.namespace).CPU(t.Context(), pod, w.container)
		if err != nil {
			t.Fatal(err)
		}
		sum += used
	}
	return sum
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
