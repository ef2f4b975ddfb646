package demo

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	"sigs.k8s.io/yaml"
)

func TestAManifestSaysWhatTheServiceIs(t *testing.T) {
	s := Service{
		Name: "demo", Image: "dev.local/counter:0001", Revision: "demo-00002", Pods: 2,
		Annotations: map[string]string{"affinity.limpet.dev/policy": "revision: {mode: proportional}\nsession: {}\n"},
		Env:         map[string]string{"COUNTER_SESSION_SEGMENT": "2"},
		Traffic:     []Target{{Revision: "demo-00001", Percent: 95}, {Revision: "demo-00002", Percent: 5, Tag: "canary"}},
	}
	var got map[string]any
	if err := yaml.Unmarshal([]byte(s.Manifest()), &got); err != nil {
		t.Fatalf("Manifest() is no YAML: %v\n%s", err, s.Manifest())
	}
	want := map[string]any{
		"metadata": map[string]any{"name": "demo", "labels": map[string]any{}, "annotations": map[string]any{
			"affinity.limpet.dev/policy": "revision: {mode: proportional}\nsession: {}\n",
		}},
		"traffic": []any{
			map[string]any{"revisionName": "demo-00001", "percent": 95.0},
			map[string]any{"revisionName": "demo-00002", "percent": 5.0, "tag": "canary"},
		},
	}
	if diff := cmp.Diff(want["metadata"], got["metadata"]); diff != "" {
		t.Errorf("Manifest() metadata (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(want["traffic"], got["spec"].(map[string]any)["traffic"]); diff != "" {
		t.Errorf("Manifest() traffic (-want +got):\n%s", diff)
	}
}

func TestTheRevisionOfAnAnswerIsThatOfItsPod(t *testing.T) {
	for pod, want := range map[string]string{"demo-00001-deployment-7bf9c-x2x1z": "demo-00001", "": ""} {
		if got := (Answer{Pod: pod}).Revision(); got != want {
			t.Errorf("Answer{Pod: %q}.Revision() = %q, want %q", pod, got, want)
		}
	}
}
