package backend

import (
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/limpet-project/limpet/endpoint"
	"github.com/limpet-project/limpet/proxy"
)

// drainTime is how long pods that terminate keep their sessions in tests.
const drainTime = 5 * time.Minute

// defaults are the rules of a fresh installation.
func defaults(t *testing.T) rules {
	t.Helper()
	settings, err := parseAutoscaler(nil)
	if err != nil {
		t.Fatal(err)
	}
	return rules{autoscaler: settings, drain: func() (time.Duration, bool) { return drainTime, true }}
}

type derivation struct {
	name    string
	backend Name // default demo
	objects objects
	edit    func(*rules)
	want    Backend
	absent  bool
}

func (d derivation) test(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := defaults(t)
		if d.edit != nil {
			d.edit(&r)
		}
		if d.backend == (Name{}) {
			d.backend = demo
		}
		got := derive(d.backend, d.objects, r, &memory{})
		for i, m := range d.want.Members {
			if m.Draining { // virtual time begins with the test
				d.want.Members[i].DrainUntil = time.Now().Add(drainTime)
			}
		}
		if diff := cmp.Diff(d.want, got.backend, cmpopts.EquateEmpty()); diff != "" || got.exists == d.absent {
			t.Errorf("derive(%v) = %v, differs from what is wanted (-want +got):\n%s", d.backend, got.exists, diff)
		}
	})
}

func list(s ...*discoveryv1.EndpointSlice) []*discoveryv1.EndpointSlice { return s }

