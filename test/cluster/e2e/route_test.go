package e2e

import (
	"context"
	"fmt"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/limpet-project/limpet/test/cluster/demo"
	"github.com/limpet-project/limpet/test/cluster/ingress"
)

func TestATagIsNeverOverriddenByASession(t *testing.T) {
	w := start(t)
	w.twoRevisions(1, 100, 0, nil)
	c, canary := w.client("demo"), w.client("canary-demo")
	held := w.eventually(c, 4, session("alice"), "the session on demo-00001", by("demo-00001"))
	tagged := w.eventually(canary, 4, session("alice"), "the tag's revision", by("demo-00002"))
	if err := sticks(tagged); err != nil {
		t.Errorf("the session at the tag's host: %v", err)
	}
	after := w.series(c, 4, session("alice"))
	if err := sticks(append(held[len(held)-1:], after...)); err != nil {
		t.Errorf("the session at the default host, after requests to the tag's: %v", err)
	}
}

func TestSessionsAndFlowsStayWhereTheyAreWhileARolloutGoesOn(t *testing.T) {
	w := start(t)
	s := demo.Service{Name: "demo", Revision: "demo-00001", Pods: 2, Annotations: map[string]string{
		"serving.knative.dev/rollout-duration": "20s",
	}}
	w.deploy(s)
	c := w.client("demo")
	w.known(c)
	const users = 30
	first := map[int]demo.Answer{}
	for i := range users {
		first[i] = w.series(c, 1, session(fmt.Sprintf("user-%05d", i)))[0]
	}
	s.Revision, s.Image = "demo-00002", w.image
	w.Apply(s.Manifest())
	w.waitForRollout()
	if moved := w.watchRollout(c, users, first); moved > 0 {
		t.Errorf("%d requests of %d sessions were answered by another pod while demo-00001 had traffic", moved, users)
	}
	w.WaitForCondition(serviceKind, "demo", "Ready", 3*time.Minute)
	w.eventually(c, 2, session("user-00000"), "the session on demo-00002 after the rollout", by("demo-00002"))
}

// weights returns the percent of each revision in the traffic of the Route.
func (w *world) weights(ctx context.Context) (map[string]int64, error) {
	o, err := w.Object(ctx, routeKind, "demo")
	if err != nil {
		return nil, err
	}
	traffic, _, err := unstructured.NestedSlice(o.Object, "status", "traffic")
	weights := map[string]int64{}
	for _, t := range traffic {
		if t, ok := t.(map[string]any); ok {
			percent, _ := t["percent"].(int64)
			weights[fmt.Sprint(t["revisionName"])] += percent
		}
	}
	return weights, err
}

// waitForRollout waits until both revisions have traffic.
func (w *world) waitForRollout() {
	w.t.Helper()
	w.WaitFor(2*time.Minute, "the beginning of the rollout", func(ctx context.Context) error {
		weights, err := w.weights(ctx)
		if err == nil && (weights["demo-00001"] == 0 || weights["demo-00002"] == 0) {
			err = fmt.Errorf("the weights are %v", weights)
		}
		return err
	})
}

// watchRollout asks as each user until the old revision has no traffic, and returns how many requests another pod answered than
// the user's. The last round does not count: the rollout ended within it.
func (w *world) watchRollout(c *demo.Client, users int, first map[int]demo.Answer) (moved int) {
	w.t.Helper()
	rounds := 0
	for {
		round := 0
		for i := range users {
			a := w.series(c, 1, session(fmt.Sprintf("user-%05d", i)))[0]
			if a.Pod != first[i].Pod {
				round++
			}
		}
		weights, err := w.weights(w.t.Context())
		if err != nil {
			w.t.Fatal(err)
		}
		// The last step to 100 may have reached the ingress before it is in the status, so a round beside high weights proves nothing.
		if weights["demo-00001"] == 0 || weights["demo-00001"] < 20 && round > 0 {
			w.t.Logf("%d rounds of %d requests within the rollout", rounds, users)
			if rounds == 0 {
				w.t.Error("the rollout was over before any request")
			}
			return moved
		}
		moved += round
		rounds++
	}
}

func TestADomainMappingHasTheSessionsOfItsOwnHost(t *testing.T) {
	w := start(t)
	w.deploy(demo.Service{Name: "demo", Pods: 3})
	host := "shop-" + w.Namespace + ".example.org"
	w.Apply(fmt.Sprintf(`
apiVersion: networking.internal.knative.dev/v1alpha1
kind: ClusterDomainClaim
metadata: {name: %s}
spec: {namespace: %s}
---
apiVersion: serving.knative.dev/v1beta1
kind: DomainMapping
metadata: {name: %[1]s}
spec: {ref: {kind: Service, name: demo, apiVersion: serving.knative.dev/v1}}
`, host, w.Namespace))
	w.WaitForCondition("serving.knative.dev/v1beta1/DomainMapping", host, "Ready", 3*time.Minute)
	c := &demo.Client{Address: w.address, Host: host}
	w.known(c)
	if err := sticks(w.series(c, 12, session("alice"))); err != nil {
		t.Errorf("a session by way of the DomainMapping: %v", err)
	}
}

func TestAServiceThatIsReadyIsServedByEveryReplicaAtOnce(t *testing.T) {
	w := start(t)
	for i := range 5 {
		name := fmt.Sprintf("demo-%d", i)
		w.deploy(demo.Service{Name: name, Pods: 1})
		// Each request has a connection of its own, so 12 of them reach both replicas but for a chance of 1 in 2000.
		w.series(w.client(name), 12, demo.Request{})
	}
}

func TestNothingIsServedAtAHostThatNobodyHas(t *testing.T) {
	w := start(t)
	a, err := w.client("missing").Ask(t.Context(), demo.Request{})
	if err != nil || a.Status != 404 {
		t.Errorf("asking for a host that nobody has = %d, %v, want 404", a.Status, err)
	}
	w.deploy(demo.Service{Name: "demo", Pods: 1})
	w.series(w.client("demo"), 1, demo.Request{})
	w.deleteService("demo")
	w.WaitFor(3*time.Minute, "the end of the host", func(ctx context.Context) error {
		a, err := w.client("demo").Ask(ctx, demo.Request{})
		if err == nil && a.Status != 404 {
			err = fmt.Errorf("status %d: %s", a.Status, a.Body)
		}
		return err
	})
}

func TestAServiceOfTheClusterAloneIsNotServedToOthers(t *testing.T) {
	w := start(t)
	s := demo.Service{Name: "demo", Pods: 1, Labels: map[string]string{"networking.knative.dev/visibility": "cluster-local"}}
	w.deploy(s)
	host := "demo." + w.Namespace + ".svc.cluster.local"
	outside := &demo.Client{Address: w.address, Host: host}
	if a, err := outside.Ask(t.Context(), demo.Request{}); err != nil || a.Status != 404 {
		t.Errorf("asking for %s from outside = %d, %v, want 404", host, a.Status, err)
	}
	inside := &demo.Client{Address: w.ServiceAddress(ingress.Namespace, ingress.LocalService) + ":80", Host: host}
	if err := sticks(w.series(inside, 6, session("alice"))); err != nil {
		t.Errorf("a session inside the cluster: %v", err)
	}
}
