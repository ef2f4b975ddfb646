package activator

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	netheader "knative.dev/networking/pkg/http/header"
	serving "knative.dev/serving/pkg/activator"

	"github.com/limpet-project/limpet/binding"
	"github.com/limpet-project/limpet/telemetry"
)

// What BenchmarkRequest sends: as test/cluster/cost does.
const (
	costConnections = 8
	costSessions    = 500
	costBatch       = 500 // requests of one way before it is the next one's turn
)

// partEnv says which part of the benchmark a process is. Pods and clients are processes of their own, so that what this one uses is what
// activators use.
const partEnv = "LIMPET_ACTIVATOR_COST"

func TestMain(m *testing.M) {
	switch os.Getenv(partEnv) {
	case "pods":
		servePods()
	case "client":
		sendBatches()
	default:
		os.Exit(m.Run())
	}
}

// BenchmarkRequest compares what a request costs Serving's handler chain and ours: processor time of the process (user and system) and
// allocations. All ways are in one process, in front of the same pods, and take turns; x-stock is the median of the ratios to Serving's in the
// same turn. Run it with -benchtime=20000x; less measures the collector's turns.
func BenchmarkRequest(b *testing.B) {
	ways := []*costWay{
		newCostWay(b, "stock", nil, true, nil),
		newCostWay(b, "stock-header", nil, true, nil),
		newCostWay(b, "off", memory(), false, map[string]string{"affinity.limpet.dev/policy": "off"}),
		newCostWay(b, "loose", memory(), false, nil),
		newCostWay(b, "memory", memory(), false, nil),
		newCostWay(b, "near", newCostCache(b), false, nil),
	}
	ways[1].session, ways[4].session, ways[5].session = true, true, true
	pods := startPart(b, "pods")
	for _, address := range strings.Fields(pods.line(b)) {
		for _, w := range ways {
			w.list("demo-00001", "pod-"+address, address)
		}
	}
	client := startPart(b, "client")
	for _, w := range ways {
		w.a.knowsOrNot("demo-00001", 3)
		w.send(b, client, costBatch)
	}
	b.ResetTimer()
	for left := b.N; left > 0; left -= costBatch {
		for _, i := range rand.Perm(len(ways)) { // so that the collector's turns fall on all alike
			w := ways[i]
			w.measure(b, client, min(left, costBatch))
		}
	}
	b.StopTimer()
	for _, w := range ways {
		w.report(b, ways[0])
	}
}

// TestASessionAllocatesNoMoreThanARequestInServing protects what BenchmarkRequest measures: allocations do not depend on the machine.
func TestASessionAllocatesNoMoreThanARequestInServing(t *testing.T) {
	ways := []*costWay{newCostWay(t, "stock", nil, true, nil), newCostWay(t, "memory", memory(), false, nil)}
	pods, client := startPart(t, "pods"), startPart(t, "client")
	for _, address := range strings.Fields(pods.line(t)) {
		for _, w := range ways {
			w.list("demo-00001", "pod-"+address, address)
		}
	}
	for _, w := range ways {
		w.session = true
		w.a.knows("demo-00001", 3)
		w.send(t, client, 2*costSessions) // all sessions are bound
		w.measure(t, client, costBatch)
	}
	const margin = 5 // of what happens now and then
	if stock, ours := ways[0].turns[0].allocs, ways[1].turns[0].allocs; ours > stock+margin {
		t.Errorf("allocations of a request = %.1f, want no more than Serving's %.1f", ours, stock)
	}
}

// A costWay leads to the pods through one activator.
type costWay struct {
	*cluster
	name    string
	a       *activator
	session bool
	turns   []costs
}

// costs are those of one request.
type costs struct {
	micros, allocs, bytes float64
}

func newCostWay(b testing.TB, name string, store binding.Store, stock bool, annotations map[string]string) *costWay {
	b.Helper()
	w := &costWay{cluster: newCluster(b), name: name}
	w.stock, w.observer = stock, telemetry.NewMetrics()
	w.revision("demo-00001", 0)
	w.route(annotations, share{"demo-00001", 100, ""})
	if store == nil {
		store = memory()
	}
	w.a = w.activator(store, "activator-"+name, false)
	return w
}

// A watched store is one that reports what others change, as Redis does. Nobody does here.
type watched struct{ binding.Store }

// Watch implements binding.Invalidator.
func (watched) Watch(ctx context.Context, w binding.Watcher) error {
	w.Live()
	<-ctx.Done()
	return ctx.Err()
}

// newCostCache returns bindings with all that is around a shared store in an activator: known sessions are read from the near cache.
func newCostCache(b testing.TB) binding.Store {
	b.Helper()
	near := binding.NewNear(watched{memory()}, binding.NearOptions{})
	breaker := binding.NewDegraded(near, binding.DegradedOptions{})
	ctx, cancel := context.WithCancel(context.Background())
	var parts sync.WaitGroup
	parts.Go(func() { near.Run(ctx) })
	parts.Go(func() { breaker.Run(ctx) })
	b.Cleanup(func() {
		cancel()
		parts.Wait()
	})
	return breaker
}

