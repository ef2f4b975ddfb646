package diagnosis

import (
	"strconv"
	"sync"

	corev1 "k8s.io/api/core/v1"
	"knative.dev/networking/pkg/apis/networking"
	netconfig "knative.dev/networking/pkg/config"
	"knative.dev/serving/pkg/apis/autoscaling"
	autoscalingv1alpha1 "knative.dev/serving/pkg/apis/autoscaling/v1alpha1"
	v1 "knative.dev/serving/pkg/apis/serving/v1"
	autoscalerconfig "knative.dev/serving/pkg/autoscaler/config"

	"github.com/limpet-project/limpet/knative/policy"
)

// settings are what ConfigMaps say for the whole cluster. The zero settings know nothing yet. They are safe for concurrent use.
type settings struct {
	mu sync.Mutex
	values
}

// values are settings as of one moment.
type values struct {
	defaults policy.Defaults
	network  *netconfig.Config
	class    string // of the autoscaler, where a revision names none
	burst    float64
}

// set changes what is known.
func (s *settings) set(change func(*values)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	change(&s.values)
}

// load returns the settings, and whether those that matter are known.
func (s *settings) load() (values, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.values, s.network != nil && s.class != ""
}

// HandleDefaults takes over the ConfigMap config-limpet; nil is the defaults. One that is wrong changes nothing.
func (c *Controller) HandleDefaults(cm *corev1.ConfigMap) {
	defaults, err := policy.ParseDefaults(cm)
	if err != nil {
		return // whoever serves by it says so
	}
	c.settings.set(func(v *values) { v.defaults = defaults })
	c.todo.AddAll()
}

// HandleNetwork takes over the ConfigMap config-network. One that is wrong changes nothing. Before it was called nothing is told.
func (c *Controller) HandleNetwork(cm *corev1.ConfigMap) {
	network, err := netconfig.NewConfigFromConfigMap(cm)
	if err != nil {
		return // Serving says so
	}
	c.settings.set(func(v *values) { v.network = network })
	c.todo.AddAll()
}

// HandleAutoscaler takes over the ConfigMap config-autoscaler. One that is wrong changes nothing. Before it was called nothing is told.
func (c *Controller) HandleAutoscaler(cm *corev1.ConfigMap) {
	autoscaler, err := autoscalerconfig.NewConfigFromConfigMap(cm)
	if err != nil {
		return // Serving says so
	}
	c.settings.set(func(v *values) { v.class, v.burst = autoscaler.PodAutoscalerClass, autoscaler.TargetBurstCapacity })
	c.todo.AddAll()
}

// ingressClass returns the class of the ingress of a Route.
func (v values) ingressClass(r *v1.Route) string {
	if class := networking.GetIngressClass(r.Annotations); class != "" {
		return class
	}
	return v.network.DefaultIngressClass
}

// meshHidesPods reports whether pods can be reached by their Service only.
func (v values) meshHidesPods() bool {
	return v.network.MeshCompatibilityMode == netconfig.MeshCompatibilityModeEnabled && !v.network.EnableMeshPodAddressability
}

// revision returns what matters of a revision and its autoscaler, which may be nil. The autoscaler has the class that was the cluster's when
// it was made.
func (v values) revision(r *v1.Revision, a *autoscalingv1alpha1.PodAutoscaler) Revision {
	known := Revision{Name: r.Name, Class: r.Annotations[autoscaling.ClassAnnotationKey], BurstCapacity: v.burst}
	if a != nil && a.Annotations[autoscaling.ClassAnnotationKey] != "" {
		known.Class = a.Annotations[autoscaling.ClassAnnotationKey]
	}
	if known.Class == "" {
		known.Class = v.class
	}
	_, text, said := autoscaling.TargetBurstCapacityAnnotation.Get(r.Annotations)
	if n, err := strconv.ParseFloat(text, 64); said && err == nil {
		known.BurstCapacity = n
	}
	return known
}
