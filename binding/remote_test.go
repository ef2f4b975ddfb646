package binding_test

import (
	"context"
	"crypto/sha256"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/limpet-project/limpet/affinity"
	"github.com/limpet-project/limpet/binding"
)

var (
	pod1 = affinity.Target{Revision: "demo-00001", Endpoint: "demo-00001-deployment-7f9c4-x2x7k"}
	pod2 = affinity.Target{Revision: "demo-00001", Endpoint: "demo-00001-deployment-7f9c4-q8m4d"}
	pod3 = affinity.Target{Revision: "demo-00002", Endpoint: "demo-00002-deployment-5d6b8-lw9zt"}

	unbound binding.Version
	hour    = binding.Life{Idle: time.Hour}
	cart    = affinity.ServiceName{Namespace: "shop", Name: "cart"}
)

func sessionOf(service affinity.ServiceName, id string) affinity.Key {
	sum := sha256.Sum256([]byte(id))
	return affinity.Key{Scope: affinity.Scope{Service: service, Kind: affinity.KindSession}, Digest: [16]byte(sum[:16])}
}

func session(id string) affinity.Key { return sessionOf(cart, id) }

func mustSwap(t *testing.T, s binding.Store, k affinity.Key, old binding.Version, to affinity.Target) binding.Binding {
	t.Helper()
	b, err := s.Swap(t.Context(), k, old, to, hour)
	if err != nil || b.Target != to {
		t.Fatalf("Swap(%v, %v, %v) = %+v, %v, want the new binding", k, old, to, b, err)
	}
	return b
}

func wantTarget(t *testing.T, s binding.Store, k affinity.Key, want affinity.Target) binding.Binding {
	t.Helper()
	b, err := s.Get(t.Context(), k)
	if err != nil || b.Target != want {
		t.Fatalf("Get(%v) = %+v, %v, want %v", k, b, err, want)
	}
	return b
}

// A fault is a way in which a remote fails.
type fault int

const (
	works   fault = iota
	refuses       // every call at once
	hangs         // every call waits for its context
	full          // out of memory: writes that make bindings
	reads         // a replica: writes
)

// A remote is a store at the other end of a network, with gateways connected to it.
type remote struct {
	now func() time.Time

	mu       sync.Mutex
	memory   *binding.Memory
	fault    fault
	calls    int
	watching map[*gateway]binding.Watcher
	seen     map[affinity.Key]bool
	before   func()             // runs before the store restores
	delay    func(affinity.Key) // runs after the store answered a Get and before the answer arrives
}

func newRemote(now func() time.Time) *remote {
	return &remote{
		now: now, memory: binding.NewMemory(binding.MemoryOptions{Now: now}),
		watching: map[*gateway]binding.Watcher{}, seen: map[affinity.Key]bool{},
	}
}

// gateway returns a new connection.
func (r *remote) gateway() *gateway { return &gateway{remote: r, live: make(chan struct{})} }

// set changes how the remote fails.
func (r *remote) set(f fault) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.fault = f
}

// asked returns how often the remote was called.
func (r *remote) asked() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.calls
}

// each calls every watcher.
func (r *remote) each(tell func(binding.Watcher)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, w := range r.watching {
		tell(w)
	}
}

// empty loses every binding, as a restart does, or as a failover to a replica that has only those given. The gateways notice.
func (r *remote) empty(kept ...binding.Entry) {
	m := binding.NewMemory(binding.MemoryOptions{Now: r.now})
	m.Restore(context.Background(), kept)
	r.mu.Lock()
	r.memory = m
	r.mu.Unlock()
	r.each(binding.Watcher.Lost)
	r.each(binding.Watcher.Live)
}

// expired reports the bindings that ended.
func (r *remote) expired() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for k := range r.seen {
		if _, ok := r.memory.Peek(k); !ok {
			delete(r.seen, k)
			for _, w := range r.watching {
				w.Invalidate(k)
			}
		}
	}
}

// A gateway is one gateway's connection to a remote: a binding.Store that is told of the others' changes.
type gateway struct {
	*remote
	live chan struct{} // closed when Watch has said Live
}

func (g *gateway) enter(ctx context.Context, write, makes bool) (*binding.Memory, error) {
	g.mu.Lock()
	g.calls++
	m, f := g.memory, g.fault
	g.mu.Unlock()
	switch {
	case ctx.Err() != nil:
		return nil, ctx.Err()
	case f == refuses, f == reads && write:
		return nil, fmt.Errorf("dialing 10.0.0.7:6379: connection refused: %w", binding.ErrUnavailable)
	case f == full && makes:
		return nil, fmt.Errorf("OOM command not allowed: %w", binding.ErrFull)
	case f == hangs:
		<-ctx.Done()
		return nil, fmt.Errorf("waiting for the reply: %w", ctx.Err())
	}
	return m, nil
}

// changed tells the other gateways.
func (g *gateway) changed(k affinity.Key) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.seen[k] = true
	for other, w := range g.watching {
		if other != g {
			w.Invalidate(k)
		}
	}
}

func (g *gateway) Get(ctx context.Context, k affinity.Key) (binding.Binding, error) {
	m, err := g.enter(ctx, false, false)
	if err != nil {
		return binding.Binding{}, err
	}
	b, err := m.Get(ctx, k)
	g.mu.Lock()
	delay := g.delay
	g.mu.Unlock()
	if delay != nil {
		delay(k)
	}
	return b, err
}

func (g *gateway) Swap(ctx context.Context, k affinity.Key, old binding.Version, t affinity.Target, life binding.Life) (binding.Binding, error) {
	m, err := g.enter(ctx, true, true)
	if err != nil {
		return binding.Binding{}, err
	}
	b, err := m.Swap(ctx, k, old, t, life)
	if err == nil {
		g.changed(k)
	}
	return b, err
}

func (g *gateway) Touch(ctx context.Context, renewals []binding.Renewal) error {
	m, err := g.enter(ctx, true, false)
	if err != nil {
		return err
	}
	for _, r := range renewals {
		g.changed(r.Key)
	}
	return m.Touch(ctx, renewals)
}

func (g *gateway) Delete(ctx context.Context, k affinity.Key, v binding.Version) error {
	m, err := g.enter(ctx, true, false)
	if err != nil {
		return err
	}
	if err := m.Delete(ctx, k, v); err != nil {
		return err
	}
	g.changed(k)
	return nil
}

func (g *gateway) Restore(ctx context.Context, entries []binding.Entry) ([]binding.Binding, error) {
	m, err := g.enter(ctx, true, true)
	if err != nil {
		return nil, err
	}
	g.mu.Lock()
	before := g.before
	g.mu.Unlock()
	if before != nil {
		before()
	}
	for _, e := range entries {
		g.changed(e.Key)
	}
	return m.Restore(ctx, entries)
}

func (g *gateway) List(ctx context.Context, service affinity.ServiceName, cursor string, n int) ([]binding.Entry, string, error) {
	m, err := g.enter(ctx, false, false)
	if err != nil {
		return nil, "", err
	}
	return m.List(ctx, service, cursor, n)
}

func (g *gateway) Ping(ctx context.Context) error {
	_, err := g.enter(ctx, true, false)
	return err
}

// Watch, which may be called once, reports changes for as long as ctx, whatever the fault: tests cut it with each(Lost).
func (g *gateway) Watch(ctx context.Context, w binding.Watcher) error {
	g.mu.Lock()
	g.watching[g] = w
	g.mu.Unlock()
	w.Live()
	close(g.live)
	<-ctx.Done()
	g.mu.Lock()
	delete(g.watching, g)
	g.mu.Unlock()
	return ctx.Err()
}
