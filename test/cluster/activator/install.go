package activator

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/util/retry"
	"sigs.k8s.io/yaml"

	"github.com/limpet-project/limpet/test/cluster/ingress"
	"github.com/limpet-project/limpet/test/cluster/kube"
)

// Names of Serving's manifests.
const (
	// Namespace is where the activator runs.
	Namespace = "knative-serving"
	// Deployment is the name of its Deployment and of its container, and the value of the label app of its pods.
	Deployment = "activator"
	// Service is the name of the Service in front of it.
	Service = "activator-service"
)

// Options say how the activator is installed. The zero Options are one replica without a store.
type Options struct {
	// Replicas is how many run; 0 is one.
	Replicas int
	// Redis says that they share bindings in a Redis, which is installed too.
	Redis bool
	// Set changes fields of the configuration by their path: "store.redis.timeout": "1s".
	Set map[string]string
	// Stock says that it is Serving's own.
	Stock bool
}

// A Source is what is installed: of the ingress' source the manifests, the image of Redis and the command line, and the activator's image.
type Source struct {
	ingress.Source
	// Activator is a reference that the node has.
	Activator string
}

// Install puts the activator in its place and returns when all of it is ready and the old one gone. It runs inside. A second Install changes
// the first to its options.
func Install(ctx context.Context, c *kube.Client, s Source, o Options) error {
	if !o.Stock {
		if err := s.prepare(ctx, c, o); err != nil {
			return err
		}
	}
	if err := s.replace(ctx, c, o); err != nil {
		return err
	}
	return kube.Until(ctx, patience, "the activators", func(ctx context.Context) error { return settled(ctx, c) })
}

// patience is how long it may take on a slow or busy machine. A pod that ends waits for its requests.
const patience = 4 * time.Minute

// prepare applies what the activator needs, and waits for the store.
func (s Source) prepare(ctx context.Context, c *kube.Client, o Options) error {
	if err := s.MakeSecrets(ctx, c); err != nil {
		return err
	}
	if err := copySecrets(ctx, c); err != nil {
		return err
	}
	objects, err := s.render(ctx, o)
	if err != nil {
		return err
	}
	if err := c.ApplyObjects(ctx, Namespace, objects); err != nil || !o.Redis {
		return err
	}
	return kube.Until(ctx, patience, "Redis", func(ctx context.Context) error { return c.Available(ctx, ingress.Namespace, ingress.Redis) })
}

// copySecrets copies what lies in Limpet's own namespace to that of the activator.
func copySecrets(ctx context.Context, c *kube.Client) error {
	for _, name := range []string{ingress.KeysSecret, ingress.RedisSecret} {
		from, err := c.CoreV1().Secrets(ingress.Namespace).Get(ctx, name, metav1.GetOptions{})
		if err != nil {
			return fmt.Errorf("reading secret %s: %w", name, err)
		}
		to := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: name}, Data: from.Data}
		if _, err := c.CoreV1().Secrets(Namespace).Create(ctx, to, metav1.CreateOptions{}); err != nil && !apierrors.IsAlreadyExists(err) {
			return fmt.Errorf("copying secret %s: %w", name, err)
		}
	}
	return nil
}

// render returns the objects of the manifests but the Deployment, with images that the node has.
func (s Source) render(ctx context.Context, o Options) ([]*unstructured.Unstructured, error) {
	all, err := ingress.Render(ctx, filepath.Join(s.Manifests, "activator"))
	if err != nil {
		return nil, err
	}
	fields := maps.Clone(o.Set)
	if !o.Redis {
		fields = map[string]string{"store": ""}
		maps.Copy(fields, o.Set)
	}
	for _, object := range all {
		switch object.GetKind() {
		case "Deployment":
			setImage(object, s.RedisImage)
		case "ConfigMap":
			if err := ingress.Configure(object, fields); err != nil {
				return nil, err
			}
		}
	}
	return all, nil
}

