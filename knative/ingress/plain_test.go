package ingress

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"testing"

	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"knative.dev/serving/pkg/networking"

	"github.com/limpet-project/limpet/knative/policy"
)

func plain(o *Options) { o.Plain = true }

// revision creates what Serving makes of a revision: its public Service, and the private one with a pod of that name.
func (w *world) revision(name, pod string) {
	w.t.Helper()
	w.service(name)
	services := w.kubernetes.CoreV1().Services("default")
	s, err := services.Get(w.t.Context(), name, metav1.GetOptions{})
	if err == nil {
		s.Labels = map[string]string{networking.ServiceTypeKey: string(networking.ServiceTypePublic)}
		_, err = services.Update(w.t.Context(), s, metav1.UpdateOptions{})
	}
	if err != nil {
		w.t.Fatal(err)
	}
	w.slice("default", name+"-private", w.pod(pod), "127.0.0.1")
}

// activatorHost is where the activator listens: on another host than pods.
const activatorHost = "127.0.0.2"

// activator has an activator in the path of a revision. It answers with what reached it.
func (w *world) activator(revision string) {
	w.t.Helper()
	listener, err := net.Listen("tcp", net.JoinHostPort(activatorHost, "0"))
	if err != nil {
		w.t.Fatal(err)
	}
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		http.SetCookie(rw, &http.Cookie{Name: "limpet", Value: "the activator's"})
		fmt.Fprintf(rw, "activator: K-Session %s, Cookie %s", r.Header.Get("K-Session"), r.Header.Get("Cookie"))
	}))
	server.Listener.Close()
	server.Listener = listener
	server.Start()
	w.t.Cleanup(server.Close)
	w.slice("default", revision, listener.Addr().(*net.TCPAddr).Port, activatorHost)
}

// leave takes the activator out of the path of a revision, as Serving does: the public Service leads to the pods of the private one.
func (w *world) leave(revision string) {
	w.t.Helper()
	slices := w.kubernetes.DiscoveryV1().EndpointSlices("default")
	list := func(service string) []discoveryv1.EndpointSlice {
		all, err := slices.List(w.t.Context(), metav1.ListOptions{LabelSelector: discoveryv1.LabelServiceName + "=" + service})
		if err != nil || len(all.Items) == 0 {
			w.t.Fatalf("listing the slices of %s: %d, %v", service, len(all.Items), err)
		}
		return all.Items
	}
	public, private := list(revision)[0], list(revision + "-private")[0]
	public.Ports, public.Endpoints = private.Ports, private.Endpoints
	if _, err := slices.Update(w.t.Context(), &public, metav1.UpdateOptions{}); err != nil {
		w.t.Fatal(err)
	}
}

// ask sends a request of a session to the external listener.
func (r *replica) ask(host string) (body string, header http.Header) {
	r.t.Helper()
	transport := &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, network, r.node.Address("external"))
	}}
	req, err := http.NewRequestWithContext(r.t.Context(), http.MethodGet, "http://"+host+"/", nil)
	if err != nil {
		r.t.Fatal(err)
	}
	req.Header = http.Header{"K-Session": {"alice"}, "Cookie": {"limpet=sealed"}}
	resp, err := (&http.Client{Transport: transport}).Do(req)
	if err != nil {
		return err.Error(), nil
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		r.t.Fatal(err)
	}
	return string(text), resp.Header
}

// tokens has an Ingress keep sessions by a token.
const tokens = "session: {mode: token, token: {cookie: limpet}}"

func TestAPlainIngressGoesByTheActivatorAndTouchesNothing(t *testing.T) {
	w := newWorld(t)
	w.revision("demo-00001", "demo-00001-a")
	w.activator("demo-00001")
	r := w.start(plain)
	i := demo("demo", "demo.default.example.com", "demo-00001")
	i.Annotations[policy.Structured] = tokens
	w.create(i)
	w.ready("demo")
	body, header := r.ask("demo.default.example.com")
	if want := "activator: K-Session alice, Cookie limpet=sealed"; body != want {
		t.Errorf("a request was answered %q, want %q", body, want)
	}
	if got := header["Set-Cookie"]; len(got) != 1 || got[0] != `limpet="the activator's"` {
		t.Errorf("the client got the cookies %q, want the activator's alone", got)
	}
}

func TestAPlainIngressGoesToThePodsWhenTheActivatorLeavesThePath(t *testing.T) {
	w := newWorld(t)
	w.revision("demo-00001", "demo-00001-a")
	w.activator("demo-00001")
	r := w.start(plain)
	w.create(demo("demo", "demo.default.example.com", "demo-00001"))
	w.ready("demo")
	w.leave("demo-00001")
	r.answers("external", "demo.default.example.com", 200, "demo-00001-a")
}

func TestAnIngressWithAffinityGoesToThePodsAndTakesItsToken(t *testing.T) {
	w := newWorld(t)
	w.revision("demo-00001", "demo-00001-a")
	w.activator("demo-00001")
	r := w.start()
	i := demo("demo", "demo.default.example.com", "demo-00001")
	i.Annotations[policy.Structured] = tokens
	w.create(i)
	w.ready("demo")
	body, header := r.ask("demo.default.example.com")
	if got := header["Set-Cookie"]; body != "demo-00001-a" || len(got) != 1 {
		t.Errorf("a request was answered %q with the cookies %q, want demo-00001-a with a token", body, got)
	}
}

func TestAPlainIngressTellsOfWrongAnnotations(t *testing.T) {
	w := newWorld(t)
	w.revision("demo-00001", "demo-00001-a")
	r := w.start(plain)
	i := demo("demo", "demo.default.example.com", "demo-00001")
	i.Annotations[policy.SessionPathSegment] = "first"
	w.create(i)
	w.ready("demo")
	w.event("Ingress", reasonMisconfigured)
	if off := r.controller.SessionsOff(); len(off) > 0 {
		t.Errorf("without sessions are %v, want none: the activators keep them", off)
	}
}
