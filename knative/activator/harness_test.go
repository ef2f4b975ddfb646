package activator

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.opentelemetry.io/otel"
	"go.uber.org/zap"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	netconfig "knative.dev/networking/pkg/config"
	netheader "knative.dev/networking/pkg/http/header"
	"knative.dev/pkg/apis"
	duckv1 "knative.dev/pkg/apis/duck/v1"
	fakekube "knative.dev/pkg/client/injection/kube/client/fake"
	_ "knative.dev/pkg/client/injection/kube/informers/core/v1/endpoints/fake"
	fakeservices "knative.dev/pkg/client/injection/kube/informers/core/v1/service/fake"
	fakeslices "knative.dev/pkg/client/injection/kube/informers/discovery/v1/endpointslice/fake"
	"knative.dev/pkg/network"
	rtesting "knative.dev/pkg/reconciler/testing"
	serving "knative.dev/serving/pkg/activator"
	activatorconfig "knative.dev/serving/pkg/activator/config"
	activatorhandler "knative.dev/serving/pkg/activator/handler"
	activatornet "knative.dev/serving/pkg/activator/net"
	v1 "knative.dev/serving/pkg/apis/serving/v1"
	asmetrics "knative.dev/serving/pkg/autoscaler/metrics"
	fakeserving "knative.dev/serving/pkg/client/injection/client/fake"
	fakerevisions "knative.dev/serving/pkg/client/injection/informers/serving/v1/revision/fake"
	fakeroutes "knative.dev/serving/pkg/client/injection/informers/serving/v1/route/fake"

	"github.com/limpet-project/limpet/affinity"
	"github.com/limpet-project/limpet/binding"
	"github.com/limpet-project/limpet/endpoint"
	"github.com/limpet-project/limpet/proxy"
	"github.com/limpet-project/limpet/router"
)

const (
	shop    = "shop"
	host    = "demo.shop.example.com"
	tagHost = "blue-demo.shop.example.com"
)

// A cluster is an API server's content, with real pods behind it.
type cluster struct {
	testing.TB
	ctx      context.Context
	pods     map[string]*pod // by UID
	observer proxy.Observer  // of activators that begin; nil is none
	stock    bool            // activators that begin are Serving's own

	activating []*activator // all that have begun
}

func newCluster(t testing.TB) *cluster {
	t.Helper()
	ctx, cancel, informers := rtesting.SetupFakeContextWithCancel(t)
	ctx = quiet(ctx)
	wait, err := rtesting.RunAndSyncInformers(ctx, informers...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cancel(); wait() })
	return &cluster{TB: t, ctx: ctx, pods: make(map[string]*pod)}
}

// must ends the test if err is not nil.
func (c *cluster) must(err error) {
	c.Helper()
	if err != nil {
		c.Fatal(err)
	}
}

// eventually waits until something is so.
func (c *cluster) eventually(what string, is func() bool) {
	c.Helper()
	for end := time.Now().Add(time.Minute); !is(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(end) {
			c.Fatalf("waited a minute: %s", what)
		}
	}
}

// share is an entry of a Route.
type share struct {
	revision string
	percent  int64
	tag      string
}

// waits lets requests of sessions wait for a pod that is full as long as a test may take: the 10 s that they have otherwise are over on a
// machine that has other things to do.
var waits = map[string]string{"affinity.limpet.dev/policy": "session: {queueTimeout: 10m}"}

// route puts a Route in force.
func (c *cluster) route(annotations map[string]string, shares ...share) {
	c.Helper()
	r := newRoute(annotations, shares...)
	client := fakeserving.Get(c.ctx).ServingV1().Routes(shop)
	_, err := client.Create(c.ctx, r, metav1.CreateOptions{})
	if apierrors.IsAlreadyExists(err) {
		_, err = client.Update(c.ctx, r, metav1.UpdateOptions{})
	}
	c.must(err)
}