func setImage(d *unstructured.Unstructured, image string) {
	containers, _, _ := unstructured.NestedSlice(d.Object, "spec", "template", "spec", "containers")
	for _, c := range containers {
		if c, ok := c.(map[string]any); ok {
			c["image"] = image
		}
	}
	unstructured.SetNestedSlice(d.Object, containers, "spec", "template", "spec", "containers") // fails only where spec is no mapping
}

// stock is the annotation of the Deployment that keeps what Serving installed.
const stock = "limpet.dev/stock-template"

// replace makes the Deployment what the options say, from what Serving installed.
func (s Source) replace(ctx context.Context, c *kube.Client, o Options) error {
	deployments := c.AppsV1().Deployments(Namespace)
	err := retry.RetryOnConflict(retry.DefaultBackoff, func() error {
		d, err := deployments.Get(ctx, Deployment, metav1.GetOptions{})
		if err != nil {
			return err
		}
		if err := restore(d); err != nil {
			return err
		}
		replicas := int32(max(1, o.Replicas))
		d.Spec.Replicas = &replicas
		_, err = deployments.Update(ctx, d, metav1.UpdateOptions{})
		return err
	})
	if err != nil || o.Stock {
		return err
	}
	patch, err := s.patch(o)
	if err != nil {
		return err
	}
	_, err = deployments.Patch(ctx, Deployment, types.StrategicMergePatchType, patch, metav1.PatchOptions{})
	return err
}

// restore makes a Deployment what Serving installed, or remembers that if it is seen for the first time.
func restore(d *appsv1.Deployment) error {
	if text, changed := d.Annotations[stock]; changed {
		var template corev1.PodTemplateSpec
		if err := json.Unmarshal([]byte(text), &template); err != nil {
			return fmt.Errorf("reading the annotation %s: %w", stock, err)
		}
		d.Spec.Template = template
		return nil
	}
	text, err := json.Marshal(d.Spec.Template)
	if err != nil {
		return err
	}
	if d.Annotations == nil {
		d.Annotations = map[string]string{}
	}
	d.Annotations[stock] = string(text)
	return nil
}

// patch returns the patch of deploy/activator with the image that the node has. Other options are another template, so that a
// change of the configuration is a rolling restart.
func (s Source) patch(o Options) ([]byte, error) {
	text, err := os.ReadFile(filepath.Join(s.Manifests, "activator", "deployment.yaml"))
	if err != nil {
		return nil, err
	}
	var d unstructured.Unstructured
	if err := yaml.Unmarshal(text, &d.Object); err != nil {
		return nil, fmt.Errorf("reading deployment.yaml: %w", err)
	}
	setImage(&d, s.Activator)
	how := fmt.Sprint(o.Redis, o.Set) // maps are printed in the order of their keys
	if err := unstructured.SetNestedField(d.Object, how, "spec", "template", "metadata", "annotations", "limpet.dev/set"); err != nil {
		return nil, err
	}
	return json.Marshal(d.Object)
}

// settled returns nil when the pods of the activator are all of the newest kind, and ready.
func settled(ctx context.Context, c *kube.Client) error {
	d, err := c.AppsV1().Deployments(Namespace).Get(ctx, Deployment, metav1.GetOptions{})
	if err != nil {
		return err
	}
	selector := labels.SelectorFromSet(labels.Set{"app": Deployment})
	if d.Status.ObservedGeneration < d.Generation || d.Status.UpdatedReplicas != *d.Spec.Replicas || d.Status.ReadyReplicas != *d.Spec.Replicas {
		return fmt.Errorf("%d of %d replicas are updated, %d ready%s",
			d.Status.UpdatedReplicas, *d.Spec.Replicas, d.Status.ReadyReplicas, c.Pods(ctx, Namespace, selector))
	}
	pods, err := c.CoreV1().Pods(Namespace).List(ctx, metav1.ListOptions{LabelSelector: selector.String()})
	if err != nil {
		return err
	}
	if n := len(pods.Items); n != int(*d.Spec.Replicas) {
		return fmt.Errorf("%d pods are there, those that end included, want %d", n, *d.Spec.Replicas)
	}
	return nil
}
