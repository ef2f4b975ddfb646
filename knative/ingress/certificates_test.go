package ingress

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"knative.dev/networking/pkg/apis/networking/v1alpha1"
)

// tlsSecret returns a Secret with a certificate for a host, whose subject is called name.
func tlsSecret(t *testing.T, object, name, host string) *corev1.Secret {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, DNSNames: []string{host},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	private, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: object, ResourceVersion: name},
		Type:       corev1.SecretTypeTLS,
		Data: map[string][]byte{
			corev1.TLSCertKey:       pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}),
			corev1.TLSPrivateKeyKey: pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: private}),
		},
	}
}

// shows waits until a listener shows the certificate with that subject for a host, "" for none.
func (r *replica) shows(listener, host, subject string) {
	r.t.Helper()
	r.eventually(listener+" shows the certificate "+subject+" for "+host, func() error {
		dialer := tls.Dialer{Config: &tls.Config{ServerName: host, InsecureSkipVerify: true}}
		conn, err := dialer.DialContext(context.Background(), "tcp", r.node.Address(listener))
		got := ""
		if err == nil {
			defer conn.Close()
			got = conn.(*tls.Conn).ConnectionState().PeerCertificates[0].Subject.CommonName
		}
		if got != subject {
			return fmt.Errorf("got %q (%v)", got, err)
		}
		return nil
	})
}

func TestCertificatesFollowTheirSecrets(t *testing.T) {
	w := newWorld(t)
	w.service("demo-00001", "demo-00001-a")
	r := w.start()
	i := demo("demo", "demo.default.example.com", "demo-00001")
	i.Spec.TLS = []v1alpha1.IngressTLS{{Hosts: []string{"demo.default.example.com"}, SecretName: "demo-tls"}}
	w.create(i)
	w.waits("demo", "CertificateMissing")
	w.create(demo("shop", "shop.default.example.com", "demo-00001"))
	w.ready("shop") // does not wait for another's certificate
	r.answers("external", "demo.default.example.com", 200, "demo-00001-a")

	secrets := w.kubernetes.CoreV1().Secrets("default")
	if _, err := secrets.Create(t.Context(), tlsSecret(t, "demo-tls", "first", "demo.default.example.com"), metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	w.ready("demo")
	r.shows("external-tls", "demo.default.example.com", "first")
	r.answers("external-tls", "demo.default.example.com", 200, "demo-00001-a")
	r.shows("external-tls", "shop.default.example.com", "") // nobody's certificate is shown for another's host

	if _, err := secrets.Update(t.Context(), tlsSecret(t, "demo-tls", "second", "demo.default.example.com"), metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	r.shows("external-tls", "demo.default.example.com", "second")

	broken := tlsSecret(t, "demo-tls", "third", "demo.default.example.com")
	broken.Data[corev1.TLSPrivateKeyKey] = []byte("no key")
	if _, err := secrets.Update(t.Context(), broken, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	w.waits("demo", "CertificateMissing")
	r.shows("external-tls", "demo.default.example.com", "second")
	if err := secrets.Delete(t.Context(), "demo-tls", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	r.shows("external-tls", "demo.default.example.com", "")
}

func TestHTTPIsRedirectedAndTheProbeOfItIsNot(t *testing.T) {
	w := newWorld(t)
	w.service("demo-00001", "demo-00001-a")
	r := w.start()
	if _, err := w.kubernetes.CoreV1().Secrets("default").Create(t.Context(), tlsSecret(t, "demo-tls", "demo", "demo.default.example.com"),
		metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	i := demo("demo", "demo.default.example.com", "demo-00001")
	i.Spec.TLS = []v1alpha1.IngressTLS{{SecretName: "demo-tls"}}
	i.Spec.HTTPOption = v1alpha1.HTTPOptionRedirected
	w.create(i)
	w.ready("demo")
	r.answers("external", "demo.default.example.com", 301, "")
	r.answers("external-tls", "demo.default.example.com", 200, "demo-00001-a")
	r.shows("local-tls", "demo.default.svc.cluster.local", "demo") // a part without hosts is for all of them
}
