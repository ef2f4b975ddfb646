package backend

import (
	"testing"

	"go.uber.org/goleak"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/limpet-project/limpet/endpoint"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// The pods of demo-00001 and the activators.
const (
	pod1       types.UID = "6f0c1d52-3b0e-4a53-9b0f-2f1f6d2a0001"
	pod2       types.UID = "6f0c1d52-3b0e-4a53-9b0f-2f1f6d2a0002"
	pod3       types.UID = "6f0c1d52-3b0e-4a53-9b0f-2f1f6d2a0003"
	activator1 types.UID = "a3b9f1c0-91c4-4f5e-8d0a-7be1d0000001"
	activator2 types.UID = "a3b9f1c0-91c4-4f5e-8d0a-7be1d0000002"
)

var (
	demo     = Name{Namespace: "shop", Service: "demo-00001", Port: "80"}
	demoPool = endpoint.RevisionName{Namespace: "shop", Name: "demo-00001"}
)

// publicService returns the public Service of a revision as Serving makes it.
func publicService(name string, edit ...func(*corev1.Service)) *corev1.Service {
	s := &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: "shop", Name: name,
			Labels: map[string]string{
				"serving.knative.dev/revision":                      name,
				"networking.internal.knative.dev/serverlessservice": name,
				"networking.internal.knative.dev/serviceType":       "Public",
			},
			Annotations: map[string]string{"autoscaling.knative.dev/class": "kpa.autoscaling.knative.dev"},
		},
		Spec: corev1.ServiceSpec{Ports: []corev1.ServicePort{
			{Name: "http", Protocol: corev1.ProtocolTCP, Port: 80, TargetPort: intstr.FromInt32(8012)},
			{Name: "https", Protocol: corev1.ProtocolTCP, Port: 443, TargetPort: intstr.FromInt32(8112)},
		}},
	}
	for _, e := range edit {
		e(s)
	}
	return s
}

// annotated sets an annotation of a Service.
func annotated(key, value string) func(*corev1.Service) {
	return func(s *corev1.Service) { s.Annotations[key] = value }
}

// plainService returns a Service that has nothing to do with Knative.
func plainService(name string, ports ...corev1.ServicePort) *corev1.Service {
	return &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: name},
		Spec:       corev1.ServiceSpec{Selector: map[string]string{"app": name}, Ports: ports},
	}
}

// slicePorts returns ports of a slice by name.
func slicePorts(numbers map[string]int32) []discoveryv1.EndpointPort {
	var ports []discoveryv1.EndpointPort
	for name, number := range numbers {
		ports = append(ports, discoveryv1.EndpointPort{Name: new(name), Port: new(number), Protocol: new(corev1.ProtocolTCP)})
	}
	return ports
}

// slice returns an EndpointSlice of a Service.
func slice(name, service string, ports []discoveryv1.EndpointPort, endpoints ...discoveryv1.Endpoint) *discoveryv1.EndpointSlice {
	return &discoveryv1.EndpointSlice{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: "shop", Name: name, Labels: map[string]string{"kubernetes.io/service-name": service},
		},
		AddressType: discoveryv1.AddressTypeIPv4, Ports: ports, Endpoints: endpoints,
	}
}

// privateSlice returns the slice of a revision's private Service with its pods.
func privateSlice(revision string, pods ...discoveryv1.Endpoint) *discoveryv1.EndpointSlice {
	ports := slicePorts(map[string]int32{"http": 8012, "https": 8112, "http-autometric": 9090, "http-usermetric": 9091, "http-istio": 8012})
	return slice(revision+"-private-x7k2p", revision+"-private", ports, pods...)
}

// publicSlice returns the mirrored slice of a revision's public Service.
func publicSlice(revision string, endpoints ...discoveryv1.Endpoint) *discoveryv1.EndpointSlice {
	s := slice(revision+"-q9v4t", revision, slicePorts(map[string]int32{"http": 8012, "https": 8112}), endpoints...)
	s.Labels["endpointslice.kubernetes.io/managed-by"] = "endpointslicemirroring-controller.k8s.io"
	return s
}

// pod returns a ready endpoint of demo-00001.
func pod(uid types.UID, address string, edit ...func(*discoveryv1.Endpoint)) discoveryv1.Endpoint {
	e := discoveryv1.Endpoint{
		Addresses:  []string{address},
		Conditions: discoveryv1.EndpointConditions{Ready: new(true), Serving: new(true), Terminating: new(false)},
		TargetRef: &corev1.ObjectReference{
			Kind: "Pod", Namespace: "shop", Name: "demo-00001-deployment-7d9c5b8f4-" + string(uid[len(uid)-4:]), UID: uid,
		},
	}
	for _, change := range edit {
		change(&e)
	}
	return e
}

// activator returns a ready endpoint as the mirrored slice of a revision lists it.
func activator(uid types.UID, address string) discoveryv1.Endpoint {
	return discoveryv1.Endpoint{
		Addresses: []string{address}, Conditions: discoveryv1.EndpointConditions{Ready: new(true)},
		TargetRef: &corev1.ObjectReference{
			Kind: "Pod", Namespace: "knative-serving", Name: "activator-5c8d7f9b6-" + string(uid[len(uid)-4:]), UID: uid,
		},
	}
}

// unready makes an endpoint one that is not ready.
func unready(e *discoveryv1.Endpoint) {
	e.Conditions = discoveryv1.EndpointConditions{Ready: new(false), Serving: new(false), Terminating: new(false)}
}

// leaving makes an endpoint one that terminates and has begun to fail its readiness probe.
func leaving(e *discoveryv1.Endpoint) {
	e.Conditions = discoveryv1.EndpointConditions{Ready: new(false), Serving: new(false), Terminating: new(true)}
}

// nameless takes the reference to a pod from an endpoint.
func nameless(e discoveryv1.Endpoint) discoveryv1.Endpoint {
	e.TargetRef = nil
	return e
}
