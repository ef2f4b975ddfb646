package reliability

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/limpet-project/limpet/test/cluster"
	"github.com/limpet-project/limpet/test/cluster/activator"
	"github.com/limpet-project/limpet/test/cluster/demo"
	"github.com/limpet-project/limpet/test/cluster/ingress"
	"github.com/limpet-project/limpet/test/cluster/kube"
)

// A cell is one line of the matrix: so many activators, and pods with such a limit that answer after such a time.
type cell struct {
	activators int
	limit      int
	delay      time.Duration
	// What the load is: its places at pods are enough, but now and then a pod has more sessions than places.
	workers int
	rest    time.Duration
}

// cells returns what is tested: one cell, or with LIMPET_LONG all.
func cells() []cell {
	if os.Getenv("LIMPET_LONG") == "" {
		return []cell{{activators: 3, limit: 10, delay: 200 * time.Millisecond, workers: 40, rest: 50 * time.Millisecond}}
	}
	var all []cell
	for _, n := range []int{2, 3} {
		all = append(all,
			cell{activators: n, limit: 1, delay: 10 * time.Millisecond, workers: 40, rest: 400 * time.Millisecond},
			cell{activators: n, limit: 10, delay: 200 * time.Millisecond, workers: 40, rest: 50 * time.Millisecond},
			cell{activators: n, limit: 0, delay: 10 * time.Millisecond, workers: 40, rest: 300 * time.Millisecond})
	}
	return all
}

// enough is how many requests a cell has.
const enough = 10_000

func TestActivatorsKeepSessionsAndLimitsWhateverIsKilled(t *testing.T) {
	for _, c := range cells() {
		t.Run(fmt.Sprintf("%d activators, limit %d", c.activators, c.limit), c.run)
	}
}

func (c cell) run(t *testing.T) {
	e := cluster.Start(t, cluster.Knative)
	e.InstallIngress(ingress.Options{Replicas: 1, Redis: true}) // makes Routes ready; requests go past it
	// Where everything stands still for a second, as a machine with two processors does now and then, activators know of an outage of the store
	// that this test does not. A Redis that is gone refuses connections at once.
	e.InstallActivator(activator.Options{Replicas: c.activators, Redis: true, Set: map[string]string{"store.redis.timeout": "5s"}})
	shortenDrain(t, e)
	traces, url := collect(t, e.Node())
	trace(e, t, url)
	deploy(e, demo.Service{
		Concurrency: c.limit, Env: map[string]string{"COUNTER_DELAY": c.delay.String()},
		Template: map[string]string{"autoscaling.knative.dev/target-burst-capacity": "-1"},
	})
	awaitTraced(e, url)
	d := newDriver(t, e, activator.Namespace, "app="+activator.Deployment)
	f := &fleet{Env: d.entrance, of: e.Namespace}
	l := &load{
		way: f, method: http.MethodPost, host: "demo." + e.Namespace + "." + ingress.Domain, // nothing repeats a POST
		record: d.record, workers: c.workers, sharing: 2, series: 16, life: 4, rest: c.rest,
		dial: 2 * time.Second, // then it goes to another activator, where nothing answers for one that is gone
	}
	d.begin()
	f.awaitRoute(l)
	k := &killer{driver: d}
	watch := func(ctx context.Context) error {
		var wg sync.WaitGroup
		wg.Go(func() { k.watch(ctx) })
		defer wg.Wait()
		return f.watch(ctx)
	}
	d.during(l, watch, func(ctx context.Context) {
		d.round(c.deeds(d, k))
		d.WaitFor(10*time.Minute, fmt.Sprintf("%d requests", enough), func(context.Context) error { return d.record.has(enough) })
	})
	took := d.record.clock()
	c.judgeQueues(t, d, k, traces)
	k.excuse()
	t.Logf("%d requests in %.0fs", len(d.record.observations), took.Seconds())
	verdict(t, e, d)
}

