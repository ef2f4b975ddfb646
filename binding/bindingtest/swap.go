package bindingtest

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/limpet-project/limpet/affinity"
	"github.com/limpet-project/limpet/binding"
)

func (s *suite) testSwap(t *testing.T) {
	t.Run("an unbound key is the zero binding and no error", func(t *testing.T) {
		u := s.subject(t)
		if b, err := u.store.Get(t.Context(), u.session("s-100")); b != (binding.Binding{}) || err != nil {
			t.Errorf("Get of an unbound key = %+v, %v, want the zero Binding and no error", b, err)
		}
	})
	t.Run("creates", func(t *testing.T) {
		u := s.subject(t)
		k := u.session("s-100")
		u.want(k, u.swap(k, unbound, pod1, hour))
	})
	t.Run("replaces its own version", func(t *testing.T) {
		u := s.subject(t)
		k := u.session("s-100")
		first := u.swap(k, unbound, pod1, hour)
		second := u.swap(k, first.Version, pod2, hour)
		if second.Version.Compare(first.Version) <= 0 {
			t.Errorf("version of the second making = %v, want newer than %v", second.Version, first.Version)
		}
		u.want(k, second)
	})
	t.Run("loses to what is bound and returns the winner", func(t *testing.T) {
		u := s.subject(t)
		k := u.session("s-100")
		first := u.swap(k, unbound, pod1, hour)
		u.lose(k, unbound, pod2, first)
		second := u.swap(k, first.Version, pod2, hour)
		u.lose(k, first.Version, pod3, second)
		u.want(k, second)
	})
	t.Run("of a version loses to nothing when the key is unbound", func(t *testing.T) {
		u := s.subject(t)
		k := u.session("s-100")
		first := u.swap(k, unbound, pod1, hour)
		u.delete(k, first.Version)
		u.lose(k, first.Version, pod2, binding.Binding{})
		u.want(k, binding.Binding{})
	})
	t.Run("binds a flow to a revision alone", func(t *testing.T) {
		u := s.subject(t)
		k := key(affinity.Scope{Service: u.service, Kind: affinity.KindFlow}, "f-100")
		u.want(k, u.swap(k, unbound, affinity.Target{Revision: "demo-00001"}, hour))
	})
	t.Run("keeps any characters of names", func(t *testing.T) {
		u := s.subject(t)
		u.service.Name += ":{}/ %\x00é"
		k := key(affinity.Scope{Service: u.service, Tag: "ca{n}ary:1", Kind: affinity.KindSession}, "s-100")
		u.want(k, u.swap(k, unbound, affinity.Target{Revision: "demo/00001|x", Endpoint: "10.0.0.1:8080, \x00é"}, hour))
	})
}

func (s *suite) testVersion(t *testing.T) {
	t.Run("orders makings across deletion", func(t *testing.T) {
		u := s.subject(t)
		k := u.session("s-100")
		var last binding.Version
		for i := range 100 {
			b := u.swap(k, unbound, pod1, hour)
			if b.Version.Compare(last) <= 0 {
				t.Fatalf("version of making %d = %v, want newer than %v", i, b.Version, last)
			}
			last = b.Version
			u.delete(k, last)
		}
	})
	t.Run("tells a re-made binding from the expired one", func(t *testing.T) {
		u := s.slow(t)
		k := u.session("s-100")
		old := u.swap(k, unbound, pod1, u.brief())
		u.outlast(k)
		made := u.swap(k, unbound, pod2, hour)
		if made.Version.Compare(old.Version) <= 0 {
			t.Errorf("version after expiry = %v, want newer than %v", made.Version, old.Version)
		}
		u.lose(k, old.Version, pod3, made)
		u.delete(k, old.Version)
		u.want(k, made)
	})
	t.Run("is the store's clock", func(t *testing.T) {
		u := s.subject(t)
		first, second := u.now(), u.now()
		if second.Before(first) {
			t.Errorf("Made of a later binding = %v, want at least %v", second, first)
		}
	})
}

func (s *suite) testDelete(t *testing.T) {
	t.Run("forgets at its version only", func(t *testing.T) {
		u := s.subject(t)
		k := u.session("s-100")
		first := u.swap(k, unbound, pod1, hour)
		second := u.swap(k, first.Version, pod2, hour)
		u.delete(k, first.Version)
		u.want(k, second)
		u.delete(k, second.Version)
		u.want(k, binding.Binding{})
	})
	t.Run("forgets at any version if given none", func(t *testing.T) {
		u := s.subject(t)
		k := u.session("s-100")
		u.swap(k, unbound, pod1, hour)
		u.delete(k, unbound)
		u.want(k, binding.Binding{})
	})
	t.Run("of an unbound key does nothing", func(t *testing.T) {
		u := s.subject(t)
		u.delete(u.session("s-100"), unbound)
		u.delete(u.session("s-100"), binding.Version{Made: time.Now().UnixMicro(), Nonce: 1})
	})
}

