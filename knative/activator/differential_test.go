//lint:file-ignore SA1019 Serving's own Throttler reads Endpoints.

package activator

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	netconfig "knative.dev/networking/pkg/config"
	fakekube "knative.dev/pkg/client/injection/kube/client/fake"
	"knative.dev/pkg/network"
	activatornet "knative.dev/serving/pkg/activator/net"
)

// historySeed repeats a history that failed: go test ./activator -run History -args -history-seed=…
var historySeed = flag.Uint64("history-seed", 0, "seed of the random histories; 0 is another one each time")

const (
	historySteps = 10
	mostPods     = 7
)

// Protects against prototype defects 20 to 23, 35 and 54: who does not ask for affinity gets what Serving gives. Serving's own Throttler and
// ours, in front of another one of Serving's, live through the same random history of pods and of activators in the path. After each event
// both let in as many requests, to the same pods, and refuse the others alike.
func TestWithoutAffinityEveryHistoryIsAsInServing(t *testing.T) {
	for _, limit := range []int64{0, 1, 3, 10} {
		t.Run(fmt.Sprintf("containerConcurrency %d", limit), func(t *testing.T) {
			h := newHistory(t, limit, map[string]string{"affinity.limpet.dev/policy": "off"}, 3)
			h.twins[0].a.knowsNothing()
			h.live(h.activatorsChange, h.podsCome, h.podsCome, h.podLeaves, h.podIsReplaced, h.allLeave)
		})
	}
}

// Protects against prototype defect 22: beside sessions, requests without one are counted as in Serving. With several activators ours have
// each pod counted by one of them and Serving's have a share of the pods each, so this is about an activator that is alone.
func TestBesideSessionsEveryHistoryOfPlainRequestsIsAsInServing(t *testing.T) {
	for _, limit := range []int64{0, 1, 3, 10} {
		t.Run(fmt.Sprintf("containerConcurrency %d", limit), func(t *testing.T) {
			h := newHistory(t, limit, nil, 1)
			h.twins[0].a.weighs("demo-00001", 100)
			h.live(h.podsCome, h.podsCome, h.podLeaves, h.podIsReplaced, h.allLeave)
		})
	}
}

// Pods get requests before they are Ready, and when they are so no longer, exactly when Serving gives them some.
func TestEveryHistoryOfReadinessIsAsInServing(t *testing.T) {
	for _, limit := range []int64{0, 1, 10} {
		t.Run(fmt.Sprintf("containerConcurrency %d", limit), func(t *testing.T) {
			h := newHistory(t, limit, nil, 1)
			h.twins[0].a.weighs("demo-00001", 100)
			h.live(h.podComesEarly, h.podComesEarly, h.podIsReady, h.podIsReady, h.podIsReadyNoLonger, h.podIsReadyNoLonger, h.podAnswers,
				h.podsCome, h.podLeaves)
		})
	}
}

// A history is one of the pods of a revision and of the activators in its path.
type history struct {
	*cluster
	chance *rand.Rand
	limit  int64
	twins  []*twin
	pods   []string // that get requests, by UID
	silent []string // that are listed, not Ready and fail their probes
	made   int      // pods so far
}

// A twin is an activator with two Throttlers that hear of the same events.
type twin struct {
	a           *activator
	address     string
	stock, ours thrower
	index, of   int // its place among the activators in the path, as it heard last; of is 0 as long as it was never there
}

func newHistory(t *testing.T, limit int64, annotations map[string]string, activators int) *history {
	t.Helper()
	seed := *historySeed
	if seed == 0 {
		seed = uint64(time.Now().UnixNano())
	}
	t.Logf("-history-seed=%d", seed)
	h := &history{cluster: newCluster(t), chance: rand.New(rand.NewPCG(seed, uint64(limit))), limit: limit}
	h.revision("demo-00001", limit)
	h.route(annotations, share{"demo-00001", 100, ""})
	names := []string{"activator-1", "activator-2", "activator-3"}[:activators]
	for i, a := range h.activators(memory(), names...) {
		address := fmt.Sprintf("10.0.0.%d", i+1)
		ours := &throttler{source: a.source, table: a.table, peers: a.peers, stock: h.serving(address)}
		h.twins = append(h.twins, &twin{a: a, address: address, stock: h.serving(address), ours: ours})
	}
	return h
}

