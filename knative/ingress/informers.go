package ingress

import (
	"context"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/client-go/informers"
	corelisters "k8s.io/client-go/listers/core/v1"
	discoverylisters "k8s.io/client-go/listers/discovery/v1"
	"k8s.io/client-go/tools/cache"
	"knative.dev/networking/pkg/apis/networking/v1alpha1"
	networkingfactory "knative.dev/networking/pkg/client/informers/externalversions"
	networkinglisters "knative.dev/networking/pkg/client/listers/networking/v1alpha1"
	netconfig "knative.dev/networking/pkg/config"
	"knative.dev/pkg/controller"
	autoscalerconfig "knative.dev/serving/pkg/autoscaler/config"

	"github.com/limpet-project/limpet/knative/policy"
)

// The ConfigMaps of Knative that are read.
const (
	networkMap    = netconfig.ConfigMapName
	autoscalerMap = autoscalerconfig.ConfigName
)

// factory is what the informer factories of all clients have in common.
type factory interface {
	Start(stop <-chan struct{})
	Shutdown()
}

// watches are what the controller follows in the cluster.
type watches struct {
	factories []factory
	// Of all namespaces.
	ingresses, services, slices, secrets cache.SharedIndexInformer
	// Of Knative's namespace; of the Secrets there only the activator's.
	knativeMaps, knativeSecrets cache.SharedIndexInformer
	// config-limpet alone.
	ownMaps cache.SharedIndexInformer
	own     string // the namespace of config-limpet
	knative string
}

func newWatches(o Options) *watches {
	w := &watches{own: o.Namespace, knative: o.KnativeNamespace}
	networking := networkingfactory.NewSharedInformerFactory(o.Networking, controller.DefaultResyncPeriod)
	w.ingresses = transformed(networking.Networking().V1alpha1().Ingresses().Informer(), complete)
	everything := informers.NewSharedInformerFactory(o.Kubernetes, 0)
	w.services = transformed(everything.Core().V1().Services().Informer(), slim)
	w.slices = transformed(everything.Discovery().V1().EndpointSlices().Informer(), slim)
	certified := selected(o, "", "type", string(corev1.SecretTypeTLS))
	w.secrets = transformed(certified.Core().V1().Secrets().Informer(), slimSecret)
	settings := informers.NewSharedInformerFactoryWithOptions(o.Kubernetes, 0, informers.WithNamespace(o.KnativeNamespace))
	w.knativeMaps = transformed(settings.Core().V1().ConfigMaps().Informer(), slim)
	routing := selected(o, o.KnativeNamespace, "metadata.name", netconfig.ServingRoutingCertName)
	w.knativeSecrets = transformed(routing.Core().V1().Secrets().Informer(), slimSecret)
	own := selected(o, o.Namespace, "metadata.name", policy.ConfigMap)
	w.ownMaps = transformed(own.Core().V1().ConfigMaps().Informer(), slim)
	w.factories = []factory{networking, everything, certified, settings, routing, own}
	return w
}

// selected returns a factory for the objects of a namespace, "" for all of them, with a field of that value.
func selected(o Options, namespace, field, value string) informers.SharedInformerFactory {
	return informers.NewSharedInformerFactoryWithOptions(o.Kubernetes, 0, informers.WithNamespace(namespace),
		informers.WithTweakListOptions(func(l *metav1.ListOptions) {
			l.FieldSelector = fields.OneTermEqualSelector(field, value).String()
		}))
}

// transformed has an informer keep its objects as t makes them.
func transformed(i cache.SharedIndexInformer, t cache.TransformFunc) cache.SharedIndexInformer {
	_ = i.SetTransform(t) // it fails only for an informer that runs
	return i
}

// slim takes from an object what nobody here asks for, before an informer keeps it.
func slim(object any) (any, error) {
	if o, ok := object.(metav1.Object); ok {
		o.SetManagedFields(nil)
	}
	return object, nil
}

// complete fills in the defaults of an Ingress. All replicas must see one spec, for its hash is what they compare; and the generated
// reconciler of the leader, which fills them in too, would not survive a rule without its block.
func complete(object any) (any, error) {
	i, ok := object.(*v1alpha1.Ingress)
	if !ok {
		return object, nil
	}
	i.ManagedFields = nil
	for r := range i.Spec.Rules {
		if i.Spec.Rules[r].HTTP == nil {
			i.Spec.Rules[r].HTTP = &v1alpha1.HTTPIngressRuleValue{}
		}
	}
	i.SetDefaults(context.Background())
	return i, nil
}

func (w *watches) all() []cache.SharedIndexInformer {
	return []cache.SharedIndexInformer{w.ingresses, w.services, w.slices, w.secrets, w.knativeMaps, w.knativeSecrets, w.ownMaps}
}

func (w *watches) start(ctx context.Context) {
	for _, f := range w.factories {
		f.Start(ctx.Done())
	}
}

// wait waits until everything is known, and reports whether it is.
func (w *watches) wait(ctx context.Context) bool {
	var synced []cache.InformerSynced
	for _, i := range w.all() {
		synced = append(synced, i.HasSynced)
	}
	return cache.WaitForCacheSync(ctx.Done(), synced...)
}

// shutdown waits for the end of what start started, whose context must have ended.
func (w *watches) shutdown() {
	for _, f := range w.factories {
		f.Shutdown()
	}
}

func (w *watches) ingressLister() networkinglisters.IngressLister {
	return networkinglisters.NewIngressLister(w.ingresses.GetIndexer())
}

func (w *watches) sliceLister() discoverylisters.EndpointSliceLister {
	return discoverylisters.NewEndpointSliceLister(w.slices.GetIndexer())
}

func (w *watches) secretLister() corelisters.SecretLister {
	return corelisters.NewSecretLister(w.secrets.GetIndexer())
}

func (w *watches) knativeSecretLister() corelisters.SecretLister {
	return corelisters.NewSecretLister(w.knativeSecrets.GetIndexer())
}

func (w *watches) knativeMapLister() corelisters.ConfigMapLister {
	return corelisters.NewConfigMapLister(w.knativeMaps.GetIndexer())
}

// knativeMap returns a ConfigMap of Knative, nil if there is none.
func (w *watches) knativeMap(name string) *corev1.ConfigMap {
	return configMap(w.knativeMaps, w.knative, name)
}

// ownMap returns config-limpet, nil if there is none.
func (w *watches) ownMap() *corev1.ConfigMap { return configMap(w.ownMaps, w.own, policy.ConfigMap) }

func configMap(from cache.SharedIndexInformer, namespace, name string) *corev1.ConfigMap {
	found, err := corelisters.NewConfigMapLister(from.GetIndexer()).ConfigMaps(namespace).Get(name)
	if err != nil {
		return nil // an informer's only error is that there is none
	}
	return found
}
