package main

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"

	"go.opentelemetry.io/otel"
	"go.uber.org/zap"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	netconfig "knative.dev/networking/pkg/config"
	"knative.dev/pkg/apis"
	_ "knative.dev/pkg/client/injection/kube/informers/core/v1/endpoints/fake"
	fakeservices "knative.dev/pkg/client/injection/kube/informers/core/v1/service/fake"
	fakeslices "knative.dev/pkg/client/injection/kube/informers/discovery/v1/endpointslice/fake"
	"knative.dev/pkg/logging"
	"knative.dev/pkg/network"
	rtesting "knative.dev/pkg/reconciler/testing"
	activatorconfig "knative.dev/serving/pkg/activator/config"
	activatorhandler "knative.dev/serving/pkg/activator/handler"
	activatornet "knative.dev/serving/pkg/activator/net"
	v1 "knative.dev/serving/pkg/apis/serving/v1"
	asmetrics "knative.dev/serving/pkg/autoscaler/metrics"
	fakerevisions "knative.dev/serving/pkg/client/injection/informers/serving/v1/revision/fake"
	fakeroutes "knative.dev/serving/pkg/client/injection/informers/serving/v1/route/fake"

	"github.com/limpet-project/limpet/affinity"
	"github.com/limpet-project/limpet/endpoint"
	"github.com/limpet-project/limpet/knative/activator"
	"github.com/limpet-project/limpet/node"
	"github.com/limpet-project/limpet/node/nodetest"
	"github.com/limpet-project/limpet/redis/redistest"
)

// Protects against prototype defects 1 to 5, 7 to 9, 11, 13, 19 and 44, in activators on a real Redis: one connection gave replies to the wrong
// sessions and its first error closed it for ever, an absent Redis was a panic, an endless loop or a process that did not start, a slow one held
// up everybody, ids lay in it in clear and for ever, and who lost the race to bind span.
func TestSessionsThroughActivatorsOutliveTheirStore(t *testing.T) {
	f := newFleet(t, 2)
	homes := f.race()
	f.checkContent()

	f.store.Cut() // connections stay and nothing is answered
	f.expect("while Redis hangs", homes)
	f.start() // without Redis
	f.expectServed("while Redis hangs")
	f.store.Pass()
	f.expect("after Redis has hung", homes)

	f.redis.Kill()
	f.expect("without Redis", homes)
	f.redis.Restart() // and it is empty
	f.expect("after Redis has lost all", homes)
	nodetest.Eventually(t, "all activators have what they know in Redis again", func() bool {
		one := fmt.Sprintf("late-%s", f.redis.Do("DBSIZE"))
		return f.get(0, one) == f.get(1, one) && f.get(1, one) == f.get(2, one)
	})
	f.expect("in the end", homes)
}

// sessions is how many a fleet has.
const sessions = 40

// A fleet is activators that share a Redis, in front of the pods of one revision.
type fleet struct {
	*testing.T
	ctx    context.Context
	redis  *redistest.Server
	store  *redistest.Proxy // between the activators and Redis
	keys   string           // the folder of the secrets
	urls   []string         // of the activators
	client *http.Client
}

func newFleet(t *testing.T, activators int) *fleet {
	t.Helper()
	ctx, cancel, informers := rtesting.SetupFakeContextWithCancel(t)
	ctx = logging.WithLogger(ctx, zap.NewNop().Sugar())
	wait, err := rtesting.RunAndSyncInformers(ctx, informers...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cancel(); wait() })
	f := &fleet{T: t, ctx: ctx, redis: redistest.Start(t), keys: t.TempDir(), client: &http.Client{}}
	f.store = redistest.StartProxy(t, f.redis.Addr())
	for name, write := range map[string]func(string) error{"digest.key": node.WriteDigestSecret, "tokens.keys": node.WriteTokenKeys} {
		if err := write(filepath.Join(f.keys, name)); err != nil {
			t.Fatal(err)
		}
	}
	f.populate()
	for range activators {
		f.start()
	}
	nodetest.Eventually(t, "the activators see the store", func() bool {
		one := fmt.Sprintf("early-%s", f.redis.Do("DBSIZE"))
		return f.get(0, one) == f.get(1, one)
	})
	return f
}

