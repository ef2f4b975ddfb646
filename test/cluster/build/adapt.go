package build

import "strings"

// adapt changes an object of Knative's manifests for the test cluster: images by our names, probes once a second, less processor time asked
// for, and configuration that lets it be ready without an ingress. It returns nil for what the cluster has no use for.
func adapt(o object, image func(command string) string) object {
	if o["kind"] == "HorizontalPodAutoscaler" || o["kind"] == "PodDisruptionBudget" {
		return nil // one replica each is wanted, and there is no metrics server
	}
	renameImages(map[string]any(o), image)
	switch o["kind"] {
	case "Deployment":
		hasten(o)
		shrink(o)
	case "ConfigMap":
		configure(o)
	}
	return o
}

// renameImages replaces references of the form ko://knative.dev/serving/cmd/queue, wherever they are.
func renameImages(v any, image func(string) string) {
	const reference = "ko://" + servingModule + "/cmd/"
	renamed := func(v any) any {
		if s, ok := v.(string); ok && strings.HasPrefix(s, reference) {
			return image(strings.TrimPrefix(s, reference))
		}
		renameImages(v, image)
		return v
	}
	switch v := v.(type) {
	case map[string]any:
		for k := range v {
			v[k] = renamed(v[k])
		}
	case []any:
		for i := range v {
			v[i] = renamed(v[i])
		}
	}
}

// hasten makes readiness probes run once a second: Knative's own 5 to 10 seconds add as much to the start of the cluster.
func hasten(o object) {
	for _, c := range containers(o) {
		if probe, ok := at(c, "readinessProbe").(map[string]any); ok {
			probe["periodSeconds"] = 1
			delete(probe, "initialDelaySeconds")
		}
	}
}

// shrink makes containers ask for a tenth of a processor: with what Knative asks for, four activators and the rest do not fit on a node with two.
func shrink(o object) {
	for _, c := range containers(o) {
		if requests, ok := at(c, "resources", "requests").(map[string]any); ok && requests["cpu"] != nil {
			requests["cpu"] = "100m"
		}
	}
}

// containers returns those of a Deployment.
func containers(o object) []any {
	all, _ := at(o, "spec", "template", "spec", "containers").([]any)
	return all
}

// configure sets the keys of Knative's configuration that a test cluster needs.
func configure(o object) {
	keys := map[string]map[string]string{
		"config-network": {"ingress-class": "none.ingress.networking.knative.dev"}, // no ingress runs; tests talk to the activator
		"config-domain":  {"example.test": ""},                                     // without a domain routes are local to the cluster
		"config-autoscaler": {
			"scale-to-zero-grace-period": "6s", "stable-window": "6s", "scale-to-zero-pod-retention-period": "0s",
		},
	}
	name, _ := at(o, "metadata", "name").(string)
	if len(keys[name]) == 0 {
		return
	}
	data, ok := o["data"].(map[string]any)
	if !ok {
		data = map[string]any{}
		o["data"] = data
	}
	for k, v := range keys[name] {
		data[k] = v
	}
}

// at returns the value at a path of keys, or nil.
func at(v any, path ...string) any {
	for _, key := range path {
		switch m := v.(type) {
		case map[string]any:
			v = m[key]
		case object:
			v = m[key]
		default:
			return nil
		}
	}
	return v
}