func newRoute(annotations map[string]string, shares ...share) *v1.Route {
	r := &v1.Route{ObjectMeta: metav1.ObjectMeta{Namespace: shop, Name: "demo", Annotations: annotations}}
	r.Status.URL = apis.HTTP(host)
	r.Status.Address = &duckv1.Addressable{URL: apis.HTTP("demo.shop.svc.cluster.local")}
	for _, s := range shares {
		e := v1.TrafficTarget{RevisionName: s.revision, Percent: new(s.percent), Tag: s.tag}
		r.Spec.Traffic = append(r.Spec.Traffic, e)
		if s.tag != "" {
			e.URL = apis.HTTP(s.tag + "-" + host)
		}
		r.Status.Traffic = append(r.Status.Traffic, e)
	}
	return r
}

// revision makes a revision with its public Service. When it returns the informer of revisions has heard of it: Serving's own Throttler drops
// what it hears of the Endpoints of one that it does not know, for good.
func (c *cluster) revision(name string, concurrency int64) {
	c.Helper()
	r := &v1.Revision{ObjectMeta: metav1.ObjectMeta{Namespace: shop, Name: name}}
	r.Spec.ContainerConcurrency, r.Spec.TimeoutSeconds = new(concurrency), new(int64(300)) // which no test waits for
	r.Spec.Containers = []corev1.Container{{Name: "counter"}}
	_, err := fakeserving.Get(c.ctx).ServingV1().Revisions(shop).Create(c.ctx, r, metav1.CreateOptions{})
	c.must(err)
	c.eventually("the informer has heard of "+name, func() bool {
		_, known, _ := fakerevisions.Get(c.ctx).Informer().GetStore().GetByKey(shop + "/" + name)
		return known
	})
	s := &corev1.Service{ObjectMeta: metav1.ObjectMeta{
		Namespace: shop, Name: name, Labels: map[string]string{"networking.internal.knative.dev/serviceType": "Public"},
	}}
	s.Spec.Ports = []corev1.ServicePort{{Name: "http", Port: 80}, {Name: "https", Port: 443}}
	_, err = fakekube.Get(c.ctx).CoreV1().Services(shop).Create(c.ctx, s, metav1.CreateOptions{})
	c.must(err)
}

// deleteRevision removes a revision, its pods stay.
func (c *cluster) deleteRevision(name string) {
	c.Helper()
	c.must(fakeserving.Get(c.ctx).ServingV1().Revisions(shop).Delete(c.ctx, name, metav1.DeleteOptions{}))
}

// A pod is a server that says who it is. It answers Serving's probes as queue-proxy does.
type pod struct {
	*httptest.Server
	uid            string
	inFlight, most atomic.Int64
	served         atomic.Int64
	silent         atomic.Bool   // fails Serving's probes
	hold           chan struct{} // not nil: requests with the header Hold wait until it is closed
}

func (p *pod) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.Header.Get(netheader.ProbeKey) != "" {
		if p.silent.Load() {
			w.WriteHeader(http.StatusServiceUnavailable)
			return
		}
		io.WriteString(w, "queue")
		return
	}
	n := p.inFlight.Add(1)
	defer p.inFlight.Add(-1)
	for most := p.most.Load(); n > most && !p.most.CompareAndSwap(most, n); most = p.most.Load() {
	}
	if r.Header.Get("Hold") != "" {
		select {
		case <-p.hold:
		case <-r.Context().Done():
		}
	}
	if d, err := time.ParseDuration(r.Header.Get("Last")); err == nil {
		select {
		case <-time.After(d):
		case <-r.Context().Done():
		}
	}
	if r.Header.Get("Upgrade") != "" {
		echo(w)
		return
	}
	io.Copy(io.Discard, r.Body)
	p.served.Add(1)
	for name := range r.Header {
		if strings.HasPrefix(name, prefix) {
			w.Header().Set("Leaked", name)
		}
	}
	w.Header().Set(headerReason, "forged") // what a pod says of this means nothing
	w.Header().Set("Pod", p.uid)
	w.Header().Set("Protocol", r.Proto)
	w.Header().Set("Cookies", r.Header.Get("Cookie"))
}

// echo switches to a protocol that repeats what it is told.
func echo(w http.ResponseWriter) {
	conn, _, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return
	}
	defer conn.Close()
	io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n")
	io.Copy(conn, conn)
}

// pod starts pods of a revision and lists them.
func (c *cluster) pod(revision string, uids ...string) {
	c.Helper()
	for _, uid := range uids {
		c.list(revision, uid, c.start(uid).Listener.Addr().String())
	}
}

