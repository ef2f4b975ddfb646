package bindingtest

import (
	"fmt"
	"testing"
	"time"

	"github.com/limpet-project/limpet/affinity"
	"github.com/limpet-project/limpet/binding"
)

// slow returns a subject for a test that waits for lives to end.
func (s *suite) slow(t *testing.T) *subject {
	if s.Advance == nil {
		t.Parallel()
	}
	return s.subject(t)
}

// brief is the shortest life that this suite can wait for.
func (s *suite) brief() binding.Life {
	if s.Advance == nil {
		return binding.Life{Idle: 4 * time.Second} // what has to happen before its end does on a machine that stands still for a while too
	}
	return binding.Life{Idle: 10 * time.Minute}
}

// outlast waits until k, whose life is brief, is no longer bound.
func (s *subject) outlast(k affinity.Key) {
	s.t.Helper()
	if s.Advance != nil {
		ttl := s.brief().TTL(time.Time{})
		s.Advance(ttl + ttl/100)
	}
	s.eventually(fmt.Sprintf("end of %v", k), func() bool { return !s.get(k).Bound() })
}

// lasts checks that k, which was bound at start or a little later, stays bound for d and not much longer.
func (s *subject) lasts(k affinity.Key, start time.Time, d time.Duration) {
	s.t.Helper()
	if s.Advance != nil {
		s.Advance(d - d/100)
		if !s.get(k).Bound() {
			s.t.Errorf("Get(%v) after %v = unbound, want bound for %v", k, d-d/100, d)
		}
		s.Advance(d / 50)
		s.eventually(fmt.Sprintf("end of %v", k), func() bool { return !s.get(k).Bound() })
		return
	}
	s.eventually(fmt.Sprintf("end of %v", k), func() bool { return !s.get(k).Bound() })
	// A store that counts milliseconds may be one early at each end.
	if took := time.Since(start); took < d-2*time.Millisecond {
		s.t.Errorf("Get(%v) after %v = unbound, want bound for %v", k, took, d)
	}
}

// ends checks the Ends of a binding that was just used, if it is known.
func (s *subject) ends(after string, b binding.Binding, life binding.Life) {
	s.t.Helper()
	now := s.now()
	if c, ok := s.store.(binding.Clock); ok && s.Advance == nil {
		now = now.Add(-c.Offset())
	}
	want := now.Add(life.TTL(now))
	if !b.Ends.IsZero() && b.Ends.Sub(want).Abs() > patience {
		s.t.Errorf("Ends after %s = %v, want about %v or unknown", after, b.Ends, want)
	}
}

