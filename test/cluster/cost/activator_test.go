package cost

import (
	"net"
	"net/http"
	"testing"
	"time"

	"github.com/limpet-project/limpet/test/cluster"
	"github.com/limpet-project/limpet/test/cluster/activator"
	"github.com/limpet-project/limpet/test/cluster/demo"
	"github.com/limpet-project/limpet/test/cluster/ingress"
)

// The activators that are compared run beside the one that Serving uses, all at the same time.
const (
	stockActivator  = "activator-stock"
	memoryActivator = "activator-memory"
	redisActivator  = "activator-redis"
	pairActivator   = "activator-pair"
	againActivator  = "activator-stock-again" // for what chance does
)

func TestWhatTheActivatorCosts(t *testing.T) {
	e := cluster.Start(t, cluster.Knative)
	e.InstallIngress(ingress.Options{Replicas: 1}) // a Route without an ingress has no traffic
	for name, o := range map[string]activator.Options{
		stockActivator: {Stock: true}, memoryActivator: {}, redisActivator: {Redis: true}, pairActivator: {Redis: true, Replicas: 2},
		againActivator: {Stock: true},
	} {
		e.InstallActivatorBeside(name, o)
	}
	const unlimited, limited, off = "open", "limited", "plain"
	for name, change := range map[string]func(*demo.Service){
		unlimited: func(*demo.Service) {},
		limited:   func(s *demo.Service) { s.Concurrency = 10 },
		off:       func(s *demo.Service) { s.Annotations = map[string]string{"affinity.limpet.dev/policy": "off"} },
	} {
		s := demo.Service{
			Name: name, Image: e.Image(counter), Revision: name + "-00001", Pods: 3,
			Template: map[string]string{"autoscaling.knative.dev/target-burst-capacity": "-1"},
		}
		change(&s)
		e.Apply(s.Manifest())
		e.WaitForCondition("serving.knative.dev/v1/Service", name, "Ready", 3*time.Minute)
		e.WaitForDeployment(name+"-00001-deployment", 2*time.Minute)
	}
	through := func(name, by, service string, session bool) *way {
		w := &way{
			name: name, namespace: activator.Namespace, container: activator.Deployment, session: session,
			host:   service + "." + e.Namespace + ".svc.cluster.local",
			header: http.Header{"Knative-Serving-Namespace": {e.Namespace}, "Knative-Serving-Revision": {service + "-00001"}},
		}
		pods, err := e.In(activator.Namespace).Pods(t.Context(), "app="+by)
		if err != nil {
			t.Fatal(err)
		}
		for _, p := range pods {
			w.pods, w.address = append(w.pods, p.Name), net.JoinHostPort(p.Status.PodIP, "8012")
		}
		return w
	}
	compare(t, e, []*way{
		through("ours, a service without affinity", redisActivator, off, false),
		through("ours, requests without session", redisActivator, unlimited, false),
		through("ours, sessions in memory", memoryActivator, unlimited, true),
		through("ours, sessions in Redis", redisActivator, unlimited, true),
		through("ours, sessions in Redis, containerConcurrency 10", redisActivator, limited, true),
		through("two of ours, sessions in Redis, containerConcurrency 10", pairActivator, limited, true),
		through("stock, another one", againActivator, unlimited, false),
		through("stock, containerConcurrency 10", stockActivator, limited, false),
		through("stock", stockActivator, unlimited, false),
	})
}

// watched is how long activators are watched that nobody asks anything.
const watched = 30 * time.Second

func TestWhatAnIdleActivatorCosts(t *testing.T) {
	e := cluster.Start(t, cluster.Knative)
	e.InstallIngress(ingress.Options{Replicas: 1})
	for name, o := range map[string]activator.Options{
		stockActivator: {Stock: true}, memoryActivator: {}, redisActivator: {Redis: true},
	} {
		e.InstallActivatorBeside(name, o)
	}
	time.Sleep(watched / 2) // what they do when they begin does not count
	for _, name := range []string{stockActivator, memoryActivator, redisActivator} {
		w := &way{namespace: activator.Namespace, container: activator.Deployment, pods: []string{podOf(t, e, activator.Namespace, name)}}
		before := w.used(t, e)
		time.Sleep(watched)
		t.Logf("%-20s %v of processor time a second", name, micros((w.used(t, e)-before)/time.Duration(watched.Seconds())))
	}
}
