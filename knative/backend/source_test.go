package backend

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes/fake"

	"github.com/limpet-project/limpet/affinity"
	"github.com/limpet-project/limpet/endpoint"
	"github.com/limpet-project/limpet/proxy"
)

// A cluster is an API server without pods, and what watches it: a source, a table and who is told of changes.
type cluster struct {
	t       *testing.T
	client  *fake.Clientset
	factory informers.SharedInformerFactory
	table   *endpoint.Table
	source  *Source
	log     strings.Builder

	mu      sync.Mutex
	changed []Name
}

// newCluster returns a cluster of the objects. Nothing is watched until start.
func newCluster(t *testing.T, edit func(*Options), objects ...runtime.Object) *cluster {
	t.Helper()
	c := &cluster{t: t, client: fake.NewClientset(objects...), table: endpoint.NewTable(endpoint.Options{})}
	c.factory = informers.NewSharedInformerFactory(c.client, 0)
	o := Options{
		Table:        c.table,
		Services:     c.factory.Core().V1().Services().Informer(),
		Slices:       c.factory.Discovery().V1().EndpointSlices().Informer(),
		DrainTimeout: func() time.Duration { return drainTime },
		Changed:      c.note,
		Log:          slog.New(slog.NewTextHandler(&c.log, nil)),
	}
	if edit != nil {
		edit(&o)
	}
	c.source = New(o)
	return c
}

func (c *cluster) note(n Name) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.changed = append(c.changed, n)
}

// told returns whom Changed was told of since it was last asked.
func (c *cluster) told() []Name {
	c.mu.Lock()
	defer c.mu.Unlock()
	told := c.changed
	c.changed = nil
	return told
}

// start has everything run until the test ends, and waits until nothing is left to do.
func (c *cluster) start() {
	c.inform()
	var running sync.WaitGroup
	ctx, cancel := context.WithCancel(c.t.Context())
	running.Go(func() {
		if err := c.source.Run(ctx); err != nil {
			c.t.Errorf("Run() = %v, want no error", err)
		}
	})
	c.t.Cleanup(func() {
		cancel()
		running.Wait()
	})
	c.settle()
}

// inform has the informers run until the test ends, and waits until they have synchronised.
func (c *cluster) inform() {
	ctx, cancel := context.WithCancel(c.t.Context())
	c.factory.Start(ctx.Done())
	c.t.Cleanup(func() {
		cancel()
		c.factory.Shutdown()
	})
	c.settle()
}

// settle waits until the informers have synchronised and nothing is left to do.
func (c *cluster) settle() {
	time.Sleep(time.Second) // virtual: client-go asks every 100 ms whether an informer has synchronised
	synctest.Wait()
}

// apply creates an object or replaces it, and waits until nothing is left to do.
func (c *cluster) apply(object runtime.Object) {
	c.t.Helper()
	c.put(object)
	synctest.Wait()
}

func (c *cluster) put(object runtime.Object) {
	c.t.Helper()
	var err error
	switch o := object.(type) {
	case *corev1.Service:
		if _, err = c.client.CoreV1().Services(o.Namespace).Update(c.t.Context(), o, metav1.UpdateOptions{}); err != nil {
			_, err = c.client.CoreV1().Services(o.Namespace).Create(c.t.Context(), o, metav1.CreateOptions{})
		}
	case *discoveryv1.EndpointSlice:
		if _, err = c.client.DiscoveryV1().EndpointSlices(o.Namespace).Update(c.t.Context(), o, metav1.UpdateOptions{}); err != nil {
			_, err = c.client.DiscoveryV1().EndpointSlices(o.Namespace).Create(c.t.Context(), o, metav1.CreateOptions{})
		}
	default:
		c.t.Fatalf("cannot apply a %T", object)
	}
	if err != nil {
		c.t.Fatalf("applying %v: %v", object, err)
	}
}

// remove deletes a Service, and waits until nothing is left to do.
func (c *cluster) remove(service string) {
	c.t.Helper()
	if err := c.client.CoreV1().Services("shop").Delete(c.t.Context(), service, metav1.DeleteOptions{}); err != nil {
		c.t.Fatalf("deleting the Service %s: %v", service, err)
	}
	synctest.Wait()
}