// testIsolation is about prototype defects 13, 14 and 15: keys were global, so that equal ids of two services, or of a session and
// a flow, met and overwrote each other.
func (s *suite) testIsolation(t *testing.T) {
	t.Run("equal ids in different scopes are different bindings", func(t *testing.T) {
		u := s.subject(t)
		other := affinity.ServiceName{Namespace: "blog", Name: u.service.Name}
		scopes := []affinity.Scope{
			{Service: u.service, Kind: affinity.KindSession},
			{Service: u.service, Kind: affinity.KindFlow},
			{Service: u.service, Kind: affinity.KindSession, Tag: "canary"},
			{Service: u.service, Kind: affinity.KindFlow, Tag: "canary"},
			{Service: other, Kind: affinity.KindSession},
			{Service: affinity.ServiceName{Name: u.service.Name}, Kind: affinity.KindSession},
			{Service: affinity.ServiceName{Namespace: u.service.Namespace, Name: u.service.Name + "2"}, Kind: affinity.KindSession},
		}
		bound := make([]binding.Binding, len(scopes))
		for i, scope := range scopes {
			bound[i] = u.swap(key(scope, "s-100"), unbound, affinity.Target{Revision: fmt.Sprintf("demo-%05d", i)}, hour)
		}
		u.delete(key(scopes[0], "s-100"), unbound)
		bound[0] = binding.Binding{}
		for i, scope := range scopes {
			u.want(key(scope, "s-100"), bound[i])
		}
	})
}

func (s *suite) testQuota(t *testing.T) {
	const quota = 320
	limited := binding.Life{Idle: time.Hour, Quota: quota}
	fill := func(u *subject) (bound []affinity.Key) {
		for i := range 4 * quota {
			k := u.session(fmt.Sprintf("s-%d", i))
			switch _, err := u.store.Swap(t.Context(), k, unbound, pod1, limited); {
			case err == nil:
				bound = append(bound, k)
			case !errors.Is(err, binding.ErrFull):
				u.t.Fatalf("Swap beyond the quota = %v, want ErrFull", err)
			}
		}
		return bound
	}
	t.Run("refuses new bindings when it is reached", func(t *testing.T) {
		u := s.subject(t)
		bound := fill(u)
		// Four times the quota fills each part of a store that counts in parts.
		if len(bound) > quota || len(bound) < quota*9/10 {
			t.Errorf("bindings under a quota of %d = %d, want as many or a few per cent less", quota, len(bound))
		}
		for _, k := range bound {
			if !u.get(k).Bound() {
				t.Fatalf("Get(%v) when the quota is reached = unbound, want it untouched", k)
			}
		}
	})
	t.Run("lets bound keys be re-bound when it is reached", func(t *testing.T) {
		u := s.subject(t)
		for _, k := range fill(u) {
			u.want(k, u.swap(k, u.get(k).Version, pod2, limited))
		}
	})
	t.Run("leaves other services alone when it is reached", func(t *testing.T) {
		u := s.subject(t)
		other := s.around(t, u.store)
		before := other.swap(other.session("s-0"), unbound, pod3, limited)
		fill(u)
		other.want(other.session("s-0"), before)
		for i := range quota / 2 {
			other.swap(other.session(fmt.Sprintf("t-%d", i)), unbound, pod1, binding.Life{Idle: time.Hour, Quota: 2 * quota})
		}
	})
	t.Run("gives places of deleted bindings away again", func(t *testing.T) {
		u := s.subject(t)
		for _, k := range fill(u) {
			u.delete(k, unbound)
		}
		if again := len(fill(u)); again < quota*9/10 {
			t.Errorf("bindings after all were deleted = %d, want about %d", again, quota)
		}
	})
	t.Run("gives places of expired bindings away again", func(t *testing.T) {
		u := s.slow(t)
		ends := u.brief()
		ends.Quota = quota
		for i := range quota {
			_, err := u.store.Swap(t.Context(), u.session(fmt.Sprintf("e-%d", i)), unbound, pod1, ends)
			if err != nil && !errors.Is(err, binding.ErrFull) {
				t.Fatalf("Swap under the quota = %v, want no error or ErrFull", err)
			}
		}
		control := s.around(t, u.store)
		control.swap(control.session("s-0"), unbound, pod1, u.brief())
		control.outlast(control.session("s-0"))
		if again := len(fill(u)); again < quota*9/10 {
			t.Errorf("bindings after all expired = %d, want about %d", again, quota)
		}
	})
}

func (s *suite) testCancel(t *testing.T) {
	u := s.subject(t)
	k := u.session("s-100")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	check := func(call string, err error) {
		if err != nil && !errors.Is(err, context.Canceled) {
			t.Errorf("%s with a context that ended = %v, want no error or context.Canceled", call, err)
		}
	}
	_, err := u.store.Get(ctx, k)
	check("Get", err)
	_, err = u.store.Swap(ctx, k, unbound, pod1, hour)
	check("Swap", err)
	check("Touch", u.store.Touch(ctx, []binding.Renewal{{Key: k, Life: hour}}))
	check("Delete", u.store.Delete(ctx, k, unbound))
	if b := u.get(k); b.Bound() && b.Target != pod1 {
		t.Errorf("Get after a cancelled Swap = %+v, want unbound or %v", b, pod1)
	}
	u.delete(k, unbound)
	u.want(k, u.swap(k, unbound, pod2, hour))
}