// deeds returns what is done. What takes a minute is left to LIMPET_LONG.
func (c cell) deeds(d *driver, k *killer) map[string]func() {
	deeds := map[string]func(){
		"pods scaled":         func() { d.scaleTo(revisions[0], 6); d.scaleTo(revisions[0], 3) },
		"an activator killed": k.kill, "an activator added": d.addActivator, "Redis restarted": d.restartRedis,
	}
	if os.Getenv("LIMPET_LONG") != "" {
		deeds["an activator frozen"], deeds["an activator ended in order"] = k.freeze, k.restart
	}
	return deeds
}

// trace has the queue-proxy of every pod from now on tell of each request.
func trace(e *cluster.Env, t *testing.T, url string) {
	set := func(protocol, endpoint, rate any) {
		data := map[string]any{"tracing-protocol": protocol, "tracing-endpoint": endpoint, "tracing-sampling-rate": rate}
		if err := ingress.SetKnative(context.WithoutCancel(t.Context()), e.Client, "config-observability", data); err != nil {
			t.Error(err)
		}
	}
	set("http/protobuf", url, "1")
	t.Cleanup(func() { set(nil, nil, nil) })
}

// awaitTraced waits until the pods are those that tell: Knative replaces the ones that it made before it saw the change.
func awaitTraced(e *cluster.Env, url string) {
	e.WaitFor(3*time.Minute, "pods that tell of their requests", func(ctx context.Context) error {
		pods, err := e.CoreV1().Pods(e.Namespace).List(ctx, metav1.ListOptions{})
		if err != nil {
			return err
		}
		for i := range pods.Items {
			if p := &pods.Items[i]; p.DeletionTimestamp != nil || !tells(p, url) {
				return fmt.Errorf("%s does not", kube.Describe(p))
			}
		}
		if n := len(pods.Items); n != 2*len(revisions) {
			return fmt.Errorf("%d pods", n)
		}
		return nil
	})
}

// tells reports whether the queue-proxy of a pod sends its traces to a URL.
func tells(p *corev1.Pod, url string) bool {
	return slices.ContainsFunc(p.Spec.Containers, func(c corev1.Container) bool {
		return slices.ContainsFunc(c.Env, func(v corev1.EnvVar) bool { return strings.Contains(v.Value, url) })
	})
}

// judgeQueues checks that queue-proxy's queue stayed empty but for a second after the kill, and after a time in which the machine stood still,
// by what it says of every request.
func (c cell) judgeQueues(t *testing.T, d *driver, k *killer, traces *collector) {
	if c.limit == 0 {
		return // it has no queue
	}
	answered := 0
	for _, o := range d.record.observations {
		if o.Status == http.StatusOK {
			answered++
		}
	}
	var pods map[string][]stay
	d.WaitFor(3*time.Minute, "the traces of all requests", func(context.Context) error {
		n := 0
		pods = stays(traces.all())
		for _, all := range pods {
			n += len(all)
		}
		if n < answered {
			return fmt.Errorf("%d of %d are there", n, answered)
		}
		return nil
	})
	held, most := full(pods, c.limit)
	later := slices.DeleteFunc(slices.Clone(held), k.near)
	depth, longest := deepest(held)
	t.Logf("%d requests traced, at most %d in a container; queued %d, %d at once, the longest for %v; %d of them later than a second after a kill, a freeze or a standstill",
		answered, most, len(held), depth, longest, len(later))
	for _, q := range later[:min(len(later), 20)] {
		t.Logf("%7.3fs queued at %v", q.from.Sub(d.record.began).Seconds(), q)
	}
	if len(later) > 0 {
		t.Errorf("%d requests waited in queue-proxy, want none", len(later))
	}
	if most != c.limit {
		t.Errorf("%d requests at most were in a container at once, want the limit, %d, or nothing is proved", most, c.limit)
	}
}

// has returns nil if there are so many observations.
func (r *record) has(n int) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.observations) < n {
		return fmt.Errorf("%d so far", len(r.observations))
	}
	return nil
}

