package reliability

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"math/rand/v2"
	"net"
	"os"
	"slices"
	"strconv"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/limpet-project/limpet/test/cluster"
	"github.com/limpet-project/limpet/test/cluster/ingress"
	"github.com/limpet-project/limpet/test/cluster/kube"
)

// A driver does things to the cluster and records them.
type driver struct {
	*cluster.Env
	t        *testing.T
	record   *record
	rng      *rand.Rand
	pods     map[string]string // revision by pod of the Service, as recorded
	entrance *cluster.Env      // the namespace of the gateways
	selector string            // of their pods
	gateways map[string]bool   // addresses of the gateways' pods, as recorded
	done     map[string]int
	quiet    time.Time // until when the store is left alone, so that the log does not join two outages to one
}

// newDriver returns one for gateways that are named by namespace and selector. Its chances follow from the seed, which is logged.
func newDriver(t *testing.T, e *cluster.Env, namespace, selector string) *driver {
	seed := uint64(time.Now().UnixNano())
	if text := os.Getenv("LIMPET_SEED"); text != "" {
		var err error
		if seed, err = strconv.ParseUint(text, 10, 64); err != nil {
			t.Fatalf("LIMPET_SEED: %v", err)
		}
	}
	t.Logf("seed %d", seed)
	return &driver{
		Env: e, t: t, record: &record{began: time.Now()}, rng: rand.New(rand.NewPCG(seed, 0)), pods: map[string]string{},
		entrance: e.In(namespace), selector: selector, gateways: map[string]bool{}, done: map[string]int{},
	}
}

var revisions = []string{"demo-00001", "demo-00002"}

// begin records what there is.
func (d *driver) begin() {
	const always = -time.Hour
	for _, r := range revisions {
		d.record.did(event{From: always, To: always, Kind: weighted, Revision: r, Weight: 50})
	}
	d.update(always)
	d.updateGateways(always)
	for i := range d.record.events {
		d.record.events[i].To = always
	}
}

// run does one thing after the other, all of them in a random order, then all again in another. It ends with a round.
func (d *driver) run(ctx context.Context, length time.Duration) {
	deeds := map[string]func(){
		"scaled": d.scale, "weights changed": d.weigh, "ingress restarted": d.restartIngress, "Redis restarted": d.restartRedis,
	}
	for end := time.Now().Add(length); time.Now().Before(end) && ctx.Err() == nil; {
		d.round(deeds)
	}
}

// round does all of some things in a random order.
func (d *driver) round(deeds map[string]func()) {
	names := slices.Sorted(maps.Keys(deeds))
	d.rng.Shuffle(len(names), func(i, j int) { names[i], names[j] = names[j], names[i] })
	for _, name := range names {
		began := d.record.clock()
		deeds[name]()
		d.done[name]++
		d.t.Logf("%6.1fs %s in %.1fs", began.Seconds(), name, (d.record.clock() - began).Seconds())
		time.Sleep(time.Duration(500+d.rng.IntN(1500)) * time.Millisecond) // load goes on meanwhile
	}
}

// drain is how long a pod that ends keeps its sessions in this test. Knative lets it live longer.
const drain = 3 * time.Second

// shortenDrain sets the drain's time for the test. It is called before what takes a while, in which all gateways hear of it.
func shortenDrain(t *testing.T, e *cluster.Env) {
	t.Helper()
	set := func(value any) error {
		text, err := json.Marshal(map[string]any{"data": map[string]any{"drain-timeout": value}})
		if err == nil {
			_, err = e.CoreV1().ConfigMaps(ingress.Namespace).Patch(context.WithoutCancel(t.Context()), "config-limpet",
				types.MergePatchType, text, metav1.PatchOptions{})
		}
		return err
	}
	if err := set(drain.String()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := set(nil); err != nil {
			t.Error(err)
		}
	})
}

// list returns the pods of the Service, those that are ending included.
func (d *driver) list(ctx context.Context) ([]corev1.Pod, error) {
	pods, err := d.CoreV1().Pods(d.Namespace).List(ctx, metav1.ListOptions{LabelSelector: "serving.knative.dev/service=demo"})
	if err != nil {
		return nil, err
	}
	return pods.Items, nil
}

