package proxy

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
)

// A HostCertificate is a certificate with its chain and key, and the hosts that it is shown for.
type HostCertificate struct {
	// Hosts are exact names, and wildcards of one leading label ("*.example.com"), as in certificates. A certificate without hosts
	// is a default. What names the certificate itself has is not asked.
	Hosts       []string
	Certificate tls.Certificate
}

// A CertificateSet is a [CertificateSource] of certificates in memory. Its zero value, and a nil one, has none. Safe for concurrent use,
// but for Strict, which is set before.
type CertificateSet struct {
	// Strict shows a certificate only for a host of its own: a client that asks for another name, or for none, is refused, and a
	// certificate without hosts is never shown. Otherwise such clients are shown a default.
	Strict bool

	now atomic.Pointer[certificateIndex]
}

var _ CertificateSource = (*CertificateSet)(nil)

// certificateIndex is a set in the form that handshakes read: immutable, swapped whole.
type certificateIndex struct {
	exact     map[string][]*tls.Certificate // by host
	wildcards map[string][]*tls.Certificate // by what follows "*."
	defaults  []*tls.Certificate
}

// Swap replaces the set as a whole: each handshake sees one set. If a certificate cannot be shown or a host is none, the old set
// stays. Several certificates of one host, as for different algorithms, are tried in this order. If none is a default, the first of
// all is. The caller must not change certs afterwards.
func (s *CertificateSet) Swap(certs []HostCertificate) error {
	index := &certificateIndex{exact: map[string][]*tls.Certificate{}, wildcards: map[string][]*tls.Certificate{}}
	var first *tls.Certificate
	for i := range certs {
		cert, err := index.add(certs[i])
		if err != nil {
			return fmt.Errorf("certificate %d of %d: %w", i+1, len(certs), err)
		}
		if i == 0 {
			first = cert
		}
	}
	if len(index.defaults) == 0 && first != nil {
		index.defaults = []*tls.Certificate{first}
	}
	s.now.Store(index)
	return nil
}

func (s *certificateIndex) add(c HostCertificate) (*tls.Certificate, error) {
	cert := c.Certificate
	if len(cert.Certificate) == 0 || cert.PrivateKey == nil {
		return nil, errors.New("there is no chain or no key")
	}
	if cert.Leaf == nil { // else each handshake would parse it
		leaf, err := x509.ParseCertificate(cert.Certificate[0])
		if err != nil {
			return nil, err
		}
		cert.Leaf = leaf
	}
	if len(c.Hosts) == 0 {
		s.defaults = append(s.defaults, &cert)
	}
	for _, host := range c.Hosts {
		names := s.exact
		name, wildcard := strings.CutPrefix(host, "*.")
		if wildcard {
			names = s.wildcards
		}
		name = strings.ToLower(strings.TrimSuffix(name, "."))
		if name == "" || strings.ContainsAny(name, "*/:") {
			return nil, fmt.Errorf("host %q: expected a name or \"*.name\"", host)
		}
		names[name] = append(names[name], &cert)
	}
	return &cert, nil
}

// Certificate returns the first certificate for exactly the name that the client asks for whose algorithms it supports, else one for
// a wildcard, else, unless s is strict, a default. If the client supports none of them it is shown the first, for want of a better one.
func (s *CertificateSet) Certificate(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
	if s == nil {
		return nil, nil
	}
	index := s.now.Load()
	if index == nil {
		return nil, nil
	}
	return index.choose(hello, s.Strict), nil
}

func (s *certificateIndex) choose(hello *tls.ClientHelloInfo, strict bool) *tls.Certificate {
	defaults := s.defaults
	if strict {
		defaults = nil
	}
	name := strings.ToLower(hello.ServerName)
	_, after, _ := strings.Cut(name, ".")
	algorithms := *hello
	algorithms.ServerName = "" // whose certificate it is has been said by Hosts
	var first *tls.Certificate
	for _, certs := range [...][]*tls.Certificate{s.exact[name], s.wildcards[after], defaults} {
		for _, c := range certs {
			if algorithms.SupportsCertificate(c) == nil {
				return c
			}
			if first == nil {
				first = c
			}
		}
	}
	return first
}
