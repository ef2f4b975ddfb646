package ingress

import (
	"bytes"
	"log/slog"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"
	"knative.dev/networking/pkg/apis/networking"
)

func TestAuthoritiesAreThoseOfAllBundles(t *testing.T) {
	maps := cache.NewIndexer(cache.MetaNamespaceKeyFunc, cache.Indexers{cache.NamespaceIndex: cache.MetaNamespaceIndexFunc})
	secrets := cache.NewIndexer(cache.MetaNamespaceKeyFunc, cache.Indexers{cache.NamespaceIndex: cache.MetaNamespaceIndexFunc})
	s := &settings{
		knative: "knative-serving", maps: corelisters.NewConfigMapLister(maps), secrets: corelisters.NewSecretLister(secrets),
		log: slog.New(slog.DiscardHandler),
	}
	bundle := func(name string, label bool, data string) {
		cm := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "knative-serving", Name: name}, Data: map[string]string{"ca.crt": data}}
		if label {
			cm.Labels = map[string]string{networking.TrustBundleLabelKey: "true"}
		}
		if err := maps.Add(cm); err != nil {
			t.Fatal(err)
		}
	}
	certificate := func(name string) []byte { return tlsSecret(t, name, name, name).Data[corev1.TLSCertKey] }
	first, second, third, other := certificate("first"), certificate("second"), certificate("third"), certificate("other")
	bundle("a", true, "a note\n"+string(first)+"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")
	bundle("b", true, string(second))
	bundle("c", false, string(other))
	if err := secrets.Add(&corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Namespace: "knative-serving", Name: "routing-serving-certs"}, Data: map[string][]byte{"ca.crt": third},
	}); err != nil {
		t.Fatal(err)
	}
	if !s.setAuthorities() {
		t.Error("setAuthorities() = false, want true the first time")
	}
	if s.setAuthorities() {
		t.Error("setAuthorities() = true, want false if nothing changed")
	}
	if _, got := s.forObjects(); got != nil {
		t.Errorf("without TLS inside the system the authorities are %q, want none", got)
	}
	if changed := s.setNetwork(networkWith("enabled")); !changed || !s.systemInternalTLS() {
		t.Errorf("setNetwork() = %t and systemInternalTLS() = %t, want true", changed, s.systemInternalTLS())
	}
	want := bytes.Join([][]byte{first, second, third}, nil)
	if _, got := s.forObjects(); !bytes.Equal(got, want) {
		t.Errorf("the authorities are %q, want %q", got, want)
	}
	if changed := s.setNetwork(networkWith("perhaps")); changed || !s.systemInternalTLS() {
		t.Error("a wrong config-network changed what was in force, want it left alone")
	}
}

func TestSettingsAreLookedUpWhileNobodyElseTakesThemOver(t *testing.T) {
	s := &settings{log: slog.New(slog.DiscardHandler)}
	looked := 0
	look := func() *corev1.ConfigMap {
		looked++
		if s.mu.TryLock() {
			s.mu.Unlock()
			t.Error("a ConfigMap is looked up without the lock: what another took over since may be overwritten with it")
		}
		return nil
	}
	s.setDefaults(look)
	s.setNetwork(look)
	if looked != 2 {
		t.Errorf("ConfigMaps were looked up %d times, want 2", looked)
	}
}

// networkWith returns what returns config-network with that word for TLS inside the system.
func networkWith(internalTLS string) func() *corev1.ConfigMap {
	return func() *corev1.ConfigMap {
		return &corev1.ConfigMap{Data: map[string]string{"system-internal-tls": internalTLS}}
	}
}
