package ingress

import (
	"net/http"
	"net/http/httptest"
	"testing"
	"testing/synctest"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"knative.dev/networking/pkg/apis/networking/v1alpha1"

	"github.com/limpet-project/limpet/affinity"
	"github.com/limpet-project/limpet/endpoint"
	"github.com/limpet-project/limpet/knative/backend"
	"github.com/limpet-project/limpet/knative/policy"
)

func TestARetainedRevisionsEndpointsAreFollowedUntilItsTimeIsOver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPlane(t)
		p.board.list("demo-00001", unreachable)
		p.board.list("demo-00002", unreachable)
		const retain = 10 * time.Minute
		set := func(service string) {
			t.Helper()
			o := Object{Ingress: demo("demo", demoHost, service), Policy: &affinity.Policy{Retain: affinity.Duration(retain)}}
			if err := p.Set(o); err != nil {
				t.Fatal(err)
			}
		}
		set("demo-00001")
		go p.Run(t.Context())
		synctest.Wait()
		set("demo-00002")
		time.Sleep(retain)
		synctest.Wait()
		old := backend.Name{Namespace: "default", Service: "demo-00001", Port: "80"}
		if !p.board.inUse(old) {
			t.Error("while demo-00001 is retained it is not in use, want its endpoints to be followed")
		}
		time.Sleep(underWay + time.Second)
		synctest.Wait()
		if due := p.due(); p.board.inUse(old) || !due.IsZero() {
			t.Errorf("after its time demo-00001 is in use or something is due at %s, want neither", due)
		}
	})
}

func TestABackendInUseAgainIsNotTheOneThatLingers(t *testing.T) {
	name := backend.Name{Namespace: "default", Service: "demo-00001", Port: "80"}
	other := backend.Name{Namespace: "default", Service: "demo-00002", Port: "80"}
	plain := endpoint.RevisionName{Namespace: "default", Name: "demo-00001:80"}
	now := endpoint.RevisionName{Namespace: "default", Name: "demo-00001"}
	l := lingering{}
	l.add(affinity.ServiceName{Namespace: "default", Name: "demo"}, plain.Name, left{revision: plain, names: []backend.Name{name, other}})
	got := use(l, map[backend.Name]endpoint.RevisionName{name: now})
	if got[name] != now || got[other] != plain {
		t.Errorf("use() = %v, want %s as %s and %s as %s", got, name, now, other, plain)
	}
}

// A session of a retained revision whose pod went finds out: the address may be another's by then.
func TestARetainedRevisionsPodThatWentIsNotAsked(t *testing.T) {
	w := newWorld(t)
	w.service("demo-00001", "demo-00001-a")
	w.service("demo-00002", "demo-00002-a")
	i := demo("demo", demoHost, "demo-00001")
	i.Annotations[policy.Structured] = "session: {}\nretain: 10m"
	w.create(i)
	r := w.start()
	r.answers("external", demoHost, 200, "demo-00001-a")
	if _, body := r.get("external", demoHost, "K-Session", "alice"); body != "demo-00001-a" {
		t.Fatalf("alice is answered by %q, want demo-00001-a", body)
	}
	w.change("demo", true, func(i *v1alpha1.Ingress) { i.Spec = demo("demo", demoHost, "demo-00002").Spec })
	r.answers("external", demoHost, 200, "demo-00002-a")
	if _, body := r.get("external", demoHost, "K-Session", "alice"); body != "demo-00001-a" {
		t.Fatalf("alice is answered by %q while her revision is retained, want demo-00001-a", body)
	}
	slices, err := w.kubernetes.DiscoveryV1().EndpointSlices("default").List(t.Context(), metav1.ListOptions{
		LabelSelector: "kubernetes.io/service-name=demo-00001",
	})
	if err != nil || len(slices.Items) != 1 {
		t.Fatalf("List() = %v, %v, want the slice of demo-00001", slices, err)
	}
	if err := w.kubernetes.DiscoveryV1().EndpointSlices("default").Delete(t.Context(), slices.Items[0].Name, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	// The process behind the address goes on: it is who has it now.
	w.eventually("nobody asks the address", func() error {
		if _, body := r.get("external", demoHost, "K-Session", "alice"); body == "demo-00001-a" {
			return &NotReadyError{}
		}
		return nil
	})
}

func TestWhatCouldNotBePutInForceIsTriedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPlane(t)
		p.o.Table = endpoint.NewTable(endpoint.Options{})
		p.board.table = p.o.Table
		p.board.list("demo-00001", unreachable)
		i := demo("demo", demoHost, "demo-00001")
		p.set(t, i)
		known := p.objects[keyOf(i)]
		p.mu.Lock()
		good := known.program.External[0].RewriteHost
		known.program.External[0].RewriteHost = "no host" // no check before lets it pass
		p.mu.Unlock()
		go p.Run(t.Context())
		synctest.Wait()
		if p.answers.Load() != nil || p.o.Table.Synced() {
			t.Error("after a publication that failed the table is said to be complete, want it not to be")
		}
		p.mu.Lock()
		known.program.External[0].RewriteHost = good
		p.mu.Unlock()
		time.Sleep(retryPut + pace)
		synctest.Wait()
		if p.answers.Load() == nil || !p.o.Table.Synced() {
			t.Errorf("after %s nothing was published, want it tried again and the table complete", retryPut)
		}
	})
}

func TestAHostIsNotSharedWithAnotherNamespace(t *testing.T) {
	p := newPlane(t)
	p.board.list("shop", upstream(t, "shop"))
	p.board.list("squatter", upstream(t, "squatter"))
	p.set(t, demo("shop", "shop.example.com", "shop"))
	squatter := demo("squatter", "shop.example.com", "squatter")
	squatter.Namespace, squatter.CreationTimestamp = "dev", metav1.NewTime(time.Unix(1800000000, 0))
	path := squatter.Spec.Rules[0].HTTP.Paths[0]
	path.Splits[0].ServiceNamespace = "dev"
	cookie, login := path, path
	cookie.Headers = map[string]v1alpha1.HeaderMatch{"Cookie": {Exact: "session=1"}}
	login.Path = "/login"
	squatter.Spec.Rules[0].HTTP = &v1alpha1.HTTPIngressRuleValue{Paths: []v1alpha1.HTTPIngressPath{cookie, login}}
	p.set(t, squatter)
	p.Publish()
	if got := p.ask("shop.example.com", "Cookie", "session=1").Body.String(); got != "shop" {
		t.Errorf("with the header %q answers, want shop", got)
	}
	w := httptest.NewRecorder()
	p.Handler(false, p.external).ServeHTTP(w, httptest.NewRequest(http.MethodGet, "http://shop.example.com/login", nil))
	if w.Body.String() != "shop" {
		t.Errorf("with the path %q answers, want shop", w.Body)
	}
	if err := p.Conflict(types.NamespacedName{Namespace: "dev", Name: "squatter"}); err == nil {
		t.Error("Conflict() = nil, want what was lost")
	}
}