// start starts a pod, which nobody lists yet.
func (c *cluster) start(uid string) *pod {
	c.Helper()
	p := &pod{uid: uid, hold: make(chan struct{})}
	p.Server = httptest.NewUnstartedServer(p)
	p.Config.Protocols = new(http.Protocols)
	p.Config.Protocols.SetHTTP1(true)
	p.Config.Protocols.SetUnencryptedHTTP2(true)
	p.Start()
	c.Cleanup(p.Close)
	c.pods[uid] = p
	return p
}

// list lists a pod in the slices, and in the Endpoints that Serving's own Throttler reads.
func (c *cluster) list(revision, uid, address string) { c.listAs(revision, uid, address, true) }

// listAs lists a pod that is Ready or not.
func (c *cluster) listAs(revision, uid, address string, ready bool) {
	c.Helper()
	ip, port := split(c.TB, address)
	s := &discoveryv1.EndpointSlice{
		ObjectMeta:  metav1.ObjectMeta{Namespace: shop, Name: uid, Labels: map[string]string{discoveryv1.LabelServiceName: revision + "-private"}},
		AddressType: discoveryv1.AddressTypeIPv4,
		Ports:       []discoveryv1.EndpointPort{{Name: new("http"), Port: &port}},
		Endpoints: []discoveryv1.Endpoint{{
			Addresses: []string{ip}, TargetRef: &corev1.ObjectReference{Kind: "Pod", UID: types.UID(uid)},
			Conditions: discoveryv1.EndpointConditions{Ready: &ready},
		}},
	}
	client := fakekube.Get(c.ctx).DiscoveryV1().EndpointSlices(shop)
	_, err := client.Create(c.ctx, s, metav1.CreateOptions{})
	if apierrors.IsAlreadyExists(err) {
		_, err = client.Update(c.ctx, s, metav1.UpdateOptions{})
	}
	c.must(err)
	c.setEndpoint(revision, ip, port, ready)
}

// becomes says that a pod that is listed is Ready now, or is not.
func (c *cluster) becomes(revision, uid string, ready bool) {
	c.Helper()
	c.listAs(revision, uid, c.pods[uid].Listener.Addr().String(), ready)
}

// unlist takes a pod from the lists; it goes on.
func (c *cluster) unlist(revision, uid string) {
	c.Helper()
	c.must(fakekube.Get(c.ctx).DiscoveryV1().EndpointSlices(shop).Delete(c.ctx, uid, metav1.DeleteOptions{}))
	_, port := split(c.TB, c.pods[uid].Listener.Addr().String())
	c.removeEndpoint(revision, port)
}

func split(t testing.TB, address string) (string, int32) {
	t.Helper()
	ip, port, err := net.SplitHostPort(address)
	if err != nil {
		t.Fatal(err)
	}
	n, err := strconv.ParseInt(port, 10, 32)
	if err != nil {
		t.Fatal(err)
	}
	return ip, int32(n)
}

// quiet returns a context whose logger says nothing.
func quiet(ctx context.Context) context.Context { return withLogger(ctx, zap.NewNop().Sugar()) }

// An activator is a whole one, but for its process.
type activator struct {
	c      *cluster
	name   string
	store  binding.Store
	table  *endpoint.Table
	source *Source
	peers  *Peers
	server *http.Server
	conns  *conns
	stock  activatorhandler.Throttler
	url    string
	stats  atomic.Int64 // requests that the autoscaler was told of first
	stop   func()
}

// activators starts some that share a store and, if there are several, ask each other.
func (c *cluster) activators(store binding.Store, names ...string) []*activator {
	c.Helper()
	var all []*activator
	for _, name := range names {
		all = append(all, c.activator(store, name, len(names) > 1))
	}
	if len(names) > 1 {
		for _, a := range all {
			a.eventually("all activators are known", func() bool { return len(*a.peers.list.Load()) == len(names) })
		}
	}
	return all
}

