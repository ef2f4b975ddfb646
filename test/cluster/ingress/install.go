package ingress

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/yaml"

	"github.com/limpet-project/limpet/test/cluster/kube"
)

// Names of deploy/.
const (
	// Class is the ingress class.
	Class = "limpet.ingress.networking.knative.dev"
	// Namespace is where the ingress runs.
	Namespace = "limpet-system"
	// Deployment is the name of the ingress' Deployment.
	Deployment = "limpet-ingress"
	// Service is the name of the Service for requests from outside, LocalService of that for requests from inside the cluster.
	Service      = "limpet"
	LocalService = "limpet-local"
	// Redis is the name of Redis' Deployment and Service.
	Redis = "redis"
)

// Domain is the domain of Knative Services after Install.
const Domain = "example.com"

// Options say how the ingress is installed. The zero Options are what deploy/knative says.
type Options struct {
	// Replicas is how many run; 0 is what the manifests say.
	Replicas int
	// Redis says that they share bindings in a Redis, which is installed too.
	Redis bool
	// Plain leaves affinity to the activators.
	Plain bool
	// Set changes fields of the configuration of the ingress by their path: "store.redis.timeout": "1s".
	Set map[string]string
}

// A Source is what is installed.
type Source struct {
	// Manifests is the folder deploy of the checkout.
	Manifests string
	// Image and RedisImage are references that the node has.
	Image, RedisImage string
	// Limpet is the command line's binary, which makes keys.
	Limpet string
}

// Install applies the manifests, tells Knative to use the ingress, and returns when all of it is ready. It runs inside. A second
// Install changes the first to its options and keeps its keys.
func Install(ctx context.Context, c *kube.Client, s Source, o Options) error {
	objects, err := s.render(ctx, o)
	if err != nil {
		return err
	}
	if err := s.MakeSecrets(ctx, c); err != nil {
		return err
	}
	if err := c.ApplyObjects(ctx, Namespace, objects); err != nil {
		return err
	}
	if err := configureKnative(ctx, c); err != nil {
		return err
	}
	deployments := []string{Deployment}
	if o.Redis {
		deployments = []string{Redis, Deployment}
	}
	for _, name := range deployments {
		err := kube.Until(ctx, patience, "deployment "+name, func(ctx context.Context) error { return c.Available(ctx, Namespace, name) })
		if err != nil {
			return err
		}
	}
	return nil
}

// patience is how long a deployment may take on a slow or busy machine.
const patience = 3 * time.Minute

// render returns the objects of the manifests with images that the node has.
func (s Source) render(ctx context.Context, o Options) ([]*unstructured.Unstructured, error) {
	name := "knative"
	if o.Redis {
		name = "knative-redis"
	}
	objects, err := Render(ctx, filepath.Join(s.Manifests, name))
	if err != nil {
		return nil, err
	}
	for _, object := range objects {
		if object.GetKind() == "Deployment" {
			s.adapt(object, o)
		}
		if object.GetKind() == "ConfigMap" && len(o.Set) > 0 {
			if err := Configure(object, o.Set); err != nil {
				return nil, err
			}
		}
	}
	return objects, nil
}

// Render returns the objects of a folder of manifests, as kubectl apply -k would apply them.
func Render(ctx context.Context, dir string) ([]*unstructured.Unstructured, error) {
	var stderr bytes.Buffer
	cmd := exec.CommandContext(ctx, "kubectl", "kustomize", dir)
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("rendering %s: %w: %s", dir, err, stderr.Bytes())
	}
	return kube.Objects(out)
}

// configFile is the key of the configuration in its ConfigMap.
const configFile = "limpet.yaml"

// Configure changes fields of Limpet's configuration by their path, if the ConfigMap holds it. The value "" takes a field away.
func Configure(configMap *unstructured.Unstructured, fields map[string]string) error {
	text, found, err := unstructured.NestedString(configMap.Object, "data", configFile)
	if err != nil || !found {
		return err
	}
	var config map[string]any
	if err := yaml.Unmarshal([]byte(text), &config); err != nil {
		return fmt.Errorf("reading %s: %w", configFile, err)
	}
	for path, value := range fields {
		if value == "" {
			unstructured.RemoveNestedField(config, strings.Split(path, ".")...)
			continue
		}
		if err := unstructured.SetNestedField(config, value, strings.Split(path, ".")...); err != nil {
			return fmt.Errorf("setting %s of %s: %w", path, configFile, err)
		}
	}
	changed, err := yaml.Marshal(config)
	if err != nil {
		return err
	}
	return unstructured.SetNestedField(configMap.Object, string(changed), "data", configFile)
}

// adapt sets images and replicas of a Deployment.
func (s Source) adapt(d *unstructured.Unstructured, o Options) {
	image := s.RedisImage
	if d.GetName() == Deployment {
		image = s.Image
		if o.Replicas > 0 {
			unstructured.SetNestedField(d.Object, int64(o.Replicas), "spec", "replicas") // fails only where spec is no mapping
		}
		if o.Plain {
			addArg(d, "--affinity=off")
		}
		// A change of the configuration is a rolling restart. Maps are printed in the order of their keys.
		unstructured.SetNestedField(d.Object, fmt.Sprint(o.Set), "spec", "template", "metadata", "annotations", "limpet.dev/set")
	}
	containers, _, _ := unstructured.NestedSlice(d.Object, "spec", "template", "spec", "containers")
	for _, c := range containers {
		if c, ok := c.(map[string]any); ok {
			c["image"] = image
		}
	}
	unstructured.SetNestedSlice(d.Object, containers, "spec", "template", "spec", "containers") // as above
}

// addArg gives the only container of a Deployment one more argument.
func addArg(d *unstructured.Unstructured, arg string) {
	containers, _, _ := unstructured.NestedSlice(d.Object, "spec", "template", "spec", "containers")
	for _, c := range containers {
		if c, ok := c.(map[string]any); ok {
			args, _, _ := unstructured.NestedSlice(c, "args")
			c["args"] = append(args, arg)
		}
	}
	unstructured.SetNestedSlice(d.Object, containers, "spec", "template", "spec", "containers") // fails only where spec is no mapping
}

// configureKnative makes the ingress that of all Services, and gives these a domain that is not the cluster's own.
func configureKnative(ctx context.Context, c *kube.Client) error {
	return errors.Join(
		SetKnative(ctx, c, "config-network", map[string]any{"ingress-class": Class}),
		SetKnative(ctx, c, "config-domain", map[string]any{"example.test": nil, Domain: ""}),
	)
}

// SetKnative sets keys of a ConfigMap of Knative; nil removes one. Knative's controllers see it a moment later.
func SetKnative(ctx context.Context, c *kube.Client, name string, data map[string]any) error {
	patch, err := json.Marshal(map[string]any{"data": data})
	if err != nil {
		return err
	}
	err = kube.Again(func() error {
		_, err := c.CoreV1().ConfigMaps("knative-serving").Patch(ctx, name, types.MergePatchType, patch, metav1.PatchOptions{})
		return err
	})
	if err != nil {
		return fmt.Errorf("configuring Knative: %w", err)
	}
	return nil
}
