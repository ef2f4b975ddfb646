package ingress

import (
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	k8stesting "k8s.io/client-go/testing"
	"knative.dev/networking/pkg/apis/networking/v1alpha1"

	"github.com/limpet-project/limpet/knative/policy"
)

func TestTheYoungerOfTwoIngressesWaitsForAHost(t *testing.T) {
	w := newWorld(t)
	w.service("demo-00001", "demo-00001-a")
	w.service("shop-00001", "shop-00001-a")
	r := w.start()
	older, younger := demo("demo", "demo.default.example.com", "demo-00001"), demo("shop", "demo.default.example.com", "shop-00001")
	younger.CreationTimestamp = metav1.NewTime(older.CreationTimestamp.Add(time.Hour))
	w.create(younger)
	w.ready("shop")
	w.create(older)
	w.ready("demo")
	w.waits("shop", "DomainConflict")
	w.event("Ingress", "DomainConflict")
	r.answers("external", "demo.default.example.com", 200, "demo-00001-a")
	if err := w.networking.NetworkingV1alpha1().Ingresses("default").Delete(t.Context(), "demo", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	w.ready("shop")
	r.answers("external", "demo.default.example.com", 200, "shop-00001-a")
}

func TestAWrongSpecIsReportedAndServedAsBefore(t *testing.T) {
	w := newWorld(t)
	w.service("demo-00001", "demo-00001-a")
	r := w.start()
	w.create(demo("demo", "demo.default.example.com", "demo-00001"))
	w.ready("demo")
	w.change("demo", true, func(i *v1alpha1.Ingress) { i.Spec.Rules[0].HTTP.Paths[0].Path = "not a path" })
	w.waits("demo", "Misconfigured")
	w.event("Ingress", "Misconfigured")
	r.answers("external", "demo.default.example.com", 200, "demo-00001-a")
}

func TestARuleWithoutItsBlockHarmsNobody(t *testing.T) {
	w := newWorld(t)
	w.service("demo-00001", "demo-00001-a")
	r := w.start()
	hollow := demo("hollow", "hollow.default.example.com", "demo-00001")
	hollow.Spec.Rules[0].HTTP = nil
	w.create(hollow)
	w.create(demo("demo", "demo.default.example.com", "demo-00001"))
	w.ready("demo")
	r.answers("external", "demo.default.example.com", 200, "demo-00001-a")
}

func TestAReadyIngressStaysReadyWhenAReplicaStarts(t *testing.T) {
	w := newWorld(t)
	w.service("demo-00001", "demo-00001-a")
	first := w.start()
	w.create(demo("demo", "demo.default.example.com", "demo-00001"))
	w.ready("demo")
	first.stop()
	before := w.written("demo")
	second := w.start()
	// What the second one programs it had at once: it says that it is synchronised only then.
	if status, body := second.get("external", "demo.default.example.com"); status != 200 || body != "demo-00001-a" {
		t.Errorf("a new replica answers %d %q, want 200 and demo-00001-a", status, body)
	}
	w.create(demo("shop", "shop.default.example.com", "demo-00001"))
	w.ready("shop")
	if after := w.written("demo"); before == 0 || after != before {
		t.Errorf("the status of a ready Ingress was written %d times and %d more, want some and none", before, after-before)
	}
}

// written returns how often an Ingress was written since it was created. The API server gives it no versions by which that could be seen.
func (w *world) written(name string) (n int) {
	for _, a := range w.networking.Actions() {
		switch a := a.(type) {
		case k8stesting.UpdateAction:
			if i, is := a.GetObject().(*v1alpha1.Ingress); is && i.Name == name && a.GetVerb() == "update" {
				n++
			}
		case k8stesting.PatchAction:
			if a.GetResource().Resource == "ingresses" && a.GetName() == name {
				n++
			}
		}
	}
	return n
}

func TestWhatAnotherIngressLeftIsNotReady(t *testing.T) {
	w := newWorld(t)
	w.service("demo-00001", "demo-00001-a")
	i := demo("demo", "demo.default.example.com", "demo-00001")
	i.Status.InitializeConditions()
	i.Status.MarkNetworkConfigured()
	i.Status.MarkLoadBalancerReady(nil, []v1alpha1.LoadBalancerIngressStatus{{DomainInternal: "kourier-internal.kourier-system.svc.cluster.local"}})
	i.Status.ObservedGeneration = 1
	w.create(i)
	w.start()
	w.eventually("the load balancers are Limpet's", func() error {
		if s := w.ingress("demo").Status; s.PublicLoadBalancer == nil || len(s.PublicLoadBalancer.Ingress) == 0 {
			return &NotReadyError{}
		}
		return nil
	})
}

func TestOnlyTheLeaderWritesStatus(t *testing.T) {
	w := newWorld(t)
	w.service("demo-00001", "demo-00001-a")
	leader := w.start(elected(t, "limpet-ingress-a"))
	w.create(demo("demo", "demo.default.example.com", "demo-00001"))
	w.ready("demo")
	follower := w.start(elected(t, "limpet-ingress-b"))
	follower.answers("external", "demo.default.example.com", 200, "demo-00001-a")
	leader.stop()
	w.create(demo("shop", "shop.default.example.com", "demo-00001"))
	w.ready("shop")
	follower.answers("external", "shop.default.example.com", 200, "demo-00001-a")
}

func TestWrongAnnotationsAreToldAndServedWithoutAffinity(t *testing.T) {
	w := newWorld(t)
	w.service("demo-00001", "demo-00001-a")
	r := w.start()
	i := demo("demo", "demo.default.example.com", "demo-00001")
	i.Annotations[policy.SessionPathSegment] = "first"
	yes := true
	i.OwnerReferences = []metav1.OwnerReference{{
		APIVersion: "serving.knative.dev/v1", Kind: "Route", Name: "demo", UID: types.UID("route"), Controller: &yes,
	}}
	w.create(i)
	w.ready("demo")
	r.answers("external", "demo.default.example.com", 200, "demo-00001-a")
	for _, kind := range []string{"Ingress", "Route"} {
		e := w.event(kind, reasonMisconfigured)
		if e.Type != corev1.EventTypeWarning || e.Message == "" {
			t.Errorf("the event about the %s is %s %q, want a warning that says what is wrong", kind, e.Type, e.Message)
		}
	}
	if got := r.controller.Misconfigured(); len(got) != 1 || got[0] != keyOf(i) {
		t.Errorf("Misconfigured() = %v, want %v", got, keyOf(i))
	}
	w.change("demo", false, func(i *v1alpha1.Ingress) { i.Annotations[policy.SessionPathSegment] = "1" })
	w.eventually("nothing is misconfigured", func() error {
		if got := r.controller.Misconfigured(); len(got) > 0 {
			return &NotReadyError{}
		}
		return nil
	})
}

func TestWrongDefaultsLeaveTheOldOnes(t *testing.T) {
	w := newWorld(t)
	w.service("demo-00001", "demo-00001-a")
	r := w.start()
	w.create(demo("demo", "demo.default.example.com", "demo-00001"))
	w.ready("demo")
	hasPolicy := func(want bool) func() error {
		return func() error {
			p, _ := r.controller.programmer.Program(types.NamespacedName{Namespace: "default", Name: "demo"})
			if got := len(p.External) > 0 && p.External[0].Policy != nil; got != want {
				return &NotReadyError{}
			}
			return nil
		}
	}
	w.eventually("sessions are kept by default", hasPolicy(true))
	cm := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "limpet-system", Name: policy.ConfigMap}, Data: map[string]string{"affinity": "off"}}
	maps := w.kubernetes.CoreV1().ConfigMaps("limpet-system")
	if _, err := maps.Create(t.Context(), cm, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	w.eventually("config-limpet turns them off", hasPolicy(false))
	cm.Data["affinity"] = "perhaps"
	if _, err := maps.Update(t.Context(), cm, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	w.eventually("the fault is known", func() error {
		if r.controller.settings.fault() == nil {
			return &NotReadyError{}
		}
		return nil
	})
	if err := hasPolicy(false)(); err != nil {
		t.Error("a wrong config-limpet changed what was in force, want it left alone")
	}
	if err := maps.Delete(t.Context(), policy.ConfigMap, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	w.eventually("without config-limpet they are kept again", hasPolicy(true))
}
