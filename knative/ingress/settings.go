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

// settings is what ConfigMaps and Secrets say for all Ingress objects. It is safe for concurrent use.
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

// setDefaults takes over config-limpet; nil is the defaults. If it is wrong what was before stays. It reports whether something changed.
func (s *settings) setDefaults(cm *corev1.ConfigMap) bool {
	defaults, err := policy.ParseDefaults(cm)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.wrong = err; err != nil {
		s.log.Error("the ConfigMap "+policy.ConfigMap+" is wrong; what it was stays", "error", err)
		return false
	}
	changed := !reflect.DeepEqual(defaults, s.defaults)
	s.defaults = defaults
	return changed
}

// setNetwork takes over config-network; nil is the defaults. It reports whether something changed that concerns the ingress.
func (s *settings) setNetwork(cm *corev1.ConfigMap) bool {
	network, err := netconfig.NewConfigFromConfigMap(cm)
	if err != nil {
		s.log.Error("the ConfigMap "+netconfig.ConfigMapName+" is wrong; what it was stays", "error", err)
		return false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	before := s.internalTLS
	s.internalTLS = network.SystemInternalTLSEnabled()
	return before != s.internalTLS
}

// setAuthorities collects the certificates of authorities anew and reports whether they changed: those in the ConfigMaps that are marked
// as trust bundles, and the one in the Secret of the certificates that the activator shows.
func (s *settings) setAuthorities() bool {
	found, err := s.bundles()
	if err != nil {
		s.log.Error("reading trust bundles; what they were stays", "error", err)
		return false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	changed := !bytes.Equal(found, s.authorities)
	s.authorities = found
	return changed
}

func (s *settings) bundles() ([]byte, error) {
	marked, err := labels.Parse(networking.TrustBundleLabelKey)
	if err != nil {
		return nil, err
	}
	list, err := s.maps.ConfigMaps(s.knative).List(marked)
	if err != nil {
		return nil, fmt.Errorf("listing ConfigMaps: %w", err)
	}
	slices.SortFunc(list, func(a, b *corev1.ConfigMap) int { return strings.Compare(a.Name, b.Name) })
	var all bytes.Buffer
	for _, cm := range list {
		for _, key := range slices.Sorted(maps.Keys(cm.Data)) {
			s.add(&all, "ConfigMap "+cm.Name, []byte(cm.Data[key]))
		}
	}
	if secret, err := s.secrets.Secrets(s.knative).Get(netconfig.ServingRoutingCertName); err == nil {
		s.add(&all, "Secret "+secret.Name, secret.Data[netcertificates.CaCertName])
	}
	return all.Bytes(), nil
}

// add writes the certificates in a bundle to all. One that cannot be read does not keep the others from being used.
func (s *settings) add(all *bytes.Buffer, from string, bundle []byte) {
	for block, rest := pem.Decode(bundle); block != nil; block, rest = pem.Decode(rest) {
		if block.Type != "CERTIFICATE" {
			continue
		}
		if _, err := x509.ParseCertificate(block.Bytes); err != nil {
			s.log.Warn("a certificate of an authority cannot be used", "from", from, "error", err)
			continue
		}
		_ = pem.Encode(all, block) // a buffer takes everything
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
