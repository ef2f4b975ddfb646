package backend

import (
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"

	netapi "knative.dev/networking/pkg/apis/networking"

	"github.com/limpet-project/limpet/proxy"
)

// findPort returns the port of the Service that a backend asks for by number or name, and whether there is one.
func findPort(service *corev1.Service, asked string) (corev1.ServicePort, bool) {
	number, notNumber := strconv.ParseUint(asked, 10, 16)
	for _, p := range service.Spec.Ports {
		if p.Protocol != "" && p.Protocol != corev1.ProtocolTCP {
			continue
		}
		if notNumber == nil && p.Port == int32(number) || notNumber != nil && p.Name == asked {
			return p, true
		}
	}
	return corev1.ServicePort{}, false
}

// portProtocol returns what is spoken at a port of a Service. What the Service says outright counts before the port's name, and
// that before its number.
func portProtocol(p corev1.ServicePort) proxy.Protocol {
	if p.AppProtocol != nil {
		if protocol, known := spoken(strings.TrimPrefix(*p.AppProtocol, "kubernetes.io/")); known {
			return protocol
		}
	}
	if protocol, known := spoken(p.Name); known {
		return protocol
	}
	if p.Port == netapi.ServiceHTTPSPort {
		return proxy.ProtocolTLS
	}
	return proxy.ProtocolHTTP1
}

// spoken returns the protocol that a name stands for, alone or before a hyphen ("http2-public"), and whether it stands for one.
func spoken(name string) (protocol proxy.Protocol, known bool) {
	first, _, _ := strings.Cut(strings.ToLower(name), "-")
	switch {
	case first == "https", first == "wss", first == "grpcs":
		return proxy.ProtocolTLS, true
	case first == "http2", first == "h2c", strings.HasPrefix(first, "grpc"):
		return proxy.ProtocolH2C, true
	case first == "http", first == "http1", first == "ws":
		return proxy.ProtocolHTTP1, true
	}
	return "", false
}