// serving runs a Throttler of Serving's in an activator at an address.
func (h *history) serving(address string) thrower {
	ctx, cancel := context.WithCancel(h.ctx)
	s := activatornet.NewThrottler(ctx, address)
	var run sync.WaitGroup
	run.Go(func() {
		s.Run(ctx, network.NewProxyAutoTransport(100, 100), false, netconfig.MeshCompatibilityModeDisabled)
	})
	h.Cleanup(func() { cancel(); run.Wait() })
	return s
}

// knowsNothing fails the test if the activator has the revision in its table.
func (a *activator) knowsNothing() {
	a.c.Helper()
	key := types.NamespacedName{Namespace: shop, Name: "demo-00001"}
	if _, listed := a.source.index.Load().revisions[key]; listed {
		a.c.Fatalf("the revision of a Route without affinity is listed, want it left to Serving")
	}
}

// live lets events happen and compares after each; last of all the revision is deleted.
func (h *history) live(events ...func() string) {
	h.Helper()
	h.compare("at first")
	for step := range historySteps {
		h.compare(fmt.Sprintf("step %d, %s", step+1, events[h.chance.IntN(len(events))]()))
		if h.Failed() {
			return
		}
	}
	h.compareErrors()
}

func (h *history) podsCome() string {
	n := min(1+h.chance.IntN(3), mostPods-len(h.pods)-len(h.silent))
	for range n {
		uid := h.next()
		h.pod("demo-00001", uid)
		h.pods = append(h.pods, uid)
	}
	return fmt.Sprintf("%d pods come", n)
}

// next names a pod.
func (h *history) next() string {
	h.made++
	return fmt.Sprintf("pod-%d", h.made)
}

// podComesEarly lists a pod that is not Ready and answers probes, or does not.
func (h *history) podComesEarly() string {
	if len(h.pods)+len(h.silent) >= mostPods {
		return "nothing happens"
	}
	uid, silent := h.next(), h.chance.IntN(3) == 0
	h.early("demo-00001", uid, silent)
	return h.place(uid, silent) + " comes and is not Ready"
}

// place notes whether a pod that is not Ready gets requests.
func (h *history) place(uid string, silent bool) string {
	if silent {
		h.silent = append(h.silent, uid)
		return uid + ", which fails its probe,"
	}
	h.pods = append(h.pods, uid)
	return uid
}

// podIsReady says that some pod is Ready, which it may have been.
func (h *history) podIsReady() string {
	uid := h.takeAny()
	if uid == "" {
		return "nothing happens"
	}
	h.readies(uid)
	h.pods = append(h.pods, uid)
	return uid + " is Ready"
}

// podIsReadyNoLonger says that some pod is not Ready; it was, and may answer still.
func (h *history) podIsReadyNoLonger() string {
	uid := h.takeAny()
	if uid == "" {
		return "nothing happens"
	}
	h.readies(uid)
	silent := h.chance.IntN(2) == 0
	h.cluster.pods[uid].silent.Store(silent)
	h.becomes("demo-00001", uid, false)
	return h.place(uid, silent) + " is Ready no longer"
}

// podAnswers lets a pod answer that did not.
func (h *history) podAnswers() string {
	if len(h.silent) == 0 {
		return "nothing happens"
	}
	uid := h.silent[0]
	h.silent = h.silent[1:]
	h.cluster.pods[uid].silent.Store(false)
	return h.place(uid, false) + " answers"
}

// takeAny takes some pod out of the lists.
func (h *history) takeAny() string {
	all := slices.Concat(h.pods, h.silent)
	if len(all) == 0 {
		return ""
	}
	uid := all[h.chance.IntN(len(all))]
	is := func(one string) bool { return one == uid }
	h.pods, h.silent = slices.DeleteFunc(h.pods, is), slices.DeleteFunc(h.silent, is)
	return uid
}

// readies says that a pod is Ready and waits until ours has heard so: of changes that come together it sees the last.
func (h *history) readies(uid string) {
	h.becomes("demo-00001", uid, true)
	for _, one := range h.twins {
		one.a.eventually(uid+" is known to be Ready", func() bool {
			p := one.a.source.prober
			p.mu.Lock()
			defer p.mu.Unlock()
			_, early := p.early[types.NamespacedName{Namespace: shop, Name: "demo-00001"}][uid]
			return !early
		})
	}
}

func (h *history) podLeaves() string {
	if len(h.pods) == 0 {
		return "nothing happens"
	}
	i := h.chance.IntN(len(h.pods))
	uid := h.pods[i]
	h.unlist("demo-00001", uid)
	h.pods = slices.Delete(h.pods, i, i+1)
	return uid + " leaves"
}

