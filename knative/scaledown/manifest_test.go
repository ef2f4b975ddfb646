package scaledown

import (
	"context"
	"maps"
	"os"
	"strings"
	"testing"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apiserver/pkg/admission"
	"k8s.io/apiserver/pkg/admission/plugin/cel"
	"k8s.io/apiserver/pkg/admission/plugin/policy/validating"
	"k8s.io/apiserver/pkg/admission/plugin/webhook/matchconditions"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/cel/environment"
	"sigs.k8s.io/yaml"
)

// The manifest is of no Go module, so Go's cache of test results does not see that it changes: run these tests with -count=1.
const manifest = "../../deploy/activator/rbac.yaml"

const activatorAccount = "system:serviceaccount:knative-serving:activator"

// read reads the object of a kind and name from the manifest.
func read(t *testing.T, kind, name string, into any) {
	t.Helper()
	text, err := os.ReadFile(manifest)
	if err != nil {
		t.Fatal(err)
	}
	for _, document := range strings.Split(string(text), "\n---\n") {
		var o metav1.PartialObjectMetadata
		if err := yaml.Unmarshal([]byte(document), &o); err != nil {
			t.Fatal(err)
		}
		if o.Kind != kind || o.Name != name {
			continue
		}
		if err := yaml.UnmarshalStrict([]byte(document), into); err != nil {
			t.Fatal(err)
		}
		return
	}
	t.Fatalf("%s has no %s %s", manifest, kind, name)
}

// confinement compiles the policy that confines the activator, as the API server does.
func confinement(t *testing.T) validating.Validator {
	t.Helper()
	var p admissionv1.ValidatingAdmissionPolicy
	read(t, "ValidatingAdmissionPolicy", "pods.activator.limpet.dev", &p)
	env, err := cel.NewCompositionEnv(cel.VariablesTypeName, environment.MustBaseEnvSet(environment.DefaultCompatibilityVersion()))
	if err != nil {
		t.Fatal(err)
	}
	compiler := cel.NewCompositedCompilerFromTemplate(env)
	declared := cel.OptionalVariableDeclarations{HasAuthorizer: true}
	for _, v := range p.Spec.Variables {
		result := compiler.CompileAndStoreVariable(&validating.Variable{Name: v.Name, Expression: v.Expression}, declared, environment.NewExpressions)
		if result.Error != nil {
			t.Fatalf("compiling the variable %s: %v", v.Name, result.Error)
		}
	}
	var conditions, checks []cel.ExpressionAccessor
	for i := range p.Spec.MatchConditions {
		conditions = append(conditions, (*matchconditions.MatchCondition)(&p.Spec.MatchConditions[i]))
	}
	for _, v := range p.Spec.Validations {
		checks = append(checks, &validating.ValidationCondition{Expression: v.Expression, Message: v.Message, Reason: v.Reason})
	}
	compile := func(list []cel.ExpressionAccessor) cel.ConditionEvaluator {
		e := compiler.CompileCondition(list, declared, environment.NewExpressions)
		if errs := e.CompilationErrors(); len(errs) > 0 {
			t.Fatalf("compiling the policy: %v", errs)
		}
		return e
	}
	matcher := matchconditions.NewMatcher(compile(conditions), p.Spec.FailurePolicy, "policy", "validate", p.Name)
	return validating.NewValidator(compile(checks), matcher, compile(nil), compile(make([]cel.ExpressionAccessor, 1)), p.Spec.FailurePolicy)
}

// pod is one of demo-00001 with annotations, as others have written it.
func pod(annotations map[string]string) *unstructured.Unstructured {
	o := &unstructured.Unstructured{Object: map[string]any{
		"spec": map[string]any{"containers": []any{map[string]any{"name": "user-container", "image": "demo@sha256:1"}}},
	}}
	o.SetAPIVersion("v1")
	o.SetKind("Pod")
	o.SetNamespace("shop")
	o.SetName("demo-00001-deployment-7c9d8b6f5-x2x8k")
	o.SetLabels(map[string]string{"serving.knative.dev/revision": "demo-00001"})
	o.SetAnnotations(annotations)
	return o
}

