package ingress

import (
	"bytes"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"log/slog"
	"maps"
	"reflect"
	"slices"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/labels"
	corelisters "k8s.io/client-go/listers/core/v1"
	"knative.dev/networking/pkg/apis/networking"
	netcertificates "knative.dev/networking/pkg/certificates"
	netconfig "knative.dev/networking/pkg/config"

	"github.com/limpet-project/limpet/knative/policy"
)

// settings is what ConfigMaps and Secrets say for all Ingress objects. It is safe for concurrent use: what is taken over is looked up under
// the lock, so that of several that do it at once none puts back what is old.
type settings struct {
	knative string // Knative's namespace
	maps    corelisters.ConfigMapLister
	secrets corelisters.SecretLister
	log     *slog.Logger

	mu          sync.Mutex
	defaults    policy.Defaults
	wrong       error // why config-limpet is not what defaults are from
	internalTLS bool
	authorities []byte // PEM; who vouches for the system's own endpoints
}

// setDefaults takes over what config-limpet is now; nil is the defaults. If it is wrong what was before stays. It reports whether
// something changed.
func (s *settings) setDefaults(now func() *corev1.ConfigMap) bool {
	changed, err := s.takeDefaults(now)
	if err != nil {
		s.log.Error("the ConfigMap "+policy.ConfigMap+" is wrong; what it was stays", "error", err)
	}
	return changed
}

func (s *settings) takeDefaults(now func() *corev1.ConfigMap) (changed bool, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	defaults, err := policy.ParseDefaults(now())
	if s.wrong = err; err != nil {
		return false, err
	}
	changed = !reflect.DeepEqual(defaults, s.defaults)
	s.defaults = defaults
	return changed, nil
}

// setNetwork takes over what config-network is now; nil is the defaults. It reports whether something changed that concerns the ingress.
func (s *settings) setNetwork(now func() *corev1.ConfigMap) bool {
	changed, err := s.takeNetwork(now)
	if err != nil {
		s.log.Error("the ConfigMap "+netconfig.ConfigMapName+" is wrong; what it was stays", "error", err)
	}
	return changed
}

func (s *settings) takeNetwork(now func() *corev1.ConfigMap) (changed bool, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	network, err := netconfig.NewConfigFromConfigMap(now())
	if err != nil {
		return false, err
	}
	before := s.internalTLS
	s.internalTLS = network.SystemInternalTLSEnabled()
	return before != s.internalTLS, nil
}

// setAuthorities collects the certificates of authorities anew and reports whether they changed: those in the ConfigMaps that are marked
// as trust bundles, and the one in the Secret of the certificates that the activator shows.
func (s *settings) setAuthorities() bool {
	changed, faults, err := s.takeAuthorities()
	if err != nil {
		s.log.Error("reading trust bundles; what they were stays", "error", err)
	}
	for _, fault := range faults {
		s.log.Warn("a certificate of an authority cannot be used", "error", fault)
	}
	return changed
}

func (s *settings) takeAuthorities() (changed bool, faults []error, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	found, err := s.bundles()
	if err != nil {
		return false, nil, err
	}
	changed = !bytes.Equal(found.pem.Bytes(), s.authorities)
	s.authorities = found.pem.Bytes()
	return changed, found.faults, nil
}

// A bundle is certificates of authorities, and what is wrong with others.
type bundle struct {
	pem    bytes.Buffer
	faults []error
}

func (s *settings) bundles() (*bundle, error) {
	marked, err := labels.Parse(networking.TrustBundleLabelKey)
	if err != nil {
		return nil, err
	}
	list, err := s.maps.ConfigMaps(s.knative).List(marked)
	if err != nil {
		return nil, fmt.Errorf("listing ConfigMaps: %w", err)
	}
	slices.SortFunc(list, func(a, b *corev1.ConfigMap) int { return strings.Compare(a.Name, b.Name) })
	var all bundle
	for _, cm := range list {
		for _, key := range slices.Sorted(maps.Keys(cm.Data)) {
			all.add("ConfigMap "+cm.Name, []byte(cm.Data[key]))
		}
	}
	if secret, err := s.secrets.Secrets(s.knative).Get(netconfig.ServingRoutingCertName); err == nil {
		all.add("Secret "+secret.Name, secret.Data[netcertificates.CaCertName])
	}
	return &all, nil
}

// add takes over the certificates in PEM. One that cannot be read does not keep the others from being used.
func (b *bundle) add(from string, certificates []byte) {
	for block, rest := pem.Decode(certificates); block != nil; block, rest = pem.Decode(rest) {
		if block.Type != "CERTIFICATE" {
			continue
		}
		if _, err := x509.ParseCertificate(block.Bytes); err != nil {
			b.faults = append(b.faults, fmt.Errorf("%s: %w", from, err))
			continue
		}
		_ = pem.Encode(&b.pem, block) // a buffer takes everything
	}
}

// forObjects returns what the translation of objects depends on. Without TLS inside the system there are no authorities.
func (s *settings) forObjects() (policy.Defaults, []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.internalTLS {
		return s.defaults, nil
	}
	return s.defaults, s.authorities
}

// systemInternalTLS reports whether revisions are spoken to in TLS.
func (s *settings) systemInternalTLS() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.internalTLS
}

// drainTimeout returns how long a pod that terminates keeps its sessions.
func (s *settings) drainTimeout() time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.defaults.DrainTimeout()
}

// fault returns why config-limpet is not in force, nil if it is.
func (s *settings) fault() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.wrong
}
