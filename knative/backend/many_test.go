package backend

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/cache"

	"github.com/limpet-project/limpet/affinity"
	"github.com/limpet-project/limpet/endpoint"
	"github.com/limpet-project/limpet/knative/todo"
)

// manyRevisions returns the objects of so many revisions with so many pods each, and their backends.
func manyRevisions(revisions, pods int) ([]runtime.Object, map[Name]endpoint.RevisionName) {
	var objects []runtime.Object
	used := make(map[Name]endpoint.RevisionName)
	for i := range revisions {
		name := fmt.Sprintf("shop-%04d-00001", i)
		used[Name{"shop", name, "80"}] = endpoint.RevisionName{Namespace: "shop", Name: name}
		objects = append(objects, publicService(name), manyPods(name, i, pods, -1), publicSlice(name, activator(activator1, "10.250.0.7")))
	}
	return objects, used
}

// manyPods returns the slice of a revision's pods, of which one is not ready.
func manyPods(revision string, number, pods, broken int) *discoveryv1.EndpointSlice {
	endpoints := make([]discoveryv1.Endpoint, pods)
	for p := range pods {
		uid := types.UID(fmt.Sprintf("6f0c1d52-3b0e-4a53-%04d-2f1f6d2a%04d", number, p))
		endpoints[p] = pod(uid, fmt.Sprintf("10.%d.%d.%d", 128+number>>8, number&255, p))
		if p == broken {
			unready(&endpoints[p])
		}
	}
	return privateSlice(revision, endpoints...)
}

func TestAChangeOfOnePodCostsALookAtOneBackend(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var looks atomic.Int32
		objects, used := manyRevisions(500, 2)
		c := newCluster(t, func(o *Options) { o.SystemInternalTLS = func() bool { looks.Add(1); return false } }, objects...)
		c.start()
		c.source.Use(used)
		synctest.Wait()
		looks.Store(0)
		c.apply(manyPods("shop-0042-00001", 42, 2, 1))
		if got := looks.Load(); got != 1 {
			t.Errorf("a change of one pod was %d looks at backends, want 1", got)
		}
		c.apply(privateSlice("returns-00001", pod(pod3, "10.244.1.13")))
		c.source.Use(used)
		if got := looks.Load(); got != 1 {
			t.Errorf("what is not used, or was before, was %d looks at backends, want none", got-1)
		}
	})
}

// TestTheTableFollowsWhateverHappens changes revisions, their pods and what is used at random, several at a time, and compares the
// table with what follows from the objects whenever nothing is left to do.
func TestTheTableFollowsWhateverHappens(t *testing.T) {
	for seed := range uint64(8) {
		synctest.Test(t, func(t *testing.T) {
			w := &wanderer{cluster: newCluster(t, nil), chance: rand.New(rand.NewPCG(seed, 0))}
			w.start()
			for range 40 {
				w.step()
				w.compare()
			}
		})
	}
}

// A wanderer is a cluster in which things happen at random.
type wanderer struct {
	*cluster
	chance *rand.Rand
	used   map[Name]endpoint.RevisionName
}

var wandering = []string{"demo-00001", "demo-00002", "demo-00003"}

// step lets a few things happen and waits until nothing is left to do.
func (w *wanderer) step() {
	var running sync.WaitGroup
	for range 1 + w.chance.IntN(6) {
		name := wandering[w.chance.IntN(len(wandering))]
		switch w.chance.IntN(6) {
		case 0:
			w.use()
		case 1:
			w.put(publicService(name))
		case 2:
			_ = w.client.CoreV1().Services("shop").Delete(w.t.Context(), name, metav1.DeleteOptions{}) // it may not be there
		case 3:
			w.put(publicSlice(name, activator(activator1, "10.250.0.7")))
		case 4:
			running.Go(func() { w.source.Backend(Name{"shop", name, "80"}) })
		default:
			w.put(privateSlice(name, w.pods()...))
		}
	}
	running.Wait()
	synctest.Wait()
}

func (w *wanderer) use() {
	w.used = make(map[Name]endpoint.RevisionName)
	for _, name := range wandering {
		if w.chance.IntN(3) > 0 {
			w.used[Name{"shop", name, "80"}] = endpoint.RevisionName{Namespace: "shop", Name: name}
		}
	}
	w.source.Use(w.used)
}

func (w *wanderer) pods() []discoveryv1.Endpoint {
	edits := []func(*discoveryv1.Endpoint){unready, leaving, func(*discoveryv1.Endpoint) {}}
	var pods []discoveryv1.Endpoint
	for i, uid := range []types.UID{pod1, pod2, pod3} {
		if edit := w.chance.IntN(4); edit < 3 {
			pods = append(pods, pod(uid, fmt.Sprintf("10.244.1.1%d", i+1), edits[edit]))
		}
	}
	return pods
}

