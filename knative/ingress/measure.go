package ingress

import (
	"k8s.io/apimachinery/pkg/types"

	"github.com/limpet-project/limpet/knative/policy"
)

// A Gauge registers a metric that is read at each scrape: read calls yield with each value and the values of its labels.
type Gauge func(name, help string, labels []string, read func(yield func(value float64, values ...string)))

// Measure registers what is to be seen of the controller.
func (c *Controller) Measure(register Gauge) {
	one := func(keys func() []types.NamespacedName) func(func(float64, ...string)) {
		return func(yield func(float64, ...string)) {
			for _, key := range keys() {
				yield(1, key.Namespace, key.Name)
			}
		}
	}
	object := []string{"namespace", "ingress"}
	register("limpet_knative_misconfigured", "Ingress objects whose annotations are wrong, and which have no affinity: always 1.", object,
		one(c.Misconfigured))
	register("limpet_knative_session_affinity_off", "Ingress objects whose sessions nobody keeps, because Knative's activator gets all "+
		"requests of a revision: always 1.", object, one(c.SessionsOff))
	register("limpet_knative_config_wrong", "Whether the ConfigMap "+policy.ConfigMap+" is wrong, and an older one in force: 1, or 0.", nil,
		func(yield func(float64, ...string)) {
			if c.settings.fault() != nil {
				yield(1)
				return
			}
			yield(0)
		})
}

// Misconfigured returns the Ingress objects whose annotations are wrong, and which are served without affinity, sorted by name.
func (c *Controller) Misconfigured() []types.NamespacedName {
	return c.notices.list(func(n notice) string { return n.misconfigured })
}

// SessionsOff returns the Ingress objects whose sessions are kept by nobody, because all requests for a revision go by Knative's
// activator, sorted by name.
func (c *Controller) SessionsOff() []types.NamespacedName {
	return c.notices.list(func(n notice) string { return n.sessionOff })
}
