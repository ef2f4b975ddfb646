// Package reliability keeps real clients asking while what they ask changes, and has an independent checker judge what they saw: no request
// fails, and no session or flow leaves what holds it without a cause.
//
// One test is of the ingress: it, its Redis, the pods and the split change. It runs 40 seconds, with LIMPET_LONG five minutes, or as long as
// LIMPET_RELIABILITY says ("1h"). The other is of the activators: one is killed, one is added, Redis and the pods change, and the traces of
// every pod's queue-proxy say that no pod was ever sent more than its limit. Each cell of its matrix has 10,000 requests, which takes one to
// three minutes; without LIMPET_LONG there is one cell. LIMPET_SEED repeats the order and the chances of what is done.
package reliability

import (
	"context"
	"net/http"
	"os"
	"testing"
	"time"

	"github.com/limpet-project/limpet/test/cluster"
	"github.com/limpet-project/limpet/test/cluster/demo"
	"github.com/limpet-project/limpet/test/cluster/ingress"
)

const (
	counter = "./examples/counter"
	judge   = "./test/cluster/reliability/testdata/judge/main.go"
)

// The drain counts from when a pod ends, which the log knows only to have been between From and To; so Reload holds the drain too.
// Settle holds the time that a call to the store may take that is lost.
var allow = allowances{
	Reload: drain + 3*time.Second, Detect: 3 * time.Second, Recover: 5 * time.Second, Settle: 6 * time.Second, Cache: 500 * time.Millisecond,
}

func TestMain(m *testing.M) {
	os.Exit(cluster.MainWith(m, cluster.Needs{
		Tier: cluster.Knative, Images: []string{counter}, Programs: []string{judge}, Ingress: true, Activator: true,
	}))
}

func length(t *testing.T) time.Duration {
	text := os.Getenv("LIMPET_RELIABILITY")
	switch {
	case text != "":
		d, err := time.ParseDuration(text)
		if err != nil {
			t.Fatalf("LIMPET_RELIABILITY: %v", err)
		}
		return d
	case os.Getenv("LIMPET_LONG") != "":
		return 5 * time.Minute
	}
	return 40 * time.Second
}

func TestNoRequestFailsAndNoSessionStraysWhateverIsRestarted(t *testing.T) {
	e := cluster.Start(t, cluster.Knative)
	// The default is for machines that do not run clients, pods and a whole control plane on the same two processors.
	e.InstallIngress(ingress.Options{Replicas: 2, Redis: true, Set: map[string]string{"store.redis.timeout": "5s"}})
	shortenDrain(t, e)
	deploy(e, demo.Service{})
	d := newDriver(t, e, ingress.Namespace, "app="+ingress.Deployment)
	g := &gateways{service: e.IngressAddress()}
	l := &load{
		way: g, method: http.MethodGet, host: "demo." + e.Namespace + "." + ingress.Domain,
		record: d.record, workers: 12, series: 12, rest: 50 * time.Millisecond,
		dial: 15 * time.Second, // a connection that fails is a fault, so this is longer than a client may stand still itself
	}
	d.begin()
	d.during(l, g.watch, func(ctx context.Context) { d.run(ctx, length(t)) })
	verdict(t, e, d)
}

// during runs deeds while the load asks, and then waits for what watches it.
func (d *driver) during(l *load, watch func(context.Context) error, deeds func(context.Context)) {
	d.t.Helper()
	ctx, stop := context.WithCancel(d.t.Context())
	defer stop()
	asking, watching := make(chan struct{}), make(chan error, 1)
	watched, unwatch := context.WithCancel(context.WithoutCancel(ctx))
	defer unwatch()
	go func() { watching <- watch(watched) }()
	go func() { defer close(asking); l.run(ctx) }()
	deeds(ctx)
	stop()
	<-asking
	unwatch()
	if err := <-watching; err != nil {
		d.t.Fatal(err)
	}
}

// deploy deploys two revisions of two pods each, half the traffic each, which are otherwise as s says.
func deploy(e *cluster.Env, s demo.Service) {
	s.Name, s.Image, s.Revision, s.Pods = "demo", e.Image(counter), revisions[0], 2
	e.Apply(s.Manifest())
	e.WaitForCondition("serving.knative.dev/v1/Service", "demo", "Ready", 3*time.Minute)
	s.Revision = revisions[1]
	s.Traffic = []demo.Target{{Revision: revisions[0], Percent: 50}, {Revision: revisions[1], Percent: 50}}
	e.Apply(s.Manifest())
	e.WaitForCondition("serving.knative.dev/v1/Service", "demo", "Ready", 3*time.Minute)
}

func verdict(t *testing.T, e *cluster.Env, d *driver) {
	t.Helper()
	report, err := d.record.judge(t.Context(), e.Program(judge), allow)
	t.Logf("done: %v\n%s", d.done, report)
	if err != nil {
		t.Errorf("the checker: %v", err)
	}
	if d.record.failures > 0 {
		t.Errorf("%d of %d requests failed:", d.record.failures, len(d.record.observations))
		for _, f := range d.record.failed {
			t.Log(f)
		}
	}
	if n := len(d.record.observations); n < 1000 {
		t.Errorf("%d requests prove little", n)
	}
}
