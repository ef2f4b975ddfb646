package main

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/limpet-project/limpet/config"
	"github.com/limpet-project/limpet/knative/ingress"
)

func TestPortsOf(t *testing.T) {
	for _, tt := range []struct {
		name, listeners string
		want            ingress.Ports // zero: refused
	}{
		{"all four", `
  - {name: external, address: ":8080"}
  - {name: external-tls, address: "0.0.0.0:8443", tls: {}}
  - {name: local, address: "[::]:8081"}
  - {name: local-tls, address: ":8444", tls: {}}`, ingress.Ports{External: "8080", ExternalTLS: "8443", Local: "8081", LocalTLS: "8444"}},
		{"without TLS", `
  - {name: external, address: ":8080"}
  - {name: local, address: ":8081"}`, ingress.Ports{External: "8080", Local: "8081"}},
		{"without local", `
  - {name: external, address: ":8080"}`, ingress.Ports{}},
		{"a name that means nothing", `
  - {name: external, address: ":8080"}
  - {name: local, address: ":8081"}
  - {name: web, address: ":8082"}`, ingress.Ports{}},
		{"TLS where there is none", `
  - {name: external, address: ":8080", tls: {}}
  - {name: local, address: ":8081"}`, ingress.Ports{}},
		{"no TLS where it is meant", `
  - {name: external, address: ":8080"}
  - {name: external-tls, address: ":8443"}
  - {name: local, address: ":8081"}`, ingress.Ports{}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c, err := config.Parse("limpet.yaml", []byte("listeners:"+tt.listeners+"\n"))
			if err != nil {
				t.Fatal(err)
			}
			got, err := portsOf(c)
			if refused := tt.want == (ingress.Ports{}); (err != nil) != refused || !refused && got != tt.want {
				t.Errorf("portsOf() = %+v, %v, want %+v", got, err, tt.want)
			}
		})
	}
}

func TestWhatTheUserGaveWrongEndsWithCode2(t *testing.T) {
	t.Setenv("KUBERNETES_SERVICE_HOST", "")
	file := func(name, content string) string {
		path := filepath.Join(t.TempDir(), name)
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	kubeconfig := file("kubeconfig", `{apiVersion: v1, kind: Config, current-context: test, contexts: [{name: test, context: {cluster: test, user: test}}],
clusters: [{name: test, cluster: {server: "http://127.0.0.1:1"}}], users: [{name: test}]}`)
	good := file("limpet.yaml", "listeners: [{name: external, address: \"127.0.0.1:0\"}, {name: local, address: \"127.0.0.1:0\"}]\n")
	for _, tt := range []struct {
		name string
		args []string
	}{
		{"no configuration", nil},
		{"no such flag", []string{"--config", good, "--sessions"}},
		{"neither with affinity nor without", []string{"--config", good, "--kubeconfig", kubeconfig, "--affinity", "perhaps"}},
		{"no cluster", []string{"--config", good}},
		{"no such kubeconfig", []string{"--config", good, "--kubeconfig", "/no/such/file"}},
		{"no such configuration", []string{"--config", "/no/such/file", "--kubeconfig", kubeconfig}},
		{"no local listener", []string{"--kubeconfig", kubeconfig, "--config", file("one.yaml", "listeners: [{name: external, address: \"127.0.0.1:0\"}]\n")}},
		{"services of its own", []string{"--kubeconfig", kubeconfig, "--config", file("own.yaml", `
listeners: [{name: external, address: "127.0.0.1:0"}, {name: local, address: "127.0.0.1:0"}]
services: [{name: demo, revisions: [{name: demo-00001, weight: 1, endpoints: [{name: a, address: "127.0.0.1:9"}]}]}]
`)}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got := run(t.Context(), tt.args); got != exitUsage {
				t.Errorf("run(%q) = %d, want %d", tt.args, got, exitUsage)
			}
		})
	}
}
