package scaledown

import (
	"context"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	typedcorev1 "k8s.io/client-go/kubernetes/typed/core/v1"
	"k8s.io/client-go/util/flowcontrol"
	asmetrics "knative.dev/serving/pkg/autoscaler/metrics"

	"github.com/limpet-project/limpet/knative/policy"
)

const (
	interval    = 15 * time.Second // between two counts
	countTime   = 10 * time.Second // of one count at most
	patchTime   = 5 * time.Second  // of one write at most
	defaultRate = 5
)

// Options are what a Keeper works with. Count is needed.
type Options struct {
	// Count returns the pods of all revisions with session affinity. Its error means that not even they are known.
	Count func(context.Context) ([]Pod, error)
	// Pods are where costs are written; nil writes none.
	Pods typedcorev1.PodsGetter
	// Rate bounds the costs written in a second; 0 is 5.
	Rate float64
	// Load says how much sessions count for the autoscaler, and Stats gets what it is told, under the name of PodName; nil for either tells
	// it nothing.
	Load    func() policy.SessionLoad
	Stats   chan<- []asmetrics.StatMessage
	PodName string
	Log     *slog.Logger // nil logs nothing
}

// A Keeper writes the costs of pods and tells the autoscaler of sessions. Make one with New and keep Run running in one process of the
// cluster.
type Keeper struct {
	o      Options
	latest atomic.Pointer[sighting]
}

// New returns a keeper that does nothing until it runs.
func New(o Options) *Keeper {
	if o.Rate <= 0 {
		o.Rate = defaultRate
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	return &Keeper{o: o}
}

// Run counts sessions, writes costs and tells the autoscaler until ctx ends. It may run again afterwards, and then assumes nothing of
// the costs that pods have.
func (k *Keeper) Run(ctx context.Context) {
	k.latest.Store(nil)
	var parts sync.WaitGroup
	parts.Go(func() { k.keep(ctx) })
	if k.o.Load != nil && k.o.Stats != nil {
		parts.Go(func() { k.report(ctx) })
	}
	parts.Wait()
}

// keep counts and writes, round by round.
func (k *Keeper) keep(ctx context.Context) {
	w := &writer{
		pods: k.o.Pods, ledger: newLedger(), log: k.o.Log,
		limit: flowcontrol.NewTokenBucketRateLimiter(float32(k.o.Rate), 1),
	}
	defer w.limit.Stop()
	m := make(memory)
	tick := time.NewTicker(interval)
	defer tick.Stop()
	for ctx.Err() == nil {
		k.round(ctx, w, m)
		select {
		case <-tick.C:
		case <-ctx.Done():
		}
	}
}

// round counts once and writes what has changed. What there is no time for is due again in the next round.
func (k *Keeper) round(ctx context.Context, w *writer, m memory) {
	ctx, cancel := context.WithTimeout(ctx, interval)
	defer cancel()
	counting, done := context.WithTimeout(ctx, countTime)
	pods, err := k.o.Count(counting)
	done()
	if err != nil {
		if ctx.Err() == nil {
			k.o.Log.Info("sessions are not counted", "error", err)
		}
		return
	}
	now := time.Now()
	k.latest.Store(&sighting{pods: m.fill(pods, now), at: now})
	if w.pods != nil {
		w.write(ctx, pods)
	}
}
