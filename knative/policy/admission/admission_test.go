// Package admission_test holds the manifests of deploy/ against the types of Kubernetes, and the admission policy among them against
// what the ingress makes of annotations.
//
// The manifests are of no Go module, so Go's cache of test results does not see that they change: run these tests with -count=1.
package admission_test

import (
	"context"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/admission"
	"k8s.io/apiserver/pkg/admission/plugin/cel"
	"k8s.io/apiserver/pkg/admission/plugin/policy/validating"
	"k8s.io/apiserver/pkg/admission/plugin/webhook/matchconditions"
	"k8s.io/apiserver/pkg/cel/environment"
	"pgregory.net/rapid"
	"sigs.k8s.io/yaml"

	"github.com/limpet-project/limpet/knative/policy"
	"github.com/limpet-project/limpet/knative/policy/policytest"
)

// perObject is the cost that the API server allows for the evaluation of one policy.
const perObject = 10_000_000

// admissionPolicy compiles the ValidatingAdmissionPolicy of deploy/, as the API server does.
func admissionPolicy(t testing.TB) validating.Validator {
	t.Helper()
	text, err := os.ReadFile("../../../deploy/base/policy.yaml")
	if err != nil {
		t.Fatal(err)
	}
	first, _, _ := strings.Cut(string(text), "\n---\n")
	var p admissionv1.ValidatingAdmissionPolicy
	if err := yaml.UnmarshalStrict([]byte(first), &p); err != nil {
		t.Fatal(err)
	}
	env, err := cel.NewCompositionEnv(cel.VariablesTypeName, environment.MustBaseEnvSet(environment.DefaultCompatibilityVersion()))
	if err != nil {
		t.Fatal(err)
	}
	compiler := cel.NewCompositedCompilerFromTemplate(env)
	declared := cel.OptionalVariableDeclarations{HasAuthorizer: true}
	var conditions, checks, messages []cel.ExpressionAccessor
	for _, v := range p.Spec.Variables {
		result := compiler.CompileAndStoreVariable(&validating.Variable{Name: v.Name, Expression: v.Expression}, declared, environment.NewExpressions)
		if result.Error != nil {
			t.Fatalf("compiling the variable %s: %v", v.Name, result.Error)
		}
	}
	for i := range p.Spec.MatchConditions {
		conditions = append(conditions, (*matchconditions.MatchCondition)(&p.Spec.MatchConditions[i]))
	}
	for _, v := range p.Spec.Validations {
		checks = append(checks, &validating.ValidationCondition{Expression: v.Expression, Message: v.Message, Reason: v.Reason})
		if v.MessageExpression == "" {
			messages = append(messages, nil)
			continue
		}
		messages = append(messages, &validating.MessageExpressionCondition{MessageExpression: v.MessageExpression})
	}
	compile := func(list []cel.ExpressionAccessor) cel.ConditionEvaluator {
		e := compiler.CompileCondition(list, declared, environment.NewExpressions)
		if errs := e.CompilationErrors(); len(errs) > 0 {
			t.Fatalf("compiling the admission policy: %v", errs)
		}
		return e
	}
	matcher := matchconditions.NewMatcher(compile(conditions), p.Spec.FailurePolicy, "policy", "validate", p.Name)
	return validating.NewValidator(compile(checks), matcher, compile(nil), compile(messages), p.Spec.FailurePolicy)
}

// object is a Knative Service or Route with annotations.
func object(kind string, annotations map[string]string) *unstructured.Unstructured {
	o := &unstructured.Unstructured{Object: map[string]any{"spec": map[string]any{}}}
	o.SetAPIVersion("serving.knative.dev/v1")
	o.SetKind(kind)
	o.SetName("demo")
	o.SetNamespace("shop")
	o.SetAnnotations(annotations)
	return o
}

// refusal returns why the admission policy refuses a change, "" if it admits it. The old object is nil where one is made.
func refusal(t testing.TB, v validating.Validator, o, old *unstructured.Unstructured) string {
	t.Helper()
	kind := o.GroupVersionKind()
	resource := schema.GroupVersionResource{Group: kind.Group, Version: kind.Version, Resource: strings.ToLower(kind.Kind) + "s"}
	operation, before := admission.Create, runtime.Object(nil)
	if old != nil {
		operation, before = admission.Update, old
	}
	attributes := admission.NewAttributesRecord(o, before, kind, o.GetNamespace(), o.GetName(), resource, "", operation, nil, false, nil)
	versioned := &admission.VersionedAttributes{
		Attributes: attributes, VersionedObject: o, VersionedOldObject: before, VersionedKind: kind,
	}
	result := v.Validate(context.Background(), resource, versioned, nil, nil, perObject, nil)
	for _, d := range result.Decisions {
		if d.Evaluation == validating.EvalError {
			t.Fatalf("evaluating %q: %s", o.GetAnnotations(), d.Message)
		}
		if d.Action == validating.ActionDeny {
			return d.Message
		}
	}
	return ""
}

