package scaledown

import (
	"context"
	"encoding/json"
	"errors"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes/fake"
	k8stesting "k8s.io/client-go/testing"
	asmetrics "knative.dev/serving/pkg/autoscaler/metrics"

	"github.com/limpet-project/limpet/knative/policy"
)

// A cluster has pods, and knows when costs were written on them.
type cluster struct {
	*testing.T
	client *fake.Clientset
	begin  time.Time

	mu     sync.Mutex
	pods   []Pod
	err    error // of the count
	deny   bool
	forget bool // writes are noted, and not done
	writes []write
}

type write struct {
	pod string
	at  time.Duration
}

func newCluster(t *testing.T, pods ...Pod) *cluster {
	c := &cluster{T: t, client: fake.NewClientset(), begin: time.Now(), pods: pods}
	for _, p := range pods {
		pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: p.Namespace, Name: p.Name, UID: p.UID}}
		if _, err := c.client.CoreV1().Pods(p.Namespace).Create(t.Context(), pod, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	c.client.PrependReactor("patch", "pods", c.patched)
	return c
}

// patched notes a write.
func (c *cluster) patched(a k8stesting.Action) (bool, runtime.Object, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	name := a.(k8stesting.PatchAction).GetName()
	c.writes = append(c.writes, write{name, time.Since(c.begin)})
	if c.deny {
		return true, nil, apierrors.NewForbidden(corev1.Resource("pods"), name, errors.New("no such role"))
	}
	return c.forget, &corev1.Pod{}, nil
}

func (c *cluster) count(context.Context) ([]Pod, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.pods), c.err
}

// set replaces the pods as they are counted.
func (c *cluster) set(pods ...Pod) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.pods = pods
}

// taken returns the writes since the last call.
func (c *cluster) taken() []write {
	c.mu.Lock()
	defer c.mu.Unlock()
	writes := c.writes
	c.writes = nil
	return writes
}

// costs returns what the pods have on them, by name; those without a cost are left out.
func (c *cluster) costs() map[string]string {
	c.Helper()
	list, err := c.client.CoreV1().Pods("shop").List(c.Context(), metav1.ListOptions{})
	if err != nil {
		c.Fatal(err)
	}
	costs := make(map[string]string)
	for i := range list.Items {
		if v, has := list.Items[i].Annotations[corev1.PodDeletionCost]; has {
			costs[list.Items[i].Name] = v
		}
	}
	return costs
}

// run keeps a keeper running until the test ends.
func (c *cluster) run(o Options) {
	o.Count, o.Pods = c.count, c.client.CoreV1()
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { New(o).Run(ctx); close(done) }()
	c.Cleanup(func() { stop(); <-done })
}

// Protects against prototype defect 51: sessions did not hold pods, and scale-down was random.
func TestTheCostOfAPodFollowsItsSessions(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, demo(1, 0), demo(2, 12), demo(3, 3))
		c.run(Options{})
		pass := func(name string, d time.Duration, want map[string]string) {
			t.Helper()
			time.Sleep(d)
			synctest.Wait()
			if diff := cmp.Diff(want, c.costs()); diff != "" {
				t.Errorf("%s: costs (-want +got):\n%s", name, diff)
			}
		}
		one, two, three := demo(1, 0).Name, demo(2, 0).Name, demo(3, 0).Name
		pass("at first", time.Second, map[string]string{two: "10", three: "1"})
		c.set(demo(1, 1500), unknown(demo(2, 0)), demo(3, 0))
		pass("a minute later", 2*time.Minute, map[string]string{one: "1000", two: "10"})
		c.set(demo(1, 0), demo(2, 0), demo(3, 0))
		pass("all sessions have ended", 2*time.Minute, map[string]string{})
	})
}

func TestWritesAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var pods []Pod
		for n := range 400 {
			pods = append(pods, demo(n, 1))
		}
		c := newCluster(t)
		c.forget = true // 2000 writes of the fake one take a minute
		c.run(Options{Rate: 4})
		for minute := range 10 {
			for i := range pods {
				pods[i].Sessions = []int64{1, 10}[minute%2]
			}
			c.set(slices.Clone(pods)...)
			time.Sleep(time.Minute)
		}
		synctest.Wait()
		writes := c.taken()
		last := make(map[string]time.Duration)
		for i, w := range writes {
			if at, before := last[w.pod]; before && w.at-at < pause {
				t.Errorf("%s was written twice in %v, want one write a minute at most", w.pod, w.at-at)
			}
			last[w.pod] = w.at
			if i >= 5 && w.at-writes[i-5].at < time.Second {
				t.Errorf("6 writes in %v, want 4 a second at most", w.at-writes[i-5].at)
			}
		}
		if len(last) != len(pods) || len(writes) < 1200 { // a round that finds a pod too early leaves it to a later one
			t.Errorf("%d writes of %d pods in 10 minutes, want half of 2400 at least, and all 400", len(writes), len(last))
		}
	})
}