func (c *cluster) activator(store binding.Store, name string, several bool) *activator {
	c.Helper()
	digester, err := affinity.NewDigester([]byte("0123456789abcdef0123456789abcdef"))
	c.must(err)
	transport := network.NewProxyAutoTransport(100, 100)
	a := &activator{c: c, name: name, store: store, conns: new(conns), table: endpoint.NewTable(endpoint.Options{})}
	r := router.New(router.Options{Endpoints: a.table, Store: store, Keys: affinity.Keyer{Digester: digester}, Tokens: newTokens(c.TB)})
	a.source = NewSource(SourceOptions{
		Table: a.table, Routes: fakeroutes.Get(c.ctx).Informer(), Revisions: fakerevisions.Get(c.ctx).Informer(),
		Services: fakeservices.Get(c.ctx).Informer(), Slices: fakeslices.Get(c.ctx).Informer(),
		// A pod that fails its probes answers at once here: that a probe takes long is never the pod's fault.
		Probing: Probing{Transport: transport, Timeout: time.Minute, Frequency: 200 * time.Millisecond},
	})
	if several {
		a.peers = newPeers(PeersOptions{
			Slices: fakeslices.Get(c.ctx).Informer(), Namespace: "knative-serving", Service: "activator-service", PodName: name, Digester: digester,
		}, patient)
		a.peers.transport.DialContext = a.conns.dial
	}
	ctx, cancel := context.WithCancel(c.ctx)
	stock := activatornet.NewThrottler(ctx, "127.0.0.1")
	a.stock = stock
	var parts sync.WaitGroup
	parts.Go(func() { stock.Run(ctx, transport, false, netconfig.MeshCompatibilityModeDisabled) })
	parts.Go(func() { a.source.Run(ctx) })
	parts.Go(func() { a.table.Run(ctx) })
	parts.Go(func() { r.Run(ctx) })
	if several {
		parts.Go(func() { a.peers.Run(ctx) })
	}
	stats := make(chan []asmetrics.StatMessage)
	reporter := activatorhandler.NewConcurrencyReporter(ctx, name, stats, otel.GetMeterProvider())
	parts.Go(func() {
		for {
			select {
			case m := <-stats:
				a.stats.Add(int64(len(m)))
			case <-ctx.Done():
				return
			}
		}
	})
	o := Options{
		Source: a.source, Table: a.table, Router: r, Peers: a.peers, Observer: c.observer, Stock: stock, Transport: transport,
		Config: activatorconfig.NewStore(zap.NewNop().Sugar()), Reporter: reporter, Health: func() error { return nil }, PodName: name,
		Log: zap.NewNop().Sugar(), Traces: otel.GetTracerProvider(), Metrics: otel.GetMeterProvider(),
	}
	if c.stock {
		o.Source = nil
	}
	h, err := New(ctx, o)
	c.must(err)
	a.serve(h)
	a.stop = sync.OnceFunc(func() {
		a.kill()
		cancel()
		parts.Wait()
	})
	c.Cleanup(a.stop)
	c.activating = append(c.activating, a)
	a.eventually("the activator has synchronised", a.table.Synced)
	return a
}

// patient are the bounds of activators in tests: a machine that has other things to do makes nobody count as away.
var patient = bounds{answer: time.Minute, dial: time.Minute, ping: time.Minute}

// kill ends an activator as SIGKILL does: it says nothing to anybody from one moment on, and is listed still. Its port stays taken until
// the test ends, so that nobody else answers in its place: another activator, or one of another test.
func (a *activator) kill() { a.conns.sever() }

// Conns are all connections between an activator and others: those of its listener, of which an http.Server loses sight if they are of
// HTTP/2, and those by which it asks.
type conns struct {
	net.Listener
	mu   sync.RWMutex // held for reading while something is sent
	open []net.Conn
	dead bool
}

// A mortal conn sends nothing once its activator is dead.
type mortal struct {
	net.Conn
	of *conns
}

func (c mortal) Write(b []byte) (int, error) {
	c.of.mu.RLock()
	defer c.of.mu.RUnlock()
	if c.of.dead {
		return 0, net.ErrClosed
	}
	return c.Conn.Write(b)
}

func (l *conns) add(c net.Conn) net.Conn {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.dead {
		c.Close()
	}
	l.open = append(l.open, c)
	return mortal{c, l}
}

// Accept implements net.Listener.
func (l *conns) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return l.add(c), nil
}

func (l *conns) dial(ctx context.Context, network, address string) (net.Conn, error) {
	c, err := new(net.Dialer).DialContext(ctx, network, address)
	if err != nil {
		return nil, err
	}
	return l.add(c), nil
}

