package binding_test

import (
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"github.com/limpet-project/limpet/affinity"
	"github.com/limpet-project/limpet/binding"
	"github.com/limpet-project/limpet/binding/bindingtest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// A clock is time that tests advance.
type clock struct {
	mu  sync.Mutex
	now time.Time
}

func newClock() *clock { return &clock{now: time.Date(2026, 10, 1, 12, 0, 0, 0, time.UTC)} }

func (c *clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func (c *clock) Advance(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
}

func TestMemoryKeepsTheContract(t *testing.T) {
	c := newClock()
	open := func(*testing.T) binding.Store { return binding.NewMemory(binding.MemoryOptions{Now: c.Now}) }
	bindingtest.RunWith(t, bindingtest.Options{
		New:     open,
		Advance: c.Advance,
		Pair: func(t *testing.T) (binding.Store, binding.Store) {
			m := open(t)
			return m, m
		},
	})
}

func TestMemoryKeepsTheContractInRealTime(t *testing.T) {
	if testing.Short() {
		t.Skip("lives of a second")
	}
	bindingtest.Run(t, func(*testing.T) binding.Store { return binding.NewMemory(binding.MemoryOptions{}) })
}

func TestMemoryEvictsTheBindingIdleLongest(t *testing.T) {
	c := newClock()
	m := binding.NewMemory(binding.MemoryOptions{Max: 100, Now: c.Now}) // so small a Max has one shard: the order is exact
	var first binding.Binding
	for i := range 100 {
		b := mustSwap(t, m, session(fmt.Sprintf("s-%d", i)), unbound, pod1)
		if i == 0 {
			first = b
		}
		c.Advance(time.Second)
	}
	if err := m.Touch(t.Context(), []binding.Renewal{{Key: session("s-0"), Version: first.Version, Life: hour}}); err != nil {
		t.Fatal(err)
	}
	mustSwap(t, m, session("s-100"), unbound, pod1)
	wantTarget(t, m, session("s-0"), pod1)
	wantTarget(t, m, session("s-1"), affinity.Target{})
	wantTarget(t, m, session("s-2"), pod1)
	if s := m.Stats(); s.Bindings != 100 || s.Evicted != 1 {
		t.Errorf("Stats() = %+v, want 100 bindings and 1 evicted", s)
	}
}

func TestAFloodOfOneServicePushesOutNoSessionOfAnother(t *testing.T) {
	m := binding.NewMemory(binding.MemoryOptions{Max: 8000})
	blog := affinity.ServiceName{Namespace: "blog", Name: "posts"}
	for i := range 2000 {
		mustSwap(t, m, sessionOf(blog, fmt.Sprintf("s-%d", i)), unbound, pod3)
	}
	for i := range 50_000 {
		mustSwap(t, m, session(fmt.Sprintf("flood-%d", i)), unbound, pod1)
	}
	for i := range 2000 {
		wantTarget(t, m, sessionOf(blog, fmt.Sprintf("s-%d", i)), pod3)
	}
	// A service that held everything yields what is beyond its share when another one comes. A thousand less than half stay
	// below the half of each shard too: that is more than ten standard deviations.
	for i := range 1000 {
		mustSwap(t, m, sessionOf(blog, fmt.Sprintf("t-%d", i)), unbound, pod3)
	}
	for i := range 2000 {
		wantTarget(t, m, sessionOf(blog, fmt.Sprintf("s-%d", i)), pod3)
		wantTarget(t, m, sessionOf(blog, fmt.Sprintf("t-%d", i%1000)), pod3)
	}
	if s := m.Stats(); s.Bindings > 8000 {
		t.Errorf("Stats() = %+v, want at most 8000 bindings", s)
	}
}

// Prototype defect 16: any number of ids from one client filled the store.
func TestMemoryQuotaIsExactInARace(t *testing.T) {
	m := binding.NewMemory(binding.MemoryOptions{})
	const quota, tries = 1000, 4000
	var group sync.WaitGroup
	var full atomic.Int64
	for worker := range 8 {
		group.Go(func() {
			for i := worker; i < tries; i += 8 {
				_, err := m.Swap(t.Context(), session(fmt.Sprintf("s-%d", i)), unbound, pod1, binding.Life{Idle: time.Hour, Quota: quota})
				if errors.Is(err, binding.ErrFull) {
					full.Add(1)
				}
			}
		})
	}
	group.Wait()
	if s := m.Stats(); s.Bindings != quota || s.Refused != tries-quota || full.Load() != tries-quota {
		t.Errorf("Stats() = %+v with %d ErrFull, want %d bindings and %d refused", s, full.Load(), quota, tries-quota)
	}
}

// Prototype defect 9: nothing ever expired.
func TestMemoryRemovesWhatEnded(t *testing.T) {
	c := newClock()
	var bound atomic.Int64
	m := binding.NewMemory(binding.MemoryOptions{Now: c.Now, Census: func(_ affinity.ServiceName, _ affinity.Target, delta int) {
		bound.Add(int64(delta))
	}})
	const n = 10_000
	for i := range n {
		mustSwap(t, m, session(fmt.Sprintf("s-%d", i)), unbound, pod1)
	}
	if got := bound.Load(); got != n {
		t.Errorf("census = %d, want %d", got, n)
	}
	c.Advance(76 * time.Minute)
	for i := range 2 * n { // requests of sessions that nobody knows sweep a little each
		m.Peek(session(fmt.Sprintf("other-%d", i)))
	}
	if got := bound.Load(); got != 0 {
		t.Errorf("census after all ended and other requests came = %d, want 0", got)
	}
	if s := m.Stats(); s.Bindings != 0 || s.Expired != n {
		t.Errorf("Stats() = %+v, want %d expired", s, n)
	}
}

func TestMemoryCensusFollowsSessionsOnly(t *testing.T) {
	counts := map[affinity.Target]int{}
	m := binding.NewMemory(binding.MemoryOptions{Census: func(service affinity.ServiceName, to affinity.Target, delta int) {
		if service != cart {
			t.Errorf("census of %v, want %v", service, cart)
		}
		counts[to] += delta
	}})
	made := mustSwap(t, m, session("s-1"), unbound, pod1)
	mustSwap(t, m, session("s-2"), unbound, pod1)
	mustSwap(t, m, session("s-1"), made.Version, pod2)
	flow := session("f-1")
	flow.Scope.Kind = affinity.KindFlow
	mustSwap(t, m, flow, unbound, affinity.Target{Revision: "demo-00001"})
	if diff := cmp.Diff(map[affinity.Target]int{pod1: 1, pod2: 1}, counts); diff != "" {
		t.Errorf("census (-want +got):\n%s", diff)
	}
	if err := m.Delete(t.Context(), session("s-2"), unbound); err != nil {
		t.Fatal(err)
	}
	if counts[pod1] != 0 {
		t.Errorf("census of %v after its session was deleted = %d, want 0", pod1, counts[pod1])
	}
}

func TestMemoryAnswersKnownKeysWithoutAllocating(t *testing.T) {
	m := binding.NewMemory(binding.MemoryOptions{})
	k := session("s-1")
	mustSwap(t, m, k, unbound, pod1)
	ctx := t.Context()
	if allocs := testing.AllocsPerRun(100, func() { m.Get(ctx, k) }); allocs != 0 {
		t.Errorf("allocations of Get = %v, want 0", allocs)
	}
	if allocs := testing.AllocsPerRun(100, func() { m.Peek(k) }); allocs != 0 {
		t.Errorf("allocations of Peek = %v, want 0", allocs)
	}
}

func TestMemoryRefusesACursorThatIsNone(t *testing.T) {
	m := binding.NewMemory(binding.MemoryOptions{})
	for _, cursor := range []string{"x", "1", "-1.5", "1.x", "1.-2"} {
		if _, _, err := m.List(t.Context(), cart, cursor, 10); err == nil {
			t.Errorf("List(%q) = no error, want one", cursor)
		}
	}
	if _, _, err := m.List(t.Context(), cart, "9999.1", 10); err != nil {
		t.Errorf("List beyond the end = %v, want no error", err)
	}
}
