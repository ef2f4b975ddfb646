package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/limpet-project/limpet/node/nodetest"
)

// writeCertificate writes a self-signed certificate for demo.example.com with a serial number, and its key.
func writeCertificate(t *testing.T, certFile, keyFile string, serial int64) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	cert := &x509.Certificate{
		SerialNumber: big.NewInt(serial), Subject: pkix.Name{CommonName: "demo.example.com"}, DNSNames: []string{"demo.example.com"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
	}
	der, err := x509.CreateCertificate(rand.Reader, cert, cert, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	for file, block := range map[string]*pem.Block{
		certFile: {Type: "CERTIFICATE", Bytes: der},
		keyFile:  {Type: "PRIVATE KEY", Bytes: private},
	} {
		if err := replaceFile(file, pem.EncodeToMemory(block)); err != nil {
			t.Fatal(err)
		}
	}
}

func TestListenerWithTLSReadsNewCertificatesAndKeepsItsConnections(t *testing.T) {
	dir := t.TempDir()
	certFile, keyFile := filepath.Join(dir, "web.pem"), filepath.Join(dir, "web.key")
	writeCertificate(t, certFile, keyFile, 1)
	p := serve(t, fmt.Sprintf("listeners: [{name: web, address: \"127.0.0.1:0\", "+
		"tls: {minVersion: \"1.3\", certificates: [{certFile: %q, keyFile: %q}]}}]\n", certFile, keyFile)+startHeld(t).service())
	client := func(o *tls.Config) *http.Client {
		o.ServerName, o.InsecureSkipVerify = "demo.example.com", true
		c := &http.Client{Transport: &http.Transport{TLSClientConfig: o, ForceAttemptHTTP2: true}}
		t.Cleanup(c.CloseIdleConnections)
		return c
	}
	serial := func(c *http.Client) int64 {
		resp, err := c.Get("https://" + p.address() + "/fast")
		if err != nil {
			t.Fatalf("a request by TLS = %v", err)
		}
		defer resp.Body.Close()
		if resp.StatusCode != http.StatusOK || resp.ProtoMajor != 2 {
			t.Errorf("a request by TLS = %s by %s, want 200 by HTTP/2", resp.Status, resp.Proto)
		}
		return resp.TLS.PeerCertificates[0].SerialNumber.Int64()
	}
	old := client(&tls.Config{})
	if got := serial(old); got != 1 {
		t.Fatalf("the certificate's serial number = %d, want 1", got)
	}
	if _, err := client(&tls.Config{MaxVersion: tls.VersionTLS12}).Get("https://" + p.address()); err == nil {
		t.Error("a client with TLS 1.2 is served, want minVersion 1.3 to refuse it")
	}
	writeCertificate(t, certFile, keyFile, 2)
	nodetest.Eventually(t, "new connections get the new certificate", func() bool { return serial(client(&tls.Config{})) == 2 })
	if got := serial(old); got != 1 {
		t.Errorf("the old connection's certificate = %d, want 1: it is kept", got)
	}
	if err := replaceFile(certFile, []byte("no certificate")); err != nil {
		t.Fatal(err)
	}
	p.logs(1, "certificates changed and cannot be used")
	if got := serial(client(&tls.Config{})); got != 2 {
		t.Errorf("with a wrong file the certificate = %d, want 2, the last right one", got)
	}
	if got := nodetest.Fetch(p.url() + "/fast"); !strings.HasPrefix(got, "400 ") {
		t.Errorf("plain HTTP at a TLS listener = %s, want 400", got)
	}
}
