package ingress

import (
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/sets"
	discoverylisters "k8s.io/client-go/listers/discovery/v1"
	"k8s.io/client-go/tools/cache"
	"knative.dev/networking/pkg/apis/networking/v1alpha1"
)

// listed returns targets for which these slices are all there is.
func listed(t *testing.T, slices ...*discoveryv1.EndpointSlice) *targets {
	t.Helper()
	indexer := cache.NewIndexer(cache.MetaNamespaceKeyFunc, cache.Indexers{cache.NamespaceIndex: cache.MetaNamespaceIndexFunc})
	for _, s := range slices {
		if err := indexer.Add(s); err != nil {
			t.Fatal(err)
		}
	}
	return &targets{
		slices:   discoverylisters.NewEndpointSliceLister(indexer),
		external: types.NamespacedName{Namespace: "limpet-system", Name: "limpet"},
		local:    types.NamespacedName{Namespace: "limpet-system", Name: "limpet-local"},
		ports:    Ports{"8080", "8443", "8081", "8444"},
	}
}

func endpoints(service string, list ...discoveryv1.Endpoint) *discoveryv1.EndpointSlice {
	return &discoveryv1.EndpointSlice{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: "limpet-system", Name: service + "-abcde", Labels: map[string]string{discoveryv1.LabelServiceName: service},
		},
		Endpoints: list,
	}
}

func at(address string, ready bool) discoveryv1.Endpoint {
	return discoveryv1.Endpoint{Addresses: []string{address}, Conditions: discoveryv1.EndpointConditions{Ready: &ready}}
}

func TestEveryReadyReplicaIsProbedForEveryHost(t *testing.T) {
	all := listed(t,
		endpoints("limpet", at("10.244.0.7", true), at("10.244.0.8", false), discoveryv1.Endpoint{Addresses: []string{"10.244.1.9"}}),
		endpoints("limpet-local", at("10.244.0.7", true)))
	i := demo("demo", "*.demo.example.com", "demo-00001")
	i.Spec.Rules = append(i.Spec.Rules, v1alpha1.IngressRule{Hosts: []string{"www.example.org"}, HTTP: i.Spec.Rules[0].HTTP})
	i.Spec.TLS = []v1alpha1.IngressTLS{{Hosts: []string{"*.example.org", "demo.default.svc.cluster.local"}, SecretName: "demo-tls"}}
	if _, err := complete(i); err != nil {
		t.Fatal(err)
	}
	found, err := all.ListProbeTargets(t.Context(), i)
	if err != nil {
		t.Fatal(err)
	}
	got := map[string][]string{}
	for _, target := range found {
		for _, u := range target.URLs {
			got[target.PodPort] = append(got[target.PodPort], u.String())
		}
		got[target.PodPort] = slices.Concat(got[target.PodPort], sets.List(target.PodIPs))
	}
	want := map[string][]string{
		"8080": {"http://limpet-probe.demo.example.com", "http://www.example.org", "10.244.0.7", "10.244.1.9"},
		"8443": {"https://www.example.org", "10.244.0.7", "10.244.1.9"},
		"8081": {"http://demo.default.svc.cluster.local", "10.244.0.7"},
		"8444": {"https://demo.default.svc.cluster.local", "10.244.0.7"},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("ListProbeTargets() (-want +got):\n%s", diff)
	}
}

func TestNothingIsReadyWithoutAReplica(t *testing.T) {
	all := listed(t, endpoints("limpet", at("10.244.0.7", false)), endpoints("limpet-local", at("10.244.0.7", true)))
	i := demo("demo", "demo.default.example.com", "demo-00001")
	if _, err := complete(i); err != nil {
		t.Fatal(err)
	}
	if found, err := all.ListProbeTargets(t.Context(), i); err == nil {
		t.Errorf("ListProbeTargets() = %v, nil, want an error", found)
	}
}
