package binding_test

import (
	"context"
	"encoding/binary"
	"fmt"
	"runtime"
	"sync/atomic"
	"testing"
	"time"

	"github.com/limpet-project/limpet/affinity"
	"github.com/limpet-project/limpet/binding"
)

// heap returns the live heap after collections; the second one frees what finalisers and interning held in the first.
func heap() uint64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

// targets are two revisions with fifty endpoints each.
func targets() []affinity.Target {
	var all []affinity.Target
	for i := range 100 {
		revision := fmt.Sprintf("demo-%05d", i/50+1)
		all = append(all, affinity.Target{Revision: revision, Endpoint: fmt.Sprintf("%s-deployment-7f9c4bd5c8-%05d", revision, i)})
	}
	return all
}

func numbered(i int) affinity.Key {
	k := affinity.Key{Scope: affinity.Scope{Service: cart, Kind: affinity.KindSession}}
	binary.LittleEndian.PutUint64(k.Digest[:], uint64(i)*0x9e3779b97f4a7c15)
	binary.LittleEndian.PutUint64(k.Digest[8:], uint64(i)*0xc2b2ae3d27d4eb4f)
	return k
}

// footprint returns the bytes per binding of n bindings of one service in a store.
func footprint(tb testing.TB, s binding.Store, n int) float64 {
	tb.Helper()
	all, life := targets(), binding.Life{Idle: time.Hour, Quota: n}
	before := heap()
	for i := range n {
		if _, err := s.Swap(context.Background(), numbered(i), unbound, all[i%len(all)], life); err != nil {
			tb.Fatal(err)
		}
	}
	after := heap()
	runtime.KeepAlive(s)
	return float64(after-before) / float64(n)
}

const million = 1_000_000

func TestAMillionBindingsTakeAtMost128BytesEach(t *testing.T) {
	if testing.Short() {
		t.Skip("a million bindings")
	}
	m := binding.NewMemory(binding.MemoryOptions{Max: 2 * million})
	if got := footprint(t, m, million); got > 128 {
		t.Errorf("bytes per binding = %.1f, want at most 128", got)
	}
	if s := m.Stats(); s.Bindings != million || s.Evicted != 0 {
		t.Errorf("Stats() = %+v, want a million bindings", s)
	}
}

// void is a store that makes bindings and remembers none, so that only the cache in front of it is weighed.
type void struct{ binding.Store }

func (void) Swap(_ context.Context, _ affinity.Key, _ binding.Version, t affinity.Target, _ binding.Life) (binding.Binding, error) {
	return binding.Binding{Target: t, Version: binding.Version{Made: 1, Nonce: 1}}, nil
}

func TestAHundredThousandNearEntriesTakeAtMost200BytesEach(t *testing.T) {
	n := binding.NewNear(void{}, binding.NearOptions{Max: 110_000})
	if got := footprint(t, n, 100_000); got > 200 {
		t.Errorf("bytes per entry = %.1f, want at most 200", got)
	}
}

// Targets churn with the names of pods; what is interned must not pile up.
func TestMemoryForgetsNamesOfTargetsThatAreGone(t *testing.T) {
	m := binding.NewMemory(binding.MemoryOptions{Max: 1000})
	churn := func(generation int) {
		for i := range 20_000 {
			to := affinity.Target{Revision: "demo-00001", Endpoint: fmt.Sprintf("demo-00001-deployment-%d-%064d", generation, i)}
			mustSwap(t, m, numbered(generation<<20+i), unbound, to)
		}
	}
	churn(0)
	before := heap()
	for generation := 1; generation <= 5; generation++ {
		churn(generation)
	}
	// Five times 20,000 names of 90 bytes would be 9 MB; the thousand that are bound are replaced. A goroutine of the runtime's forgets
	// those that a collection found, when it comes to that.
	after := heap()
	for deadline := time.Now().Add(30 * time.Second); after > before+1<<20 && time.Now().Before(deadline); after = heap() {
		runtime.Gosched()
	}
	if after > before+1<<20 {
		t.Errorf("heap after 100,000 more names = %d, want about %d", after, before)
	}
	runtime.KeepAlive(m)
}

func BenchmarkMemoryFootprint(b *testing.B) {
	for b.Loop() {
		b.ReportMetric(footprint(b, binding.NewMemory(binding.MemoryOptions{Max: 2 * million}), million), "B/binding")
	}
}

func BenchmarkNearFootprint(b *testing.B) {
	for b.Loop() {
		b.ReportMetric(footprint(b, binding.NewNear(void{}, binding.NearOptions{Max: 110_000}), 100_000), "B/entry")
	}
}

// filled is the number of keys of the benchmarks of speed.
const filled = 1 << 17

func fill(b *testing.B, s binding.Store) {
	all := targets()
	for i := range filled {
		if _, err := s.Swap(b.Context(), numbered(i), unbound, all[i%len(all)], hour); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportAllocs()
	b.ResetTimer()
}

func BenchmarkMemoryGet(b *testing.B) {
	m := binding.NewMemory(binding.MemoryOptions{})
	fill(b, m)
	b.RunParallel(func(pb *testing.PB) {
		for i := 0; pb.Next(); i += 7919 {
			m.Get(context.Background(), numbered(i%filled))
		}
	})
}

func BenchmarkMemorySwap(b *testing.B) {
	m := binding.NewMemory(binding.MemoryOptions{})
	fill(b, m)
	b.RunParallel(func(pb *testing.PB) {
		for i := 0; pb.Next(); i += 7919 {
			k := numbered(i % filled)
			held, _ := m.Peek(k)
			m.Swap(context.Background(), k, held.Version, pod1, hour)
		}
	})
}

func BenchmarkMemoryCreate(b *testing.B) {
	m := binding.NewMemory(binding.MemoryOptions{})
	fill(b, m)
	var workers atomic.Int64
	b.RunParallel(func(pb *testing.PB) {
		base := int(workers.Add(1)) << 40
		for i := 0; pb.Next(); i++ {
			m.Swap(context.Background(), numbered(base+i), unbound, pod1, hour)
		}
	})
}

func BenchmarkNearPeek(b *testing.B) {
	n := binding.NewNear(void{}, binding.NearOptions{Max: 2 * filled, TTL: time.Hour})
	fill(b, n)
	b.RunParallel(func(pb *testing.PB) {
		for i := 0; pb.Next(); i += 7919 {
			if _, ok := n.Peek(numbered(i % filled)); !ok {
				b.Error("Peek of a cached key = false, want true")
				return
			}
		}
	})
}
