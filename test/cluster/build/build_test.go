package build

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestTheVersionThatKubernetesIsToldIsItsModules(t *testing.T) {
	text, err := os.ReadFile("../tools/k8s/go.mod")
	if err != nil {
		t.Fatal(err)
	}
	if want := "k8s.io/kubernetes " + kubernetesVersion + "\n"; !strings.Contains(string(text), want) {
		t.Errorf("tools/k8s/go.mod requires another version than %s", kubernetesVersion)
	}
}

func TestEveryBinaryIsNamedByItsModule(t *testing.T) {
	for _, p := range Parts() {
		text, err := os.ReadFile(filepath.Join("../tools", p.Name, "go.mod"))
		if err != nil {
			t.Fatal(err)
		}
		for _, b := range p.Binaries {
			if b.Package != "." && !strings.Contains(string(text), b.Package+"\n") {
				t.Errorf("tools/%s/go.mod has no tool line for %s, so its go.sum may lack what it needs", p.Name, b.Package)
			}
		}
	}
}

func TestAKeyChangesWithEverySourceAndFlag(t *testing.T) {
	tools := t.TempDir()
	dir := filepath.Join(tools, "etcd")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	c := Cache{Dir: t.TempDir(), Tools: tools}
	part := Part{Name: "etcd", Binaries: []Binary{{Name: "etcd", Package: "go.etcd.io/etcd/server/v3"}}}
	seen := map[string]string{}
	check := func(what string, p Part) {
		t.Helper()
		key, err := c.Key(p)
		if err != nil {
			t.Fatal(err)
		}
		if before, ok := seen[key]; ok {
			t.Errorf("Key(%s) = Key(%s) = %s", what, before, key)
		}
		seen[key] = what
	}
	check("an empty folder", part)
	for _, content := range []string{"module etcd", "module etcd2"} {
		if err := os.WriteFile(filepath.Join(dir, "go.mod"), []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
		check(content, part)
	}
	flagged := part
	flagged.LinkFlags = "-X main.version=v1.36.3"
	check("a linker flag", flagged)
	tagged := part
	tagged.Tags = "seccomp"
	check("a tag", tagged)
}

func TestABrokenBuildSaysWhatTheCompilerSaidAndLeavesNoBinary(t *testing.T) {
	tools := t.TempDir()
	dir := filepath.Join(tools, "coredns")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	for name, content := range map[string]string{"go.mod": "module example.com/coredns\n\ngo 1.26.0\n", "main.go": "package main\n\nfunc main() { missing() }\n"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	c := Cache{Dir: t.TempDir(), Tools: tools}
	part := Part{Name: "coredns", Binaries: []Binary{{Name: "coredns", Package: "."}}}
	err := c.All(t.Context(), []Part{part}, func(e Event) { t.Errorf("progress %v of a build that fails", e) })
	if err == nil || !strings.Contains(err.Error(), "undefined: missing") {
		t.Errorf("All() = %v, want what the compiler said", err)
	}
	if missing, err := c.Missing(part); err != nil || len(missing) != 1 {
		t.Errorf("Missing() = %v, %v, want the binary", missing, err)
	}
	fixed := []byte("package main\n\nfunc main() {}\n")
	if err := os.WriteFile(filepath.Join(dir, "main.go"), fixed, 0o644); err != nil {
		t.Fatal(err)
	}
	var events []Event
	if err := c.All(t.Context(), []Part{part}, func(e Event) { events = append(events, e) }); err != nil || len(events) != 1 {
		t.Errorf("All() of the fixed source = %v with %d events, want one event", err, len(events))
	}
	if missing, err := c.Missing(part); err != nil || len(missing) != 0 {
		t.Errorf("Missing() = %v, %v, want none", missing, err)
	}
}

func TestAdaptNamesImagesHastensProbesAsksForLessAndDropsWhatNeedsMetrics(t *testing.T) {
	deployment := object{"kind": "Deployment", "spec": map[string]any{"template": map[string]any{"spec": map[string]any{
		"containers": []any{map[string]any{
			"image": "ko://knative.dev/serving/cmd/activator", "readinessProbe": map[string]any{"periodSeconds": 5},
			"resources": map[string]any{"requests": map[string]any{"cpu": "300m", "memory": "60Mi"}},
		}},
	}}}}
	got := adapt(deployment, func(c string) string { return "dev.local/" + c + ":0001" })
	container := at(got, "spec", "template", "spec", "containers").([]any)[0]
	if image := at(container, "image"); image != "dev.local/activator:0001" {
		t.Errorf("adapt: image = %v, want dev.local/activator:0001", image)
	}
	if period := at(container, "readinessProbe", "periodSeconds"); period != 1 {
		t.Errorf("adapt: period of the probe = %v, want 1", period)
	}
	requests, _ := at(container, "resources", "requests").(map[string]any)
	if requests["cpu"] != "100m" || requests["memory"] != "60Mi" {
		t.Errorf("adapt: requests = %v, want 100m of a processor and the memory as it was", requests)
	}
	if o := adapt(object{"kind": "HorizontalPodAutoscaler"}, nil); o != nil {
		t.Errorf("adapt(HorizontalPodAutoscaler) = %v, want nil", o)
	}
	network := adapt(object{"kind": "ConfigMap", "metadata": map[string]any{"name": "config-network"}}, nil)
	if class := at(network, "data", "ingress-class"); class == nil {
		t.Error("adapt(config-network) sets no ingress class")
	}
}