func TestWithoutTheRoleNothingIsWrittenAndLittleTried(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, demo(1, 1), demo(2, 10), demo(3, 100))
		c.deny = true
		c.run(Options{})
		time.Sleep(time.Minute - time.Second)
		synctest.Wait()
		if n := len(c.taken()); n != 3 {
			t.Errorf("%d writes were tried in a minute, want one for each of the 3 pods", n)
		}
		c.mu.Lock()
		c.deny = false
		c.mu.Unlock()
		time.Sleep(2 * time.Minute)
		synctest.Wait()
		if got := len(c.costs()); got != 3 {
			t.Errorf("%d pods have a cost when the role is there, want 3", got)
		}
	})
}

func TestAPatchNamesThePodByItsUIDAndTouchesNothingElse(t *testing.T) {
	for want, c := range map[string]change{
		`{"metadata":{"annotations":{"controller.kubernetes.io/pod-deletion-cost":"100"},"uid":"6f0c1d52"}}`: {Pod{UID: "6f0c1d52"}, 100},
		`{"metadata":{"annotations":{"controller.kubernetes.io/pod-deletion-cost":null},"uid":"6f0c1d52"}}`:  {Pod{UID: "6f0c1d52"}, 0},
	} {
		got, err := patchOf(c)
		if err != nil || string(got) != want || !json.Valid(got) {
			t.Errorf("patchOf(%v) = %s, %v, want %s", c, got, err, want)
		}
	}
}

// heard returns what the autoscaler was told in a time.
func heard(stats <-chan []asmetrics.StatMessage, d time.Duration) (all [][]asmetrics.StatMessage) {
	for end := time.After(d); ; {
		select {
		case m := <-stats:
			all = append(all, m)
		case <-end:
			return all
		}
	}
}

func TestSessionsAreLoadIfThatIsAskedFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		other := Pod{Namespace: "bank", Revision: "demo-00007", Name: "demo-00007-deployment-5d9c7c8b6-k2p8x", UID: "other", Sessions: 2}
		c := newCluster(t, demo(1, 4), demo(2, 1000), demo(3, 0), other)
		var load policy.SessionLoad
		var mu sync.Mutex
		stats := make(chan []asmetrics.StatMessage)
		c.run(Options{Stats: stats, PodName: "activator-5c8d7f9b6-x7k2p", Load: func() policy.SessionLoad {
			mu.Lock()
			defer mu.Unlock()
			return load
		}})
		if got := heard(stats, time.Minute); len(got) != 0 {
			t.Errorf("without a setting the autoscaler was told %v, want nothing", got)
		}
		mu.Lock()
		load = policy.SessionLoad{Session: 0.25, Pod: 2}
		mu.Unlock()
		message := func(namespace, revision string, load float64) asmetrics.StatMessage {
			return asmetrics.StatMessage{
				Key:  types.NamespacedName{Namespace: namespace, Name: revision},
				Stat: asmetrics.Stat{PodName: "activator-5c8d7f9b6-x7k2p", AverageConcurrentRequests: load},
			}
		}
		got := heard(stats, 10*time.Second)
		if want := []asmetrics.StatMessage{message("bank", "demo-00007", 0.5), message("shop", "demo-00001", 3)}; !cmp.Equal(got[len(got)-1], want) {
			t.Errorf("the autoscaler was told %v, want %v", got[len(got)-1], want)
		}
		if len(got) < 9 || len(got) > 11 {
			t.Errorf("the autoscaler was told %d times in 10 s, want once a second", len(got))
		}
		c.set(unknown(demo(1, 0)), unknown(demo(2, 8)), demo(3, 0))
		got = heard(stats, 30*time.Second)
		if want := []asmetrics.StatMessage{message("shop", "demo-00001", 3)}; !cmp.Equal(got[len(got)-1], want) {
			t.Errorf("when an activator is silent the autoscaler was told %v, want %v", got[len(got)-1], want)
		}
		got = heard(stats, 2*time.Minute)
		if want := []asmetrics.StatMessage{message("shop", "demo-00001", 2)}; !cmp.Equal(got[len(got)-1], want) {
			t.Errorf("when it stays silent the autoscaler was told %v, want %v", got[len(got)-1], want)
		}
		c.mu.Lock()
		c.err = errors.New("nothing is known")
		c.mu.Unlock()
		heard(stats, 2*time.Minute)
		if got := heard(stats, time.Minute); len(got) != 0 {
			t.Errorf("when nothing is counted any longer the autoscaler was told %v, want nothing", got)
		}
	})
}
