package ingress

import (
	"context"
	"fmt"
	"net/url"
	"slices"
	"strings"

	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/sets"
	discoverylisters "k8s.io/client-go/listers/discovery/v1"
	"knative.dev/networking/pkg/apis/networking/v1alpha1"
	"knative.dev/networking/pkg/status"
)

// Ports are those of the listeners in a pod. An empty one is not there.
type Ports struct{ External, ExternalTLS, Local, LocalTLS string }

// targets lists what has to answer before an Ingress is ready: each replica, by each listener, for each host.
type targets struct {
	slices          discoverylisters.EndpointSliceLister
	external, local types.NamespacedName // the Services whose pods the replicas are
	ports           Ports
}

var _ status.ProbeTargetLister = (*targets)(nil)

// ListProbeTargets implements status.ProbeTargetLister. That no replica is known to be ready is an error: an Ingress without targets
// would count as ready.
func (t *targets) ListProbeTargets(_ context.Context, i *v1alpha1.Ingress) ([]status.ProbeTarget, error) {
	external, local := hostsOf(i, v1alpha1.IngressVisibilityExternalIP), hostsOf(i, v1alpha1.IngressVisibilityClusterLocal)
	covered := coverage(i)
	var list []status.ProbeTarget
	for _, l := range []struct {
		service types.NamespacedName
		port    string
		scheme  string
		hosts   []string
	}{
		{t.external, t.ports.External, "http", external},
		{t.external, t.ports.ExternalTLS, "https", covered.of(external)},
		{t.local, t.ports.Local, "http", local},
		{t.local, t.ports.LocalTLS, "https", covered.of(local)},
	} {
		if l.port == "" || len(l.hosts) == 0 {
			continue
		}
		ips, err := t.addresses(l.service)
		if err != nil {
			return nil, err
		}
		list = append(list, status.ProbeTarget{PodIPs: ips, PodPort: l.port, Port: l.port, URLs: urls(l.scheme, l.hosts)})
	}
	return list, nil
}

// addresses returns the addresses of the ready pods of a Service.
func (t *targets) addresses(service types.NamespacedName) (sets.Set[string], error) {
	selector := labels.SelectorFromSet(labels.Set{discoveryv1.LabelServiceName: service.Name})
	list, err := t.slices.EndpointSlices(service.Namespace).List(selector)
	if err != nil {
		return nil, fmt.Errorf("listing the EndpointSlices of Service %s: %w", service, err)
	}
	ips := sets.New[string]()
	for _, s := range list {
		ips.Insert(readyAddresses(s)...)
	}
	if len(ips) == 0 {
		return nil, fmt.Errorf("no pod of Service %s is ready", service)
	}
	return ips, nil
}

// replicas returns the addresses of all ready pods of the ingress.
func (t *targets) replicas() sets.Set[string] {
	all := sets.New[string]()
	for _, service := range []types.NamespacedName{t.external, t.local} {
		if ips, err := t.addresses(service); err == nil { // otherwise there are none
			all = all.Union(ips)
		}
	}
	return all
}

// readyAddresses returns the addresses of an EndpointSlice's ready endpoints. A condition that is not given is met.
func readyAddresses(s *discoveryv1.EndpointSlice) []string {
	var list []string
	for _, e := range s.Endpoints {
		if ready := e.Conditions.Ready; (ready == nil || *ready) && len(e.Addresses) > 0 {
			list = append(list, e.Addresses[0])
		}
	}
	return list
}

// hostsOf returns the hosts of the rules with a visibility, sorted, each once. An Ingress must have its defaults.
func hostsOf(i *v1alpha1.Ingress, visibility v1alpha1.IngressVisibility) []string {
	var hosts []string
	for _, rule := range i.Spec.Rules {
		if rule.Visibility == visibility {
			hosts = append(hosts, rule.Hosts...)
		}
	}
	slices.Sort(hosts)
	return slices.Compact(hosts)
}

// covers says which hosts have a certificate.
type covers struct {
	all   bool
	hosts sets.Set[string]
}

// coverage returns the hosts that an Ingress has certificates for. A part of spec.tls without hosts is for all of them.
func coverage(i *v1alpha1.Ingress) covers {
	c := covers{hosts: sets.New[string]()}
	for _, t := range i.Spec.TLS {
		c.all = c.all || len(t.Hosts) == 0
		c.hosts.Insert(t.Hosts...)
	}
	return c
}

// of returns those of the hosts that have one, by name or by a wildcard for one label.
func (c covers) of(hosts []string) []string {
	return slices.DeleteFunc(slices.Clone(hosts), func(host string) bool {
		_, parent, _ := strings.Cut(host, ".")
		return !c.all && !c.hosts.Has(host) && !c.hosts.Has("*."+parent)
	})
}

// wildcardLabel stands for any name in the probe of a wildcard host.
const wildcardLabel = "limpet-probe"

func urls(scheme string, hosts []string) []*url.URL {
	list := make([]*url.URL, len(hosts))
	for i, host := range hosts {
		if rest, ok := strings.CutPrefix(host, "*"); ok {
			host = wildcardLabel + rest
		}
		list[i] = &url.URL{Scheme: scheme, Host: host}
	}
	return list
}
