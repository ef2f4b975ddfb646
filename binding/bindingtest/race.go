package bindingtest

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/anishathalye/porcupine"

	"github.com/limpet-project/limpet/affinity"
	"github.com/limpet-project/limpet/binding"
)

func (s *suite) testRace(t *testing.T) {
	t.Run("has one winner with whom everyone leaves", func(t *testing.T) {
		u := s.subject(t)
		u.race(u.store, u.store)
	})
	t.Run("of two gateways has one winner with whom everyone leaves", func(t *testing.T) {
		if s.Pair == nil {
			t.Skip("no pair of gateways")
		}
		a, b := s.Pair(t)
		s.around(t, a).race(a, b)
	})
}

// race lets 32 first requests of one session run at once, through a and b by turns.
func (s *subject) race(a, b binding.Store) {
	for round := range 20 {
		k := s.session(fmt.Sprintf("s-%d", round))
		left := make([]binding.Binding, 32)
		var wins atomic.Int32
		var group sync.WaitGroup
		start := make(chan struct{})
		for i := range left {
			group.Go(func() {
				store := []binding.Store{a, b}[i%2]
				<-start
				var err error
				left[i], err = store.Swap(s.t.Context(), k, unbound, affinity.Target{Revision: "demo-00001", Endpoint: fmt.Sprintf("pod-%d", i)}, hour)
				switch {
				case err == nil:
					wins.Add(1)
				case !errors.Is(err, binding.ErrConflict):
					s.t.Errorf("Swap in a race = %v, want no error or ErrConflict", err)
				}
			})
		}
		close(start)
		group.Wait()
		if n := wins.Load(); n != 1 {
			s.t.Fatalf("winners of race %d = %d, want 1", round, n)
		}
		for i := range left {
			if !left[i].Bound() || !same(left[i], left[0]) {
				s.t.Fatalf("racer %d left with %+v, want %+v like the others", i, left[i], left[0])
			}
		}
		for _, store := range []binding.Store{a, b} {
			s.around(s.t, store).want(k, left[0])
		}
	}
}

func (s *suite) testLinearizable(t *testing.T) {
	t.Run("one gateway", func(t *testing.T) {
		u := s.subject(t)
		for round := range 10 {
			u.history(fmt.Sprintf("s-%d", round), []binding.Store{u.store}, true)
		}
	})
	// A near cache may answer a Get from before another gateway's write, so that only writes are looked at.
	t.Run("writes of two gateways", func(t *testing.T) {
		if s.Pair == nil {
			t.Skip("no pair of gateways")
		}
		a, b := s.Pair(t)
		u := s.around(t, a)
		for round := range 10 {
			u.history(fmt.Sprintf("s-%d", round), []binding.Store{a, b}, false)
		}
	})
}

type operation struct {
	name   string // Get, Swap or Delete
	old    binding.Version
	target affinity.Target
}

type outcome struct {
	binding  binding.Binding
	conflict bool
}

// history lets 12 clients work on one key and checks that some order of their operations explains every result.
func (s *subject) history(id string, stores []binding.Store, reads bool) {
	s.t.Helper()
	const clients, steps = 12, 8
	k := s.session(id)
	var clock atomic.Int64
	var mu sync.Mutex
	var history []porcupine.Operation
	var group sync.WaitGroup
	for client := range clients {
		group.Go(func() {
			var known binding.Version
			for step := range steps {
				op := operation{"Swap", known, affinity.Target{Revision: "demo-00001", Endpoint: fmt.Sprintf("pod-%d-%d", client, step)}}
				if n := rand.IntN(6); n == 0 {
					op = operation{name: "Delete", old: known}
				} else if n <= 2 && reads {
					op = operation{name: "Get"}
				}
				called := clock.Add(1)
				out, err := s.perform(stores[client%len(stores)], k, op)
				returned := clock.Add(1)
				if err != nil {
					s.t.Errorf("%s while others work on the key = %v, want no error", op.name, err)
					return
				}
				known = out.binding.Version
				mu.Lock()
				history = append(history, porcupine.Operation{ClientId: client, Input: op, Call: called, Output: out, Return: returned})
				mu.Unlock()
			}
		})
	}
	group.Wait()
	if !porcupine.CheckOperations(keyModel, history) {
		s.t.Errorf("history of %v is not linearizable:", k)
		for _, op := range history {
			s.t.Logf("%4d–%4d %s", op.Call, op.Return, keyModel.DescribeOperation(op.Input, op.Output))
		}
	}
}

func (s *subject) perform(store binding.Store, k affinity.Key, op operation) (outcome, error) {
	switch op.name {
	case "Get":
		b, err := store.Get(s.t.Context(), k)
		return outcome{binding: plain(b)}, err
	case "Delete":
		return outcome{}, store.Delete(s.t.Context(), k, op.old)
	}
	b, err := store.Swap(s.t.Context(), k, op.old, op.target, hour)
	if errors.Is(err, binding.ErrConflict) {
		return outcome{plain(b), true}, nil
	}
	return outcome{binding: plain(b)}, err
}

// keyModel is one key: its state is the binding in force.
var keyModel = porcupine.Model{
	Init: func() any { return binding.Binding{} },
	Step: func(state, input, output any) (bool, any) {
		held, op, out := state.(binding.Binding), input.(operation), output.(outcome)
		switch {
		case op.name == "Get":
			return out.binding == held, held
		case op.name == "Delete" && (op.old.IsZero() || op.old == held.Version):
			return true, binding.Binding{}
		case op.name == "Delete":
			return true, held
		case op.old != held.Version:
			return out.conflict && out.binding == held, held
		}
		won := !out.conflict && out.binding.Target == op.target && out.binding.Version.Compare(held.Version) > 0
		return won, out.binding
	},
	DescribeOperation: func(input, output any) string { return describe(input.(operation), output.(outcome)) },
}

// describe writes an operation in a line; versions are told apart by their nonces' last digits.
func describe(op operation, out outcome) string {
	short := func(v binding.Version) string { return fmt.Sprintf("v%d.%d", v.Made%1e6, v.Nonce%1e6) }
	result := fmt.Sprintf("%v at %s", out.binding.Target, short(out.binding.Version))
	if out.conflict {
		result += ", conflict"
	}
	switch op.name {
	case "Get":
		return "Get = " + result
	case "Delete":
		return "Delete " + short(op.old)
	}
	return fmt.Sprintf("Swap %s %v = %s", short(op.old), op.target, result)
}
