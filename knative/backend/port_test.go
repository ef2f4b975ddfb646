package backend

import (
	"testing"

	corev1 "k8s.io/api/core/v1"

	"github.com/limpet-project/limpet/proxy"
)

func TestPortProtocol(t *testing.T) {
	for _, test := range []struct {
		name string
		port corev1.ServicePort
		want proxy.Protocol
	}{
		{"a port without a name is HTTP/1.1", corev1.ServicePort{Port: 8080}, proxy.ProtocolHTTP1},
		{"the name of another protocol is HTTP/1.1", corev1.ServicePort{Name: "web", Port: 8080}, proxy.ProtocolHTTP1},
		{"http2 by name", corev1.ServicePort{Name: "http2", Port: 81}, proxy.ProtocolH2C},
		{"h2c by name", corev1.ServicePort{Name: "h2c", Port: 80}, proxy.ProtocolH2C},
		{"a name with a suffix", corev1.ServicePort{Name: "http2-public", Port: 80}, proxy.ProtocolH2C},
		{"gRPC by name", corev1.ServicePort{Name: "grpc", Port: 9000}, proxy.ProtocolH2C},
		{"gRPC by the beginning of a name", corev1.ServicePort{Name: "grpc-orders", Port: 9000}, proxy.ProtocolH2C},
		{"https by name", corev1.ServicePort{Name: "https", Port: 8443}, proxy.ProtocolTLS},
		{"https by number", corev1.ServicePort{Port: 443}, proxy.ProtocolTLS},
		{"a name counts before a number", corev1.ServicePort{Name: "http", Port: 443}, proxy.ProtocolHTTP1},
		{"h2c by application protocol", corev1.ServicePort{Name: "web", Port: 80, AppProtocol: new("kubernetes.io/h2c")}, proxy.ProtocolH2C},
		{"https by application protocol", corev1.ServicePort{Port: 80, AppProtocol: new("https")}, proxy.ProtocolTLS},
		{"WebSocket by application protocol", corev1.ServicePort{Port: 80, AppProtocol: new("kubernetes.io/ws")}, proxy.ProtocolHTTP1},
		{
			"an application protocol counts before a name",
			corev1.ServicePort{Name: "http2", Port: 80, AppProtocol: new("http")},
			proxy.ProtocolHTTP1,
		},
		{
			"an unknown application protocol says nothing",
			corev1.ServicePort{Name: "http2", Port: 80, AppProtocol: new("shop.example/odd")},
			proxy.ProtocolH2C,
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			if got := portProtocol(test.port); got != test.want {
				t.Errorf("portProtocol(%v) = %s, want %s", test.port, got, test.want)
			}
		})
	}
}

func TestFindPort(t *testing.T) {
	service := plainService("orders",
		corev1.ServicePort{Name: "dns", Port: 53, Protocol: corev1.ProtocolUDP},
		corev1.ServicePort{Name: "dns-tcp", Port: 53, Protocol: corev1.ProtocolTCP},
		corev1.ServicePort{Name: "web", Port: 80},
	)
	for _, test := range []struct{ name, asked, want string }{
		{"by number", "80", "web"},
		{"by name", "web", "web"},
		{"of two with one number the one that is TCP", "53", "dns-tcp"},
		{"one that is not TCP is none", "dns", ""},
		{"a number that is not there", "8080", ""},
		{"a name that is not there", "https", ""},
		{"a number out of range", "65616", ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			if got, found := findPort(service, test.asked); got.Name != test.want || found != (test.want != "") {
				t.Errorf("findPort(%q) = %q, %v, want %q", test.asked, got.Name, found, test.want)
			}
		})
	}
}