// update records which pods have come since from, and which have begun to end: those keep their sessions for the drain's time.
func (d *driver) update(from time.Duration) {
	d.t.Helper()
	pods, err := d.list(d.t.Context())
	if err != nil {
		d.t.Fatal(err)
	}
	now, there := d.record.clock(), map[string]bool{}
	for _, p := range pods {
		if p.DeletionTimestamp != nil {
			continue
		}
		there[p.Name] = true
		if _, known := d.pods[p.Name]; !known {
			d.pods[p.Name] = p.Labels["serving.knative.dev/revision"]
			d.record.did(event{From: from, To: now, Kind: added, Endpoint: p.Name, Revision: d.pods[p.Name]})
		}
	}
	for name, revision := range d.pods {
		if !there[name] {
			delete(d.pods, name)
			d.record.did(event{From: from, To: now, Kind: draining, Endpoint: name, Revision: revision, Until: from + drain})
		}
	}
}

// scale gives a revision four pods, or two if it had four.
func (d *driver) scale() {
	revision := revisions[d.rng.IntN(len(revisions))]
	have := 0
	for _, r := range d.pods {
		if r == revision {
			have++
		}
	}
	want := 2
	if have == 2 {
		want = 4
	}
	d.scaleTo(revision, want)
}

// scaleTo gives a revision another number of pods and waits until it has them.
func (d *driver) scaleTo(revision string, want int) {
	from := d.record.clock()
	d.annotate(revision, want)
	d.WaitFor(3*time.Minute, fmt.Sprintf("%d pods of %s", want, revision), func(ctx context.Context) error {
		pods, err := d.list(ctx)
		if err != nil {
			return err
		}
		n := 0
		for _, p := range pods {
			if p.DeletionTimestamp != nil || p.Labels["serving.knative.dev/revision"] != revision {
				continue
			}
			if n++; d.PodReady(ctx, p.Name) != nil {
				return fmt.Errorf("%s is not ready", p.Name)
			}
		}
		if n != want {
			return fmt.Errorf("%d pods", n)
		}
		return nil
	})
	d.update(from)
}

func (d *driver) annotate(revision string, pods int) {
	d.patch("serving.knative.dev/v1/Revision", revision, map[string]any{"metadata": map[string]any{"annotations": map[string]any{
		"autoscaling.knative.dev/min-scale": fmt.Sprint(pods), "autoscaling.knative.dev/max-scale": fmt.Sprint(pods),
	}}})
}

func (d *driver) patch(kind, name string, patch map[string]any) {
	d.t.Helper()
	text, err := json.Marshal(patch)
	if err != nil {
		d.t.Fatal(err)
	}
	o, err := d.Object(d.t.Context(), kind, name)
	if err != nil {
		d.t.Fatal(err)
	}
	resource, err := d.Resource(d.Namespace, o)
	if err == nil {
		err = kube.Again(func() error {
			_, err := resource.Patch(d.t.Context(), name, types.MergePatchType, text, metav1.PatchOptions{})
			return err
		})
	}
	if err != nil {
		d.t.Fatalf("patching %s %s: %v", kind, name, err)
	}
}

// weigh changes the split, which may move nobody who is known: revisions are pinned.
func (d *driver) weigh() {
	first := 10 + d.rng.IntN(81)
	from := d.record.clock()
	d.patch("serving.knative.dev/v1/Service", "demo", map[string]any{"spec": map[string]any{"traffic": []map[string]any{
		{"revisionName": revisions[0], "percent": first}, {"revisionName": revisions[1], "percent": 100 - first},
	}}})
	d.WaitForCondition("serving.knative.dev/v1/Service", "demo", "Ready", 3*time.Minute)
	for i, w := range []int{first, 100 - first} {
		d.record.did(event{From: from, To: d.record.clock(), Kind: weighted, Revision: revisions[i], Weight: w})
	}
}