func TestBackendOfARevision(t *testing.T) {
	direct1 := endpoint.Member{Name: string(pod1), Address: "10.244.1.11:8012"}
	direct2 := endpoint.Member{Name: string(pod2), Address: "10.244.1.12:8012"}
	standby1 := endpoint.Member{Name: string(activator1), Address: "10.250.0.7:8012", Standby: true}
	standby2 := endpoint.Member{Name: string(activator2), Address: "10.250.0.8:8012", Standby: true}
	notReady := func(m endpoint.Member) endpoint.Member { m.NotReady = true; return m }
	draining := func(m endpoint.Member) endpoint.Member { m.Draining = true; return m }
	revision := func(ready bool, members ...endpoint.Member) Backend {
		return Backend{Revision: "demo-00001", Protocol: proxy.ProtocolHTTP1, Ready: ready, Members: members}
	}
	for _, test := range []derivation{
		{name: "a revision that does not exist", absent: true},
		{
			name: "a port that does not exist", backend: Name{"shop", "demo-00001", "8080"},
			objects: objects{service: publicService("demo-00001")}, absent: true,
		},
		{
			name: "nothing listed yet", objects: objects{service: publicService("demo-00001")},
			want: revision(false),
		},
		{
			name: "pods directly, activators stand by",
			objects: objects{
				service: publicService("demo-00001"),
				private: list(privateSlice("demo-00001", pod(pod2, "10.244.1.12"), pod(pod1, "10.244.1.11"))),
				slices:  list(publicSlice("demo-00001", activator(activator1, "10.250.0.7"), activator(activator2, "10.250.0.8"))),
			},
			want: revision(true, direct1, direct2, standby1, standby2),
		},
		{
			name: "the port by its name", backend: Name{"shop", "demo-00001", "http"},
			objects: objects{service: publicService("demo-00001"), private: list(privateSlice("demo-00001", pod(pod1, "10.244.1.11")))},
			want:    revision(true, direct1),
		},
		{
			name: "scaled to zero it is ready by its activators",
			objects: objects{
				service: publicService("demo-00001"), private: list(privateSlice("demo-00001")),
				slices: list(publicSlice("demo-00001", activator(activator1, "10.250.0.7"))),
			},
			want: revision(true, standby1),
		},
		{
			name: "pods served without activators do not stand by for themselves",
			objects: objects{
				service: publicService("demo-00001"),
				private: list(privateSlice("demo-00001", pod(pod1, "10.244.1.11"))),
				slices:  list(publicSlice("demo-00001", pod(pod1, "10.244.1.11"))),
			},
			want: revision(true, direct1),
		},
		{
			name: "a pod that has left is no activator although a stale slice lists it",
			objects: objects{
				service: publicService("demo-00001"),
				private: list(privateSlice("demo-00001", pod(pod1, "10.244.1.11"))),
				slices:  list(publicSlice("demo-00001", pod(pod1, "10.244.1.11"), pod(pod3, "10.244.1.13"))),
			},
			want: revision(true, direct1),
		},
		{
			name: "an own pod is known by its address if the public slice does not say who it is",
			objects: objects{
				service: publicService("demo-00001"),
				private: list(privateSlice("demo-00001", pod(pod1, "10.244.1.11"), pod(pod2, "10.244.1.12", unready))),
				slices: list(publicSlice("demo-00001",
					nameless(pod(pod1, "10.244.1.11")), nameless(pod(pod2, "10.244.1.12")), nameless(activator(activator1, "10.250.0.7")))),
			},
			want: revision(true, direct1, notReady(direct2),
				endpoint.Member{Name: "standby/10.250.0.7:8012", Address: "10.250.0.7:8012", Standby: true}),
		},
		{
			name: "an own pod is known by its UID if it has the name of an activator and another address",
			objects: objects{
				service: publicService("demo-00001"),
				private: list(privateSlice("demo-00001", pod(pod1, "10.244.1.11"))),
				slices: list(publicSlice("demo-00001", pod(pod1, "10.244.9.11", func(e *discoveryv1.Endpoint) {
					e.TargetRef.Name = "activator-00001-deployment-7d9c5b8f4-0001"
				}))),
			},
			want: revision(true, direct1),
		},
		{
			name: "a pod is not ready and no activator is there",
			objects: objects{
				service: publicService("demo-00001"), private: list(privateSlice("demo-00001", pod(pod1, "10.244.1.11", unready))),
			},
			want: revision(false, notReady(direct1)),
		},
		{
			name: "a pod that terminates drains, serving or not",
			objects: objects{
				service: publicService("demo-00001"),
				private: list(privateSlice("demo-00001", pod(pod1, "10.244.1.11", leaving), pod(pod2, "10.244.1.12"))),
			},
			want: revision(true, draining(direct1), direct2),
		},
		{
			name: "a draining pod alone takes nothing new",
			objects: objects{
				service: publicService("demo-00001"), private: list(privateSlice("demo-00001", pod(pod1, "10.244.1.11", leaving))),
			},
			want: revision(false, draining(direct1)),
		},
		{
			name: "a pod in two slices is as the readier one says",
			objects: objects{
				service: publicService("demo-00001"),
				private: list(
					privateSlice("demo-00001", pod(pod1, "10.244.1.11", unready), pod(pod2, "10.244.1.12")),
					privateSlice("demo-00001", pod(pod1, "10.244.1.11"), pod(pod2, "10.244.1.12", unready))),
			},
			want: revision(true, direct1, direct2),
		},
		{
			name: "with TLS inside the system pods and activators are reached at their port for it",
			objects: objects{
				service: publicService("demo-00001"),
				private: list(privateSlice("demo-00001", pod(pod1, "10.244.1.11"))),
				slices:  list(publicSlice("demo-00001", activator(activator1, "10.250.0.7"))),
			},
			edit: func(r *rules) { r.internalTLS = true },
			want: Backend{
				Revision: "demo-00001", Protocol: proxy.ProtocolTLS, ServerNames: []string{"kn-user-shop", "kn-routing"}, Ready: true,
				Members: []endpoint.Member{
					{Name: string(pod1), Address: "10.244.1.11:8112"},
					{Name: string(activator1), Address: "10.250.0.7:8112", Standby: true},
				},
			},
		},
		{
			name: "no pod is spoken to in the clear when TLS is wanted",
			objects: objects{
				service: publicService("demo-00001"),
				private: list(slice("demo-00001-private-x7k2p", "demo-00001-private", slicePorts(map[string]int32{"http": 8012}), pod(pod1, "10.244.1.11"))),
			},
			edit: func(r *rules) { r.internalTLS = true },
			want: Backend{
				Revision: "demo-00001", Protocol: proxy.ProtocolTLS, ServerNames: []string{"kn-user-shop", "kn-routing"},
			},
		},
		{
			name: "the target burst capacity keeps the activator in the path",
			objects: objects{
				service: publicService("demo-00001", annotated("autoscaling.knative.dev/target-burst-capacity", "-1")),
				private: list(privateSlice("demo-00001", pod(pod1, "10.244.1.11"))),
				slices:  list(publicSlice("demo-00001", activator(activator1, "10.250.0.7"))),
			},
			want: Backend{
				Revision: "demo-00001", Protocol: proxy.ProtocolHTTP1, Relayed: true, Ready: true, Members: []endpoint.Member{direct1, standby1},
			},
		},
	} {
		t.Run(test.name, test.test)
	}
}

