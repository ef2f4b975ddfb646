// Package bindingtest holds the conformance suite of binding.Store.
//
// A store that passes Run keeps the whole contract: versions, conflicts, expiry, quotas, isolation of scopes, races and
// linearizability of one key, and of the optional abilities (Peeker, Lister, Restorer, Invalidator, Clock, Pinger) those that
// it has. It does not measure speed and does not make the store fail.
//
// Start with [Run]; [RunWith] takes [Options] for stores whose time can be advanced and for pairs of gateways.
package bindingtest

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"testing"
	"time"

	"github.com/limpet-project/limpet/affinity"
	"github.com/limpet-project/limpet/binding"
)

// Options say what the suite may use. New is required.
type Options struct {
	// New returns a store for one test. It need not be empty: the suite makes up service names that nobody else has.
	// The store must live until the test's cleanups run.
	New func(t *testing.T) binding.Store
	// Pair returns two gateways' views of one store. Nil skips the tests that need two.
	Pair func(t *testing.T) (a, b binding.Store)
	// Advance moves the time of every store of New and Pair. Nil is real time: the suite then uses lives of some seconds,
	// waits for them to end and runs those tests in parallel.
	Advance func(d time.Duration)
}

// Run tests the stores that open returns, in real time.
func Run(t *testing.T, open func(t *testing.T) binding.Store) {
	t.Helper()
	RunWith(t, Options{New: open})
}

// RunWith tests the stores that o describes.
func RunWith(t *testing.T, o Options) {
	t.Helper()
	s := &suite{o}
	for _, c := range []struct {
		name string
		test func(t *testing.T)
	}{
		{"Swap", s.testSwap},
		{"Version", s.testVersion},
		{"Touch", s.testTouch},
		{"Delete", s.testDelete},
		{"Life", s.testLife},
		{"Quota", s.testQuota},
		{"Isolation", s.testIsolation},
		{"Race", s.testRace},
		{"Linearizable", s.testLinearizable},
		{"Cancel", s.testCancel},
		{"Peeker", s.testPeeker},
		{"Lister", s.testLister},
		{"Restorer", s.testRestorer},
		{"Invalidator", s.testInvalidator},
		{"Clock", s.testClock},
		{"Pinger", s.testPinger},
	} {
		t.Run(c.name, c.test)
	}
}

type suite struct{ Options }

// subject is one store under test with a service of its own.
type subject struct {
	*suite
	t       *testing.T
	store   binding.Store
	service affinity.ServiceName
}

func (s *suite) subject(t *testing.T) *subject { return s.around(t, s.New(t)) }

func (s *suite) around(t *testing.T, store binding.Store) *subject {
	return &subject{s, t, store, affinity.ServiceName{Namespace: "shop", Name: "cart-" + rand.Text()}}
}

// session returns the key of a session id of the subject's service.
func (s *subject) session(id string) affinity.Key {
	return key(affinity.Scope{Service: s.service, Kind: affinity.KindSession}, id)
}

func key(scope affinity.Scope, id string) affinity.Key {
	sum := sha256.Sum256([]byte(id))
	return affinity.Key{Scope: scope, Digest: [16]byte(sum[:16])}
}

var (
	pod1 = affinity.Target{Revision: "demo-00001", Endpoint: "demo-00001-deployment-7f9c4-x2x7k"}
	pod2 = affinity.Target{Revision: "demo-00001", Endpoint: "demo-00001-deployment-7f9c4-q8m4d"}
	pod3 = affinity.Target{Revision: "demo-00002", Endpoint: "demo-00002-deployment-5d6b8-lw9zt"}

	unbound binding.Version // the version of a key that is not bound
	hour    = binding.Life{Idle: time.Hour}
)

func (s *subject) get(k affinity.Key) binding.Binding {
	s.t.Helper()
	b, err := s.store.Get(s.t.Context(), k)
	if err != nil {
		s.t.Fatalf("Get(%v) = %v, want no error", k, err)
	}
	return b
}

// swap makes a binding that must succeed.
func (s *subject) swap(k affinity.Key, old binding.Version, to affinity.Target, life binding.Life) binding.Binding {
	s.t.Helper()
	b, err := s.store.Swap(s.t.Context(), k, old, to, life)
	if err != nil {
		s.t.Fatalf("Swap(%v, %v, %v) = %v, want no error", k, old, to, err)
	}
	if b.Target != to || b.Version.IsZero() || b.Provisional {
		s.t.Fatalf("Swap(%v, %v, %v) = %+v, want the new binding", k, old, to, b)
	}
	return b
}

// lose makes a swap that must lose to winner.
func (s *subject) lose(k affinity.Key, old binding.Version, to affinity.Target, winner binding.Binding) {
	s.t.Helper()
	b, err := s.store.Swap(s.t.Context(), k, old, to, hour)
	if !errors.Is(err, binding.ErrConflict) || !same(b, winner) {
		s.t.Errorf("Swap(%v, %v, %v) = %+v, %v, want %+v, ErrConflict", k, old, to, b, err, winner)
	}
}

func (s *subject) touch(renewals ...binding.Renewal) {
	s.t.Helper()
	if err := s.store.Touch(s.t.Context(), renewals); err != nil {
		s.t.Fatalf("Touch(%d renewals) = %v, want no error", len(renewals), err)
	}
}

func (s *subject) delete(k affinity.Key, v binding.Version) {
	s.t.Helper()
	if err := s.store.Delete(s.t.Context(), k, v); err != nil {
		s.t.Fatalf("Delete(%v, %v) = %v, want no error", k, v, err)
	}
}

// want checks what k is bound to now.
func (s *subject) want(k affinity.Key, want binding.Binding) {
	s.t.Helper()
	if got := s.get(k); !same(got, want) {
		s.t.Errorf("Get(%v) = %+v, want %+v", k, got, want)
	}
}

// same compares bindings but for Ends, which is as far as is known; a store keeps Until to the millisecond at least.
func same(a, b binding.Binding) bool {
	return a.Target == b.Target && a.Version == b.Version && a.Provisional == b.Provisional &&
		a.Until.IsZero() == b.Until.IsZero() && a.Until.Sub(b.Until).Abs() <= time.Millisecond
}

// plain returns b without Ends.
func plain(b binding.Binding) binding.Binding {
	b.Ends = time.Time{}
	return b
}

// patience bounds the wait for something that must happen; it is only used up by stores that are wrong.
const patience = 30 * time.Second

// eventually waits until done says so.
func (s *subject) eventually(what string, done func() bool) {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.t.Context(), patience)
	defer cancel()
	poll := time.NewTicker(5 * time.Millisecond)
	defer poll.Stop()
	for !done() {
		select {
		case <-poll.C:
		case <-ctx.Done():
			s.t.Fatalf("%s: not so within %v", what, patience)
		}
	}
}

// now returns the store's clock, read off the version of a new binding.
func (s *subject) now() time.Time {
	s.t.Helper()
	k := s.session("what time is it " + rand.Text())
	b := s.swap(k, unbound, pod1, hour)
	s.delete(k, b.Version)
	return time.UnixMicro(b.Version.Made)
}