func TestWrongAnnotationsAreRefusedWhenApplied(t *testing.T) {
	v := admissionPolicy(t)
	for _, s := range policytest.Scenarios(t) {
		t.Run(s.Name, func(t *testing.T) {
			for _, kind := range []string{"Service", "Route"} {
				got := refusal(t, v, object(kind, s.Annotations), nil)
				switch {
				case s.Wrong == "" || s.Unseen:
					if got != "" {
						t.Errorf("%s with %q is refused: %s, want it admitted", kind, s.Annotations, got)
					}
				case !strings.Contains(got, s.Wrong):
					t.Errorf("%s with %q is refused with %q, want %q", kind, s.Annotations, got, s.Wrong)
				}
			}
		})
	}
}

func TestOnlyChangedAnnotationsAreLookedAt(t *testing.T) {
	wrong := map[string]string{policy.SessionHeader: "X User"}
	worse := map[string]string{policy.SessionHeader: "X User", policy.RevisionHeader: "X Flow"}
	touched := map[string]string{policy.SessionHeader: "X User", "example.com/team": "shop"}
	deleted := object("Service", worse)
	deleted.Object["metadata"].(map[string]any)["deletionTimestamp"] = "2026-01-02T15:04:05Z"
	owned := object("Route", wrong)
	if err := unstructured.SetNestedSlice(owned.Object, []any{map[string]any{
		"apiVersion": "serving.knative.dev/v1", "kind": "Service", "name": "demo", "uid": "0c6d1f0a", "controller": true,
	}}, "metadata", "ownerReferences"); err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		name   string
		o, old *unstructured.Unstructured
		refuse bool
	}{
		{"a new object", object("Service", wrong), nil, true},
		{"an annotation is added", object("Service", wrong), object("Service", nil), true},
		{"another annotation is added", object("Service", worse), object("Service", wrong), true},
		{"its value changes", object("Service", wrong), object("Service", map[string]string{policy.SessionHeader: "X-User"}), true},
		{"nothing changes", object("Service", wrong), object("Service", wrong), false},
		{"an annotation of others is added", object("Service", touched), object("Service", wrong), false},
		{"one of two wrong ones is taken away", object("Service", wrong), object("Service", worse), false},
		{"it is being deleted", deleted, object("Service", wrong), false},
		{"a Route that Knative makes for a Service", owned, nil, false},
		{"a Route of its own", object("Route", wrong), nil, true},
	}
	v := admissionPolicy(t)
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := refusal(t, v, tt.o, tt.old); (got != "") != tt.refuse {
				t.Errorf("refused with %q, want refused %t", got, tt.refuse)
			}
		})
	}
}

// TestTheAPIServerAndTheIngressAgree checks, of annotations made up of what matters in them, that the admission policy always comes
// to an answer, that it refuses nothing that the ingress accepts, and that of simple annotations it refuses what the ingress does.
func TestTheAPIServerAndTheIngressAgree(t *testing.T) {
	v := admissionPolicy(t)
	rapid.Check(t, func(rt *rapid.T) {
		annotations := drawAnnotations(rt)
		refused := refusal(t, v, object("Service", annotations), nil)
		_, err := policy.Defaults{}.Policy(annotations)
		if refused != "" && err == nil {
			rt.Fatalf("%q is refused with %q when applied, and right for the ingress", annotations, refused)
		}
		if annotations[policy.Structured] == "" && refused == "" && err != nil {
			rt.Fatalf("%q is admitted, and wrong for the ingress: %v", annotations, err)
		}
	})
}

func drawAnnotations(t *rapid.T) map[string]string {
	pieces := rapid.SampledFrom([]string{
		"session", "revision", "retain", "sesion", ":", ": ", "{", "}", "[", "]", "\"", "'", "\n", "\n  ", " ", "#", "- ", ",", "---", "off", "{}",
		"mode: hash", "mode: proportional", "from: [{cookie: sid}]", "header: te", "1h", "null", "~", "|", ">", "&a", "*a", "!!str", "\t", "\r",
		"session: {}", "revision: {}\n", "quota: 5\n",
	})
	text := rapid.Custom(func(t *rapid.T) string { return strings.Join(rapid.SliceOfN(pieces, 0, 8).Draw(t, "pieces"), "") })
	header := rapid.OneOf(rapid.StringN(0, 300, -1), rapid.StringMatching("(?i)(limpet-|te|upgrade|k-network-|x-)[a-z]{0,5}"))
	segment := rapid.OneOf(rapid.Just("100"), rapid.StringMatching("[-+0-9 ]{0,4}"))
	values := map[string]*rapid.Generator[string]{
		policy.SessionHeader: header, policy.SessionQueryParameter: rapid.StringN(0, 300, -1), policy.SessionPathSegment: segment,
		policy.RevisionHeader: header, policy.RevisionQueryParameter: rapid.String(), policy.RevisionPathSegment: segment,
		policy.Structured: rapid.OneOf(text, rapid.String()), "affinity.limpet.dev/mode": rapid.Just("hash"),
	}
	annotations := make(map[string]string)
	for _, name := range slices.Sorted(maps.Keys(values)) {
		if rapid.IntRange(0, 3).Draw(t, "given") == 0 {
			annotations[name] = strings.ToValidUTF8(values[name].Draw(t, name), "?")
		}
	}
	return annotations
}