// serve has the table know services that split over the pools, as the ingress does.
func (c *cluster) serve(pools ...endpoint.RevisionName) {
	services := make([]endpoint.Service, len(pools))
	for i, p := range pools {
		services[i] = endpoint.Service{
			Name:      affinity.ServiceName{Namespace: p.Namespace, Name: p.Name},
			Revisions: []endpoint.Revision{{Name: p.Name, Weight: 100}},
		}
	}
	c.table.SetServices(services)
	c.table.SetSynced()
}

// snapshot returns what the table says of a pool.
func (c *cluster) snapshot(p endpoint.RevisionName) *affinity.Snapshot {
	return c.table.Snapshot(affinity.ServiceName{Namespace: p.Namespace, Name: p.Name})
}

// expect compares what the table says of a pool, one "name address state" for each endpoint.
func (c *cluster) expect(p endpoint.RevisionName, want ...string) {
	c.t.Helper()
	var got []string
	for _, e := range c.snapshot(p).Revision(p.Name).Pool.Endpoints {
		line := fmt.Sprintf("%s %s %s", e.Name[len(e.Name)-4:], e.Address, e.State)
		if e.Standby {
			line += " standby"
		}
		got = append(got, line)
	}
	if !slices.Equal(got, want) {
		c.t.Errorf("endpoints of %s = %q, want %q", p, got, want)
	}
}

// expectTold compares whom Changed was told of.
func (c *cluster) expectTold(want ...Name) {
	c.t.Helper()
	if got := c.told(); !slices.Equal(got, want) {
		c.t.Errorf("Changed was told of %v, want %v", got, want)
	}
}

func revisionObjects() []runtime.Object {
	return []runtime.Object{
		publicService("demo-00001"),
		privateSlice("demo-00001", pod(pod1, "10.244.1.11"), pod(pod2, "10.244.1.12")),
		publicSlice("demo-00001", activator(activator1, "10.250.0.7")),
	}
}

var demoUsed = map[Name]endpoint.RevisionName{demo: demoPool}

func TestUseBeforeAndAfterTheFirstEvents(t *testing.T) {
	for _, test := range []struct {
		name string
		do   func(*cluster)
	}{
		{"before the informers start", func(c *cluster) { c.source.Use(demoUsed); c.start() }},
		{"after they have synchronised", func(c *cluster) { c.start(); c.source.Use(demoUsed) }},
		{"before, and again when they have synchronised but nothing was looked at", func(c *cluster) {
			c.source.Use(demoUsed)
			c.inform()
			c.source.Use(demoUsed)
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := newCluster(t, nil, revisionObjects()...)
				test.do(c)
				c.serve(demoPool)
				c.expect(demoPool, "0001 10.244.1.11:8012 ready", "0002 10.244.1.12:8012 ready", "0001 10.250.0.7:8012 ready standby")
				if b, exists := c.source.Backend(demo); !exists || !b.Ready || len(b.Members) != 3 {
					t.Errorf("Backend(%v) = %+v, %v, want it ready with three members", demo, b, exists)
				}
			})
		})
	}
}

func TestNothingIsPublishedBeforeTheInformersHaveSynchronised(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, nil, revisionObjects()...)
		c.table.SetServices([]endpoint.Service{{
			Name: affinity.ServiceName{Namespace: "shop", Name: "demo-00001"}, Revisions: []endpoint.Revision{{Name: "demo-00001", Weight: 100}},
		}})
		c.source.Use(demoUsed)
		c.start()
		c.table.SetSynced()
		for _, e := range c.snapshot(demoPool).Revision("demo-00001").Pool.Endpoints {
			if !e.Since.IsZero() {
				t.Errorf("endpoint %s is there since %v, want always: it was there when this gateway began", e.Name, e.Since)
			}
		}
	})
}

