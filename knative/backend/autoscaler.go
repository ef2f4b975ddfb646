package backend

import (
	"fmt"
	"strconv"

	corev1 "k8s.io/api/core/v1"

	"knative.dev/serving/pkg/apis/autoscaling"
	autoscalerconfig "knative.dev/serving/pkg/autoscaler/config"
)

// everBurst is the target burst capacity that keeps the activator in the path of all requests.
const everBurst = -1

// An autoscaler is what the autoscaler's settings say that a revision does not say itself.
type autoscaler struct {
	class   string
	relayed bool // target-burst-capacity is -1
}

// parseAutoscaler reads the ConfigMap config-autoscaler; nil is the defaults.
func parseAutoscaler(cm *corev1.ConfigMap) (autoscaler, error) {
	var data map[string]string
	if cm != nil {
		data = cm.Data
	}
	config, err := autoscalerconfig.NewConfigFromMap(data)
	if err != nil {
		return autoscaler{}, fmt.Errorf("reading the ConfigMap %s: %w", autoscalerconfig.ConfigName, err)
	}
	return autoscaler{class: config.PodAutoscalerClass, relayed: config.TargetBurstCapacity == everBurst}, nil
}

// relays reports whether all requests for a revision go by the activator. Only Knative's own class of autoscaler keeps it in the
// path of revisions with ready pods.
func (a autoscaler) relays(annotations map[string]string) bool {
	class := autoscaling.ClassAnnotation.Value(annotations)
	if class == "" {
		class = a.class
	}
	if class != autoscaling.KPA {
		return false
	}
	capacity, err := strconv.ParseFloat(autoscaling.TargetBurstCapacityAnnotation.Value(annotations), 64)
	if err != nil {
		return a.relayed
	}
	return capacity == everBurst
}
