package activator

import (
	"context"
	"encoding/json"
	"fmt"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/strategicpatch"

	"github.com/limpet-project/limpet/test/cluster/kube"
)

// InstallBeside makes another Deployment of activators with a Service of its own, beside the one that Serving uses, and returns when it is
// ready. Knative sends it nothing, so that several can be compared in one run. One of that name is replaced; [RemoveBeside] ends it.
func InstallBeside(ctx context.Context, c *kube.Client, s Source, name string, o Options) error {
	if err := RemoveBeside(ctx, c, name); err != nil {
		return err
	}
	if !o.Stock {
		if err := s.prepare(ctx, c, o); err != nil {
			return err
		}
		if err := s.configureBeside(ctx, c, name, o); err != nil {
			return err
		}
	}
	d, err := s.beside(ctx, c, name, o)
	if err != nil {
		return err
	}
	service := &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: Namespace},
		Spec: corev1.ServiceSpec{Selector: labels.Set{"app": name}, Ports: []corev1.ServicePort{
			{Name: "http", Port: 8012}, {Name: "http2", Port: 8013},
		}},
	}
	if _, err := c.CoreV1().Services(Namespace).Create(ctx, service, metav1.CreateOptions{}); err != nil && !apierrors.IsAlreadyExists(err) {
		return fmt.Errorf("making service %s: %w", name, err)
	}
	if _, err := c.AppsV1().Deployments(Namespace).Create(ctx, d, metav1.CreateOptions{}); err != nil {
		return fmt.Errorf("making deployment %s: %w", name, err)
	}
	return kube.Until(ctx, patience, "deployment "+name, func(ctx context.Context) error { return c.Available(ctx, Namespace, name) })
}

// RemoveBeside ends what InstallBeside made.
func RemoveBeside(ctx context.Context, c *kube.Client, name string) error {
	now := int64(0)
	err := c.AppsV1().Deployments(Namespace).Delete(ctx, name, metav1.DeleteOptions{GracePeriodSeconds: &now})
	if err == nil || apierrors.IsNotFound(err) {
		err = c.CoreV1().Services(Namespace).Delete(ctx, name, metav1.DeleteOptions{})
	}
	if apierrors.IsNotFound(err) {
		return nil
	}
	return err
}

// configureBeside makes the ConfigMap of the name.
func (s Source) configureBeside(ctx context.Context, c *kube.Client, name string, o Options) error {
	objects, err := s.render(ctx, o)
	if err != nil {
		return err
	}
	for _, object := range objects {
		if object.GetKind() == "ConfigMap" && object.GetName() == configMap {
			object.SetName(name)
			return c.ApplyObjects(ctx, Namespace, []*unstructured.Unstructured{object})
		}
	}
	return fmt.Errorf("the manifests have no ConfigMap %s", configMap)
}

// configMap is the name of the ConfigMap of deploy/activator.
const configMap = "limpet-activator"

// beside returns the Deployment: Serving's with another name, patched unless it is to be Serving's own.
func (s Source) beside(ctx context.Context, c *kube.Client, name string, o Options) (*appsv1.Deployment, error) {
	base, err := c.AppsV1().Deployments(Namespace).Get(ctx, Deployment, metav1.GetOptions{})
	if err != nil {
		return nil, err
	}
	if err := restore(base); err != nil {
		return nil, err
	}
	replicas := int32(max(1, o.Replicas))
	d := &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: Namespace}, Spec: base.Spec}
	d.Spec.Replicas = &replicas
	if !o.Stock {
		if d, err = s.patched(d, o); err != nil {
			return nil, err
		}
		d.Name = name
		d.Spec.Template.Spec.Containers[0].Args = append(d.Spec.Template.Spec.Containers[0].Args, "--activator-service="+name)
		for _, v := range d.Spec.Template.Spec.Volumes {
			if v.Projected != nil && v.Name == "limpet" {
				v.Projected.Sources[0].ConfigMap.Name = name
			}
		}
	}
	d.Spec.Template.Spec.Containers[0].Resources = corev1.ResourceRequirements{} // the node has not enough for so many
	d.Spec.Selector.MatchLabels, d.Spec.Template.Labels = labels.Set{"app": name}, labels.Set{"app": name}
	return d, nil
}

// patched returns a Deployment with the patch of deploy/activator.
func (s Source) patched(d *appsv1.Deployment, o Options) (*appsv1.Deployment, error) {
	patch, err := s.patch(o)
	if err != nil {
		return nil, err
	}
	text, err := json.Marshal(d)
	if err != nil {
		return nil, err
	}
	if text, err = strategicpatch.StrategicMergePatch(text, patch, &appsv1.Deployment{}); err != nil {
		return nil, fmt.Errorf("patching the Deployment: %w", err)
	}
	var out appsv1.Deployment
	return &out, json.Unmarshal(text, &out)
}