func TestARevisionOfHTTP2(t *testing.T) {
	service := publicService("demo-00001", func(s *corev1.Service) {
		s.Spec.Ports[0] = corev1.ServicePort{Name: "http2", Port: 81, AppProtocol: new("kubernetes.io/h2c")}
	})
	ports := slicePorts(map[string]int32{"http2": 8013, "https": 8112, "http2-istio": 8013})
	derivation{
		backend: Name{"shop", "demo-00001", "81"},
		objects: objects{
			service: service, private: list(slice("demo-00001-private-x7k2p", "demo-00001-private", ports, pod(pod1, "10.244.1.11"))),
			slices: list(slice("demo-00001-q9v4t", "demo-00001", ports, activator(activator1, "10.250.0.7"))),
		},
		want: Backend{
			Revision: "demo-00001", Protocol: proxy.ProtocolH2C, Ready: true, Members: []endpoint.Member{
				{Name: string(pod1), Address: "10.244.1.11:8013"},
				{Name: string(activator1), Address: "10.250.0.7:8013", Standby: true},
			},
		},
	}.test(t)
}

func TestTwoAddressFamilies(t *testing.T) {
	v6 := func(s *discoveryv1.EndpointSlice) *discoveryv1.EndpointSlice {
		s.AddressType, s.Name = discoveryv1.AddressTypeIPv6, s.Name+"-v6"
		return s
	}
	private4 := privateSlice("demo-00001", pod(pod1, "10.244.1.11"))
	private6 := v6(privateSlice("demo-00001", pod(pod1, "fd00:10:244::11"), pod(pod2, "fd00:10:244::12")))
	public := v6(publicSlice("demo-00001", nameless(pod(pod1, "fd00:10:244::11")), activator(activator1, "fd00:10:250::7")))
	standby := endpoint.Member{Name: string(activator1), Address: "[fd00:10:250::7]:8012", Standby: true}
	both := objects{private: list(private4, private6), slices: list(public)}
	for _, test := range []struct {
		name     string
		families []corev1.IPFamily
		first    string
	}{
		{"the family of the Service is preferred", []corev1.IPFamily{corev1.IPv6Protocol, corev1.IPv4Protocol}, "[fd00:10:244::11]:8012"},
		{"IPv4 is preferred if the Service names it first", []corev1.IPFamily{corev1.IPv4Protocol}, "10.244.1.11:8012"},
		{"IPv4 is preferred if the Service names none", nil, "10.244.1.11:8012"},
	} {
		o := both
		o.service = publicService("demo-00001", func(s *corev1.Service) { s.Spec.IPFamilies = test.families })
		want := Backend{
			Revision: "demo-00001", Protocol: proxy.ProtocolHTTP1, Ready: true, Members: []endpoint.Member{
				{Name: string(pod1), Address: test.first}, {Name: string(pod2), Address: "[fd00:10:244::12]:8012"}, standby,
			},
		}
		t.Run(test.name, derivation{objects: o, want: want}.test)
		o.private = list(private6, private4)
		t.Run(test.name+", in whatever order slices come", derivation{objects: o, want: want}.test)
	}
}