// gatewayPods returns the pods of the gateways, those that are ending included.
func (d *driver) gatewayPods(ctx context.Context) ([]corev1.Pod, error) {
	pods, err := d.CoreV1().Pods(d.entrance.Namespace).List(ctx, metav1.ListOptions{LabelSelector: d.selector})
	if err != nil {
		return nil, err
	}
	return pods.Items, nil
}

// updateGateways records which gateways have come and gone since from.
func (d *driver) updateGateways(from time.Duration) {
	d.t.Helper()
	pods, err := d.gatewayPods(d.t.Context())
	if err != nil {
		d.t.Fatal(err)
	}
	now, there := d.record.clock(), map[string]bool{}
	for _, p := range pods {
		if p.Status.PodIP == "" {
			continue
		}
		there[p.Status.PodIP] = true
		if !d.gateways[p.Status.PodIP] {
			d.gateways[p.Status.PodIP] = true
			d.record.did(event{From: from, To: now, Kind: gatewayUp, Gateway: p.Status.PodIP})
		}
	}
	for address := range d.gateways {
		if !there[address] {
			delete(d.gateways, address)
			d.record.did(event{From: from, To: now, Kind: gatewayDown, Gateway: address})
		}
	}
}

// restartIngress replaces all pods of the ingress, as a new version does. No connection may fail.
func (d *driver) restartIngress() {
	from := d.record.clock()
	patch := fmt.Sprintf(`{"spec":{"template":{"metadata":{"annotations":{"restarted":"%d"}}}}}`, time.Now().UnixNano())
	deployments := d.AppsV1().Deployments(ingress.Namespace)
	_, err := deployments.Patch(d.t.Context(), ingress.Deployment, types.StrategicMergePatchType, []byte(patch), metav1.PatchOptions{})
	if err != nil {
		d.t.Fatal(err)
	}
	d.WaitFor(3*time.Minute, "the new ingress", func(ctx context.Context) error {
		d.updateGateways(from) // a pod is recorded while it is there, however short
		if err := d.Available(ctx, ingress.Namespace, ingress.Deployment); err != nil {
			return err
		}
		pods, err := d.gatewayPods(ctx)
		if err != nil {
			return err
		}
		for i := range pods {
			if p := &pods[i]; p.DeletionTimestamp != nil {
				return fmt.Errorf("%s", kube.Describe(p))
			}
		}
		return nil
	})
	d.updateGateways(from)
}

// restartRedis ends Redis at once, and Kubernetes starts an empty one in its place. A container that is killed would do too, but the
// kubelet waits longer each time before it starts one again.
func (d *driver) restartRedis() {
	time.Sleep(time.Until(d.quiet))
	in := d.In(ingress.Namespace)
	pods, err := in.Pods(d.t.Context(), "app="+ingress.Redis)
	if err != nil || len(pods) != 1 {
		d.t.Fatalf("Redis has %d pods (%v), want one", len(pods), err)
	}
	address := net.JoinHostPort(d.ServiceAddress(ingress.Namespace, ingress.Redis), "6379")
	from := d.record.clock()
	d.record.did(event{From: from, To: from, Kind: storeLost})
	in.KillContainer(pods[0].Name, pods[0].Spec.Containers[0].Name)
	at := int64(0)
	err = d.CoreV1().Pods(ingress.Namespace).Delete(d.t.Context(), pods[0].Name, metav1.DeleteOptions{GracePeriodSeconds: &at})
	if err != nil {
		d.t.Fatal(err)
	}
	d.WaitFor(3*time.Minute, "Redis", func(ctx context.Context) error {
		now, err := in.Pods(ctx, "app="+ingress.Redis)
		if err != nil || len(now) != 1 || now[0].UID == pods[0].UID {
			return fmt.Errorf("%d pods of it are there, the old one included (%v)", len(now), err)
		}
		if err := in.PodReady(ctx, now[0].Name); err != nil {
			return err
		}
		return connect(ctx, address, 5*time.Second) // the cluster's proxy leads there a moment later
	})
	d.record.did(event{From: from, To: d.record.clock(), Kind: storeRecovered, Emptied: true})
	d.quiet = time.Now().Add(allow.Settle + time.Second)
}
