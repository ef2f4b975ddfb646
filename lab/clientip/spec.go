package clientip

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"
)

// A Spec is a ServicePort and what kube-proxy has to know of it to write its rules on a node. Traffic policies are Cluster: every
// endpoint may be chosen from everywhere.
type Spec struct {
	ServicePort
	ClusterIP       netip.Addr
	Number          uint16 // the port of the ClusterIP and of the addresses below
	NodePort        uint16 // 0 is none
	ExternalIPs     []netip.Addr
	LoadBalancerIPs []netip.Addr
	Endpoints       []netip.AddrPort // the ready ones
	Local           []netip.AddrPort // those of the Endpoints that run on this node
	Timeout         time.Duration    // of the affinity to client addresses; 0 is none
	Pods            netip.Prefix     // other sources are masqueraded on their way to the ClusterIP; the zero Prefix masquerades none
}

// Kubernetes' bounds of sessionAffinityConfig.clientIP.timeoutSeconds.
const (
	minTimeout = time.Second
	maxTimeout = 24 * time.Hour
)

// maxEndpoints of a Spec; Kubernetes has no bound, and a Service of so many has rules of some megabytes.
const maxEndpoints = 10_000

// Check says what is wrong with a Spec, or nil.
func (s Spec) Check() error {
	if _, err := ParseServicePort(s.String()); err != nil {
		return err
	}
	var errs []error
	wrong := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	if !isProtocol(s.Protocol) {
		wrong("protocol: got %q, expected tcp, udp or sctp", s.Protocol)
	}
	if !s.ClusterIP.IsValid() || s.ClusterIP.Zone() != "" {
		wrong("cluster IP: expected an address")
	}
	if s.Number == 0 {
		wrong("port: got 0, expected 1 to 65535")
	}
	if s.Timeout != 0 && (s.Timeout < minTimeout || s.Timeout > maxTimeout || s.Timeout%time.Second != 0) {
		wrong("timeout: got %s, expected whole seconds from %s to %s", s.Timeout, minTimeout, maxTimeout)
	}
	if n := len(s.Endpoints); n == 0 || n > maxEndpoints {
		wrong("got %d endpoints, expected 1 to %d; without any kube-proxy writes no rules of affinity", n, maxEndpoints)
	}
	return errors.Join(append(errs, s.checkFamilies()...)...)
}

// checkFamilies says which addresses are not of the ClusterIP's family: kube-proxy writes each family's rules apart.
func (s Spec) checkFamilies() []error {
	var errs []error
	check := func(what string, a netip.Addr) {
		if !a.IsValid() || a.Is4() != s.ClusterIP.Is4() || a.Zone() != "" {
			errs = append(errs, fmt.Errorf("%s %s: expected an address of the cluster IP's family", what, a))
		}
	}
	for _, e := range s.Endpoints {
		check("endpoint", e.Addr())
	}
	for _, e := range s.Local {
		if !slices.Contains(s.Endpoints, e) {
			errs = append(errs, fmt.Errorf("local endpoint %s: expected one of the endpoints", e))
		}
	}
	for _, a := range s.ExternalIPs {
		check("external IP", a)
	}
	for _, a := range s.LoadBalancerIPs {
		check("load balancer IP", a)
	}
	if s.Pods.IsValid() {
		check("pods", s.Pods.Addr())
	}
	return errs
}

// normal returns the Spec as kube-proxy sees it: endpoints in the order of their names, each once.
func (s Spec) normal() Spec {
	s.Endpoints = slices.Clone(s.Endpoints)
	slices.SortFunc(s.Endpoints, func(a, b netip.AddrPort) int { return strings.Compare(a.String(), b.String()) })
	s.Endpoints = slices.Compact(s.Endpoints)
	return s
}

// external reports whether the Service has addresses for clients outside the cluster.
func (s Spec) external() bool {
	return s.NodePort != 0 || len(s.ExternalIPs) > 0 || len(s.LoadBalancerIPs) > 0
}