func TestARevisionComesAndGoes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, nil)
		c.start()
		if b, exists := c.source.Backend(demo); exists {
			t.Fatalf("Backend(%v) = %+v, want none", demo, b)
		}
		c.source.Use(demoUsed)
		c.serve(demoPool)
		c.expect(demoPool)

		c.apply(publicService("demo-00001"))
		c.expectTold(demo)
		c.apply(publicSlice("demo-00001", activator(activator1, "10.250.0.7")))
		c.expectTold(demo) // it is ready by its activator
		c.expect(demoPool, "0001 10.250.0.7:8012 ready standby")
		c.apply(privateSlice("demo-00001", pod(pod1, "10.244.1.11", unready)))
		c.expect(demoPool, "0001 10.244.1.11:8012 down", "0001 10.250.0.7:8012 ready standby")
		c.apply(privateSlice("demo-00001", pod(pod1, "10.244.1.11")))
		c.expect(demoPool, "0001 10.244.1.11:8012 ready", "0001 10.250.0.7:8012 ready standby")
		c.apply(publicSlice("demo-00001", pod(pod1, "10.244.1.11")))
		c.expect(demoPool, "0001 10.244.1.11:8012 ready", "0001 10.250.0.7:8012 gone standby")
		c.expectTold()

		c.remove("demo-00001")
		c.expect(demoPool, "0001 10.244.1.11:8012 gone", "0001 10.250.0.7:8012 gone standby")
		c.expectTold(demo)
		if b, exists := c.source.Backend(demo); exists || b.Members != nil {
			t.Errorf("Backend(%v) = %+v, %v, want none", demo, b, exists)
		}
	})
}

func TestWhatHappensBeforeRunIsNotMissed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, nil, revisionObjects()...)
		c.inform()
		c.source.Use(demoUsed)
		c.remove("demo-00001")
		for _, name := range []string{"demo-00001-private-x7k2p", "demo-00001-q9v4t"} { // what is still there is an event for Run
			if err := c.client.DiscoveryV1().EndpointSlices("shop").Delete(t.Context(), name, metav1.DeleteOptions{}); err != nil {
				t.Fatal(err)
			}
		}
		synctest.Wait()
		c.start()
		c.serve(demoPool)
		c.expect(demoPool, "0001 10.244.1.11:8012 gone", "0002 10.244.1.12:8012 gone", "0001 10.250.0.7:8012 gone standby")
	})
}

func TestAPodDrains(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, nil, revisionObjects()...)
		c.start()
		c.source.Use(demoUsed)
		c.serve(demoPool)
		until := time.Now().Add(drainTime)
		left := pod(pod1, "10.244.1.11", leaving)
		left.Conditions.Serving = new(true)
		c.apply(privateSlice("demo-00001", left, pod(pod2, "10.244.1.12")))
		time.Sleep(time.Minute)
		c.apply(privateSlice("demo-00001", pod(pod1, "10.244.1.11", leaving), pod(pod2, "10.244.1.12")))
		c.expect(demoPool, "0001 10.244.1.11:8012 draining", "0002 10.244.1.12:8012 ready", "0001 10.250.0.7:8012 ready standby")
		e := c.snapshot(demoPool).Revision("demo-00001").Pool.Endpoint(string(pod1))
		if !e.Until.Equal(until) {
			t.Errorf("drain of %s ends at %v, want %v: counted from when it was first seen", pod1, e.Until, until)
		}
		c.apply(privateSlice("demo-00001", pod(pod2, "10.244.1.12")))
		c.expect(demoPool, "0001 10.244.1.11:8012 gone", "0002 10.244.1.12:8012 ready", "0001 10.250.0.7:8012 ready standby")
		c.expectTold(demo) // when it came into use, of which nobody had asked before
	})
}

func TestWhatHasNotChangedIsNotPublishedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, nil, revisionObjects()...)
		c.start()
		c.source.Use(demoUsed)
		c.serve(demoPool)
		before := c.snapshot(demoPool)
		c.source.Use(demoUsed)
		c.source.Refresh()
		again := privateSlice("demo-00001", pod(pod2, "10.244.1.12"), pod(pod1, "10.244.1.11"))
		again.Annotations = map[string]string{"endpoints.kubernetes.io/last-change-trigger-time": "2026-11-02T10:00:00Z"}
		c.apply(again)
		c.apply(privateSlice("demo-00002", pod(pod3, "10.244.1.13")))
		c.apply(publicService("demo-00001", annotated("serving.knative.dev/creator", "shop-deployer")))
		if after := c.snapshot(demoPool); after != before {
			t.Errorf("snapshot was published again: %+v, want the one before", after)
		}
	})
}

