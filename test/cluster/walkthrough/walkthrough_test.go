// Package walkthrough shows on a real cluster, step by step, what sticky routing does, and checks every step.
//
// It is a test whose output is for people. Start with TestWalkthrough.
package walkthrough

import (
	"fmt"
	"net"
	"os"
	"testing"

	"github.com/limpet-project/limpet/test/cluster"
	"github.com/limpet-project/limpet/test/cluster/demo"
	"github.com/limpet-project/limpet/test/cluster/ingress"
)

const (
	counter = "./examples/counter"
	service = "demo"
)

func TestMain(m *testing.M) {
	os.Exit(cluster.MainWith(m, cluster.Needs{Tier: cluster.Knative, Images: []string{counter}, Ingress: true}))
}

func TestWalkthrough(t *testing.T) {
	e := cluster.Start(t, cluster.Knative)
	e.InstallIngress(ingress.Options{Replicas: 2, Redis: true})
	s := &show{
		t: t, e: e, address: net.JoinHostPort(e.IngressAddress(), "80"),
		host: service + "." + e.Namespace + "." + ingress.Domain,
	}
	s.say("Two replicas of the ingress share their bindings in Redis. Every request below is a connection of its own,")
	s.say("so Kubernetes gives each to one or the other.")
	image := e.Image(counter)
	s.sessions(image)
	s.revisions()
	s.both()
	s.changes()
	s.weights()
	fmt.Printf("\n%d steps, %d differ\n", s.number, len(s.differs))
	for _, d := range s.differs {
		fmt.Println("  differs:", d)
	}
}

func (s *show) service(image string, pods int) demo.Service {
	return demo.Service{Name: service, Image: image, Pods: pods, Env: map[string]string{"COUNTER_SESSION_SEGMENT": "2"}}
}
