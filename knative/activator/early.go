package activator

import (
	"context"
	"net/http"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/types"
	nethttp "knative.dev/networking/pkg/http"
	netheader "knative.dev/networking/pkg/http/header"
	netprober "knative.dev/networking/pkg/prober"
	activatorhandler "knative.dev/serving/pkg/activator/handler"
	v1 "knative.dev/serving/pkg/apis/serving/v1"
	"knative.dev/serving/pkg/queue"
	"knative.dev/serving/pkg/reconciler/serverlessservice/resources/names"

	"github.com/limpet-project/limpet/endpoint"
)

// Probing is how a Source finds out that a pod answers before it is Ready, as Serving's activator does. The zero Probing probes nothing: pods
// get requests when they are Ready.
type Probing struct {
	Transport http.RoundTripper // to pods; nil is none
	// UsePassthroughLb is Serving's setting of this name.
	UsePassthroughLb bool
	Timeout          time.Duration // of one probe
	Frequency        time.Duration // how often a pod that does not answer is probed
}

// maxProbes bounds the probes under way.
const maxProbes = 256

// A prober knows which pods that are not Ready answer. As in Serving one that has answered once is probed no more, until it was Ready and is
// so no longer; it may get requests until that probe fails. Make one with newProber and keep run running.
type prober struct {
	o     Probing
	tls   bool
	found func(types.NamespacedName) // is called when the answer of a pod of a revision has changed
	wake  chan struct{}              // has something if there is a new pod to probe

	mu    sync.Mutex // never held while anything is waited for
	early map[types.NamespacedName]map[string]*earlyPod
}

// An early pod is one that is listed and not Ready.
type earlyPod struct {
	revision *v1.Revision
	address  string
	answered bool // and is probed no more
	trusted  bool // was Ready, and has not failed a probe since
	probing  bool
}

func newProber(o Probing, tls bool, found func(types.NamespacedName)) *prober {
	return &prober{
		o: o, tls: tls, found: found, wake: make(chan struct{}, 1), early: make(map[types.NamespacedName]map[string]*earlyPod),
	}
}

// admit makes those pods of a revision ready that answer though they are not listed as ready, and has the others probed. Before is what it
// made of them last.
func (p *prober) admit(key types.NamespacedName, r *v1.Revision, pods, before []endpoint.Member) {
	if p.o.Transport == nil || !answersForAll(&r.Spec) {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	known, next := p.early[key], make(map[string]*earlyPod)
	for i := range pods {
		e := &pods[i]
		if !e.NotReady || e.Draining {
			continue
		}
		pod := known[e.Name]
		if pod == nil || pod.address != e.Address {
			pod = &earlyPod{revision: r, address: e.Address, trusted: pod == nil && wasReady(before, e.Name)}
			p.wakeUp()
		}
		next[e.Name] = pod
		e.NotReady = !pod.answered && !pod.trusted
	}
	if p.early[key] = next; len(next) == 0 {
		delete(p.early, key)
	}
}

// wakeUp has run look again, now or when it is done with what it does.
func (p *prober) wakeUp() {
	select {
	case p.wake <- struct{}{}:
	default:
	}
}

// forget drops what is known of the pods of a revision.
func (p *prober) forget(key types.NamespacedName) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.early, key)
}

func wasReady(pods []endpoint.Member, name string) bool {
	for i := range pods {
		if pods[i].Name == name {
			return !pods[i].NotReady && !pods[i].Draining
		}
	}
	return false
}

// answersForAll reports whether a pod is ready once queue-proxy says so: there is no probe that only the kubelet makes.
func answersForAll(spec *v1.RevisionSpec) bool {
	c := spec.GetContainer()
	if c.StartupProbe != nil || c.ReadinessProbe != nil && c.ReadinessProbe.Exec != nil {
		return false
	}
	for _, sidecar := range spec.GetSidecarContainers() {
		if sidecar.StartupProbe != nil {
			return false
		}
	}
	return true
}

// run probes until ctx ends, and waits for the last probe.
func (p *prober) run(ctx context.Context) {
	if p.o.Transport == nil {
		return
	}
	tick := time.NewTicker(p.o.Frequency)
	defer tick.Stop()
	var probes sync.WaitGroup
	defer probes.Wait()
	places := make(chan struct{}, maxProbes)
	for {
		again := tick.C
		due, more := p.due()
		for pod, key := range due {
			places <- struct{}{} // a probe has a timeout
			probes.Go(func() {
				p.answer(key, pod, p.probe(ctx, key, pod))
				<-places
			})
		}
		if !more {
			again = nil
		}
		select {
		case <-ctx.Done():
			return
		case <-p.wake:
		case <-again:
		}
	}
}

// due returns the pods to probe now, and whether there will be more without anybody saying so.
func (p *prober) due() (due map[*earlyPod]types.NamespacedName, more bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	due = make(map[*earlyPod]types.NamespacedName)
	for key, pods := range p.early {
		for _, pod := range pods {
			if pod.answered {
				continue
			}
			if more = true; !pod.probing {
				pod.probing = true
				due[pod] = key
			}
		}
	}
	return due, more
}

// answer takes over whether a pod has answered.
func (p *prober) answer(key types.NamespacedName, pod *earlyPod, answered bool) {
	p.mu.Lock()
	changed := answered || pod.trusted
	pod.probing, pod.answered, pod.trusted = false, answered, false
	p.mu.Unlock()
	if changed {
		p.found(key)
	}
}

// probe asks a pod's queue-proxy whether it is ready, as Serving's activator does.
func (p *prober) probe(ctx context.Context, key types.NamespacedName, pod *earlyPod) bool {
	ctx, cancel := context.WithTimeout(activatorhandler.WithRevisionAndID(ctx, pod.revision, key), p.o.Timeout)
	defer cancel()
	scheme := "http://"
	if p.tls {
		scheme = "https://"
	}
	options := []any{
		netprober.WithHeader(netheader.ProbeKey, queue.Name),
		netprober.WithHeader(netheader.UserAgentKey, netheader.ActivatorUserAgent),
		netprober.ExpectsStatusCodes([]int{http.StatusOK}),
		netprober.ExpectsBody(queue.Name),
	}
	if p.o.UsePassthroughLb {
		options = append(options, netprober.WithHost(names.PrivateService(key.Name)+"."+key.Namespace),
			netprober.WithHeader(netheader.PassthroughLoadbalancingKey, "true"))
	}
	answered, err := netprober.Do(ctx, p.o.Transport, scheme+pod.address+nethttp.HealthCheckPath, options...)
	return answered && err == nil
}
