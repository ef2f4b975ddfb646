// Package reliability keeps real clients asking while the ingress, its Redis, the pods and the split change, and has an independent
// checker judge what they saw: no request fails, and no session or flow leaves what holds it without a cause.
//
// It runs 40 seconds, with LIMPET_LONG five minutes, or as long as LIMPET_RELIABILITY says ("1h").
package reliability

import (
	"context"
	"math/rand/v2"
	"net"
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
var allow = allowances{
	Reload: drain + 3*time.Second, Detect: 3 * time.Second, Recover: 5 * time.Second, Settle: 6 * time.Second, Cache: 500 * time.Millisecond,
}

func TestMain(m *testing.M) {
	os.Exit(cluster.MainWith(m, cluster.Needs{Tier: cluster.Knative, Images: []string{counter}, Programs: []string{judge}, Ingress: true}))
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
	// The default of 50ms is for machines that do not run clients, pods and a whole control plane on the same two processors.
	e.InstallIngress(ingress.Options{Replicas: 2, Redis: true, Set: map[string]string{"store.redis.timeout": "1s"}})
	deploy(e)
	rec := &record{began: time.Now()}
	l := &load{
		address: net.JoinHostPort(e.IngressAddress(), "80"), host: "demo." + e.Namespace + "." + ingress.Domain,
		record: rec, gateways: &gateways{service: e.IngressAddress()}, workers: 12, series: 12, rest: 50 * time.Millisecond,
	}
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	d := &driver{
		Env: e, t: t, record: rec, rng: rand.New(rand.NewPCG(seed, 0)), pods: map[string]string{}, gateways: map[string]bool{},
		done: map[string]int{},
	}
	d.shortenDrain()
	d.begin()
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	asking, watching := make(chan struct{}), make(chan error, 1)
	watch, watched := context.WithCancel(context.WithoutCancel(ctx))
	defer watched()
	go func() { watching <- l.gateways.watch(watch) }()
	go func() { defer close(asking); l.run(ctx) }()
	d.run(ctx, length(t))
	stop()
	<-asking
	watched()
	if err := <-watching; err != nil {
		t.Fatal(err)
	}
	verdict(t, e, d)
}

// deploy deploys two revisions of two pods each, half the traffic each.
func deploy(e *cluster.Env) {
	s := demo.Service{Name: "demo", Image: e.Image(counter), Revision: revisions[0], Pods: 2}
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
