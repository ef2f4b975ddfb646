package ingress

import (
	"testing"

	"go.uber.org/goleak"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"knative.dev/networking/pkg/apis/networking"
	"knative.dev/networking/pkg/apis/networking/v1alpha1"
)

func TestAnIngressIsServedAndThenReady(t *testing.T) {
	w := newWorld(t)
	w.service("demo-00001", "demo-00001-a")
	r := w.start()
	w.create(demo("demo", "demo.default.example.com", "demo-00001"))
	w.ready("demo")
	r.answers("external", "demo.default.example.com", 200, "demo-00001-a")
	r.answers("local", "demo.default.example.com", 200, "demo-00001-a")
	r.answers("local", "demo.default.svc.cluster.local", 200, "demo-00001-a")
	if status, _ := r.get("external", "demo.default.svc.cluster.local"); status != 404 {
		t.Errorf("a local host answers %d outside, want 404", status)
	}
	s := w.ingress("demo").Status
	got := []string{s.PublicLoadBalancer.Ingress[0].DomainInternal, s.PrivateLoadBalancer.Ingress[0].DomainInternal}
	want := []string{"limpet.limpet-system.svc.cluster.local", "limpet-local.limpet-system.svc.cluster.local"}
	if got[0] != want[0] || got[1] != want[1] {
		t.Errorf("the load balancers are %q, want %q", got, want)
	}
}

func TestAnIngressThatChangesIsServedAnew(t *testing.T) {
	w := newWorld(t)
	w.service("demo-00001", "demo-00001-a")
	w.service("demo-00002", "demo-00002-a")
	r := w.start()
	w.create(demo("demo", "demo.default.example.com", "demo-00001"))
	w.ready("demo")
	w.change("demo", true, func(i *v1alpha1.Ingress) { i.Spec = demo("demo", "demo.default.example.com", "demo-00002").Spec })
	w.ready("demo")
	r.answers("external", "demo.default.example.com", 200, "demo-00002-a")
}

func TestAnIngressWaitsForItsService(t *testing.T) {
	w := newWorld(t)
	r := w.start()
	w.create(demo("demo", "demo.default.example.com", "demo-00001"))
	w.waits("demo", "BackendNotReady")
	w.service("demo-00001", "demo-00001-a")
	w.ready("demo")
	r.answers("external", "demo.default.example.com", 200, "demo-00001-a")
}

func TestAnIngressThatGoesIsNotServed(t *testing.T) {
	for _, tt := range []struct {
		name string
		end  func(*world)
	}{
		{"deleted", func(w *world) {
			if err := w.networking.NetworkingV1alpha1().Ingresses("default").Delete(w.t.Context(), "demo", metav1.DeleteOptions{}); err != nil {
				w.t.Fatal(err)
			}
		}},
		{"of another class", func(w *world) {
			w.change("demo", false, func(i *v1alpha1.Ingress) {
				i.Annotations[networking.IngressClassAnnotationKey] = "kourier.ingress.networking.knative.dev"
			})
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := newWorld(t)
			w.service("demo-00001", "demo-00001-a")
			r := w.start()
			w.create(demo("demo", "demo.default.example.com", "demo-00001"))
			w.ready("demo")
			tt.end(w)
			r.answers("external", "demo.default.example.com", 404, "")
			if _, good := r.controller.programmer.Program(keyOf(demo("demo", "", ""))); good {
				t.Error("the program of an Ingress that went is there, want none")
			}
		})
	}
}

func TestAReplicaThatEndsLeavesNothingBehind(t *testing.T) {
	before := goleak.IgnoreCurrent()
	w := newWorld(t)
	r := w.start()
	w.service("demo-00001") // without a pod: a probe is under way for ever
	w.create(demo("demo", "demo.default.example.com", "demo-00001"))
	w.waits("demo", "Uninitialized")
	r.stop()
	w.eventually("nothing is left", func() error { return goleak.Find(before) }) // connections end a moment after those who had them
}
