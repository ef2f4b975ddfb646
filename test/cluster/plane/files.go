package plane

import (
	"bytes"
	"embed"
	"fmt"
	"os"
	"path/filepath"
	"text/template"

	"github.com/limpet-project/limpet/test/cluster/pki"
	"github.com/limpet-project/limpet/test/cluster/sandbox"
)

//go:embed config
var configs embed.FS

// files are the configuration files and where they go in the slot's state.
func (s scope) files() map[string]string {
	return map[string]string{
		"containerd.toml":    s.Slot.State("containerd.toml"),
		"hosts.toml":         s.Slot.State("certs.d", s.Slot.Registry(), "hosts.toml"),
		"10-bridge.conflist": s.Slot.State("cni", "10-bridge.conflist"),
		"kubelet.yaml":       s.Slot.State("kubelet.yaml"),
		"proxy.yaml":         s.Slot.State("proxy.yaml"),
		"coredns.yaml":       s.Slot.State("coredns.yaml"),
	}
}

// configure writes certificates, kubeconfigs and configuration.
func (s scope) configure() error {
	if err := s.certify(); err != nil {
		return fmt.Errorf("making certificates: %w", err)
	}
	for name, to := range s.files() {
		text, err := s.render(name)
		if err != nil {
			return err
		}
		if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(to, text, 0o644); err != nil {
			return err
		}
	}
	return os.WriteFile(s.Slot.State("resolv.conf"), nil, 0o644) // pods have no name server but the cluster's
}

func (s scope) render(name string) ([]byte, error) {
	t, err := template.ParseFS(configs, "config/"+name)
	if err != nil {
		return nil, err
	}
	var out bytes.Buffer
	if err := t.Execute(&out, s); err != nil {
		return nil, fmt.Errorf("filling in %s: %w", name, err)
	}
	return out.Bytes(), nil
}

// users are who talks to the API server, and with which names.
var users = map[string]pki.Subject{
	"admin":                   {Name: "admin", Group: "system:masters"},
	"kube-controller-manager": {Name: "system:kube-controller-manager"},
	"kube-scheduler":          {Name: "system:kube-scheduler"},
	"kubelet":                 {Name: "system:node:" + sandbox.NodeName, Group: "system:nodes"},
	"kube-proxy":              {Name: "system:kube-proxy"},
}

func (s scope) certify() error {
	dir := s.Slot.State("pki")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	ca, err := pki.NewAuthority(dir, "ca", "limpet test cluster")
	if err != nil {
		return err
	}
	front, err := pki.NewAuthority(dir, "front", "limpet test cluster front proxy")
	if err != nil {
		return err
	}
	certificates := map[string]pki.Subject{
		"apiserver": {Name: "kube-apiserver", Hosts: []string{
			"kubernetes", "kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc.cluster.local",
			"localhost", "127.0.0.1", s.Slot.APIService(), s.Slot.Node(),
		}},
		"kubelet-server":    {Name: s.Node, Hosts: []string{s.Node, s.Slot.Node(), "127.0.0.1"}},
		"apiserver-kubelet": {Name: "kube-apiserver-kubelet-client", Group: "system:masters"},
	}
	for user, subject := range users {
		certificates[user] = subject
		if err := s.writeKubeconfig(user); err != nil {
			return err
		}
	}
	for file, subject := range certificates {
		if err := ca.Issue(file, subject); err != nil {
			return err
		}
	}
	if err := front.Issue("front-client", pki.Subject{Name: "front-proxy"}); err != nil {
		return err
	}
	return pki.KeyPair(dir, "sa")
}

func (s scope) writeKubeconfig(user string) error {
	text := fmt.Sprintf(`apiVersion: v1
kind: Config
clusters: [{name: limpet, cluster: {server: "https://%s:6443", certificate-authority: %q}}]
users: [{name: %s, user: {client-certificate: %q, client-key: %q}}]
contexts: [{name: limpet, context: {cluster: limpet, user: %s}}]
current-context: limpet
`, s.Slot.Node(), s.pki("ca.crt"), user, s.pki(user+".crt"), s.pki(user+".key"), user)
	return os.WriteFile(s.kubeconfig(user), []byte(text), 0o600)
}
