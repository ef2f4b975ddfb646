package ingress

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strconv"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
	kubernetesfake "k8s.io/client-go/kubernetes/fake"
	metadatafake "k8s.io/client-go/metadata/fake"
	"knative.dev/networking/pkg/apis/networking"
	"knative.dev/networking/pkg/apis/networking/v1alpha1"
	networkingfake "knative.dev/networking/pkg/client/clientset/versioned/fake"
	"knative.dev/pkg/leaderelection"

	"github.com/limpet-project/limpet/config"
	"github.com/limpet-project/limpet/endpoint"
	"github.com/limpet-project/limpet/node"
	"github.com/limpet-project/limpet/proxy"
)

// patience is how long a test waits for what must come.
const patience = time.Minute

// A world is an API server without validation, and what lies behind it: processes that answer on loopback in the place of pods.
type world struct {
	t          *testing.T
	kubernetes *kubernetesfake.Clientset
	networking *networkingfake.Clientset
	metadata   *metadatafake.FakeMetadataClient
}

func newWorld(t *testing.T) *world {
	t.Helper()
	scheme := runtime.NewScheme()
	if err := metav1.AddMetaToScheme(scheme); err != nil {
		t.Fatal(err)
	}
	return &world{
		t: t, kubernetes: kubernetesfake.NewClientset(), networking: networkingfake.NewSimpleClientset(),
		metadata: metadatafake.NewSimpleMetadataClient(scheme),
	}
}

// A replica is one process of the ingress.
type replica struct {
	*world
	node       *node.Node
	controller *Controller
	stop       func()
}

const listeners = `
listeners:
  - {name: external, address: "127.0.0.1:0"}
  - {name: external-tls, address: "127.0.0.1:0", tls: {}}
  - {name: local, address: "127.0.0.1:0"}
  - {name: local-tls, address: "127.0.0.1:0", tls: {}}
admin: {address: "127.0.0.1:0"}
accessLog: {file: "off"}
`

// start runs a replica until the test ends or it is stopped. The world's Services of the ingress lead to it.
func (w *world) start(change ...func(*Options)) *replica {
	w.t.Helper()
	loaded, err := config.Parse("limpet.yaml", []byte(listeners))
	if err != nil {
		w.t.Fatal(err)
	}
	r := &replica{world: w}
	certificates := &proxy.CertificateSet{Strict: true}
	log := slog.New(slog.NewTextHandler(testWriter{w.t}, &slog.HandlerOptions{Level: slog.LevelInfo}))
	r.node, err = node.New(w.t.Context(), loaded, node.Options{
		Log: log, Source: endpoint.SourceFunc(func(ctx context.Context, _ *endpoint.Table) error { return r.controller.Run(ctx) }),
		Handler: func(l *config.Listener) http.Handler {
			return r.controller.Handler(l.Name == "local" || l.Name == "local-tls")
		},
		Certificates: func(*config.Listener) proxy.CertificateSource { return certificates },
	})
	if err != nil {
		w.t.Fatal(err)
	}
	o := Options{
		Kubernetes: w.kubernetes, Networking: w.networking, Metadata: w.metadata,
		Namespace: "limpet-system", KnativeNamespace: "knative-serving", Service: "limpet", LocalService: "limpet-local",
		Ports: Ports{r.port("external"), r.port("external-tls"), r.port("local"), r.port("local-tls")},
		Table: r.node.Table(), External: r.node.Gateway(), Local: r.node.NewGateway(), Certificates: certificates, Log: log,
	}
	for _, f := range change {
		f(&o)
	}
	r.controller = New(o)
	r.run()
	return r
}

func (r *replica) run() {
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() {
		if err := r.node.Run(ctx, nil); err != nil {
			r.t.Error(err)
		}
	})
	r.stop = sync.OnceFunc(func() { cancel(); running.Wait() })
	r.t.Cleanup(r.stop)
	r.eventually("the replica is ready", func() error {
		if !r.node.Table().Synced() {
			return fmt.Errorf("it is not synchronised")
		}
		return nil
	})
	for _, service := range []string{"limpet", "limpet-local"} {
		r.slice("limpet-system", service, 0, "127.0.0.1")
	}
}

