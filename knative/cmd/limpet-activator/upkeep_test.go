package main

import (
	"context"
	"log/slog"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes/fake"
	kubeclient "knative.dev/pkg/client/injection/kube/client"
	configmapinformer "knative.dev/pkg/configmap/informer"
	"knative.dev/pkg/system"
	autoscalingv1alpha1 "knative.dev/serving/pkg/apis/autoscaling/v1alpha1"
	v1 "knative.dev/serving/pkg/apis/serving/v1"
	asmetrics "knative.dev/serving/pkg/autoscaler/metrics"
	fakeserving "knative.dev/serving/pkg/client/clientset/versioned/fake"
	"knative.dev/serving/pkg/client/informers/externalversions"
	servingclient "knative.dev/serving/pkg/client/injection/client"

	"github.com/limpet-project/limpet/knative/activator"
	"github.com/limpet-project/limpet/knative/diagnosis"
	"github.com/limpet-project/limpet/knative/policy"
)

// The parts, as the process puts them together: what concerns a Route becomes an event at the API server, and its Lease is given back.
func TestTheLeaderTellsUsersByEvents(t *testing.T) {
	t.Setenv(system.NamespaceEnvKey, "knative-serving")
	kube := fake.NewClientset(&corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "knative-serving", Name: "config-network"}})
	route := &v1.Route{ObjectMeta: metav1.ObjectMeta{
		Namespace: "shop", Name: "demo", UID: "route", Annotations: map[string]string{policy.SessionHeader: "X-User"},
		OwnerReferences: []metav1.OwnerReference{{APIVersion: "serving.knative.dev/v1", Kind: "Service", Name: "demo", UID: "service", Controller: new(true)}},
	}}
	route.Status.Traffic = []v1.TrafficTarget{{RevisionName: "demo-00001", Percent: new(int64(100))}}
	serving := fakeserving.NewSimpleClientset(route, &v1.Revision{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "demo-00001"}},
		&autoscalingv1alpha1.PodAutoscaler{ObjectMeta: metav1.ObjectMeta{
			Namespace: "shop", Name: "demo-00001", Annotations: map[string]string{"autoscaling.knative.dev/class": "hpa.autoscaling.knative.dev"},
		}})
	ctx, cancel := context.WithCancel(context.WithValue(context.WithValue(t.Context(), kubeclient.Key{}, kube), servingclient.Key{}, serving))
	defer cancel()
	factory := externalversions.NewSharedInformerFactory(serving, 0)
	p := &process{command: command{PodName: "activator-5c8d7f9b6-x7k2p"}, maps: configmapinformer.NewInformedWatcher(kube, "knative-serving")}
	u := p.newUpkeep(ctx, activator.SourceOptions{
		Routes: factory.Serving().V1().Routes().Informer(), Revisions: factory.Serving().V1().Revisions().Informer(),
	}, slog.New(slog.DiscardHandler))
	factory.Start(ctx.Done())
	defer factory.Shutdown()
	if err := p.maps.Start(ctx.Done()); err != nil {
		t.Fatal(err)
	}
	sig, stop := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- u.run(ctx, sig, make(chan []asmetrics.StatMessage)) }()
	event := first(t, kube)
	if event.Reason != diagnosis.ReasonNeverInPath || event.InvolvedObject.Kind != "Service" || event.InvolvedObject.UID != "service" ||
		event.Source.Component != upkeepName || event.Type != corev1.EventTypeWarning {
		t.Errorf("the first event is %+v, want %s on the Service", event, diagnosis.ReasonNeverInPath)
	}
	stop()
	if err := <-done; err != nil {
		t.Errorf("run() = %v, want nil", err)
	}
	lease, err := kube.CoordinationV1().Leases("knative-serving").Get(t.Context(), upkeepName, metav1.GetOptions{})
	if err != nil || lease.Spec.HolderIdentity == nil || *lease.Spec.HolderIdentity != "" {
		t.Errorf("the Lease is %+v, %v, want nobody's", lease, err)
	}
	cancel()
}

// first waits for an event in the namespace shop.
func first(t *testing.T, kube *fake.Clientset) corev1.Event {
	t.Helper()
	for end := time.Now().Add(time.Minute); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		list, err := kube.CoreV1().Events("shop").List(t.Context(), metav1.ListOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if len(list.Items) > 0 {
			return list.Items[0]
		}
	}
	t.Fatal("waited a minute for an event")
	return corev1.Event{}
}
