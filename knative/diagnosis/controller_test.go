package diagnosis

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/record"
	autoscalingv1alpha1 "knative.dev/serving/pkg/apis/autoscaling/v1alpha1"
	v1 "knative.dev/serving/pkg/apis/serving/v1"
	"knative.dev/serving/pkg/client/clientset/versioned/fake"
	"knative.dev/serving/pkg/client/informers/externalversions"

	"github.com/limpet-project/limpet/knative/policy"
)

const ownClass = "limpet.ingress.networking.knative.dev"

// A recorder keeps events, as "Kind name: type reason".
type recorder struct {
	mu     sync.Mutex
	events []string
	texts  []string
	at     []time.Time
}

var _ record.EventRecorder = (*recorder)(nil)

func (r *recorder) Event(object runtime.Object, kind, reason, message string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	o := object.(*corev1.ObjectReference)
	r.events = append(r.events, fmt.Sprintf("%s %s/%s: %s %s", o.Kind, o.Namespace, o.Name, kind, reason))
	r.texts = append(r.texts, message)
	r.at = append(r.at, time.Now())
}

func (r *recorder) Eventf(o runtime.Object, kind, reason, format string, args ...any) {
	r.Event(o, kind, reason, fmt.Sprintf(format, args...))
}

func (r *recorder) AnnotatedEventf(o runtime.Object, _ map[string]string, kind, reason, format string, args ...any) {
	r.Eventf(o, kind, reason, format, args...)
}

// taken returns the events since the last call.
func (r *recorder) taken() (events, texts []string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	events, texts = r.events, r.texts
	r.events, r.texts = nil, nil
	return events, texts
}

// A cluster is an API server's content, of which a controller tells. It lives in a bubble.
type cluster struct {
	*testing.T
	client   *fake.Clientset
	recorder recorder
	diag     *Controller
	stop     func()
}

func newCluster(t *testing.T, objects ...runtime.Object) *cluster {
	c := &cluster{T: t, client: fake.NewSimpleClientset(objects...)}
	factory := externalversions.NewSharedInformerFactory(c.client, 0)
	c.diag = New(Options{
		Routes: factory.Serving().V1().Routes().Informer(), Revisions: factory.Serving().V1().Revisions().Informer(),
		PodAutoscalers: factory.Autoscaling().V1alpha1().PodAutoscalers().Informer(), Recorder: &c.recorder, IngressClass: ownClass,
	})
	ctx, cancel := context.WithCancel(context.Background())
	factory.Start(ctx.Done())
	t.Cleanup(func() { cancel(); factory.Shutdown() })
	c.network(nil)
	c.autoscaler(nil)
	c.lead()
	t.Cleanup(func() { c.stop() })
	return c
}

// lead runs the controller until stop.
func (c *cluster) lead() {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- c.diag.Run(ctx) }()
	c.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			c.Errorf("Run() = %v, want nil", err)
		}
	})
}

func (c *cluster) network(data map[string]string) {
	c.diag.HandleNetwork(configMap("config-network", data))
}

func (c *cluster) autoscaler(data map[string]string) {
	c.diag.HandleAutoscaler(configMap("config-autoscaler", data))
}

func (c *cluster) defaults(data map[string]string) {
	c.diag.HandleDefaults(configMap("config-limpet", data))
}

func configMap(name string, data map[string]string) *corev1.ConfigMap {
	return &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: name}, Data: data}
}

// route is the Route of the Service demo, with its revisions.
func route(annotations map[string]string, revisions ...string) *v1.Route {
	r := &v1.Route{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "demo", UID: "route", Generation: 1, Annotations: annotations}}
	r.OwnerReferences = []metav1.OwnerReference{
		{APIVersion: "serving.knative.dev/v1", Kind: "Service", Name: "demo", UID: "service", Controller: new(true)},
	}
	for _, name := range revisions {
		r.Status.Traffic = append(r.Status.Traffic, v1.TrafficTarget{RevisionName: name, Percent: new(int64(100 / len(revisions)))})
	}
	return r
}

func revision(name string, annotations map[string]string) *v1.Revision {
	return &v1.Revision{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: name, Annotations: annotations}}
}

var (
	asked  = map[string]string{policy.SessionHeader: "X-User"}
	burst  = map[string]string{"autoscaling.knative.dev/target-burst-capacity": "-1"}
	beside = func(annotations map[string]string, name, value string) map[string]string {
		both := map[string]string{name: value}
		for n, v := range annotations {
			both[n] = v
		}
		return both
	}
)

func (c *cluster) putRoute(r *v1.Route) {
	c.Helper()
	if _, err := c.client.ServingV1().Routes(r.Namespace).Update(c.Context(), r, metav1.UpdateOptions{}); err != nil {
		c.Fatal(err)
	}
}

func (c *cluster) putRevision(r *v1.Revision) {
	c.Helper()
	if _, err := c.client.ServingV1().Revisions(r.Namespace).Create(c.Context(), r, metav1.CreateOptions{}); err != nil {
		c.Fatal(err)
	}
}

// tells fails the test unless these events were told since the last call.
func (c *cluster) tells(name string, want ...string) {
	c.Helper()
	time.Sleep(time.Minute) // of the bubble
	synctest.Wait()
	if got, texts := c.recorder.taken(); !slices.Equal(got, want) {
		c.Errorf("%s: told %q, %q, want %q", name, got, texts, want)
	}
}

const (
	notInPath   = "Service shop/demo: Warning ActivatorNotInPath"
	neverInPath = "Service shop/demo: Warning ActivatorNeverInPath"
)

func TestEachProblemIsToldOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, route(asked, "demo-00001"), revision("demo-00001", nil))
		c.tells("the activator leaves the path", notInPath)
		r := route(asked, "demo-00001")
		r.Status.ObservedGeneration = 1
		c.putRoute(r)
		c.tells("the Route is written again")
		c.autoscaler(map[string]string{"stable-window": "90s"})
		c.tells("a setting that does not matter")
		r = route(asked, "demo-00001")
		r.Generation = 2
		c.putRoute(r)
		c.tells("another generation", notInPath)
		c.putRevision(revision("demo-00002", burst))
		r = route(asked, "demo-00002")
		r.Generation = 2
		c.putRoute(r)
		c.tells("a revision that is well")
		c.autoscaler(map[string]string{"target-burst-capacity": "0"})
		c.tells("the revision says otherwise than the cluster")
		r = route(asked, "demo-00001", "demo-00002")
		r.Generation = 2
		c.putRoute(r)
		c.tells("the first comes back", notInPath)
		c.autoscaler(map[string]string{"target-burst-capacity": "-1"})
		c.tells("the cluster is mended")
		c.autoscaler(nil)
		c.tells("and broken again", notInPath)
		c.stop()
		c.lead()
		c.tells("the same process leads again")
	})
}

func TestWhatConcernsTheWholeCluster(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, route(nil, "demo-00001"), revision("demo-00001", burst))
		c.tells("nothing is in the way")
		c.network(map[string]string{"mesh-compatibility-mode": "enabled"})
		c.tells("the mesh hides pods, and the cluster asks for affinity", "Service shop/demo: Normal PodsNotAddressable")
		c.putRoute(route(asked, "demo-00001"))
		c.tells("the Service asks as well", "Service shop/demo: Warning PodsNotAddressable")
		c.network(map[string]string{"mesh-compatibility-mode": "enabled", "enable-mesh-pod-addressability": "true"})
		c.tells("pods can be addressed")
		c.network(map[string]string{"mesh-compatibility-mode": "enabled", "ingress-class": ownClass})
		c.tells("the ingress is Limpet's")
		c.defaults(map[string]string{"affinity": "off"}) // before the next: what is true between the two may be told
		c.network(map[string]string{"mesh-compatibility-mode": "enabled"})
		c.tells("affinity is off in the whole cluster")
		c.defaults(map[string]string{"policy": "off"})
		c.tells("only who asks has affinity, and this Service does", "Service shop/demo: Warning PodsNotAddressable")
		c.putRoute(route(nil, "demo-00001"))
		c.tells("nobody asks")
	})
}

func TestAnnotationsThatAreWrongAreNamed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		alone := route(map[string]string{policy.SessionPathSegment: "0"}, "demo-00001")
		alone.OwnerReferences = nil
		c := newCluster(t, alone, revision("demo-00001", burst))
		time.Sleep(time.Second)
		synctest.Wait()
		events, texts := c.recorder.taken()
		want := `activator.knative.dev/sticky-session-path-segment: got "0", expected a whole number from 1 to 100`
		if !slices.Equal(events, []string{"Route shop/demo: Warning AffinityMisconfigured"}) || !strings.Contains(texts[0], want) {
			t.Errorf("told %q, %q, want one event on the Route with %q", events, texts, want)
		}
		alone = alone.DeepCopy()
		alone.Annotations[policy.SessionPathSegment] = "-1"
		c.putRoute(alone)
		c.tells("wrong in another way", "Route shop/demo: Warning AffinityMisconfigured")
		alone = alone.DeepCopy()
		alone.Annotations["networking.knative.dev/ingress.class"] = ownClass
		c.putRoute(alone)
		c.tells("Limpet's ingress says it")
	})
}

func TestTheAutoscalersClassIsItsOwn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, route(asked, "demo-00001"), revision("demo-00001", burst))
		c.tells("nothing is in the way")
		a := &autoscalingv1alpha1.PodAutoscaler{ObjectMeta: metav1.ObjectMeta{
			Namespace: "shop", Name: "demo-00001", Annotations: map[string]string{"autoscaling.knative.dev/class": hpa},
		}}
		if _, err := c.client.AutoscalingV1alpha1().PodAutoscalers("shop").Create(t.Context(), a, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
		c.tells("the cluster's class was another when it was made", neverInPath)
		c.putRevision(revision("demo-00002", beside(burst, "autoscaling.knative.dev/class", hpa)))
		c.putRoute(route(asked, "demo-00002"))
		c.tells("a revision with a class of its own", neverInPath)
	})
}

func TestARouteThatIsGoneIsForgotten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, route(asked, "demo-00001"), revision("demo-00001", nil))
		c.tells("it is there", notInPath)
		if err := c.client.ServingV1().Routes("shop").Delete(t.Context(), "demo", metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
		c.tells("it is gone")
		c.stop()
		if len(c.diag.told) != 0 {
			t.Errorf("of a Route that is gone %v is remembered, want nothing", c.diag.told)
		}
	})
}

func TestEventsAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		objects := []runtime.Object{revision("demo-00001", nil)}
		for i := range 200 {
			r := route(asked, "demo-00001")
			r.Name, r.UID = fmt.Sprintf("demo-%03d", i), types.UID(fmt.Sprint(i))
			objects = append(objects, r)
		}
		c := newCluster(t, objects...)
		time.Sleep(10 * time.Second)
		synctest.Wait()
		events, _ := c.recorder.taken()
		if most := eventsAtOnce + 10*eventsPerSecond + 1; len(events) > most || len(events) < most-5 {
			t.Errorf("%d events in 10 s, want %d at most", len(events), most)
		}
		c.stop()
		c.lead()
		time.Sleep(time.Minute)
		synctest.Wait()
		if rest, _ := c.recorder.taken(); len(events)+len(rest) != 200 {
			t.Errorf("%d events of 200 Routes when led again, want one of each", len(events)+len(rest))
		}
	})
}