// populate lists a Route, its revision and four pods.
func (f *fleet) populate() {
	f.Helper()
	route := &v1.Route{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "demo"}}
	route.Status.URL = apis.HTTP("demo.shop.example.com")
	route.Status.Traffic = []v1.TrafficTarget{{RevisionName: "demo-00001", Percent: new(int64(100))}}
	f.add(fakeroutes.Get(f.ctx).Informer().GetIndexer().Add, route)
	revision := &v1.Revision{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "demo-00001"}}
	revision.Spec.ContainerConcurrency, revision.Spec.TimeoutSeconds = new(int64(10)), new(int64(30))
	f.add(fakerevisions.Get(f.ctx).Informer().GetIndexer().Add, revision)
	service := &corev1.Service{ObjectMeta: metav1.ObjectMeta{
		Namespace: "shop", Name: "demo-00001", Labels: map[string]string{"networking.internal.knative.dev/serviceType": "Public"},
	}}
	service.Spec.Ports = []corev1.ServicePort{{Name: "http", Port: 80}}
	f.add(fakeservices.Get(f.ctx).Informer().GetIndexer().Add, service)
	for _, uid := range []string{"pod-a", "pod-b", "pod-c", "pod-d"} {
		f.add(fakeslices.Get(f.ctx).Informer().GetIndexer().Add, f.pod(uid))
	}
}

func (f *fleet) add(add func(any) error, object any) {
	f.Helper()
	if err := add(object); err != nil {
		f.Fatal(err)
	}
}

// pod starts a pod that says who it is, and returns the slice that lists it.
func (f *fleet) pod(uid string) *discoveryv1.EndpointSlice {
	f.Helper()
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, uid) }))
	f.Cleanup(s.Close)
	_, port, _ := strings.Cut(s.Listener.Addr().String(), ":")
	number, err := strconv.ParseInt(port, 10, 32)
	if err != nil {
		f.Fatal(err)
	}
	return &discoveryv1.EndpointSlice{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: "shop", Name: uid, Labels: map[string]string{discoveryv1.LabelServiceName: "demo-00001-private"},
		},
		AddressType: discoveryv1.AddressTypeIPv4,
		Ports:       []discoveryv1.EndpointPort{{Name: new("http"), Port: new(int32(number))}},
		Endpoints: []discoveryv1.Endpoint{{
			Addresses: []string{"127.0.0.1"}, TargetRef: &corev1.ObjectReference{Kind: "Pod", UID: types.UID(uid)},
		}},
	}
}

// start starts another activator: a node with Redis behind its near cache and its breaker, and Serving's chain around our parts.
func (f *fleet) start() {
	f.Helper()
	var source *activator.Source
	g := nodetest.New(f.T, fmt.Sprintf("listeners: [{name: web, address: \"127.0.0.1:0\"}]\nadmin: {address: \"127.0.0.1:0\"}\naccessLog: {file: \"off\"}\nsecrets: {digestFile: %q, tokenKeysFile: %q}\n"+
		"shutdown: {delay: 0s}\nstore: {redis: {addresses: [%q], timeout: 5s}}\n", f.keys+"/digest.key", f.keys+"/tokens.keys", f.store.Addr()),
		node.Options{Source: endpoint.SourceFunc(func(ctx context.Context, _ *endpoint.Table) error { return source.Run(ctx) })})
	source = activator.NewSource(activator.SourceOptions{
		Table: g.Table(), Routes: fakeroutes.Get(f.ctx).Informer(), Revisions: fakerevisions.Get(f.ctx).Informer(),
		Services: fakeservices.Get(f.ctx).Informer(), Slices: fakeslices.Get(f.ctx).Informer(),
	})
	g.Serve()
	s := httptest.NewServer(f.handler(g.Node, source))
	f.Cleanup(s.Close)
	f.urls = append(f.urls, s.URL)
	nodetest.Eventually(f.T, "the activator knows the pods", func() bool {
		s := g.Table().Snapshot(affinity.ServiceName{Namespace: "shop", Name: "demo"})
		return s != nil && s.Revision("demo-00001") != nil && s.Revision("demo-00001").Pool.Ready() == 4
	})
}