func (h *history) podIsReplaced() string { return h.podLeaves() + ", " + h.podsCome() }

func (h *history) allLeave() string {
	for _, uid := range slices.Concat(h.pods, h.silent) {
		h.unlist("demo-00001", uid)
	}
	h.pods, h.silent = nil, nil
	return "all pods leave"
}

// activatorsChange puts some of the activators in the path of the revision.
func (h *history) activatorsChange() string {
	var path []*twin
	for _, i := range h.chance.Perm(len(h.twins))[:1+h.chance.IntN(len(h.twins))] {
		path = append(path, h.twins[i])
	}
	slices.SortFunc(path, func(a, b *twin) int { return strings.Compare(a.address, b.address) })
	var addresses []corev1.EndpointAddress
	for i, one := range path {
		one.index, one.of = i, len(path)
		addresses = append(addresses, corev1.EndpointAddress{IP: one.address})
	}
	h.publish(&corev1.Endpoints{
		ObjectMeta: metav1.ObjectMeta{Namespace: shop, Name: "demo-00001", Labels: map[string]string{
			"serving.knative.dev/revision": "demo-00001", "networking.internal.knative.dev/serviceType": "Public",
		}},
		Subsets: []corev1.EndpointSubset{{Addresses: addresses, Ports: []corev1.EndpointPort{{Name: "http", Port: 8012}}}},
	})
	return fmt.Sprintf("%d activators are in the path", len(path))
}

// publish puts the Endpoints of the public Service in force.
func (h *history) publish(e *corev1.Endpoints) {
	h.Helper()
	client := fakekube.Get(h.ctx).CoreV1().Endpoints(shop)
	_, err := client.Create(h.ctx, e, metav1.CreateOptions{})
	if apierrors.IsAlreadyExists(err) {
		_, err = client.Update(h.ctx, e, metav1.UpdateOptions{})
	}
	h.must(err)
}

// share returns the addresses of the pods that an activator has, as Serving divides them when they have a limit: equal parts in the order
// of the addresses, and one each of those that are left over. With fewer pods than activators several have the same one.
func (h *history) share(one *twin) []string {
	all := make([]string, 0, len(h.pods))
	for _, uid := range h.pods {
		all = append(all, h.cluster.pods[uid].Listener.Addr().String())
	}
	slices.Sort(all)
	if h.limit == 0 || len(all) <= 1 || one.of <= 1 {
		return all
	}
	if one.of > len(all) {
		return all[one.index%len(all):][:1]
	}
	part, left := len(all)/one.of, len(all)%one.of
	own := slices.Clone(all[one.index*part : (one.index+1)*part])
	if one.index < left {
		own = append(own, all[len(all)-left+one.index])
	}
	slices.Sort(own)
	return own
}

// compare waits until both Throttlers of each activator have heard of the last event, and fails the test if ours is not as Serving's then.
func (h *history) compare(when string) {
	h.Helper()
	for _, one := range h.twins {
		pods := h.share(one)
		want := crowded{at: pods, entered: len(pods) * int(h.limit), refused: map[string]int{
			context.Canceled.Error(): surplus, context.DeadlineExceeded.Error(): late,
		}}
		if h.limit == 0 && len(pods) > 0 {
			want.entered, want.refused = 20*len(pods)+late, map[string]int{}
		}
		h.expect(one, one.stock, want, when+": Serving's")
		h.expect(one, one.ours, want, when+": ours")
	}
}

// expect waits until a Throttler does what is wanted, and fails the test if it does not in time.
func (h *history) expect(one *twin, throttler thrower, want crowded, what string) {
	h.Helper()
	options := cmp.AllowUnexported(crowded{})
	got := h.crowd(throttler, len(want.at))
	for end := time.Now().Add(time.Minute); !cmp.Equal(want, got, options) && time.Now().Before(end); {
		got = h.crowd(throttler, len(want.at))
	}
	if d := cmp.Diff(want, got, options); d != "" {
		h.Errorf("%s, at %s with %d pods (-want +got):\n%s", what, one.address, len(h.pods), d)
	}
}

// A crowded is what a Throttler did with more requests than it may let in.
type crowded struct {
	at      []string // where it let some in, sorted
	entered int
	refused map[string]int // by the error
}