func (s *suite) testLife(t *testing.T) {
	t.Run("ends at 1.25 times idle and not before", func(t *testing.T) {
		u := s.slow(t)
		k, life, start := u.session("s-100"), u.brief(), time.Now()
		u.swap(k, unbound, pod1, life)
		u.lasts(k, start, life.Idle+life.Idle/4)
	})
	t.Run("is told as far as it is known", func(t *testing.T) {
		u := s.subject(t)
		k := u.session("s-100")
		b := u.swap(k, unbound, pod1, hour)
		u.ends("Swap", b, hour)
		u.ends("Get", u.get(k), hour)
		long := binding.Life{Idle: 10 * time.Hour}
		u.touch(binding.Renewal{Key: k, Version: b.Version, Life: long})
		u.ends("Get after Touch", u.get(k), long)
	})
	t.Run("is not extended by reading", func(t *testing.T) {
		u := s.slow(t)
		k, control := u.session("s-100"), u.session("s-101")
		u.swap(k, unbound, pod1, u.brief())
		u.swap(control, unbound, pod1, u.brief())
		if s.Advance != nil {
			s.Advance(u.brief().Idle)
			u.get(k)
		}
		u.outlast(control)
		u.eventually("end of a binding that was read", func() bool { return !u.get(k).Bound() })
	})
	t.Run("begins anew when the key is re-bound", func(t *testing.T) {
		u := s.slow(t)
		k, control := u.session("s-100"), u.session("s-101")
		first := u.swap(k, unbound, pod1, u.brief())
		second := u.swap(k, first.Version, pod2, hour)
		u.swap(control, unbound, pod1, u.brief())
		u.outlast(control)
		u.want(k, second)
	})
	t.Run("is capped by its absolute end", func(t *testing.T) {
		u := s.slow(t)
		k, start, most := u.session("s-100"), time.Now(), u.brief().Idle
		until := u.now().Add(most).Truncate(time.Millisecond).Add(time.Millisecond)
		b := u.swap(k, unbound, pod1, binding.Life{Idle: 2 * time.Hour, Until: until})
		if b.Until.Sub(until).Abs() > time.Millisecond {
			t.Errorf("Until of a binding that ends at %v = %v", until, b.Until)
		}
		u.want(k, b)
		u.lasts(k, start, most)
	})
	t.Run("keeps its absolute end when re-bound and touched", func(t *testing.T) {
		u := s.slow(t)
		k, start, most := u.session("s-100"), time.Now(), u.brief().Idle
		until := u.now().Add(most).Truncate(time.Millisecond).Add(time.Millisecond)
		first := u.swap(k, unbound, pod1, binding.Life{Idle: 2 * time.Hour, Until: until})
		second := u.swap(k, first.Version, pod2, binding.Life{Idle: 2 * time.Hour})
		if second.Until.Sub(until).Abs() > time.Millisecond {
			t.Errorf("Until of a re-bound key = %v, want %v", second.Until, until)
		}
		third := u.swap(k, second.Version, pod3, binding.Life{Idle: 2 * time.Hour, Until: until.Add(time.Hour)})
		if third.Until.Sub(until).Abs() > time.Millisecond {
			t.Errorf("Until of a re-bound key = %v, want %v", third.Until, until)
		}
		u.touch(binding.Renewal{Key: k, Version: third.Version, Life: binding.Life{Idle: 2 * time.Hour}})
		u.want(k, third)
		u.lasts(k, start, most)
	})
}

func (s *suite) testTouch(t *testing.T) {
	t.Run("extends a life", func(t *testing.T) {
		u := s.slow(t)
		k, control := u.session("s-100"), u.session("s-101")
		b := u.swap(k, unbound, pod1, u.brief())
		u.touch(binding.Renewal{Key: k, Version: b.Version, Life: hour})
		u.swap(control, unbound, pod1, u.brief())
		u.outlast(control)
		u.want(k, b)
	})
	t.Run("of another version does nothing", func(t *testing.T) {
		u := s.slow(t)
		k, control := u.session("s-100"), u.session("s-101")
		old := u.swap(k, unbound, pod1, u.brief())
		b := u.swap(k, old.Version, pod2, u.brief())
		u.touch(binding.Renewal{Key: k, Version: old.Version, Life: hour})
		u.want(k, b)
		u.swap(control, unbound, pod1, u.brief())
		u.outlast(control)
		u.eventually("end of a binding touched at another version", func() bool { return !u.get(k).Bound() })
	})
	t.Run("of an unbound key does nothing", func(t *testing.T) {
		u := s.subject(t)
		k := u.session("s-100")
		u.touch(binding.Renewal{Key: k, Life: hour},
			binding.Renewal{Key: k, Version: binding.Version{Made: time.Now().UnixMicro(), Nonce: 7}, Life: hour})
		u.want(k, binding.Binding{})
	})
	t.Run("of nothing does nothing", func(t *testing.T) { s.subject(t).touch() })
	t.Run("takes a thousand renewals", func(t *testing.T) {
		u := s.slow(t)
		renewals := make([]binding.Renewal, 1000)
		for i := range renewals {
			k := u.session(fmt.Sprintf("s-%d", i))
			renewals[i] = binding.Renewal{Key: k, Version: u.swap(k, unbound, pod1, binding.Life{Idle: 5 * time.Minute}).Version, Life: hour}
			if i%10 == 9 {
				u.delete(k, unbound)
			}
		}
		u.touch(renewals...)
		if s.Advance != nil {
			s.Advance(10 * time.Minute)
		}
		for i, r := range renewals {
			if got, want := u.get(r.Key).Bound(), i%10 != 9; got != want {
				t.Fatalf("Get of renewal %d is bound = %v, want %v", i, got, want)
			}
		}
	})
}
