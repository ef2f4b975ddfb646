package ingress

import (
	"fmt"
	"sync"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/client-go/tools/cache"
	"knative.dev/networking/pkg/apis/networking"
	"knative.dev/networking/pkg/apis/networking/v1alpha1"
	"knative.dev/pkg/controller"

	"github.com/limpet-project/limpet/knative/backend"
)

// follow has the controller told of what changes in the cluster. What is told before it works waits in its queue.
func (c *Controller) follow() error {
	for _, f := range []struct {
		informer cache.SharedIndexInformer
		handler  cache.ResourceEventHandler
	}{
		{c.watches.ingresses, cache.ResourceEventHandlerFuncs{
			AddFunc: c.ingressChanged, UpdateFunc: c.ingressUpdated, DeleteFunc: c.ingressChanged,
		}},
		{c.watches.services, controller.HandleAll(c.serviceChanged)},
		{c.watches.slices, controller.HandleAll(c.sliceChanged)},
		{c.watches.secrets, controller.HandleAll(c.secretChanged)},
		{c.watches.knativeMaps, controller.HandleAll(c.knativeMapChanged)},
		{c.watches.knativeSecrets, controller.HandleAll(func(any) { c.authoritiesChanged() })},
		{c.watches.ownMaps, controller.HandleAll(func(any) { c.ownMapChanged() })},
	} {
		if _, err := f.informer.AddEventHandler(f.handler); err != nil {
			return fmt.Errorf("following the cluster: %w", err)
		}
	}
	return nil
}

// ours reports whether an Ingress is of this controller's class.
func ours(i metav1.Object) bool {
	return i.GetAnnotations()[networking.IngressClassAnnotationKey] == Class
}

func (c *Controller) ingressChanged(object any) {
	if i, ok := last(object); ok && ours(i) {
		c.impl.Enqueue(object)
	}
}

// ingressUpdated is told of an Ingress that is of the class, or was so until now.
func (c *Controller) ingressUpdated(before, object any) {
	if old, ok := last(before); ok && ours(old) {
		c.impl.Enqueue(object)
		return
	}
	c.ingressChanged(object)
}

// last returns what an event is about: the object, or what it was when last seen.
func last(object any) (metav1.Object, bool) {
	if gone, ok := object.(cache.DeletedFinalStateUnknown); ok {
		object = gone.Obj
	}
	o, ok := object.(metav1.Object)
	return o, ok
}

// serviceChanged looks again at the Ingress objects that name a Service. Of those that are programmed the backends tell; of those that wait
// for the Service nobody else would.
func (c *Controller) serviceChanged(object any) {
	s, ok := last(object)
	if !ok {
		return
	}
	for _, key := range c.programmer.Users(types.NamespacedName{Namespace: s.GetNamespace(), Name: s.GetName()}) {
		if c.programmer.Failed(key) {
			c.impl.EnqueueKey(key)
		}
	}
}

// backendChanged looks again at the Ingress objects that name a backend, of which something other than its members changed.
func (c *Controller) backendChanged(n backend.Name) {
	for _, key := range c.programmer.Users(types.NamespacedName{Namespace: n.Namespace, Name: n.Service}) {
		c.impl.EnqueueKey(key)
	}
}

func (c *Controller) secretChanged(object any) {
	s, ok := last(object)
	if !ok {
		return
	}
	users := c.programmer.SecretUsers(types.NamespacedName{Namespace: s.GetNamespace(), Name: s.GetName()})
	for _, key := range users {
		c.impl.EnqueueKey(key)
	}
	if len(users) > 0 {
		c.programmer.Refresh()
	}
}

func (c *Controller) knativeMapChanged(object any) {
	cm, ok := last(object)
	if !ok {
		return
	}
	switch cm.GetName() {
	case networkMap:
		if c.settings.setNetwork(c.networkMap) {
			c.backends.Refresh()
			c.reconcileAll()
		}
	case autoscalerMap:
		c.takeAutoscaler()
	}
	if _, marked := cm.GetLabels()[networking.TrustBundleLabelKey]; marked {
		c.authoritiesChanged()
	}
}

// networkMap returns config-network as it is now.
func (c *Controller) networkMap() *corev1.ConfigMap { return c.watches.knativeMap(networkMap) }

// takeAutoscaler takes over config-autoscaler as it is now.
func (c *Controller) takeAutoscaler() {
	c.autoscaler.Lock()
	defer c.autoscaler.Unlock()
	c.backends.HandleConfig(c.watches.knativeMap(autoscalerMap))
}

func (c *Controller) authoritiesChanged() {
	if c.settings.setAuthorities() {
		c.reconcileAll()
	}
}

func (c *Controller) ownMapChanged() {
	if c.settings.setDefaults(c.watches.ownMap) {
		c.backends.Refresh()
		c.reconcileAll()
	}
}

// reconcileAll looks again at all Ingress objects.
func (c *Controller) reconcileAll() {
	for _, i := range c.ingresses() {
		c.impl.EnqueueKey(keyOf(i))
	}
}

// ingresses returns the Ingress objects of the class. They must not be changed.
func (c *Controller) ingresses() []*v1alpha1.Ingress {
	all, err := c.watches.ingressLister().List(labels.Everything())
	if err != nil {
		return nil // an informer's list has no errors
	}
	list := make([]*v1alpha1.Ingress, 0, len(all))
	for _, i := range all {
		if ours(i) {
			list = append(list, i)
		}
	}
	return list
}

// replicas are the addresses of the ready pods of the ingress, as known last.
type replicas struct {
	mu    sync.Mutex
	known sets.Set[string]
}

// sliceChanged follows the replicas of the ingress: one that went needs no probe any longer, and one that came may be what an Ingress waits for.
func (c *Controller) sliceChanged(object any) {
	s, ok := last(object)
	if !ok || s.GetNamespace() != c.o.Namespace {
		return
	}
	if of := s.GetLabels()[discoveryv1.LabelServiceName]; of != c.o.Service && of != c.o.LocalService {
		return
	}
	gone, come := c.replicas.update(c.targets.replicas())
	for ip := range gone {
		c.prober.CancelPodProbing(&corev1.Pod{Status: corev1.PodStatus{PodIP: ip}})
	}
	if len(come) == 0 {
		return
	}
	for _, i := range c.ingresses() {
		if !i.IsReady() || !c.kind.balancers.in(&i.Status) {
			c.impl.EnqueueKey(keyOf(i))
		}
	}
}

// update takes over the addresses and returns those that went and those that came.
func (r *replicas) update(now sets.Set[string]) (gone, come sets.Set[string]) {
	r.mu.Lock()
	defer r.mu.Unlock()
	gone, come = r.known.Difference(now), now.Difference(r.known)
	r.known = now
	return gone, come
}
