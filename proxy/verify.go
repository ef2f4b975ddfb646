package proxy

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
)

// clientTLS returns how connections of u are secured. It names no server if that is the Host of each request.
func clientTLS(u Upstream) (*tls.Config, error) {
	config := &tls.Config{
		MinVersion:         tls.VersionTLS12,
		ServerName:         u.ServerName,
		ClientSessionCache: tls.NewLRUClientSessionCache(0),
	}
	if u.RootCAs != nil {
		config.RootCAs = x509.NewCertPool()
		if !config.RootCAs.AppendCertsFromPEM(u.RootCAs) {
			return nil, errors.New("upstream root CAs: no certificate in PEM found")
		}
	}
	if len(u.ServerNames) == 0 {
		return config, nil
	}
	if slices.Contains(u.ServerNames, "") {
		return nil, errors.New("upstream server names: one of them is empty")
	}
	names := u.ServerNames
	if u.ServerName != "" {
		names = append([]string{u.ServerName}, names...)
	}
	config.ServerName = names[0]
	// What crypto/tls would verify against the one name, VerifyConnection verifies against all; it is called for resumed sessions too.
	config.InsecureSkipVerify = true
	config.VerifyConnection = func(s tls.ConnectionState) error { return verifyAny(s.PeerCertificates, config.RootCAs, names) }
	return config, nil
}

// verifyAny verifies a chain, its leaf first, as crypto/tls does, except that the leaf may have any one of the names.
func verifyAny(chain []*x509.Certificate, roots *x509.CertPool, names []string) error {
	if len(chain) == 0 {
		return errors.New("verifying the endpoint: it showed no certificate")
	}
	options := x509.VerifyOptions{Roots: roots, Intermediates: x509.NewCertPool()}
	for _, c := range chain[1:] {
		options.Intermediates.AddCert(c)
	}
	if _, err := chain[0].Verify(options); err != nil {
		return fmt.Errorf("verifying the endpoint: %w", err)
	}
	for _, name := range names {
		if chain[0].VerifyHostname(name) == nil {
			return nil
		}
	}
	return fmt.Errorf("verifying the endpoint: its certificate is for %q, want one of %q", chain[0].DNSNames, names)
}