// compare expects that the table lists the members of what is used, and nothing else.
func (w *wanderer) compare() {
	w.t.Helper()
	var pools []endpoint.RevisionName
	for _, p := range w.used {
		pools = append(pools, p)
	}
	w.serve(pools...)
	for n, p := range w.used {
		a := derive(n, w.source.objects(n), w.source.rules(), &memory{})
		var want []string
		for _, m := range a.backend.Members {
			want = append(want, fmt.Sprintf("%s %v %v", m.Name, !m.NotReady && !m.Draining, m.Draining))
		}
		var got []string
		for _, e := range w.snapshot(p).Revision(p.Name).Pool.Endpoints {
			if s := e.State.String(); s != "gone" {
				got = append(got, fmt.Sprintf("%s %v %v", e.Name, s == "ready", s == "draining"))
			}
		}
		if !slices.Equal(got, want) {
			w.t.Fatalf("endpoints of %s = %q, want %q", p, got, want)
		}
	}
}

func TestTheHandlerNotesTheService(t *testing.T) {
	version := func(v string, s *discoveryv1.EndpointSlice) *discoveryv1.EndpointSlice {
		s.ResourceVersion = v
		return s
	}
	one := version("811", slice("orders-5tgb2", "orders", nil))
	for _, test := range []struct {
		name string
		do   func(cache.ResourceEventHandler)
		want []string
	}{
		{"an addition", func(h cache.ResourceEventHandler) { h.OnAdd(one, true) }, []string{"shop/orders"}},
		{"a deletion", func(h cache.ResourceEventHandler) { h.OnDelete(one) }, []string{"shop/orders"}},
		{
			"a deletion that was missed", func(h cache.ResourceEventHandler) {
				h.OnDelete(cache.DeletedFinalStateUnknown{Key: "shop/orders-5tgb2", Obj: one})
			}, []string{"shop/orders"},
		},
		{"a resync is no change", func(h cache.ResourceEventHandler) { h.OnUpdate(one, one) }, nil},
		{
			"a slice that becomes another's", func(h cache.ResourceEventHandler) {
				h.OnUpdate(one, version("812", slice("orders-5tgb2", "returns", nil)))
			}, []string{"shop/orders", "shop/returns"},
		},
		{"a slice of no Service", func(h cache.ResourceEventHandler) { h.OnAdd(slice("lone", "", nil), false) }, nil},
		{"what is no slice", func(h cache.ResourceEventHandler) { h.OnAdd(&corev1.Pod{}, false) }, nil},
	} {
		t.Run(test.name, func(t *testing.T) {
			s := &Source{todo: todo.New[string]()}
			test.do(todo.Follow(s.note(sliceKey)))
			services, all := s.todo.Take()
			var got []string
			for key := range services {
				got = append(got, key)
			}
			slices.SortFunc(got, strings.Compare)
			if !slices.Equal(got, test.want) || all {
				t.Errorf("services to look at = %v, all %v, want %v", got, all, test.want)
			}
		})
	}
}

// BenchmarkOnePod changes one pod of a revision with 20, and waits until the table has it: among 10 revisions and among 3000.
func BenchmarkOnePod(b *testing.B) {
	for _, revisions := range []int{10, 3000} {
		b.Run(fmt.Sprintf("revisions=%d", revisions), func(b *testing.B) {
			objects, used := manyRevisions(revisions, 20)
			services := cache.NewSharedIndexInformer(&cache.ListWatch{}, &corev1.Service{}, 0, cache.Indexers{})
			lists := cache.NewSharedIndexInformer(&cache.ListWatch{}, &discoveryv1.EndpointSlice{}, 0, cache.Indexers{})
			table := endpoint.NewTable(endpoint.Options{})
			s := New(Options{Table: table, Services: services, Slices: lists, DrainTimeout: func() time.Duration { return drainTime }})
			for _, o := range objects {
				informer := lists
				if _, is := o.(*corev1.Service); is {
					informer = services
				}
				if err := informer.GetIndexer().Add(o); err != nil {
					b.Fatal(err)
				}
			}
			s.begun = true
			s.Use(used)
			table.SetServices([]endpoint.Service{{
				Name: affinity.ServiceName{Namespace: "shop", Name: "shop-0003"}, Revisions: []endpoint.Revision{{Name: "shop-0003-00001", Weight: 100}},
			}})
			states := []*discoveryv1.EndpointSlice{manyPods("shop-0003-00001", 3, 20, 1), manyPods("shop-0003-00001", 3, 20, 2)}
			handler := todo.Follow(s.note(sliceKey))
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				_ = lists.GetIndexer().Update(states[i&1])
				handler.OnUpdate(states[i&1], states[i&1])
				s.work()
			}
		})
	}
}
