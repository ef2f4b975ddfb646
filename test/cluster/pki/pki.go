// Package pki makes the certificates of a test cluster.
//
// Keys are P-256 and certificates live ten years; both are for one machine and one run, and not for anything to be kept safe.
package pki

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"time"
)

const life = 10 * 365 * 24 * time.Hour

// An Authority signs certificates and writes them to its folder.
type Authority struct {
	dir  string
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

// A Subject is who a certificate is for. Servers have addresses, clients have none.
type Subject struct {
	Name, Group string
	Hosts       []string // names and addresses
}

// NewAuthority makes an authority and writes file.crt and file.key to dir.
func NewAuthority(dir, file, name string) (*Authority, error) {
	key, err := newKey()
	if err != nil {
		return nil, err
	}
	t := template(Subject{Name: name})
	t.IsCA, t.BasicConstraintsValid = true, true
	t.KeyUsage |= x509.KeyUsageCertSign
	a := &Authority{dir: dir, cert: t, key: key}
	der, err := x509.CreateCertificate(rand.Reader, t, t, &key.PublicKey, key)
	if err != nil {
		return nil, fmt.Errorf("making the certificate of %s: %w", name, err)
	}
	if a.cert, err = x509.ParseCertificate(der); err != nil {
		return nil, fmt.Errorf("reading the certificate of %s: %w", name, err)
	}
	return a, a.save(file, der, key)
}

// Issue signs a certificate and writes file.crt and file.key.
func (a *Authority) Issue(file string, s Subject) error {
	key, err := newKey()
	if err != nil {
		return err
	}
	t := template(s)
	t.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
	if len(s.Hosts) > 0 {
		t.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
	}
	der, err := x509.CreateCertificate(rand.Reader, t, a.cert, &key.PublicKey, a.key)
	if err != nil {
		return fmt.Errorf("making the certificate of %s: %w", s.Name, err)
	}
	return a.save(file, der, key)
}

// KeyPair writes file.key and file.pub, which sign and verify tokens of service accounts.
func KeyPair(dir, file string) error {
	key, err := newKey()
	if err != nil {
		return err
	}
	public, err := x509.MarshalPKIXPublicKey(&key.PublicKey)
	if err != nil {
		return fmt.Errorf("writing a public key: %w", err)
	}
	if err := savePEM(filepath.Join(dir, file+".pub"), "PUBLIC KEY", public); err != nil {
		return err
	}
	return saveKey(filepath.Join(dir, file+".key"), key)
}

func (a *Authority) save(file string, der []byte, key *ecdsa.PrivateKey) error {
	if err := savePEM(filepath.Join(a.dir, file+".crt"), "CERTIFICATE", der); err != nil {
		return err
	}
	return saveKey(filepath.Join(a.dir, file+".key"), key)
}

func saveKey(path string, key *ecdsa.PrivateKey) error {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return fmt.Errorf("writing a key: %w", err)
	}
	return savePEM(path, "PRIVATE KEY", der)
}

func savePEM(path, kind string, der []byte) error {
	return os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600)
}

func newKey() (*ecdsa.PrivateKey, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("making a key: %w", err)
	}
	return key, nil
}

func template(s Subject) *x509.Certificate {
	serial, _ := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120)) // rand.Reader does not fail
	t := &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{CommonName: s.Name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(life), KeyUsage: x509.KeyUsageDigitalSignature,
	}
	if s.Group != "" {
		t.Subject.Organization = []string{s.Group}
	}
	for _, h := range s.Hosts {
		if ip := net.ParseIP(h); ip != nil {
			t.IPAddresses = append(t.IPAddresses, ip)
		} else {
			t.DNSNames = append(t.DNSNames, h)
		}
	}
	return t
}