// knowsOrNot waits until the activator has the revision with so many pods, if it has it at all.
func (a *activator) knowsOrNot(revision string, pods int) {
	a.c.Helper()
	if len(a.source.index.Load().revisions) > 0 {
		a.knows(revision, pods)
	}
}

// measure sends requests and notes what they cost.
func (w *costWay) measure(b testing.TB, client *costPart, n int) {
	b.Helper()
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	begin := processorTime(b)
	w.send(b, client, n)
	used := processorTime(b) - begin
	runtime.ReadMemStats(&after)
	each := func(sum float64) float64 { return sum / float64(n) }
	w.turns = append(w.turns, costs{
		each(float64(used.Nanoseconds()) / 1e3), each(float64(after.Mallocs - before.Mallocs)), each(float64(after.TotalAlloc - before.TotalAlloc)),
	})
}

func (w *costWay) send(b testing.TB, client *costPart, n int) {
	b.Helper()
	fmt.Fprintln(client.in, w.a.url, n, w.session)
	if got := client.line(b); got != "served" {
		b.Fatalf("%s: %s", w.name, got)
	}
}

// report tells the medians.
func (w *costWay) report(b *testing.B, stock *costWay) {
	var micros, allocs, bytes, ratios []float64
	for i, c := range w.turns {
		micros, allocs, bytes = append(micros, c.micros), append(allocs, c.allocs), append(bytes, c.bytes)
		ratios = append(ratios, c.micros/stock.turns[i].micros)
	}
	b.ReportMetric(median(micros), w.name+"-µs")
	b.ReportMetric(median(allocs), w.name+"-allocs")
	b.ReportMetric(median(bytes), w.name+"-B")
	b.ReportMetric(median(ratios), w.name+"-x-stock")
}

func median[T cmp.Ordered](list []T) T {
	slices.Sort(list)
	return list[len(list)/2]
}

// processorTime returns what this process has used.
func processorTime(b testing.TB) time.Duration {
	b.Helper()
	var used syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &used); err != nil {
		b.Fatal(err)
	}
	return time.Duration(used.Utime.Nano() + used.Stime.Nano())
}

// A costPart is a process that takes part in the benchmark.
type costPart struct {
	in  io.Writer
	out *bufio.Scanner
}

func startPart(b testing.TB, name string) *costPart {
	b.Helper()
	self, err := os.Executable()
	if err != nil {
		b.Fatal(err)
	}
	c := exec.Command(self)
	c.Env, c.Stderr = append(os.Environ(), partEnv+"="+name), os.Stderr
	in, inErr := c.StdinPipe()
	out, outErr := c.StdoutPipe()
	if err := errors.Join(inErr, outErr, c.Start()); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { // its input ends, and so does it
		in.Close()
		c.Wait()
	})
	return &costPart{in, bufio.NewScanner(out)}
}

func (p *costPart) line(b testing.TB) string {
	b.Helper()
	if !p.out.Scan() {
		b.Fatalf("a part of the benchmark has ended: %v", p.out.Err())
	}
	return p.out.Text()
}

// servePods is the process that is three pods.
func servePods() {
	h := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get(netheader.ProbeKey) != "" {
			io.WriteString(w, "queue")
			return
		}
		io.WriteString(w, "1\n")
	})
	var addresses []string
	for range 3 {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return
		}
		go http.Serve(l, h)
		addresses = append(addresses, l.Addr().String())
	}
	fmt.Println(strings.Join(addresses, " "))
	io.Copy(io.Discard, os.Stdin)
}

// sendBatches is the process that is the clients: it sends what it is told to.
func sendBatches() {
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: costConnections}, Timeout: 30 * time.Second}
	for {
		var url string
		var n int
		var session bool
		if _, err := fmt.Scanln(&url, &n, &session); err != nil {
			return
		}
		errs := make([]error, costConnections)
		var all sync.WaitGroup
		for c := range costConnections {
			all.Go(func() {
				for i := c; i < n && errs[c] == nil; i += costConnections {
					errs[c] = ask(client, url, i, session)
				}
			})
		}
		all.Wait()
		if err := errors.Join(errs...); err != nil {
			fmt.Println(strings.ReplaceAll(err.Error(), "\n", "; "))
			return
		}
		fmt.Println("served")
	}
}

func ask(client *http.Client, url string, n int, session bool) error {
	r, err := http.NewRequest(http.MethodGet, url+"/incr", nil)
	if err != nil {
		return err
	}
	r.Host = host
	r.Header.Set(serving.RevisionHeaderNamespace, shop)
	r.Header.Set(serving.RevisionHeaderName, "demo-00001")
	if session {
		r.Header.Set("K-Session", fmt.Sprintf("user-%05d", n%costSessions))
	}
	resp, err := client.Do(r)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if _, err := io.Copy(io.Discard, resp.Body); err != nil {
		return err
	}
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("answer %s", resp.Status)
	}
	return nil
}
