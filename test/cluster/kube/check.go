package kube

import (
	"context"
	"errors"
	"fmt"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/labels"
)

// NodeReady returns nil if the node is, else why not.
func (c *Client) NodeReady(ctx context.Context, name string) error {
	n, err := c.CoreV1().Nodes().Get(ctx, name, metav1.GetOptions{})
	if err != nil {
		return err
	}
	for _, cond := range n.Status.Conditions {
		if cond.Type == corev1.NodeReady {
			if cond.Status == corev1.ConditionTrue {
				return nil
			}
			return fmt.Errorf("node %s is not ready: %s", name, cond.Message)
		}
	}
	return fmt.Errorf("node %s has not said whether it is ready", name)
}

// Available returns nil if a deployment has all its replicas ready, else what its pods say.
func (c *Client) Available(ctx context.Context, namespace, name string) error {
	d, err := c.AppsV1().Deployments(namespace).Get(ctx, name, metav1.GetOptions{})
	if err != nil {
		return err
	}
	want := int32(1)
	if d.Spec.Replicas != nil {
		want = *d.Spec.Replicas
	}
	s := d.Status
	if s.ObservedGeneration >= d.Generation && s.UpdatedReplicas == want && s.AvailableReplicas == want && s.Replicas == want {
		return nil
	}
	selector, err := metav1.LabelSelectorAsSelector(d.Spec.Selector)
	if err != nil {
		return err
	}
	return fmt.Errorf("deployment %s has %d of %d replicas available%s%s",
		name, s.AvailableReplicas, want, failures(d), c.Pods(ctx, namespace, selector))
}

func failures(d *appsv1.Deployment) string {
	for _, cond := range d.Status.Conditions {
		if cond.Type == appsv1.DeploymentReplicaFailure {
			return ": " + cond.Message
		}
	}
	return ""
}

// Pods describes the pods of a selector, a line each, for people.
func (c *Client) Pods(ctx context.Context, namespace string, selector labels.Selector) string {
	pods, err := c.CoreV1().Pods(namespace).List(ctx, metav1.ListOptions{LabelSelector: selector.String()})
	if err != nil {
		return "\n  listing its pods: " + err.Error()
	}
	if len(pods.Items) == 0 {
		return "\n  no pods"
	}
	var b strings.Builder
	for i := range pods.Items {
		b.WriteString("\n  " + Describe(&pods.Items[i]))
	}
	return b.String()
}

// Describe says in a line how a pod is.
func Describe(p *corev1.Pod) string {
	var b strings.Builder
	fmt.Fprintf(&b, "pod %s %s", p.Name, p.Status.Phase)
	if p.DeletionTimestamp != nil {
		b.WriteString(" (ending)")
	}
	for _, cond := range p.Status.Conditions {
		if cond.Status == corev1.ConditionFalse && cond.Message != "" {
			fmt.Fprintf(&b, "; not %s: %s", cond.Type, cond.Message)
		}
	}
	for _, s := range p.Status.ContainerStatuses {
		switch {
		case s.State.Waiting != nil:
			fmt.Fprintf(&b, "; %s waits: %s %s", s.Name, s.State.Waiting.Reason, s.State.Waiting.Message)
		case s.State.Terminated != nil:
			fmt.Fprintf(&b, "; %s ended: %s, exit code %d", s.Name, s.State.Terminated.Reason, s.State.Terminated.ExitCode)
		}
		if s.RestartCount > 0 {
			fmt.Fprintf(&b, "; %s restarted %d times", s.Name, s.RestartCount)
		}
	}
	return b.String()
}

// Condition returns nil if an object's condition is true, else what the object says about it. A status of an older generation
// does not count.
func Condition(o *unstructured.Unstructured, kind string) error {
	name := o.GetKind() + " " + o.GetName()
	seen, found, _ := unstructured.NestedInt64(o.Object, "status", "observedGeneration") // absent is as good as not found
	if found && seen < o.GetGeneration() {
		return fmt.Errorf("%s has not been looked at since its last change", name)
	}
	conditions, _, _ := unstructured.NestedSlice(o.Object, "status", "conditions")
	var others []string
	for _, item := range conditions {
		cond, ok := item.(map[string]any)
		if !ok {
			continue
		}
		if cond["type"] == kind && cond["status"] == "True" {
			return nil
		}
		if cond["status"] != "True" {
			others = append(others, fmt.Sprintf("%v=%v %v %v", cond["type"], cond["status"], cond["reason"], cond["message"]))
		}
	}
	if len(conditions) == 0 {
		return errors.New(name + " has no conditions yet")
	}
	return fmt.Errorf("%s is not %s: %s", name, kind, strings.Join(others, "; "))
}
