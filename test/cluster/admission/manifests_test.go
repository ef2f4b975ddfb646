package admission

import (
	"bytes"
	"context"
	"os/exec"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/limpet-project/limpet/test/cluster"
	"github.com/limpet-project/limpet/test/cluster/kube"
)

// system is the namespace of the ingress.
const system = "limpet-system"

func TestTheAPIServerAcceptsTheManifests(t *testing.T) {
	e := cluster.Start(t, cluster.Knative)
	makeSystem(t, e)
	for _, dir := range []string{"knative", "knative-redis"} {
		for _, o := range render(t, deploy+"/"+dir) {
			if o.GetKind() == "Namespace" {
				continue
			}
			t.Run(dir+" "+o.GetKind()+" "+o.GetName(), func(t *testing.T) {
				if err := try(t.Context(), e, o); err != nil && !apierrors.IsAlreadyExists(err) {
					t.Error(err)
				}
				if o.GetKind() == "Deployment" {
					tryPod(t, e, o)
				}
			})
		}
	}
}

// makeSystem makes the namespace with its labels, and the service account that pods name.
func makeSystem(t *testing.T, e *cluster.Env) {
	t.Helper()
	t.Cleanup(func() {
		if err := e.CoreV1().Namespaces().Delete(context.WithoutCancel(t.Context()), system, metav1.DeleteOptions{}); err != nil {
			t.Errorf("deleting the namespace: %v", err)
		}
	})
	for _, o := range render(t, deploy+"/knative") {
		if o.GetKind() == "Namespace" || o.GetKind() == "ServiceAccount" {
			if err := e.ApplyObjects(t.Context(), system, []*unstructured.Unstructured{o}); err != nil {
				t.Fatal(err)
			}
		}
	}
	e.WaitFor(3*time.Minute, "the namespace's service account", func(ctx context.Context) error {
		_, err := e.CoreV1().ServiceAccounts(system).Get(ctx, "default", metav1.GetOptions{})
		return err
	})
}

// tryPod asks for a pod of a Deployment, which the namespace's pod security standard may refuse.
func tryPod(t *testing.T, e *cluster.Env, deployment *unstructured.Unstructured) {
	t.Helper()
	template, _, err := unstructured.NestedMap(deployment.Object, "spec", "template")
	if err != nil {
		t.Fatal(err)
	}
	pod := &unstructured.Unstructured{Object: template}
	pod.SetGroupVersionKind(corev1.SchemeGroupVersion.WithKind("Pod"))
	pod.SetName(deployment.GetName())
	pod.SetNamespace(system)
	if err := try(t.Context(), e, pod); err != nil {
		t.Errorf("a pod of Deployment %s: %v", deployment.GetName(), err)
	}
}

// render returns the objects that kubectl apply -k would apply.
func render(t *testing.T, dir string) []*unstructured.Unstructured {
	t.Helper()
	var stderr bytes.Buffer
	cmd := exec.CommandContext(t.Context(), "kubectl", "kustomize", dir)
	cmd.Stderr = &stderr
	text, err := cmd.Output()
	if err != nil {
		t.Fatalf("rendering %s: %v: %s", dir, err, stderr.Bytes())
	}
	objects, err := kube.Objects(text)
	if err != nil {
		t.Fatal(err)
	}
	return objects
}
