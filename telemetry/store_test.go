package telemetry

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/limpet-project/limpet/affinity"
	"github.com/limpet-project/limpet/binding"
)

// A brittleStore fails with err and remembers what it was asked.
type brittleStore struct {
	err   error
	asked []string
}

func (s *brittleStore) note(op string) { s.asked = append(s.asked, op) }

func (s *brittleStore) Get(context.Context, affinity.Key) (binding.Binding, error) {
	s.note("get")
	return binding.Binding{Target: affinity.Target{Revision: "demo-00001"}}, s.err
}

func (s *brittleStore) Swap(context.Context, affinity.Key, binding.Version, affinity.Target, binding.Life) (binding.Binding, error) {
	s.note("swap")
	return binding.Binding{}, s.err
}

func (s *brittleStore) Touch(context.Context, []binding.Renewal) error { s.note("touch"); return s.err }

func (s *brittleStore) Delete(context.Context, affinity.Key, binding.Version) error {
	s.note("delete")
	return s.err
}

type canRestore struct{ *brittleStore }

func (s canRestore) Restore(context.Context, []binding.Entry) ([]binding.Binding, error) {
	s.note("restore")
	return nil, s.err
}

type canList struct{ *brittleStore }

func (s canList) List(context.Context, affinity.ServiceName, string, int) ([]binding.Entry, string, error) {
	s.note("list")
	return nil, "7", s.err
}

type canWatch struct{ *brittleStore }

func (s canWatch) Watch(context.Context, binding.Watcher) error { s.note("watch"); return s.err }

type canMore struct{ *brittleStore }

func (s canMore) Peek(affinity.Key) (binding.Binding, bool) {
	return binding.Binding{Target: affinity.Target{Revision: "demo-00002"}}, true
}
func (s canMore) Offset() time.Duration      { return time.Second }
func (s canMore) Ping(context.Context) error { s.note("ping"); return s.err }

func TestAnObservedStoreClaimsWhatTheStoreCan(t *testing.T) {
	s := &brittleStore{}
	r, l, w := canRestore{s}, canList{s}, canWatch{s}
	for i, store := range []binding.Store{
		s, r, l, w,
		struct {
			binding.Store
			binding.Restorer
			binding.Lister
		}{s, r, l},
		struct {
			binding.Store
			binding.Restorer
			binding.Invalidator
		}{s, r, w},
		struct {
			binding.Store
			binding.Lister
			binding.Invalidator
		}{s, l, w},
		struct {
			binding.Store
			binding.Restorer
			binding.Lister
			binding.Invalidator
		}{s, r, l, w},
	} {
		t.Run(fmt.Sprint(i), func(t *testing.T) {
			observed := NewMetrics().ObserveStore(store)
			s.asked = nil
			wantR, okR := store.(binding.Restorer)
			gotR, claimed := observed.(binding.Restorer)
			if claimed != okR {
				t.Errorf("claims Restorer: %v, want %v of %v", claimed, okR, wantR)
			}
			if claimed {
				gotR.Restore(t.Context(), nil)
			}
			gotL, claimed := observed.(binding.Lister)
			if _, want := store.(binding.Lister); claimed != want {
				t.Errorf("claims Lister: %v, want %v", claimed, want)
			}
			if claimed {
				gotL.List(t.Context(), demo, "", 10)
			}
			gotW, claimed := observed.(binding.Invalidator)
			if _, want := store.(binding.Invalidator); claimed != want {
				t.Errorf("claims Invalidator: %v, want %v", claimed, want)
			}
			if claimed {
				gotW.Watch(t.Context(), nil)
			}
			for _, op := range s.asked {
				if op != "restore" && op != "list" && op != "watch" {
					t.Errorf("the store was asked to %s, want what was called", op)
				}
			}
		})
	}
}

func TestAnObservedStoreAnswersForAbilitiesThatItsStoreHasNot(t *testing.T) {
	plain, more := &brittleStore{}, canMore{&brittleStore{}}
	for _, c := range []struct {
		name   string
		store  binding.Store
		known  bool
		offset time.Duration
		asked  string
	}{
		{"a store without them", plain, false, 0, "[delete]"},
		{"a store with them", more, true, time.Second, "[ping]"},
	} {
		t.Run(c.name, func(t *testing.T) {
			observed := NewMetrics().ObserveStore(c.store)
			if _, known := observed.(binding.Peeker).Peek(affinity.Key{}); known != c.known {
				t.Errorf("Peek = %v, want %v", known, c.known)
			}
			if got := observed.(binding.Clock).Offset(); got != c.offset {
				t.Errorf("Offset = %v, want %v", got, c.offset)
			}
			if err := observed.(binding.Pinger).Ping(t.Context()); err != nil {
				t.Errorf("Ping = %v, want nil", err)
			}
		})
	}
	if got := fmt.Sprint(plain.asked, more.asked); got != "[delete] [ping]" {
		t.Errorf("the stores were asked %s, want [delete] [ping]", got)
	}
}

func TestOperationsOfAStoreAreCountedByResult(t *testing.T) {
	for _, c := range []struct {
		err    error
		result string
	}{
		{nil, "ok"},
		{fmt.Errorf("swap: %w", binding.ErrConflict), "conflict"},
		{binding.ErrFull, "full"},
		{fmt.Errorf("redis: %w", binding.ErrUnavailable), "unavailable"},
		{context.DeadlineExceeded, "unavailable"},
		{context.Canceled, "cancelled"},
		{errors.New("value of another version"), "error"},
	} {
		m, s := NewMetrics(), &brittleStore{err: c.err}
		observed := m.ObserveStore(struct {
			binding.Store
			binding.Restorer
			binding.Lister
		}{s, canRestore{s}, canList{s}})
		ctx := t.Context()
		_, err := observed.Get(ctx, affinity.Key{})
		if !errors.Is(err, c.err) {
			t.Errorf("Get = %v, want %v", err, c.err)
		}
		observed.Swap(ctx, affinity.Key{}, binding.Version{}, affinity.Target{}, binding.Life{})
		observed.Touch(ctx, nil)
		observed.Delete(ctx, affinity.Key{}, binding.Version{})
		observed.(binding.Restorer).Restore(ctx, nil)
		observed.(binding.Lister).List(ctx, demo, "", 10)
		got := scrape(t, m)
		for _, op := range []string{"get", "swap", "touch", "delete", "restore", "list"} {
			wantSamples(t, got, map[string]float64{
				"limpet_store_operations_total{op=" + op + ",result=" + c.result + "}": 1,
				"limpet_store_duration_seconds{op=" + op + "}":                         1,
			})
		}
	}
}

func TestObservingAStoreAllocatesNothing(t *testing.T) {
	observed := NewMetrics().ObserveStore(quietStore{})
	ctx := t.Context()
	if n := testing.AllocsPerRun(100, func() { observed.Get(ctx, affinity.Key{}) }); n != 0 {
		t.Errorf("an observed Get allocates %v times, want never", n)
	}
}

type quietStore struct{ binding.Store }

func (quietStore) Get(context.Context, affinity.Key) (binding.Binding, error) {
	return binding.Binding{}, nil
}
