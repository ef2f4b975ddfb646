package admission_test

import (
	"path/filepath"
	"slices"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	rbacv1 "k8s.io/api/rbac/v1"
)

// Protects against prototype defect 12: its Redis had no password and was open at a port of every node.
func TestTheStoreIsOpenToLimpetAlone(t *testing.T) {
	const file = "redis/redis.yaml"
	pod := first[*appsv1.Deployment](t, file).Spec.Template
	c := pod.Spec.Containers[0]
	if i := slices.Index(c.Args, "--requirepass"); i < 0 || i+1 == len(c.Args) || c.Args[i+1] != "$(PASSWORD)" {
		t.Errorf("Redis is started with %q, want a password", c.Args)
	}
	if e := c.Env[0]; e.Name != "PASSWORD" || e.ValueFrom == nil || e.ValueFrom.SecretKeyRef == nil {
		t.Errorf("the password comes from %+v, want it from a Secret", e)
	}
	if pod.Spec.HostNetwork || slices.ContainsFunc(c.Ports, func(p corev1.ContainerPort) bool { return p.HostPort != 0 }) {
		t.Errorf("Redis is at a port of its node: %+v", c.Ports)
	}
	s := first[*corev1.Service](t, file).Spec
	if s.Type != "" && s.Type != corev1.ServiceTypeClusterIP || len(s.ExternalIPs) > 0 {
		t.Errorf("the Service of Redis is a %s with external addresses %v, want it inside the cluster alone", s.Type, s.ExternalIPs)
	}
	n := first[*networkingv1.NetworkPolicy](t, file).Spec
	for name, value := range n.PodSelector.MatchLabels {
		if pod.Labels[name] != value {
			t.Errorf("the NetworkPolicy is for %s=%s, which the pod is not", name, value)
		}
	}
	if len(n.Ingress) == 0 {
		t.Error("the NetworkPolicy lets nobody in, want Limpet's pods")
	}
	for _, rule := range n.Ingress {
		if len(rule.From) == 0 || slices.ContainsFunc(rule.From, func(p networkingv1.NetworkPolicyPeer) bool { return p.PodSelector == nil }) {
			t.Errorf("the NetworkPolicy lets in %+v, want pods by name only", rule.From)
		}
	}
}

// Protects against prototype defect 53: an activator whose role does not allow what its informers list waits for them for ever.
func TestTheActivatorMayListWhatItFollows(t *testing.T) {
	allowed := make(map[string]bool)
	for _, object := range decode(t, filepath.Join(deploy, "activator/rbac.yaml")) {
		role, is := object.(*rbacv1.ClusterRole)
		if !is {
			continue
		}
		for _, rule := range role.Rules {
			if slices.Contains(rule.Resources, "*") || slices.Contains(rule.APIGroups, "*") || slices.Contains(rule.Verbs, "*") {
				t.Errorf("the role %s has a wildcard: %+v", role.Name, rule)
			}
			if slices.Contains(rule.Verbs, "list") && slices.Contains(rule.Verbs, "watch") && len(rule.ResourceNames) == 0 {
				for _, resource := range rule.Resources {
					allowed[resource+"."+strings.Join(rule.APIGroups, "")] = true
				}
			}
		}
	}
	for _, resource := range []string{"routes.serving.knative.dev", "endpointslices.discovery.k8s.io"} { // Serving's own role has the others
		if !allowed[resource] {
			t.Errorf("the activator may not list and watch %s; it may %v", resource, allowed)
		}
	}
	binding := first[*rbacv1.ClusterRoleBinding](t, "activator/rbac.yaml")
	want := rbacv1.Subject{Kind: "ServiceAccount", Name: "activator", Namespace: "knative-serving"}
	if role := first[*rbacv1.ClusterRole](t, "activator/rbac.yaml"); binding.RoleRef.Name != role.Name || !slices.Contains(binding.Subjects, want) {
		t.Errorf("%s is bound to %+v, want it bound to %+v", binding.RoleRef.Name, binding.Subjects, want)
	}
}
