package clientip

import (
	"context"
	"fmt"
	"net/netip"
	"strconv"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/limpet-project/limpet/test/cluster"
)

// A port is a port of a Service of the tests, and what kube-proxy hears of it.
type port struct {
	namespace, service, name string
	protocol                 string // udp or tcp
	number                   uint16
	timeout                  time.Duration // 0 is no affinity
	endpoints                int           // the first so many
	external, local          bool          // has addresses for clients outside; with traffic policy Local for them

	clusterIP, externalIP, balancerIP netip.Addr
	nodePort                          uint16
}

// String returns namespace/service:port.
func (p port) String() string {
	s := p.namespace + "/" + p.service
	if p.name != "" {
		s += ":" + p.name
	}
	return s
}

// front returns the cluster IP with the port.
func (p port) front() netip.AddrPort { return netip.AddrPortFrom(p.clusterIP, p.number) }

func (p port) target() uint16 {
	if p.protocol == "udp" {
		return udpPort
	}
	return tcpPort
}

// endpoint returns the nth endpoint, from 1.
func (p port) endpoint(n int) netip.AddrPort { return netip.AddrPortFrom(endpoint(n), p.target()) }

// ports are those of the tests: with affinity and without, over both protocols, inside and outside, with one endpoint and with several.
func ports(namespace string) []port {
	return []port{
		{namespace: namespace, service: "dns", name: "dns", protocol: "udp", number: 53, timeout: 3 * time.Hour, endpoints: 3},
		{namespace: namespace, service: "dns", name: "dns-tcp", protocol: "tcp", number: 53, timeout: 3 * time.Hour, endpoints: 3},
		{
			namespace: namespace, service: "counter", name: "http", protocol: "tcp", number: 80, timeout: 10 * time.Minute, endpoints: 3,
			external: true, externalIP: netip.MustParseAddr("192.0.2.7"), balancerIP: netip.MustParseAddr("198.51.100.7"),
		},
		{
			namespace: namespace, service: "near", name: "http", protocol: "tcp", number: 80, timeout: time.Hour, endpoints: 3,
			external: true, local: true,
		},
		{namespace: namespace, service: "free", protocol: "tcp", number: 8080, endpoints: replicas},
		{
			namespace: namespace, service: "open", protocol: "udp", number: 514, endpoints: replicas,
			external: true, externalIP: netip.MustParseAddr("192.0.2.8"), balancerIP: netip.MustParseAddr("198.51.100.8"),
		},
		{namespace: namespace, service: "wide", protocol: "udp", number: 53, timeout: time.Hour, endpoints: replicas},
		{namespace: namespace, service: "lone", name: "log", protocol: "udp", number: 514, timeout: 24 * time.Hour, endpoints: 1},
	}
}

// create makes the Services and EndpointSlices, and returns the ports with the addresses that the API server gave them. The Services are
// deleted before their namespace is, which takes a while, since those of the next test have the same external addresses.
func create(t *testing.T, e *cluster.Env) []port {
	t.Helper()
	all := ports(e.Namespace)
	byService := map[string][]*port{}
	for i := range all {
		byService[all[i].service] = append(byService[all[i].service], &all[i])
	}
	for name, of := range byService {
		if err := createService(t.Context(), e, name, of); err != nil {
			t.Fatalf("creating Service %s: %v", name, err)
		}
		t.Cleanup(func() {
			if err := e.CoreV1().Services(e.Namespace).Delete(context.WithoutCancel(t.Context()), name, metav1.DeleteOptions{}); err != nil {
				t.Errorf("deleting Service %s: %v", name, err)
			}
		})
		if _, err := e.DiscoveryV1().EndpointSlices(e.Namespace).Create(t.Context(), slice(name, of), metav1.CreateOptions{}); err != nil {
			t.Fatalf("creating the EndpointSlice of %s: %v", name, err)
		}
	}
	return all
}

func createService(ctx context.Context, e *cluster.Env, name string, of []*port) error {
	services := e.CoreV1().Services(e.Namespace)
	made, err := services.Create(ctx, service(name, of), metav1.CreateOptions{})
	if err != nil {
		return err
	}
	for i, p := range of {
		p.clusterIP, p.nodePort = netip.MustParseAddr(made.Spec.ClusterIP), uint16(made.Spec.Ports[i].NodePort)
	}
	if balancer := of[0].balancerIP; balancer.IsValid() {
		made.Status.LoadBalancer.Ingress = []corev1.LoadBalancerIngress{{IP: balancer.String()}}
		_, err = services.UpdateStatus(ctx, made, metav1.UpdateOptions{})
	}
	return err
}

