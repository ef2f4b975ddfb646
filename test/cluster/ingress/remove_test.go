package ingress

import (
	"encoding/json"
	"os"
	"testing"

	"github.com/google/go-cmp/cmp"
	appsv1 "k8s.io/api/apps/v1"
	"k8s.io/apimachinery/pkg/util/strategicpatch"
	"sigs.k8s.io/yaml"
)

// serving is what matters of the activator's Deployment as Serving installs it.
const serving = `
apiVersion: apps/v1
kind: Deployment
metadata: {name: activator, namespace: knative-serving}
spec:
  template:
    spec:
      serviceAccountName: activator
      containers:
        - name: activator
          image: gcr.io/knative-releases/knative.dev/serving/cmd/activator
          env: [{name: GOGC, value: "500"}]
          securityContext: {runAsNonRoot: true, readOnlyRootFilesystem: true}
`

func TestWhatTheActivatorsPatchAddedIsTakenAway(t *testing.T) {
	before := patched(t, []byte(serving), "{}")
	after := patched(t, before, manifest(t, "deployment.yaml"))
	if cmp.Equal(before, after) {
		t.Fatal("deployment.yaml changes nothing, want another program")
	}
	// Serving's manifests put its own image back.
	after = patched(t, after, `{"spec":{"template":{"spec":{"containers":[{"name":"activator",
"image":"gcr.io/knative-releases/knative.dev/serving/cmd/activator"}]}}}}`)
	after = patched(t, after, manifest(t, "remove.yaml"))
	if diff := cmp.Diff(template(t, before), template(t, after)); diff != "" {
		t.Errorf("the template differs from Serving's (-want +got):\n%s", diff)
	}
}

// manifest reads a file of deploy/activator.
func manifest(t *testing.T, name string) string {
	t.Helper()
	text, err := os.ReadFile("../../../deploy/activator/" + name)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// patched returns a Deployment as kubectl patch makes it. Both may be YAML.
func patched(t *testing.T, deployment []byte, patch string) []byte {
	t.Helper()
	original, err := yaml.YAMLToJSON(deployment)
	if err != nil {
		t.Fatal(err)
	}
	change, err := yaml.YAMLToJSON([]byte(patch))
	if err != nil {
		t.Fatal(err)
	}
	result, err := strategicpatch.StrategicMergePatch(original, change, &appsv1.Deployment{})
	if err != nil {
		t.Fatal(err)
	}
	return result
}

// template returns the pods' template, in which nothing and an empty list are the same.
func template(t *testing.T, deployment []byte) string {
	t.Helper()
	var d appsv1.Deployment
	if err := json.Unmarshal(deployment, &d); err != nil {
		t.Fatal(err)
	}
	s := &d.Spec.Template.Spec
	if s.SecurityContext != nil && s.SecurityContext.FSGroup == nil && s.SecurityContext.RunAsUser == nil {
		s.SecurityContext = nil // the API server makes an empty one of none
	}
	text, err := json.MarshalIndent(d.Spec.Template, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}
