// Package admission tests what a real API server makes of the manifests in deploy/: that it accepts them, and that the admission policy
// among them refuses wrong annotations of Knative's Services and Routes.
package admission

import (
	"context"
	"errors"
	"os"
	"strings"
	"testing"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/limpet-project/limpet/test/cluster"
)

const (
	deploy     = "../../../deploy"
	policyName = "affinity.limpet.dev"

	sessionHeader = "activator.knative.dev/sticky-session-header-name"
)

func TestMain(m *testing.M) { os.Exit(cluster.Main(m, cluster.Knative)) }

// installPolicy applies the admission policy for the time of a test, and returns when it is in force.
func installPolicy(t *testing.T, e *cluster.Env) {
	t.Helper()
	text, err := os.ReadFile(deploy + "/base/policy.yaml")
	if err != nil {
		t.Fatal(err)
	}
	e.Apply(string(text))
	t.Cleanup(func() {
		ctx := context.WithoutCancel(t.Context())
		api := e.AdmissionregistrationV1()
		err := errors.Join(api.ValidatingAdmissionPolicyBindings().Delete(ctx, policyName, metav1.DeleteOptions{}),
			api.ValidatingAdmissionPolicies().Delete(ctx, policyName, metav1.DeleteOptions{}))
		if err != nil {
			t.Errorf("deleting the admission policy: %v", err)
		}
	})
	e.WaitFor(3*time.Minute, "the admission policy", func(ctx context.Context) error {
		err := try(ctx, e, object("Service", "probe", map[string]string{sessionHeader: ""}))
		if !apierrors.IsInvalid(err) {
			return errors.New("a Service with a wrong annotation is answered: " + answer(err))
		}
		return nil
	})
}

func answer(err error) string {
	if err == nil {
		return "admitted"
	}
	return err.Error()
}

// object is a Knative Service or Route with annotations.
func object(kind, name string, annotations map[string]string) *unstructured.Unstructured {
	spec := map[string]any{"traffic": []any{map[string]any{"configurationName": "demo", "percent": int64(100)}}}
	if kind == "Service" {
		spec = map[string]any{"template": map[string]any{"spec": map[string]any{"containers": []any{
			map[string]any{"image": "dev.local/demo:none"},
		}}}}
	}
	o := &unstructured.Unstructured{Object: map[string]any{"spec": spec}}
	o.SetAPIVersion("serving.knative.dev/v1")
	o.SetKind(kind)
	o.SetName(name)
	o.SetAnnotations(annotations)
	return o
}

// try asks the API server to make an object, without making it.
func try(ctx context.Context, e *cluster.Env, o *unstructured.Unstructured) error {
	resource, err := e.Resource(e.Namespace, o)
	if err != nil {
		return err
	}
	_, err = resource.Create(ctx, o, metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}, FieldValidation: "Strict"})
	return err
}

// wantRefused fails the test unless an error is the admission policy's and says what was expected.
func wantRefused(t *testing.T, err error, words string) {
	t.Helper()
	if !apierrors.IsInvalid(err) || !strings.Contains(err.Error(), policyName) || !strings.Contains(err.Error(), words) {
		t.Errorf("the API server answers: %s, want it refused by %s with %q", answer(err), policyName, words)
	}
}