// service returns a Service without a selector, whose EndpointSlices are the test's own.
func service(name string, of []*port) *corev1.Service {
	s := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: name}}
	for _, p := range of {
		s.Spec.Ports = append(s.Spec.Ports, corev1.ServicePort{Name: p.name, Protocol: corev1.Protocol(strings.ToUpper(p.protocol)), Port: int32(p.number)})
	}
	if first := of[0]; first.timeout > 0 {
		seconds := int32(first.timeout.Seconds())
		s.Spec.SessionAffinity = corev1.ServiceAffinityClientIP
		s.Spec.SessionAffinityConfig = &corev1.SessionAffinityConfig{ClientIP: &corev1.ClientIPConfig{TimeoutSeconds: &seconds}}
	}
	if of[0].external {
		s.Spec.Type = corev1.ServiceTypeLoadBalancer
	}
	if of[0].local {
		s.Spec.ExternalTrafficPolicy = corev1.ServiceExternalTrafficPolicyLocal
	}
	if a := of[0].externalIP; a.IsValid() {
		s.Spec.ExternalIPs = []string{a.String()}
	}
	return s
}

func slice(service string, of []*port) *discoveryv1.EndpointSlice {
	s := &discoveryv1.EndpointSlice{
		ObjectMeta:  metav1.ObjectMeta{Name: service, Labels: map[string]string{discoveryv1.LabelServiceName: service}},
		AddressType: discoveryv1.AddressTypeIPv4,
	}
	for _, p := range of {
		number, protocol := int32(p.target()), corev1.Protocol(strings.ToUpper(p.protocol))
		s.Ports = append(s.Ports, discoveryv1.EndpointPort{Name: &p.name, Port: &number, Protocol: &protocol})
	}
	for n := 1; n <= of[0].endpoints; n++ {
		e := discoveryv1.Endpoint{Addresses: []string{endpoint(n).String()}}
		if n <= localOnes {
			here := nodeName
			e.NodeName = &here
		}
		s.Endpoints = append(s.Endpoints, e)
	}
	return s
}

// waitFor waits until kube-proxy has written rules for every endpoint of every port.
func (w *world) waitFor(all []port) {
	w.t.Helper()
	w.e.WaitFor(3*time.Minute, "rules in mode "+w.mode, func(context.Context) error {
		rules := w.rules()
		for _, p := range all {
			for n := 1; n <= p.endpoints; n++ {
				if !strings.Contains(rules, w.mark(p, p.endpoint(n))) {
					return fmt.Errorf("no rule of %s leads to %s", p, p.endpoint(n))
				}
			}
			if b := p.balancerIP; b.IsValid() && !strings.Contains(rules, b.String()) {
				return fmt.Errorf("no rule has the load balancer's address of %s", p)
			}
		}
		return nil
	})
}

// rules returns what kube-proxy has written, for people.
func (w *world) rules() string {
	w.t.Helper()
	if w.mode == "iptables" {
		return w.node.run("iptables-save", "-t", "nat")
	}
	return w.node.run("sh", "-c", "nft list table ip kube-proxy || true") // which kube-proxy has not made yet
}

// mark returns what rules have when a port leads to an endpoint.
func (w *world) mark(p port, e netip.AddrPort) string {
	switch {
	case w.mode == "iptables":
		return fmt.Sprintf("%q", p.String()+" -> "+e.String())
	case p.timeout == 0:
		return fmt.Sprintf("%s . %d", e.Addr(), e.Port())
	}
	return fmt.Sprintf("-%s/%s/%s/%s__%s/%d", p.namespace, p.service, p.protocol, p.name, e.Addr(), e.Port())
}

// flags are those of limpet clientip rules for a port.
func (w *world) flags(p port) []string {
	args := []string{
		"clientip", "rules", p.String(), "--frame", "--form", w.mode, "--protocol", p.protocol, "--cluster-ip", p.clusterIP.String(),
		"--port", strconv.Itoa(int(p.number)), "--affinity", p.timeout.String(), "--node-port", strconv.Itoa(int(p.nodePort)), "--pods", podNet,
	}
	for n := 1; n <= p.endpoints; n++ {
		args = append(args, "--endpoint", p.endpoint(n).String())
		if n <= localOnes {
			args = append(args, "--local-endpoint", p.endpoint(n).String())
		}
	}
	if p.externalIP.IsValid() {
		args = append(args, "--external-ip", p.externalIP.String(), "--load-balancer-ip", p.balancerIP.String())
	}
	return args
}
