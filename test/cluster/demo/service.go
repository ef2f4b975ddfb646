package demo

import (
	"fmt"
	"maps"
	"slices"
	"strings"
)

// A Target is one entry of a Service's traffic.
type Target struct {
	Revision string
	Percent  int
	Tag      string // "" for none
}

// A Service is a Knative Service that runs the counter.
type Service struct {
	// Name is the Service's.
	Name string
	// Image is the counter's image.
	Image string
	// Revision is the name of the template's revision; "" lets Knative choose.
	Revision string
	// Pods are how many run: no fewer and no more. 0 is what the annotations of the template say.
	Pods int
	// Concurrency is the limit of a pod (containerConcurrency); 0 is none.
	Concurrency int
	// Labels are the Service's.
	Labels map[string]string
	// Annotations are the Service's, which its Route and Ingress get too. A change of them makes no revision.
	Annotations map[string]string
	// Template are annotations of the revision.
	Template map[string]string
	// ReadyAfter are the seconds after which the kubelet first asks whether a pod is ready; 0 is at once.
	ReadyAfter int
	// Env are variables of the counter.
	Env map[string]string
	// Traffic is the split; none is all to the latest.
	Traffic []Target
}

// Manifest returns the Service as YAML. Its autoscaler forgets load after six seconds, Knative's least.
func (s Service) Manifest() string {
	template := map[string]string{"autoscaling.knative.dev/window": "6s"}
	if s.Pods > 0 {
		template["autoscaling.knative.dev/min-scale"] = fmt.Sprint(s.Pods)
		template["autoscaling.knative.dev/max-scale"] = fmt.Sprint(s.Pods)
	}
	maps.Copy(template, s.Template)
	var b strings.Builder
	b.WriteString("apiVersion: serving.knative.dev/v1\nkind: Service\nmetadata:\n")
	fmt.Fprintf(&b, "  name: %s\n  labels:%s\n  annotations:%s\n", s.Name, mapping(4, s.Labels), mapping(4, s.Annotations))
	b.WriteString("spec:\n  template:\n    metadata:\n")
	if s.Revision != "" {
		fmt.Fprintf(&b, "      name: %s\n", s.Revision)
	}
	fmt.Fprintf(&b, "      annotations:%s\n", mapping(8, template))
	fmt.Fprintf(&b, "    spec:\n      containerConcurrency: %d\n", s.Concurrency)
	fmt.Fprintf(&b, "      containers:\n      - image: %s\n        ports: [{containerPort: 8080}]\n", s.Image)
	if s.ReadyAfter > 0 {
		fmt.Fprintf(&b, readiness, s.ReadyAfter)
	}
	fmt.Fprintf(&b, "        env:\n        - {name: COUNTER_LISTEN, value: \"0.0.0.0:8080\"}\n")
	for _, k := range slices.Sorted(maps.Keys(s.Env)) {
		fmt.Fprintf(&b, "        - {name: %s, value: %q}\n", k, s.Env[k])
	}
	s.traffic(&b)
	return b.String()
}

// readiness is the probe of a pod that is ready late.
const readiness = "        readinessProbe: {tcpSocket: {port: 8080}, initialDelaySeconds: %d}\n"

func (s Service) traffic(b *strings.Builder) {
	if len(s.Traffic) > 0 {
		b.WriteString("  traffic:\n")
	}
	for _, t := range s.Traffic {
		fmt.Fprintf(b, "  - {revisionName: %s, percent: %d", t.Revision, t.Percent)
		if t.Tag != "" {
			fmt.Fprintf(b, ", tag: %s", t.Tag)
		}
		b.WriteString("}\n")
	}
}

// mapping returns a map as YAML, indented, with values in double quotes.
func mapping(indent int, m map[string]string) string {
	if len(m) == 0 {
		return " {}"
	}
	var b strings.Builder
	for _, k := range slices.Sorted(maps.Keys(m)) {
		fmt.Fprintf(&b, "\n%s%s: %q", strings.Repeat(" ", indent), k, m[k])
	}
	return b.String()
}