func TestBackendOfAnotherService(t *testing.T) {
	web := Name{"shop", "orders", "80"}
	headless := plainService("orders", corev1.ServicePort{Port: 80})
	headless.Spec.ClusterIP = corev1.ClusterIPNone
	unnamed := []discoveryv1.EndpointPort{{Port: new(int32(8080))}}
	orders := func(protocol proxy.Protocol, ready bool, members ...endpoint.Member) Backend {
		return Backend{Revision: "orders:80", Protocol: protocol, Ready: ready, Members: members}
	}
	named := plainService("orders", corev1.ServicePort{Name: "grpc", Port: 80}, corev1.ServicePort{Name: "metrics", Port: 9090})
	for _, test := range []derivation{
		{
			name: "pods by their UIDs, at the port that the slice says", backend: web,
			objects: objects{
				service: named,
				slices: list(slice("orders-5tgb2", "orders", slicePorts(map[string]int32{"metrics": 9090, "grpc": 50051}),
					pod(pod1, "10.244.2.21"), pod(pod2, "10.244.2.22", unready))),
			},
			want: orders(proxy.ProtocolH2C, true, endpoint.Member{Name: string(pod1), Address: "10.244.2.21:50051"},
				endpoint.Member{Name: string(pod2), Address: "10.244.2.22:50051", NotReady: true}),
		},
		{
			name: "pods of one Service with ports of their own", backend: web,
			objects: objects{
				service: headless,
				slices: list(
					slice("orders-5tgb2", "orders", unnamed, pod(pod1, "10.244.2.21")),
					slice("orders-9kfz4", "orders", []discoveryv1.EndpointPort{{Name: new(""), Port: new(int32(8081))}}, pod(pod2, "10.244.2.22"))),
			},
			want: orders(proxy.ProtocolHTTP1, true, endpoint.Member{Name: string(pod1), Address: "10.244.2.21:8080"},
				endpoint.Member{Name: string(pod2), Address: "10.244.2.22:8081"}),
		},
		{
			name: "slices made by hand name nobody and say nothing of being ready", backend: web,
			objects: objects{
				service: headless,
				slices:  list(slice("orders-manual", "orders", unnamed, discoveryv1.Endpoint{Addresses: []string{"192.168.7.4"}})),
			},
			want: orders(proxy.ProtocolHTTP1, true, endpoint.Member{Name: "192.168.7.4:8080", Address: "192.168.7.4:8080"}),
		},
		{
			name: "a slice without the port is passed over", backend: web,
			objects: objects{
				service: headless,
				slices: list(slice("orders-5tgb2", "orders", nil, pod(pod1, "10.244.2.21")),
					slice("orders-9kfz4", "orders", []discoveryv1.EndpointPort{{}}, pod(pod2, "10.244.2.22")),
					slice("orders-2m7xw", "orders", unnamed, discoveryv1.Endpoint{})),
			},
			want: orders(proxy.ProtocolHTTP1, false),
		},
		{
			name: "a private Service of a revision is one like others", backend: Name{"shop", "demo-00001-private", "80"},
			objects: objects{
				service: publicService("demo-00001-private", func(s *corev1.Service) {
					s.Labels["networking.internal.knative.dev/serviceType"] = "Private"
				}),
				slices: list(privateSlice("demo-00001", pod(pod1, "10.244.1.11"))),
			},
			want: Backend{
				Revision: "demo-00001-private:80", Protocol: proxy.ProtocolHTTP1, Ready: true,
				Members: []endpoint.Member{{Name: string(pod1), Address: "10.244.1.11:8012"}},
			},
		},
		{name: "no such port", backend: Name{"shop", "orders", "443"}, objects: objects{service: named}, absent: true},
	} {
		t.Run(test.name, test.test)
	}
}