func (r *replica) port(listener string) string {
	_, port, err := net.SplitHostPort(r.node.Address(listener))
	if err != nil {
		r.t.Fatal(err)
	}
	return port
}

// eventually waits until met returns nil.
func (w *world) eventually(what string, met func() error) {
	w.t.Helper()
	deadline := time.Now().Add(patience)
	for {
		err := met()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			w.t.Fatalf("%s: %v after %s, want nil", what, err, patience)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// pod starts a process that answers with its name, and returns its port.
func (w *world) pod(name string) int {
	server := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, _ *http.Request) { io.WriteString(rw, name) }))
	w.t.Cleanup(server.Close)
	return server.Listener.Addr().(*net.TCPAddr).Port
}

// service creates a Service with a port 80 and a pod behind it for each name.
func (w *world) service(name string, pods ...string) {
	w.t.Helper()
	s := &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name},
		Spec: corev1.ServiceSpec{Ports: []corev1.ServicePort{{
			Name: "http", Port: 80, Protocol: corev1.ProtocolTCP, TargetPort: intstr.FromInt32(8080),
		}}},
	}
	if _, err := w.kubernetes.CoreV1().Services("default").Create(w.t.Context(), s, metav1.CreateOptions{}); err != nil {
		w.t.Fatal(err)
	}
	for _, pod := range pods {
		w.slice("default", name, w.pod(pod), "127.0.0.1")
	}
}

// slice says that a Service has a ready pod.
func (w *world) slice(namespace, service string, port int, ip string) {
	w.t.Helper()
	name, number, protocol := "http", int32(port), corev1.ProtocolTCP
	s := &discoveryv1.EndpointSlice{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: namespace, Name: service + "-" + strconv.Itoa(port), Labels: map[string]string{discoveryv1.LabelServiceName: service},
		},
		AddressType: discoveryv1.AddressTypeIPv4,
		Ports:       []discoveryv1.EndpointPort{{Name: &name, Port: &number, Protocol: &protocol}},
		Endpoints: []discoveryv1.Endpoint{{
			Addresses: []string{ip}, TargetRef: &corev1.ObjectReference{Kind: "Pod", Name: service, UID: types.UID(service + "-" + strconv.Itoa(port))},
		}},
	}
	client := w.kubernetes.DiscoveryV1().EndpointSlices(namespace)
	if _, err := client.Create(w.t.Context(), s, metav1.CreateOptions{}); err != nil && namespace != "limpet-system" {
		w.t.Fatal(err)
	}
}

// demo returns an Ingress that leads a host, and a local one, to a Service.
func demo(name, host, service string) *v1alpha1.Ingress {
	paths := &v1alpha1.HTTPIngressRuleValue{Paths: []v1alpha1.HTTPIngressPath{{
		Splits: []v1alpha1.IngressBackendSplit{{IngressBackend: v1alpha1.IngressBackend{
			ServiceNamespace: "default", ServiceName: service, ServicePort: intstr.FromInt32(80),
		}}},
	}}}
	return &v1alpha1.Ingress{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: "default", Name: name, UID: types.UID(name), Generation: 1, CreationTimestamp: metav1.NewTime(time.Unix(1700000000, 0)),
			Annotations: map[string]string{networking.IngressClassAnnotationKey: Class},
		},
		Spec: v1alpha1.IngressSpec{Rules: []v1alpha1.IngressRule{
			{Hosts: []string{host}, HTTP: paths},
			{Hosts: []string{name + ".default.svc.cluster.local"}, Visibility: v1alpha1.IngressVisibilityClusterLocal, HTTP: paths},
		}},
	}
}

func (w *world) create(i *v1alpha1.Ingress) {
	w.t.Helper()
	if _, err := w.networking.NetworkingV1alpha1().Ingresses(i.Namespace).Create(w.t.Context(), i, metav1.CreateOptions{}); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) ingress(name string) *v1alpha1.Ingress {
	w.t.Helper()
	i, err := w.networking.NetworkingV1alpha1().Ingresses("default").Get(w.t.Context(), name, metav1.GetOptions{})
	if err != nil {
		w.t.Fatal(err)
	}
	return i
}