// A fleet is the activators as an ingress sees them: it sends each request to any that is ready, with a revision drawn by the split in its
// headers, and to another one if it finds no connection.
type fleet struct {
	*cluster.Env        // of the activators' namespace
	of           string // the namespace of the Service

	mu    sync.Mutex
	ready []string
}

var _ way = (*fleet)(nil)

// watch follows who is ready until ctx ends. While the API server has no answer, those are that were.
func (f *fleet) watch(ctx context.Context) error {
	tick := time.NewTicker(500 * time.Millisecond)
	defer tick.Stop()
	for {
		f.look(ctx) // awaitRoute has seen that it can be asked
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

func (f *fleet) look(ctx context.Context) error {
	list, err := f.DiscoveryV1().EndpointSlices(f.Namespace).List(ctx, metav1.ListOptions{
		LabelSelector: discoveryv1.LabelServiceName + "=" + activator.Service,
	})
	if err != nil {
		return fmt.Errorf("listing the activators: %w", err)
	}
	var ready []string
	for _, s := range list.Items {
		for _, one := range s.Endpoints {
			if one.Conditions.Ready == nil || *one.Conditions.Ready {
				ready = append(ready, one.Addresses...)
			}
		}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(ready) > 0 { // where none is, as on a machine that stood still, an ingress tries those that were
		f.ready = ready
	}
	return nil
}

// enter implements way.
func (f *fleet) enter(o *observation, h http.Header) string {
	f.mu.Lock()
	defer f.mu.Unlock()
	h.Set("Knative-Serving-Namespace", f.of)
	h.Set("Knative-Serving-Revision", revisions[rand.IntN(len(revisions))])
	if len(f.ready) == 0 {
		return "no-activator.invalid"
	}
	o.Gateway = f.ready[rand.IntN(len(f.ready))]
	return net.JoinHostPort(o.Gateway, "8012")
}

// again implements way: an activator without connection is left out until it is seen ready again. The last one is asked again a moment later.
func (f *fleet) again(o *observation) bool {
	if !f.leaveOut(o.Gateway) {
		time.Sleep(50 * time.Millisecond)
	}
	return true
}

// leaveOut takes an activator out of those that are asked, and reports whether another one is left.
func (f *fleet) leaveOut(gateway string) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	others := slices.DeleteFunc(slices.Clone(f.ready), func(address string) bool { return address == gateway })
	if len(others) > 0 {
		f.ready = others
	}
	return len(others) > 0
}

// left implements way.
func (f *fleet) left(*observation) {}

// awaitRoute waits until each activator knows the Route: then all send a session that nobody had asked for before to one pod. Requests go by
// any activator, and one that does not know the Route sends each to any of two pods at least: of a session as many requests as there are
// activators are at one pod all the same with a chance of 5 in 8, and those of 40 sessions with one of 1e-8.
func (f *fleet) awaitRoute(l *load) {
	n := 0
	f.WaitFor(3*time.Minute, "activators that know the Route", func(ctx context.Context) error {
		if err := f.look(ctx); err != nil {
			return err
		}
		if len(f.ready) == 0 {
			return errors.New("no activator is ready")
		}
		for range 40 {
			n++
			if err := f.agree(l, fmt.Sprintf("settle-%d", n)); err != nil {
				return err
			}
		}
		return nil
	})
}

// agree returns an error unless as many requests of a session as there are activators are at one pod.
func (f *fleet) agree(l *load, session string) error {
	first := &observation{}
	for i := range f.ready {
		o := &observation{Session: session}
		l.ask(l.client(false), http.Header{"K-Session": {o.Session}}, o)
		if i == 0 {
			first = o
		}
		if o.Status != http.StatusOK || o.Endpoint != first.Endpoint {
			return fmt.Errorf("activator %s: status %d from %q, the first %q", o.Gateway, o.Status, o.Endpoint, first.Endpoint)
		}
	}
	return nil
}
