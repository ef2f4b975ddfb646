package activator

import (
	"crypto/x509"

	"k8s.io/apimachinery/pkg/labels"
	corelisters "k8s.io/client-go/listers/core/v1"
	"knative.dev/networking/pkg/apis/networking"
	"knative.dev/networking/pkg/certificates"
	netconfig "knative.dev/networking/pkg/config"
)

// Roots returns the authorities that Serving's activator trusts with TLS inside the system: that of its own certificate's Secret, and those
// of the ConfigMaps with Serving's label. The function reads them anew each time, which is once a connection between activators.
func Roots(secrets corelisters.SecretNamespaceLister, maps corelisters.ConfigMapNamespaceLister) func() *x509.CertPool {
	return func() *x509.CertPool {
		pool := x509.NewCertPool()
		if s, err := secrets.Get(netconfig.ServingRoutingCertName); err == nil {
			pool.AppendCertsFromPEM(s.Data[certificates.CaCertName])
		}
		bundles, _ := maps.List(labels.Everything()) // a lister of a cache returns no error
		for _, m := range bundles {
			if _, trusted := m.Labels[networking.TrustBundleLabelKey]; !trusted {
				continue
			}
			for _, bundle := range m.Data {
				pool.AppendCertsFromPEM([]byte(bundle)) // an authority that is no certificate is nobody's
			}
		}
		return pool
	}
}
