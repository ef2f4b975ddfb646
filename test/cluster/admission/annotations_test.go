package admission

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/dynamic"
	"sigs.k8s.io/yaml"

	"github.com/limpet-project/limpet/test/cluster"
)

// A scenario is what some annotations mean, as the table of the ingress' own tests says it.
type scenario struct {
	Name        string            `json:"name"`
	Annotations map[string]string `json:"annotations"`
	Want        string            `json:"want"`
	Wrong       string            `json:"wrong"`
	Unseen      bool              `json:"unseen"`
}

// scenarios reads the table. The file says what "@256" stands for.
func scenarios(t *testing.T) []scenario {
	t.Helper()
	text, err := os.ReadFile("../../../knative/policy/policytest/annotations.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var all []scenario
	if err := yaml.UnmarshalStrict(text, &all); err != nil {
		t.Fatal(err)
	}
	for _, s := range all {
		for name, value := range s.Annotations {
			s.Annotations[name] = long(value)
		}
	}
	return all
}

func long(value string) string {
	count, policy := strings.CutPrefix(value, "@policy ")
	n, err := strconv.Atoi(strings.TrimPrefix(count, "@"))
	switch {
	case err != nil || !strings.HasPrefix(value, "@"):
		return value
	case policy:
		return "{} # " + strings.Repeat("x", n-len("{} # "))
	}
	return strings.Repeat("x", n)
}

func TestWrongAnnotationsAreRefusedWhenApplied(t *testing.T) {
	e := cluster.Start(t, cluster.Knative)
	installPolicy(t, e)
	for _, kind := range []string{"Service", "Route"} {
		for _, s := range scenarios(t) {
			t.Run(kind+" with "+s.Name, func(t *testing.T) {
				err := try(t.Context(), e, object(kind, "demo", s.Annotations))
				switch {
				case s.Wrong != "" && !s.Unseen:
					wantRefused(t, err, s.Wrong)
				case err != nil:
					t.Errorf("%s with %q is refused: %v, want it admitted", kind, s.Annotations, err)
				}
			})
		}
	}
}

// TestWhatWasWrongBeforeStaysUsable has a Service with a wrong annotation from before there was a policy.
func TestWhatWasWrongBeforeStaysUsable(t *testing.T) {
	e := cluster.Start(t, cluster.Knative)
	services := resource(t, e, "Service")
	wrong := map[string]string{sessionHeader: "X User"}
	e.WaitFor(3*time.Minute, "a wrong Service, which the policy of another test may refuse for a moment", func(ctx context.Context) error {
		_, err := services.Create(ctx, object("Service", "demo", wrong), metav1.CreateOptions{})
		return err
	})
	waitForRoute(t, e, "")
	installPolicy(t, e)
	annotate := func(name, value string) error {
		patch := fmt.Sprintf(`{"metadata": {"annotations": {%q: %q}}}`, name, value)
		_, err := services.Patch(t.Context(), "demo", types.MergePatchType, []byte(patch), metav1.PatchOptions{})
		return err
	}

	old := waitForRoute(t, e, "")
	if err := resource(t, e, "Route").Delete(t.Context(), "demo", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	if r := waitForRoute(t, e, string(old.GetUID())); r.GetAnnotations()[sessionHeader] != "X User" {
		t.Errorf("the Route that Knative made again has %q, want the Service's annotation", r.GetAnnotations())
	}
	if err := annotate("example.com/team", "shop"); err != nil {
		t.Errorf("annotating the Service with something else: %v, want it admitted", err)
	}
	wantRefused(t, annotate(sessionHeader, "X Account"), `got "X Account", expected the name of a header`)
	wantRefused(t, annotate("affinity.limpet.dev/mode", "hash"), "unknown annotation, expected affinity.limpet.dev/policy")
	if err := annotate(sessionHeader, "X-User"); err != nil {
		t.Errorf("mending the Service: %v, want it admitted", err)
	}
	if err := services.Delete(t.Context(), "demo", metav1.DeleteOptions{}); err != nil {
		t.Errorf("deleting the Service: %v", err)
	}
}

func resource(t *testing.T, e *cluster.Env, kind string) dynamic.ResourceInterface {
	t.Helper()
	r, err := e.Resource(e.Namespace, object(kind, "demo", nil))
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// waitForRoute returns the Route of Service demo once Knative has made it, another one than that with the UID.
func waitForRoute(t *testing.T, e *cluster.Env, other string) *unstructured.Unstructured {
	t.Helper()
	var route *unstructured.Unstructured
	e.WaitFor(3*time.Minute, "the Route", func(ctx context.Context) error {
		r, err := e.Object(ctx, "serving.knative.dev/v1/Route", "demo")
		if err == nil && string(r.GetUID()) == other {
			err = errors.New("it is still the old one")
		}
		route = r
		return err
	})
	return route
}

// TestTheExpressionsFitTheTypes asks what the API server found when it held the expressions against the types of Knative.
func TestTheExpressionsFitTheTypes(t *testing.T) {
	e := cluster.Start(t, cluster.Knative)
	installPolicy(t, e)
	e.WaitFor(3*time.Minute, "the check of the policy's types", func(ctx context.Context) error {
		p, err := e.AdmissionregistrationV1().ValidatingAdmissionPolicies().Get(ctx, policyName, metav1.GetOptions{})
		if err != nil {
			return err
		}
		if p.Status.TypeChecking == nil {
			return errors.New("not done yet")
		}
		for _, w := range p.Status.TypeChecking.ExpressionWarnings {
			t.Errorf("%s: %s", w.FieldRef, w.Warning)
		}
		return nil
	})
}
