// Package cost measures what a request costs Limpet's ingress and its activator in processor time, beside what it costs Knative's stock
// activator.
//
// It prints and does not judge: times depend on the machine. It runs with LIMPET_COST=1 only; run it alone.
package cost

import (
	"fmt"
	"net"
	"net/http"
	"os"
	"testing"
	"time"

	"github.com/limpet-project/limpet/test/cluster"
	"github.com/limpet-project/limpet/test/cluster/demo"
	"github.com/limpet-project/limpet/test/cluster/ingress"
)

const counter = "./examples/counter"

func TestMain(m *testing.M) {
	if os.Getenv("LIMPET_COST") == "" {
		fmt.Println("left out: LIMPET_COST is not set")
		return
	}
	os.Exit(cluster.MainWith(m, cluster.Needs{Tier: cluster.Knative, Images: []string{counter}, Ingress: true, Activator: true}))
}

func TestWhatARequestCosts(t *testing.T) {
	e := cluster.Start(t, cluster.Knative)
	// The activator logs no requests.
	e.InstallIngress(ingress.Options{Replicas: 1, Redis: true, Set: map[string]string{"accessLog.file": "off"}})
	s := demo.Service{Name: "demo", Image: e.Image(counter), Revision: "demo-00001", Pods: 3}
	e.Apply(s.Manifest())
	e.WaitForCondition("serving.knative.dev/v1/Service", "demo", "Ready", 3*time.Minute)
	e.WaitForDeployment("demo-00001-deployment", 2*time.Minute)
	through := way{
		namespace: ingress.Namespace, pods: []string{podOf(t, e, ingress.Namespace, ingress.Deployment)}, container: "ingress",
		address: net.JoinHostPort(e.IngressAddress(), "80"), host: "demo." + e.Namespace + "." + ingress.Domain,
	}
	sticky, loose := through, through
	sticky.name, sticky.session = "ingress to pod, session affinity on", true
	loose.name = "ingress to pod, requests without session"
	ways := []*way{&sticky, &loose, {
		name: "stock activator to pod", namespace: "knative-serving", pods: []string{podOf(t, e, "knative-serving", "activator")},
		container: "activator", address: net.JoinHostPort(e.ServiceAddress("knative-serving", "activator-service"), "80"),
		header: http.Header{"Knative-Serving-Namespace": {e.Namespace}, "Knative-Serving-Revision": {"demo-00001"}},
	}}
	compare(t, e, ways)
}
