package ingress

import (
	"fmt"
	"testing"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/limpet-project/limpet/test/cluster/kube"
)

// parse returns the only object of a manifest.
func parse(t *testing.T, manifest string) *unstructured.Unstructured {
	t.Helper()
	objects, err := kube.Objects([]byte(manifest))
	if err != nil || len(objects) != 1 {
		t.Fatalf("Objects() = %d objects, %v, want one", len(objects), err)
	}
	return objects[0]
}

func TestADeploymentGetsTheImageThatTheNodeHas(t *testing.T) {
	const manifest = `
apiVersion: apps/v1
kind: Deployment
metadata: {name: NAME}
spec:
  replicas: 2
  template: {spec: {containers: [{name: main, image: registry.example.com/any, args: [--flag]}]}}
`
	s := Source{Image: "dev.local/limpet-knative-ingress:0001", RedisImage: "dev.local/redis-server:0001"}
	for _, tt := range []struct {
		name, deployment, image string
		replicas                string
	}{
		{"the ingress", Deployment, s.Image, "3"},
		{"the store, whose replicas stay", Redis, s.RedisImage, "2"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			d := parse(t, manifest)
			d.SetName(tt.deployment)
			s.adapt(d, Options{Replicas: 3})
			containers, _, _ := unstructured.NestedSlice(d.Object, "spec", "template", "spec", "containers")
			want := []any{map[string]any{"name": "main", "image": tt.image, "args": []any{"--flag"}}}
			if diff := cmp.Diff(want, containers); diff != "" {
				t.Errorf("containers (-want +got):\n%s", diff)
			}
			if got, _, _ := unstructured.NestedFieldNoCopy(d.Object, "spec", "replicas"); fmt.Sprint(got) != tt.replicas {
				t.Errorf("replicas = %v, want %s", got, tt.replicas)
			}
		})
	}
}

func TestAPlainIngressIsToldSo(t *testing.T) {
	d := parse(t, `
apiVersion: apps/v1
kind: Deployment
metadata: {name: limpet-ingress}
spec: {template: {spec: {containers: [{name: ingress, image: registry.example.com/any, args: [--config=/etc/limpet/limpet.yaml]}]}}}
`)
	s := Source{Image: "dev.local/limpet-knative-ingress:0001"}
	s.adapt(d, Options{Plain: true})
	containers, _, _ := unstructured.NestedSlice(d.Object, "spec", "template", "spec", "containers")
	want := []any{map[string]any{"name": "ingress", "image": s.Image, "args": []any{"--config=/etc/limpet/limpet.yaml", "--affinity=off"}}}
	if diff := cmp.Diff(want, containers); diff != "" {
		t.Errorf("containers (-want +got):\n%s", diff)
	}
}

func TestFieldsAreSetInTheConfigurationAlone(t *testing.T) {
	m := parse(t, `
apiVersion: v1
kind: ConfigMap
metadata: {name: limpet-ingress-5f2b}
data:
  limpet.yaml: |
    store: {redis: {addresses: ["redis:6379"]}}
`)
	fields := map[string]string{"store.redis.timeout": "1s"}
	if err := Configure(m, fields); err != nil {
		t.Fatal(err)
	}
	got, _, _ := unstructured.NestedString(m.Object, "data", configFile)
	if want := "store:\n  redis:\n    addresses:\n    - redis:6379\n    timeout: 1s\n"; got != want {
		t.Errorf("configure: configuration %q, want %q", got, want)
	}
	other := parse(t, "{apiVersion: v1, kind: ConfigMap, metadata: {name: config-limpet}, data: {affinity: \"on\"}}")
	before := other.DeepCopy()
	if err := Configure(other, fields); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(before.Object, other.Object); diff != "" {
		t.Errorf("configure changed another ConfigMap (-want +got):\n%s", diff)
	}
}