// surplus is how many requests are sent beside those that may be let in, and late how many come when those are.
const surplus, late = 8, 3

// crowd sends so many requests that every pod is full. Who gets in stays until all others were refused: at the end of their contexts.
func (h *history) crowd(one thrower, pods int) crowded {
	capacity := pods * int(h.limit)
	if h.limit == 0 {
		capacity = 20*pods - surplus*min(pods, 1) // all of them get in, and find every pod
	}
	ctx, cancel := context.WithCancel(h.ctx)
	defer cancel()
	g := &gathering{entered: make(chan string, capacity+surplus+late), over: make(chan struct{}), refused: make(map[string]int)}
	for range capacity + surplus {
		g.Go(func() { g.try(ctx, one, func() {}) })
	}
	g.await(capacity, 200*time.Millisecond)
	var decided sync.WaitGroup
	for range late {
		decided.Add(1)
		g.Go(func() {
			ctx, cancel := context.WithTimeout(ctx, 5*time.Millisecond)
			defer cancel()
			g.try(ctx, one, sync.OnceFunc(decided.Done))
		})
	}
	decided.Wait()
	cancel()
	close(g.over)
	g.Wait()
	return g.crowded()
}

// A gathering is requests that were sent at once.
type gathering struct {
	sync.WaitGroup
	entered chan string // where
	over    chan struct{}

	mu      sync.Mutex
	refused map[string]int
	at      []string
}

// try sends one request, and says when it is decided whether it gets in.
func (g *gathering) try(ctx context.Context, one thrower, decided func()) {
	defer decided()
	key := types.NamespacedName{Namespace: shop, Name: "demo-00001"}
	err := panicsAsErrors(func() error {
		return one.Try((&trip{answer: http.Header{}}).in(ctx), key, func(at string, _ bool) error {
			g.entered <- at
			decided()
			<-g.over
			return nil
		})
	})
	if err != nil {
		g.mu.Lock()
		defer g.mu.Unlock()
		g.refused[err.Error()]++
	}
}

// panicsAsErrors returns the error of do, or what it panics with. Serving's choice of a pod panics if the last one leaves at the same moment,
// which its server recovers from; a Throttler that goes on to is unlike what is wanted of it.
func panicsAsErrors(do func() error) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("panic: %v", p)
		}
	}()
	return do()
}

// await waits until so many have entered. A Throttler that has yet to hear of something may let fewer in: its caller tries again.
func (g *gathering) await(entered int, atMost time.Duration) {
	timer := time.NewTimer(atMost)
	defer timer.Stop()
	for range entered {
		select {
		case at := <-g.entered:
			g.at = append(g.at, at)
		case <-timer.C:
			return
		}
	}
}

// crowded sums up. Without a limit all that were sent have entered, early or late.
func (g *gathering) crowded() crowded {
	close(g.entered)
	for at := range g.entered {
		g.at = append(g.at, at)
	}
	where := make(map[string]bool)
	for _, at := range g.at {
		where[at] = true
	}
	at := slices.AppendSeq(make([]string, 0, len(where)), maps.Keys(where))
	slices.Sort(at)
	return crowded{at: at, entered: len(g.at), refused: g.refused}
}

// compareErrors compares what comes of a request that fails itself, of one whose time is over, and of a revision that is gone.
func (h *history) compareErrors() {
	h.Helper()
	if len(h.pods) == 0 {
		h.compare("at last, " + h.podsCome())
	}
	failure, key := errors.New("the pod hung up"), types.NamespacedName{Namespace: shop, Name: "demo-00001"}
	ended, end := context.WithCancel(h.ctx)
	end()
	for _, one := range h.twins {
		for _, throttler := range []thrower{one.stock, one.ours} {
			err := throttler.Try((&trip{answer: http.Header{}}).in(h.ctx), key, func(string, bool) error { return failure })
			if !errors.Is(err, failure) {
				h.Errorf("%T of a request that fails = %v, want %v", throttler, err, failure)
			}
		}
	}
	h.allLeave()
	h.compare("at last, all pods leave")
	h.deleteRevision("demo-00001")
	for _, one := range h.twins {
		for _, throttler := range []thrower{one.stock, one.ours} {
			one.a.eventually(fmt.Sprintf("%T has heard that the revision is gone", throttler), func() bool {
				err := throttler.Try((&trip{answer: http.Header{}}).in(ended), key, func(string, bool) error { return nil })
				return apierrors.IsNotFound(err)
			})
		}
	}
}
