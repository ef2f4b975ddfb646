package ingress

import (
	"cmp"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"sync"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
	corelisters "k8s.io/client-go/listers/core/v1"
	"knative.dev/networking/pkg/apis/networking/v1alpha1"

	"github.com/limpet-project/limpet/proxy"
)

// certificates keeps the set of a TLS listener in step with the Secrets that programs name. It is safe for concurrent use.
type certificates struct {
	secrets corelisters.SecretLister
	set     *proxy.CertificateSet
	log     *slog.Logger

	mu    sync.Mutex
	pairs map[types.NamespacedName]pair // of the Secrets that were named last
}

// A pair is what was read of a Secret.
type pair struct {
	version     string // of the Secret
	certificate tls.Certificate
	err         error // why that version cannot be used; the certificate is then the last that could
}

// put shows the certificates of a program. A Secret that is missing or cannot be read leaves its hosts without a certificate of their
// own; one that became unreadable leaves them the old one.
func (c *certificates) put(list []Certificate) {
	pairs := make(map[types.NamespacedName]pair, len(list))
	var shown []proxy.HostCertificate
	for _, one := range list {
		name := types.NamespacedName{Namespace: one.Namespace, Name: one.Secret}
		p, ok := pairs[name]
		if !ok {
			p = c.read(name)
			pairs[name] = p
		}
		if len(p.certificate.Certificate) == 0 {
			continue
		}
		hosts, general := presentable(one.Hosts)
		if len(hosts) > 0 {
			shown = append(shown, proxy.HostCertificate{Hosts: hosts, Certificate: p.certificate})
		}
		if general {
			shown = append(shown, proxy.HostCertificate{Certificate: p.certificate})
		}
	}
	c.mu.Lock()
	c.pairs = pairs
	c.mu.Unlock()
	if err := c.set.Swap(shown); err != nil {
		c.log.Error("showing certificates; the old ones stay", "error", err)
	}
}

// presentable returns those of the hosts that a certificate can be shown for, and whether it is also for any other.
func presentable(hosts []string) (list []string, general bool) {
	for _, host := range hosts {
		switch {
		case host == "*":
			general = true
		case checkHost(host) == nil:
			list = append(list, host)
		}
	}
	return list, general
}

// read returns the pair of a Secret as it is now.
func (c *certificates) read(name types.NamespacedName) pair {
	c.mu.Lock()
	old := c.pairs[name]
	c.mu.Unlock()
	secret, err := c.secrets.Secrets(name.Namespace).Get(name.Name)
	switch {
	case apierrors.IsNotFound(err):
		return pair{err: fmt.Errorf("there is no Secret %s of type %s", name, corev1.SecretTypeTLS)}
	case err != nil:
		return pair{certificate: old.certificate, err: fmt.Errorf("reading Secret %s: %w", name, err)}
	case secret.ResourceVersion == old.version && old.version != "":
		return old
	}
	next := pair{version: secret.ResourceVersion}
	if next.certificate, err = parsePair(secret); err != nil {
		next.certificate, next.err = old.certificate, fmt.Errorf("reading Secret %s: %w", name, err)
		c.log.Warn("a certificate cannot be used", "secret", name.String(), "error", err)
	}
	return next
}

func parsePair(secret *corev1.Secret) (tls.Certificate, error) {
	certificate, err := tls.X509KeyPair(secret.Data[corev1.TLSCertKey], secret.Data[corev1.TLSPrivateKeyKey])
	if err != nil {
		return tls.Certificate{}, err
	}
	certificate.Leaf, err = x509.ParseCertificate(certificate.Certificate[0])
	return certificate, err
}

// check returns what is wrong with the Secrets that an Ingress names, nil for nothing.
func (c *certificates) check(i *v1alpha1.Ingress) error {
	var wrong []error
	for _, name := range secretsOf(i) {
		wrong = append(wrong, c.read(name).err)
	}
	return errors.Join(wrong...)
}

// secretsOf returns the Secrets that an Ingress names. One may come twice.
func secretsOf(i *v1alpha1.Ingress) []types.NamespacedName {
	list := make([]types.NamespacedName, 0, len(i.Spec.TLS))
	for _, t := range i.Spec.TLS {
		list = append(list, types.NamespacedName{Namespace: cmp.Or(t.SecretNamespace, i.Namespace), Name: t.SecretName})
	}
	return list
}

// slimSecret takes from a Secret what nobody here asks for, before an informer keeps it.
func slimSecret(object any) (any, error) {
	if s, ok := object.(*corev1.Secret); ok {
		s.ManagedFields = nil
		s.Data = map[string][]byte{
			corev1.TLSCertKey:              s.Data[corev1.TLSCertKey],
			corev1.TLSPrivateKeyKey:        s.Data[corev1.TLSPrivateKeyKey],
			corev1.ServiceAccountRootCAKey: s.Data[corev1.ServiceAccountRootCAKey],
		}
	}
	return object, nil
}