// publicExternal makes the Service one of a revision.
func publicExternal(o objects) objects {
	o.service.Labels = map[string]string{"networking.internal.knative.dev/serviceType": "Public"}
	return o
}

func TestASliceOfNamesIsPassedOver(t *testing.T) {
	named := slice("demo-abcde", "demo", slicePorts(map[string]int32{"http": 80}), discoveryv1.Endpoint{Addresses: []string{"localhost"}})
	named.AddressType = discoveryv1.AddressTypeFQDN
	if got := collect([]*discoveryv1.EndpointSlice{named}, "http", discoveryv1.AddressTypeIPv4); len(got) != 0 {
		t.Errorf("collect(a slice of names) = %+v, want nothing: a name may lead anywhere", got)
	}
}

func TestBackendOfAnExternalName(t *testing.T) {
	const gateway = "limpet-internal.limpet-system.svc.cluster.local"
	external := func(host string, ports ...corev1.ServicePort) objects {
		return objects{service: &corev1.Service{
			ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "demo"},
			Spec:       corev1.ServiceSpec{Type: corev1.ServiceTypeExternalName, ExternalName: host, Ports: ports},
		}}
	}
	member := func(address string) []endpoint.Member { return []endpoint.Member{{Name: address, Address: address}} }
	for _, test := range []derivation{
		{
			name: "the port of the Service by name", backend: Name{"shop", "demo", "http2"},
			objects: external(gateway, corev1.ServicePort{Name: "http2", Port: 80}),
			want: Backend{
				Revision: "demo:http2", Protocol: proxy.ProtocolH2C, ExternalName: gateway, Ready: true, Members: member(gateway + ":80"),
			},
		},
		{
			name: "without a port the number that was asked for", backend: Name{"shop", "demo", "8080"}, objects: external("orders.example.com"),
			want: Backend{
				Revision: "demo:8080", Protocol: proxy.ProtocolHTTP1, ExternalName: "orders.example.com", Ready: true,
				Members: member("orders.example.com:8080"),
			},
		},
		{
			name: "https has the name in its certificate", backend: Name{"shop", "demo", "443"}, objects: external("orders.example.com"),
			want: Backend{
				Revision: "demo:443", Protocol: proxy.ProtocolTLS, ServerNames: []string{"orders.example.com"},
				ExternalName: "orders.example.com", Ready: true, Members: member("orders.example.com:443"),
			},
		},
		{
			name: "an address is no name outside", backend: Name{"shop", "demo", "80"}, objects: external("169.254.169.254"), absent: true,
		},
		{
			name: "nor is this host", backend: Name{"shop", "demo", "9090"}, objects: external("LocalHost."), absent: true,
		},
		{
			name: "a revision's own Service that somebody changed leads nowhere", objects: publicExternal(external(gateway)), absent: true,
		},
		{
			name: "without a port a name says nothing", backend: Name{"shop", "demo", "http"}, objects: external("orders.example.com"), absent: true,
		},
	} {
		t.Run(test.name, test.test)
	}
}