// sever closes all. Nothing is sent by one of them when another one has closed: who would hear of that end could be answered.
func (l *conns) sever() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.dead = true
	for _, c := range l.open {
		c.Close()
	}
}

// serve listens and lists the activator.
func (a *activator) serve(h http.Handler) {
	a.c.Helper()
	socket, err := net.Listen("tcp", "127.0.0.1:0")
	a.c.must(err)
	a.server = network.NewServer("", h)
	a.conns.Listener = socket
	go a.server.Serve(a.conns)
	a.c.Cleanup(func() { a.server.Close() })
	a.url = "http://" + socket.Addr().String()
	ip, port := split(a.c.TB, socket.Addr().String())
	s := &discoveryv1.EndpointSlice{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: "knative-serving", Name: a.name, Labels: map[string]string{discoveryv1.LabelServiceName: "activator-service"},
		},
		Ports:     []discoveryv1.EndpointPort{{Name: new("http"), Port: &port}, {Name: new("http2"), Port: &port}},
		Endpoints: []discoveryv1.Endpoint{{Addresses: []string{ip}, TargetRef: &corev1.ObjectReference{Kind: "Pod", Name: a.name}}},
	}
	_, err = fakekube.Get(a.c.ctx).DiscoveryV1().EndpointSlices("knative-serving").Create(a.c.ctx, s, metav1.CreateOptions{})
	a.c.must(err)
}

// eventually waits until something is so.
func (a *activator) eventually(what string, is func() bool) {
	a.c.Helper()
	a.c.eventually(what, is)
}

// knows waits until the activator has the revision with so many pods.
func (a *activator) knows(revision string, pods int) {
	a.c.Helper()
	t := &throttler{source: a.source, table: a.table}
	a.eventually(fmt.Sprintf("%s has %d pods", revision, pods), func() bool {
		return t.pool(types.NamespacedName{Namespace: shop, Name: revision}).Ready() == pods
	})
}

// weighs waits until a revision has that share of the default traffic.
func (a *activator) weighs(revision string, weight int) {
	a.c.Helper()
	a.eventually(fmt.Sprintf("%s has %d percent", revision, weight), func() bool {
		s := a.table.Snapshot(affinity.ServiceName{Namespace: shop, Name: "demo"})
		if s == nil {
			return false
		}
		r := s.Revision(revision)
		return r == nil && weight == 0 || r != nil && r.Weight == weight
	})
}

// A call is a request as an ingress sends it on: with the revision that its split chose.
type call struct {
	host, revision, path string
	header               map[string]string
	body                 string
}

// An answer is what came of a call.
type answer struct {
	status int
	pod    string
	header http.Header
	body   string
}

func (a answer) String() string {
	return fmt.Sprintf("%d %s %s", a.status, a.pod, strings.TrimSpace(a.body))
}

// send calls until ctx ends.
func (a *activator) send(ctx context.Context, call call) (answer, error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, a.url+call.path, strings.NewReader(call.body))
	if err != nil {
		return answer{}, err
	}
	if call.body == "" {
		r.Method, r.Body = http.MethodGet, nil
	}
	if r.Host = call.host; r.Host == "" {
		r.Host = host
	}
	r.Header.Set(serving.RevisionHeaderNamespace, shop)
	r.Header.Set(serving.RevisionHeaderName, call.revision)
	for name, value := range call.header {
		r.Header.Set(name, value)
	}
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		return answer{}, err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	return answer{resp.StatusCode, resp.Header.Get("Pod"), resp.Header, string(text)}, err
}

// get calls and fails the test unless a pod answers, whose UID it returns.
func (a *activator) get(call call) string {
	a.c.Helper()
	got, err := a.send(a.c.ctx, call)
	if err != nil || got.status != http.StatusOK || got.header.Get("Leaked") != "" {
		a.c.Fatalf("%+v = %v, %v, %q leaked, want 200 and nothing of Limpet's at the pod", call, got, err, got.header.Get("Leaked"))
	}
	return got.pod
}

// session is a call of a session.
func session(id string) call {
	return call{revision: "demo-00001", header: map[string]string{"K-Session": id}}
}
