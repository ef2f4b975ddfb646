package main

import (
	"context"
	"log/slog"
	"net/http"
	"sync"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/scheme"
	typedcorev1 "k8s.io/client-go/kubernetes/typed/core/v1"
	"k8s.io/client-go/tools/record"
	netconfig "knative.dev/networking/pkg/config"
	kubeclient "knative.dev/pkg/client/injection/kube/client"
	"knative.dev/pkg/system"
	autoscalingv1alpha1 "knative.dev/serving/pkg/apis/autoscaling/v1alpha1"
	autoscalerconfig "knative.dev/serving/pkg/autoscaler/config"
	asmetrics "knative.dev/serving/pkg/autoscaler/metrics"
	"knative.dev/serving/pkg/client/informers/externalversions"
	servingclient "knative.dev/serving/pkg/client/injection/client"

	"github.com/limpet-project/limpet/knative/activator"
	"github.com/limpet-project/limpet/knative/diagnosis"
	"github.com/limpet-project/limpet/knative/scaledown"
)

const (
	// upkeepName is that of the Lease, and of who records events.
	upkeepName = "limpet-activator"
	// ingressClass is that of Limpet's ingress, whose package would bring its informers, and the need to be allowed them.
	ingressClass = "limpet.ingress.networking.knative.dev"
)

// An upkeep is what one activator does for all, while it leads: it tells users why their sessions are not kept, and has the pods with the
// most sessions outlive the others.
type upkeep struct {
	kubernetes kubernetes.Interface
	candidate  candidate
	events     record.EventBroadcaster
	diagnosis  *diagnosis.Controller
	census     *activator.Census // nil if sessions are not counted here
	informers  externalversions.SharedInformerFactory
	keep       scaledown.Options // what a keeper is made of, but for the channel
}

// newUpkeep makes the upkeep. It is told of ConfigMaps from the start on, and does nothing until it runs.
func (p *process) newUpkeep(ctx context.Context, o activator.SourceOptions, log *slog.Logger) *upkeep {
	u := &upkeep{
		kubernetes: kubeclient.Get(ctx), events: record.NewBroadcaster(),
		informers: externalversions.NewSharedInformerFactory(servingclient.Get(ctx), 0),
	}
	u.candidate = candidate{
		leases: u.kubernetes.CoordinationV1(), namespace: system.Namespace(), name: upkeepName, identity: p.PodName,
	}
	autoscalers := u.informers.Autoscaling().V1alpha1().PodAutoscalers().Informer()
	_ = autoscalers.SetTransform(annotated) // it fails only for an informer that runs
	u.diagnosis = diagnosis.New(diagnosis.Options{
		Routes: o.Routes, Revisions: o.Revisions, PodAutoscalers: autoscalers, IngressClass: ingressClass, Log: log,
		Recorder: u.events.NewRecorder(scheme.Scheme, corev1.EventSource{Component: upkeepName}),
	})
	p.maps.Watch(netconfig.ConfigMapName, u.diagnosis.HandleNetwork)
	autoscaler := corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: system.Namespace(), Name: autoscalerconfig.ConfigName}}
	p.maps.WatchWithDefault(autoscaler, u.diagnosis.HandleAutoscaler) // which need not exist
	if p.source != nil && p.peers != nil {                            // without peers nobody knows what other activators have
		u.census = activator.NewCensus(activator.CensusOptions{Source: p.source, Table: p.node.Table(), Peers: p.peers})
		u.keep = scaledown.Options{
			Count: u.census.Count, Pods: u.kubernetes.CoreV1(), Rate: p.CostsPerSecond, Load: p.source.SessionLoad, PodName: p.PodName, Log: log,
		}
	}
	return u
}

// annotated leaves of an object who it is and its annotations, before an informer keeps it.
func annotated(object any) (any, error) {
	a, is := object.(*autoscalingv1alpha1.PodAutoscaler)
	if !is {
		return object, nil
	}
	return &autoscalingv1alpha1.PodAutoscaler{ObjectMeta: metav1.ObjectMeta{
		Namespace: a.Namespace, Name: a.Name, UID: a.UID, ResourceVersion: a.ResourceVersion, Annotations: a.Annotations,
	}}, nil
}

// handler returns a handler that answers what the activator asks that leads.
func (u *upkeep) handler(next http.Handler) http.Handler {
	if u.census == nil {
		return next
	}
	return u.census.Handler(next)
}

// run keeps up until ctx or sig ends: one that drains is no activator to others any longer. What the autoscaler is told goes to stats.
func (u *upkeep) run(ctx, sig context.Context, stats chan<- []asmetrics.StatMessage) error {
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	defer context.AfterFunc(sig, stop)()
	defer u.events.Shutdown()
	sink := u.events.StartRecordingToSink(&typedcorev1.EventSinkImpl{Interface: u.kubernetes.CoreV1().Events("")})
	defer sink.Stop()
	defer u.informers.Shutdown()
	defer stop() // before the informers are waited for
	u.informers.Start(ctx.Done())
	u.keep.Stats = stats
	return u.candidate.run(ctx, u.lead)
}

// lead does what the leader does until ctx ends or a part fails.
func (u *upkeep) lead(ctx context.Context) error {
	ctx, stop := context.WithCancel(ctx)
	var parts sync.WaitGroup
	if u.census != nil {
		keeper := scaledown.New(u.keep)
		parts.Go(func() { keeper.Run(ctx) })
	}
	err := u.diagnosis.Run(ctx)
	stop()
	parts.Wait()
	return err
}