// change changes an Ingress as a user would; spec says that the spec is among what changes.
func (w *world) change(name string, spec bool, f func(*v1alpha1.Ingress)) {
	w.t.Helper()
	i := w.ingress(name).DeepCopy()
	f(i)
	if spec {
		i.Generation++
	}
	if _, err := w.networking.NetworkingV1alpha1().Ingresses("default").Update(w.t.Context(), i, metav1.UpdateOptions{}); err != nil {
		w.t.Fatal(err)
	}
}

// ready waits until an Ingress is ready.
func (w *world) ready(name string) {
	w.t.Helper()
	w.eventually("ingress "+name+" is ready", func() error {
		if i := w.ingress(name); !i.IsReady() {
			return fmt.Errorf("its status is %+v", i.Status)
		}
		return nil
	})
}

// waits waits until an Ingress is not ready for that reason.
func (w *world) waits(name, reason string) {
	w.t.Helper()
	w.eventually("ingress "+name+" waits for "+reason, func() error {
		i := w.ingress(name)
		if c := i.Status.GetCondition(v1alpha1.IngressConditionReady); i.IsReady() || c.GetReason() != reason {
			return fmt.Errorf("its status is %+v", i.Status)
		}
		return nil
	})
}

// event waits for an event with a reason about an object of that kind.
func (w *world) event(kind, reason string) corev1.Event {
	w.t.Helper()
	var found corev1.Event
	w.eventually("an event "+reason+" about a "+kind, func() error {
		list, err := w.kubernetes.CoreV1().Events("").List(w.t.Context(), metav1.ListOptions{})
		if err != nil {
			return err
		}
		for _, e := range list.Items {
			if e.InvolvedObject.Kind == kind && e.Reason == reason {
				found = e
				return nil
			}
		}
		return fmt.Errorf("there are %d events", len(list.Items))
	})
	return found
}

// get sends a request to a listener and returns the status and the body.
func (r *replica) get(listener, host string, header ...string) (int, string) {
	r.t.Helper()
	scheme := "http"
	transport := &http.Transport{DisableKeepAlives: true}
	transport.DialContext = func(ctx context.Context, network, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, network, r.node.Address(listener))
	}
	if listener == "external-tls" || listener == "local-tls" {
		scheme, transport.TLSClientConfig = "https", &tls.Config{InsecureSkipVerify: true}
	}
	req, err := http.NewRequestWithContext(r.t.Context(), http.MethodGet, scheme+"://"+host+"/", nil)
	if err != nil {
		r.t.Fatal(err)
	}
	for i := 0; i+1 < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	resp, err := (&http.Client{Transport: transport, CheckRedirect: func(*http.Request, []*http.Request) error {
		return http.ErrUseLastResponse
	}}).Do(req)
	if err != nil {
		return 0, err.Error()
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		r.t.Fatal(err)
	}
	return resp.StatusCode, string(body)
}

// answers waits until a request is answered so.
func (r *replica) answers(listener, host string, status int, body string) {
	r.t.Helper()
	r.eventually(listener+" answers for "+host, func() error {
		got, text := r.get(listener, host)
		if got != status || body != "" && text != body {
			return fmt.Errorf("got %d %q, want %d %q", got, text, status, body)
		}
		return nil
	})
}

// testWriter writes lines to the log of a test.
type testWriter struct{ t *testing.T }

func (w testWriter) Write(line []byte) (int, error) {
	w.t.Logf("%s", line)
	return len(line), nil
}

// elected makes a replica take part in an election.
func elected(t *testing.T, identity string) func(*Options) {
	t.Setenv("SYSTEM_NAMESPACE", "limpet-system")
	return func(o *Options) {
		o.Election = &leaderelection.ComponentConfig{
			Component: Component, Buckets: 1, Identity: identity,
			LeaseDuration: time.Second, RenewDeadline: 500 * time.Millisecond, RetryPeriod: 100 * time.Millisecond,
		}
	}
}