func TestOnlyWhatIsUsedIsInTheTable(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		objects := append(revisionObjects(), publicService("demo-00002"), privateSlice("demo-00002", pod(pod3, "10.244.1.13")))
		c := newCluster(t, nil, objects...)
		c.start()
		next := Name{"shop", "demo-00002", "80"}
		nextPool := endpoint.RevisionName{Namespace: "shop", Name: "demo-00002"}
		c.source.Use(map[Name]endpoint.RevisionName{demo: demoPool})
		c.serve(demoPool, nextPool)
		c.expect(nextPool)
		c.source.Use(map[Name]endpoint.RevisionName{next: nextPool})
		c.expect(nextPool, "0003 10.244.1.13:8012 ready")
		c.apply(privateSlice("demo-00001", pod(pod1, "10.244.1.11")))
		c.expect(demoPool, "0001 10.244.1.11:8012 ready", "0002 10.244.1.12:8012 ready", "0001 10.250.0.7:8012 ready standby") // as it was
		c.serve(nextPool)
		c.serve(demoPool, nextPool)
		c.expect(demoPool) // it was dropped when nothing listed it
		c.source.Use(map[Name]endpoint.RevisionName{demo: demoPool, next: nextPool})
		c.expect(demoPool, "0001 10.244.1.11:8012 ready", "0001 10.250.0.7:8012 ready standby")
		c.source.Use(nil)
		if len(c.source.watchers) != 0 || len(c.source.pools) != 0 || len(c.source.used) != 0 {
			t.Errorf("%d watchers, %d pools and %d backends in use are left, want none",
				len(c.source.watchers), len(c.source.pools), len(c.source.used))
		}
	})
}

func TestABackendTakesAnotherName(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, nil, revisionObjects()...)
		c.start()
		c.source.Use(demoUsed)
		c.apply(privateSlice("demo-00001", pod(pod1, "10.244.1.11", leaving)))
		until := time.Now().Add(drainTime)
		time.Sleep(time.Minute)
		renamed := endpoint.RevisionName{Namespace: "shop", Name: "demo-00001:80"}
		c.source.Use(map[Name]endpoint.RevisionName{demo: renamed})
		c.serve(demoPool, renamed)
		c.expect(renamed, "0001 10.244.1.11:8012 draining", "0001 10.250.0.7:8012 ready standby")
		if e := c.snapshot(renamed).Revision(renamed.Name).Pool.Endpoint(string(pod1)); !e.Until.Equal(until) {
			t.Errorf("drain of %s ends at %v, want %v whatever it is called", pod1, e.Until, until)
		}
		c.expect(demoPool)
	})
}

func TestOfTwoBackendsWithOneNameTheFirstThatExistsCounts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, nil, revisionObjects()...)
		c.start()
		absent, byName := Name{"shop", "demo-00000", "80"}, Name{"shop", "demo-00001", "http"}
		c.source.Use(map[Name]endpoint.RevisionName{absent: demoPool, demo: demoPool, byName: demoPool})
		c.serve(demoPool)
		want := []string{"0001 10.244.1.11:8012 ready", "0002 10.244.1.12:8012 ready", "0001 10.250.0.7:8012 ready standby"}
		c.expect(demoPool, want...)
		c.source.Use(map[Name]endpoint.RevisionName{byName: demoPool})
		c.expect(demoPool, want...)
		encrypted := Name{"shop", "demo-00001", "443"}
		for range 8 { // a map has no order
			c.source.Use(map[Name]endpoint.RevisionName{demo: demoPool, encrypted: demoPool})
			c.expect(demoPool, "0001 10.244.1.11:8112 ready", "0002 10.244.1.12:8112 ready", "0001 10.250.0.7:8112 ready standby")
			c.source.Use(nil)
			c.serve()
			c.serve(demoPool)
		}
	})
}

func TestASliceBecomesAnotherServices(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		orders, returns := Name{"shop", "orders", "80"}, Name{"shop", "returns", "80"}
		ordersPool := endpoint.RevisionName{Namespace: "shop", Name: "orders:80"}
		returnsPool := endpoint.RevisionName{Namespace: "shop", Name: "returns:80"}
		ports := slicePorts(map[string]int32{"web": 8080})
		c := newCluster(t, nil,
			plainService("orders", corev1.ServicePort{Name: "web", Port: 80}), plainService("returns", corev1.ServicePort{Name: "web", Port: 80}),
			slice("orders-5tgb2", "orders", ports, pod(pod1, "10.244.2.21")))
		c.start()
		c.source.Use(map[Name]endpoint.RevisionName{orders: ordersPool, returns: returnsPool})
		c.serve(ordersPool, returnsPool)
		c.expect(ordersPool, "0001 10.244.2.21:8080 ready")
		c.apply(slice("orders-5tgb2", "returns", ports, pod(pod1, "10.244.2.21")))
		c.expect(ordersPool, "0001 10.244.2.21:8080 gone")
		c.expect(returnsPool, "0001 10.244.2.21:8080 ready")
	})
}

