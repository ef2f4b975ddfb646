package pki

import (
	"crypto/tls"
	"crypto/x509"
	"os"
	"path/filepath"
	"testing"
)

func TestAServersCertificateIsTrustedForItsHostsOnly(t *testing.T) {
	dir := t.TempDir()
	a, err := NewAuthority(dir, "ca", "limpet test cluster")
	if err != nil {
		t.Fatal(err)
	}
	if err := a.Issue("apiserver", Subject{Name: "kube-apiserver", Hosts: []string{"kubernetes", "10.250.0.1"}}); err != nil {
		t.Fatal(err)
	}
	pair, err := tls.LoadX509KeyPair(filepath.Join(dir, "apiserver.crt"), filepath.Join(dir, "apiserver.key"))
	if err != nil {
		t.Fatal(err)
	}
	root, err := os.ReadFile(filepath.Join(dir, "ca.crt"))
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(root)
	for host, want := range map[string]bool{"kubernetes": true, "10.250.0.1": true, "10.249.0.1": false} {
		_, err := pair.Leaf.Verify(x509.VerifyOptions{DNSName: host, Roots: pool})
		if (err == nil) != want {
			t.Errorf("Verify(%s) = %v, want trusted %v", host, err, want)
		}
	}
}

func TestAClientsCertificateCarriesNameAndGroup(t *testing.T) {
	dir := t.TempDir()
	a, err := NewAuthority(dir, "ca", "limpet test cluster")
	if err != nil {
		t.Fatal(err)
	}
	if err := a.Issue("kubelet", Subject{Name: "system:node:node-00001", Group: "system:nodes"}); err != nil {
		t.Fatal(err)
	}
	pair, err := tls.LoadX509KeyPair(filepath.Join(dir, "kubelet.crt"), filepath.Join(dir, "kubelet.key"))
	if err != nil {
		t.Fatal(err)
	}
	subject := pair.Leaf.Subject
	if subject.CommonName != "system:node:node-00001" || len(subject.Organization) != 1 || subject.Organization[0] != "system:nodes" {
		t.Errorf("subject = %v, want system:node:node-00001 of system:nodes", subject)
	}
	if u := pair.Leaf.ExtKeyUsage; len(u) != 1 || u[0] != x509.ExtKeyUsageClientAuth {
		t.Errorf("usage = %v, want a client's", u)
	}
}
