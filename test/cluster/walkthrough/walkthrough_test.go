// Package walkthrough shows on a real cluster, step by step, what sticky routing does, and checks every step.
//
// It is a test whose output is for people. The steps are the same whoever keeps the sessions: Limpet's ingress in TestTheIngress, Limpet's
// activators behind an ingress that knows nothing of affinity in TestTheActivator.
package walkthrough

import (
	"fmt"
	"net"
	"os"
	"testing"
	"time"

	"github.com/limpet-project/limpet/test/cluster"
	"github.com/limpet-project/limpet/test/cluster/activator"
	"github.com/limpet-project/limpet/test/cluster/demo"
	"github.com/limpet-project/limpet/test/cluster/ingress"
)

const (
	counter = "./examples/counter"
	service = "demo"
)

func TestMain(m *testing.M) {
	os.Exit(cluster.MainWith(m, cluster.Needs{Tier: cluster.Knative, Images: []string{counter}, Ingress: true, Activator: true}))
}

// patient is for machines that run clients, pods and a whole control plane on the same two processors.
var patient = map[string]string{"store.redis.timeout": "5s"}

func TestTheIngress(t *testing.T) {
	e := cluster.Start(t, cluster.Knative)
	e.InstallActivator(activator.Options{Stock: true})
	e.InstallIngress(ingress.Options{Replicas: 2, Redis: true, Set: patient})
	s := newShow(t, e)
	s.say("The ingress keeps sessions: two replicas, which share their bindings in Redis. Every request below is a connection of its own,")
	s.say("so Kubernetes gives each to one or the other.")
	s.all()
}

func TestTheActivator(t *testing.T) {
	e := cluster.Start(t, cluster.Knative)
	e.InstallActivator(activator.Options{Replicas: 2, Redis: true, Set: patient})
	e.InstallIngress(ingress.Options{Replicas: 2, Redis: true, Plain: true})
	s := newShow(t, e)
	s.template = map[string]string{"autoscaling.knative.dev/target-burst-capacity": "-1"}
	s.say("The activators keep sessions: two of Limpet's, which share their bindings in Redis. Before them are two replicas of an ingress that")
	s.say("does as Kourier does: it divides the requests of a split by the weights, and sends each to any activator, for target-burst-capacity is -1.")
	s.say("Every request below is a connection of its own.")
	s.all()
}

func newShow(t *testing.T, e *cluster.Env) *show {
	return &show{
		t: t, e: e, address: net.JoinHostPort(e.IngressAddress(), "80"),
		host: service + "." + e.Namespace + "." + ingress.Domain,
	}
}

// all shows all steps and what differs.
func (s *show) all() {
	image, began := s.e.Image(counter), time.Now()
	s.sessions(image)
	s.revisions()
	s.both()
	s.changes()
	s.weights()
	fmt.Printf("\n%d steps, %d differ, %v\n", s.number, len(s.differs), time.Since(began).Round(time.Second))
	for _, d := range s.differs {
		fmt.Println("  differs:", d)
	}
}

func (s *show) service(image string, pods int) demo.Service {
	return demo.Service{
		Name: service, Image: image, Pods: pods, Template: s.template, Env: map[string]string{"COUNTER_SESSION_SEGMENT": "2"},
	}
}