func TestChangedIsToldOfWhatIsNotAsItWasSaid(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, nil, revisionObjects()...)
		c.start()
		c.source.Backend(demo)
		c.source.Use(demoUsed)
		synctest.Wait()
		c.expectTold() // Backend said the same before
		c.source.Use(nil)
		c.source.Backend(demo)
		c.source.Use(nil) // somebody else's, who knew nothing of it
		c.source.Use(demoUsed)
		synctest.Wait()
		c.expectTold()
		c.source.Use(nil)
		c.source.Backend(demo)
		c.apply(publicService("demo-00001", annotated("autoscaling.knative.dev/target-burst-capacity", "-1")))
		c.expectTold() // it is not in use
		c.source.Use(demoUsed)
		synctest.Wait()
		c.expectTold(demo) // it changed between Backend and Use
		c.apply(publicService("demo-00001"))
		c.expectTold(demo)
		c.apply(privateSlice("demo-00001", pod(pod1, "10.244.1.11")))
		c.expectTold() // nothing but members changed
	})
}

func TestSettingsCountForAll(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		internalTLS := false
		c := newCluster(t, func(o *Options) { o.SystemInternalTLS = func() bool { return internalTLS } }, revisionObjects()...)
		c.start()
		c.source.Backend(demo)
		c.source.Use(demoUsed)
		c.serve(demoPool)
		settings := func(capacity string) *corev1.ConfigMap {
			return &corev1.ConfigMap{Data: map[string]string{"target-burst-capacity": capacity}}
		}
		relayed := func(want bool, told ...Name) {
			t.Helper()
			synctest.Wait()
			c.expectTold(told...)
			if b, _ := c.source.Backend(demo); b.Relayed != want {
				t.Errorf("Backend(%v).Relayed = %v, want %v", demo, b.Relayed, want)
			}
		}
		c.source.HandleConfig(settings("-1"))
		relayed(true, demo)
		c.source.HandleConfig(settings("-1"))
		relayed(true)
		c.source.HandleConfig(settings("-2"))
		relayed(true)
		if !strings.Contains(c.log.String(), "config-autoscaler") {
			t.Errorf("log = %q, want a word on config-autoscaler", c.log.String())
		}
		c.source.HandleConfig(nil)
		relayed(false, demo)

		internalTLS = true
		c.source.Refresh()
		relayed(false, demo)
		c.expect(demoPool, "0001 10.244.1.11:8112 ready", "0002 10.244.1.12:8112 ready", "0001 10.250.0.7:8112 ready standby")
		if b, _ := c.source.Backend(demo); b.Protocol != proxy.ProtocolTLS {
			t.Errorf("Backend(%v).Protocol = %s, want %s", demo, b.Protocol, proxy.ProtocolTLS)
		}
	})
}

func TestABackendIsTheCallersOwn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, nil, revisionObjects()...)
		c.start()
		c.source.Use(demoUsed)
		b, _ := c.source.Backend(demo)
		b.Members[0].Address = "192.0.2.1:1"
		if again, _ := c.source.Backend(demo); again.Members[0].Address != "10.244.1.11:8012" {
			t.Errorf("Backend(%v).Members[0] = %v, want what it was", demo, again.Members[0])
		}
	})
}

func TestRunSaysWhatIsWrongWithItsInformers(t *testing.T) {
	c := newCluster(t, nil)
	stopped, cancel := context.WithCancel(t.Context())
	cancel()
	late := informers.NewSharedInformerFactory(c.client, 0).Discovery().V1().EndpointSlices().Informer()
	late.Run(stopped.Done())
	s := New(Options{Table: c.table, Services: c.factory.Core().V1().Services().Informer(), Slices: late})
	if err := s.Run(t.Context()); err == nil || !strings.Contains(err.Error(), "indexing EndpointSlices") {
		t.Errorf("Run() = %v, want an error on the index", err)
	}
}

func TestTwoSourcesShareTheInformers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, nil, revisionObjects()...)
		other := New(Options{Table: endpoint.NewTable(endpoint.Options{}), Services: c.source.options.Services, Slices: c.source.options.Slices})
		c.start()
		if b, exists := other.Backend(demo); !exists || len(b.Members) != 3 {
			t.Errorf("Backend(%v) = %+v, %v, want three members", demo, b, exists)
		}
	})
}