func TestRelayed(t *testing.T) {
	const burst, class = "autoscaling.knative.dev/target-burst-capacity", "autoscaling.knative.dev/class"
	ever := map[string]string{"target-burst-capacity": "-1"}
	for _, test := range []struct {
		name        string
		config      map[string]string
		annotations map[string]string
		want        bool
	}{
		{"the default keeps it out", nil, nil, false},
		{"the revision keeps it in", nil, map[string]string{burst: "-1"}, true},
		{"any number that is minus one", nil, map[string]string{burst: "-1.0"}, true},
		{"any other capacity keeps it out", nil, map[string]string{burst: "200"}, false},
		{"the settings keep it in", ever, nil, true},
		{"the revision counts before the settings", ever, map[string]string{burst: "0"}, false},
		{"the spelling of old counts too", nil, map[string]string{"autoscaling.knative.dev/targetBurstCapacity": "-1"}, true},
		{"what is no number is as if absent", ever, map[string]string{burst: "all"}, true},
		{"never for the class of Kubernetes", ever, map[string]string{class: "hpa.autoscaling.knative.dev", burst: "-1"}, false},
		{"never for a class of others", nil, map[string]string{class: "keda.autoscaling.knative.dev", burst: "-1"}, false},
		{
			"the settings name the class of revisions that do not",
			map[string]string{"pod-autoscaler-class": "hpa.autoscaling.knative.dev"},
			map[string]string{burst: "-1"},
			false,
		},
		{
			"the revision's class counts before the settings'",
			map[string]string{"pod-autoscaler-class": "hpa.autoscaling.knative.dev"},
			map[string]string{class: "kpa.autoscaling.knative.dev", burst: "-1"},
			true,
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			a, err := parseAutoscaler(&corev1.ConfigMap{Data: test.config})
			if err != nil {
				t.Fatalf("parseAutoscaler(%v) = %v, want no error", test.config, err)
			}
			if got := a.relays(test.annotations); got != test.want {
				t.Errorf("relays(%v) = %v with settings %v, want %v", test.annotations, got, test.config, test.want)
			}
		})
	}
}

func TestAPodThatLeftIsNotTakenForAnActivator(t *testing.T) {
	r, m := defaults(t), &memory{}
	o := objects{
		service: publicService("demo-00001"),
		private: list(privateSlice("demo-00001", pod(pod1, "10.244.1.11"))),
		slices:  list(publicSlice("demo-00001", nameless(pod(pod1, "10.244.1.11")))),
	}
	derive(demo, o, r, m)
	o.private = list(privateSlice("demo-00001"))
	for range 2 { // it is remembered as long as the public slice is stale
		if got := derive(demo, o, r, m).backend; got.Ready || len(got.Members) != 0 {
			t.Fatalf("members = %v, want none: the pod has left and its address is stale", got.Members)
		}
	}
	o.slices = list(publicSlice("demo-00001", nameless(activator(activator1, "10.250.0.7"))))
	if got := derive(demo, o, r, m).backend; !got.Ready || len(got.Members) != 1 || !got.Members[0].Standby {
		t.Fatalf("members = %v, want the activator", got.Members)
	}
	if len(m.own) != 0 {
		t.Errorf("remembered hosts = %v, want none", m.own)
	}
}

func TestADrainIsRememberedWhileTheSliceListsIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, m := defaults(t), &memory{}
		look := func(pods ...discoveryv1.Endpoint) []endpoint.Member {
			o := objects{service: publicService("demo-00001"), private: list(privateSlice("demo-00001", pods...))}
			return derive(demo, o, r, m).backend.Members
		}
		until := time.Now().Add(drainTime)
		want := []endpoint.Member{{Name: string(pod1), Address: "10.244.1.11:8012", Draining: true, DrainUntil: until}}
		for range 3 {
			if got := look(pod(pod1, "10.244.1.11", leaving)); !slices.Equal(got, want) {
				t.Fatalf("members = %v, want %v: the deadline counts from when it was first seen", got, want)
			}
			time.Sleep(3 * time.Minute)
		}
		look(pod(pod1, "10.244.1.11")) // an older slice
		if got := look(pod(pod1, "10.244.1.11", leaving)); !slices.Equal(got, want) {
			t.Errorf("members = %v after an older statement, want %v", got, want)
		}
		look()
		if len(m.drains) != 0 {
			t.Errorf("remembered drains = %v, want none: the pod has gone", m.drains)
		}
	})
}