// handler returns the handler of an activator.
func (f *fleet) handler(n *node.Node, source *activator.Source) http.Handler {
	f.Helper()
	ctx, cancel := context.WithCancel(f.ctx)
	transport := network.NewProxyAutoTransport(100, 100)
	stock := activatornet.NewThrottler(ctx, "10.0.0.1")
	stats := make(chan []asmetrics.StatMessage)
	var parts sync.WaitGroup
	parts.Go(func() { stock.Run(ctx, transport, false, netconfig.MeshCompatibilityModeDisabled) })
	parts.Go(func() {
		for {
			select {
			case <-stats:
			case <-ctx.Done():
				return
			}
		}
	})
	f.Cleanup(func() { cancel(); parts.Wait() })
	h, err := activator.New(ctx, activator.Options{
		Source: source, Table: n.Table(), Router: n.Router(), Stock: stock, Transport: transport,
		Config:   activatorconfig.NewStore(zap.NewNop().Sugar()),
		Reporter: activatorhandler.NewConcurrencyReporter(ctx, "activator-1", stats, otel.GetMeterProvider()),
		Health:   func() error { return nil }, PodName: "activator-1",
		Log: zap.NewNop().Sugar(), Traces: otel.GetTracerProvider(), Metrics: otel.GetMeterProvider(),
	})
	if err != nil {
		f.Fatal(err)
	}
	return h
}

// get sends a request of a session, or of none, through an activator and returns the pod.
func (f *fleet) get(activator int, session string) string {
	f.Helper()
	r, err := http.NewRequestWithContext(f.ctx, http.MethodGet, f.urls[activator]+"/incr", nil)
	if err != nil {
		f.Fatal(err)
	}
	r.Host = "demo.shop.example.com"
	r.Header.Set("Knative-Serving-Namespace", "shop")
	r.Header.Set("Knative-Serving-Revision", "demo-00001")
	if session != "" {
		r.Header.Set("K-Session", session)
	}
	resp, err := f.client.Do(r)
	if err != nil {
		f.Errorf("session %q through activator %d = %v, want no error", session, activator, err)
		return ""
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK {
		f.Errorf("session %q through activator %d = %d %s, %v, want 200", session, activator, resp.StatusCode, text, err)
		return ""
	}
	return string(text)
}

// race sends the first requests of all sessions through all activators at once, and returns the pod of each session.
func (f *fleet) race() map[string]string {
	f.Helper()
	homes := make(map[string]string)
	var mu sync.Mutex
	var senders sync.WaitGroup
	for i := range 4 * sessions {
		senders.Go(func() {
			one := fmt.Sprintf("session-%d", i%sessions)
			got := f.get(i/sessions%len(f.urls), one)
			mu.Lock()
			defer mu.Unlock()
			if home := homes[one]; home != "" && home != got {
				f.Errorf("first requests of %s = %s and %s, want one pod", one, home, got)
			}
			homes[one] = got
		})
	}
	senders.Wait()
	return homes
}

// checkContent looks at what lies in Redis: no id, and nothing for ever.
func (f *fleet) checkContent() {
	f.Helper()
	nodetest.Eventually(f.T, "Redis has the bindings of all sessions", func() bool {
		return strings.Count(f.redis.Do("KEYS", "*"), ":b:") >= sessions
	})
	for _, key := range strings.Fields(f.redis.Do("KEYS", "*")) {
		binding := strings.Contains(key, ":b:")
		if binding && strings.Contains(f.redis.Do("GET", key), "session-") || strings.Contains(key, "session-") {
			f.Errorf("Redis has an id at %q, want none", key)
		}
		if left := f.redis.Do("PTTL", key); left == "-1" && (binding || strings.Contains(key, ":i:")) {
			f.Errorf("Redis has %q for ever, want an end", key)
		}
	}
}

// expect checks that all sessions are where they were, through the activators that bound them, and that nobody else fares worse.
func (f *fleet) expect(when string, homes map[string]string) {
	f.Helper()
	for one, home := range homes {
		for i := range 2 {
			if got := f.get(i, one); got != home {
				f.Errorf("%s %s through activator %d = %s, want %s", when, one, i, got, home)
			}
		}
	}
	f.expectServed(when)
}

// expectServed checks that new sessions and requests without one are served by every activator.
func (f *fleet) expectServed(when string) {
	f.Helper()
	for i := range f.urls {
		one := fmt.Sprintf("new-%d-%s", i, when)
		home := f.get(i, one)
		if again := f.get(i, one); home == "" || again != home {
			f.Errorf("%s a new session through activator %d = %q, then %q, want one pod", when, i, home, again)
		}
		f.get(i, "")
	}
}