// denied reports whether a change of a pod is.
func denied(t *testing.T, v validating.Validator, who string, after, before *unstructured.Unstructured) bool {
	t.Helper()
	resource := corev1.SchemeGroupVersion.WithResource("pods")
	kind := corev1.SchemeGroupVersion.WithKind("Pod")
	attributes := admission.NewAttributesRecord(after, before, kind, after.GetNamespace(), after.GetName(), resource, "", admission.Update, nil,
		false, &user.DefaultInfo{Name: who})
	result := v.Validate(context.Background(), resource, &admission.VersionedAttributes{
		Attributes: attributes, VersionedObject: after, VersionedOldObject: before, VersionedKind: kind,
	}, nil, nil, 10_000_000, nil)
	for _, d := range result.Decisions {
		if d.Evaluation == validating.EvalError {
			t.Fatalf("evaluating the policy: %s", d.Message)
		}
		if d.Action == validating.ActionDeny {
			return true
		}
	}
	return false
}

func TestTheActivatorMayChangeTheCostOfAPodAndNothingElse(t *testing.T) {
	v := confinement(t)
	own := map[string]string{"kubectl.kubernetes.io/default-container": "user-container"}
	with := func(cost string) map[string]string {
		both := maps.Clone(own)
		both[corev1.PodDeletionCost] = cost
		return both
	}
	for _, tt := range []struct {
		name   string
		before map[string]string
		after  map[string]string
		edit   func(*unstructured.Unstructured)
		want   bool // denied
	}{
		{name: "a cost is written", before: own, after: with("10")},
		{name: "the first annotation of a pod", after: map[string]string{corev1.PodDeletionCost: "1"}},
		{name: "a cost changes", before: with("10"), after: with("100")},
		{name: "a cost is taken away", before: with("10"), after: own},
		{name: "the last annotation is taken away", before: map[string]string{corev1.PodDeletionCost: "1"}},
		{name: "nothing changes", before: own, after: own},
		{name: "another annotation is taken away", before: own, want: true},
		{name: "another annotation changes", before: own, after: map[string]string{"kubectl.kubernetes.io/default-container": "x"}, want: true},
		{name: "another annotation is added", after: own, want: true},
		{
			name: "an image changes", before: own, after: with("10"), want: true,
			edit: func(o *unstructured.Unstructured) {
				o.Object["spec"] = map[string]any{"containers": []any{map[string]any{"name": "user-container", "image": "other@sha256:2"}}}
			},
		},
		{name: "labels change", before: own, after: own, want: true, edit: func(o *unstructured.Unstructured) { o.SetLabels(nil) }},
		{name: "finalizers change", before: own, after: own, want: true, edit: func(o *unstructured.Unstructured) { o.SetFinalizers([]string{"x/y"}) }},
		{name: "owners change", before: own, after: own, want: true, edit: func(o *unstructured.Unstructured) {
			o.SetOwnerReferences([]metav1.OwnerReference{{APIVersion: "v1", Kind: "Pod", Name: "x", UID: "x"}})
		}},
		{name: "the status changes", before: own, after: own, want: true, edit: func(o *unstructured.Unstructured) { o.Object["status"] = map[string]any{"phase": "Failed"} }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			before, after := pod(tt.before), pod(tt.after)
			if tt.edit != nil {
				tt.edit(after)
			}
			if got := denied(t, v, activatorAccount, after, before); got != tt.want {
				t.Errorf("denied to the activator = %t, want %t", got, tt.want)
			}
			if denied(t, v, "system:serviceaccount:kube-system:replicaset-controller", after, before) {
				t.Error("denied to others, want nothing to be")
			}
		})
	}
}

func TestTheRoleForPodsIsBoundAndConfined(t *testing.T) {
	var role rbacv1.ClusterRole
	read(t, "ClusterRole", "limpet-activator-pods", &role)
	if len(role.Rules) != 1 || len(role.Rules[0].Verbs) != 1 || role.Rules[0].Verbs[0] != "patch" || role.Rules[0].Resources[0] != "pods" {
		t.Errorf("the role allows %+v, want pods to be patched and nothing else", role.Rules)
	}
	var bound rbacv1.ClusterRoleBinding
	read(t, "ClusterRoleBinding", "limpet-activator-pods", &bound)
	subject := bound.Subjects[0]
	if got := "system:serviceaccount:" + subject.Namespace + ":" + subject.Name; got != activatorAccount || len(bound.Subjects) != 1 {
		t.Errorf("the role is bound to %s, want %s, whom the policy confines", got, activatorAccount)
	}
	var binding admissionv1.ValidatingAdmissionPolicyBinding
	read(t, "ValidatingAdmissionPolicyBinding", "pods.activator.limpet.dev", &binding)
	if len(binding.Spec.ValidationActions) != 1 || binding.Spec.ValidationActions[0] != admissionv1.Deny || binding.Spec.MatchResources != nil {
		t.Errorf("the policy is bound by %+v, want all that it forbids to be denied", binding.Spec)
	}
}
