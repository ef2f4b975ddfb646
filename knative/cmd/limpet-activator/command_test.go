package main

import (
	"os"
	"path/filepath"
	"testing"

	"knative.dev/pkg/injection"
)

func TestWhatTheUserGaveWrongEndsWithCode2(t *testing.T) {
	t.Setenv("KUBERNETES_SERVICE_HOST", "")
	t.Setenv("KUBECONFIG", "")
	t.Setenv("POD_NAME", "activator-5c8d7f9b6-x7k2p")
	t.Setenv("POD_IP", "10.0.0.7")
	file := func(name, content string) string {
		path := filepath.Join(t.TempDir(), name)
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	good := file("limpet.yaml", "admin: {address: \"127.0.0.1:0\"}\n")
	for _, tt := range []struct {
		name string
		args []string
	}{
		{"no configuration", nil},
		{"no such flag", []string{"--config", good, "--sessions"}},
		{"no such configuration", []string{"--config", "/no/such/file"}},
		{"a configuration that is wrong", []string{"--config", file("wrong.yaml", "admin: 1\n")}},
		{"no such kubeconfig", []string{"--config", good, "--kubeconfig", "/no/such/file"}},
		{"no duration", []string{"--config", good, "--probe-timeout", "soon"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got := run(t.Context(), tt.args); got != exitUsage {
				t.Errorf("run(%q) = %d, want %d", tt.args, got, exitUsage)
			}
		})
	}
}

// Protects against prototype defect 53: an informer that the role does not allow would never synchronise, and the activator not start.
// Whoever sees this fail gives the role in deploy/activator what the new informer needs, or does without the import that brought it.
func TestTheInformersAreThoseThatTheRoleAllows(t *testing.T) {
	const serving, own = 5, 2 // configmaps and secrets of the namespace, endpoints, services, revisions; routes, endpointslices
	if got := len(injection.Default.GetInformers()); got != serving+own {
		t.Errorf("%d informers are started, want %d", got, serving+own)
	}
}
