package slot

import (
	"errors"
	"net/netip"
	"testing"
)

func TestAddressesOfSlotsDoNotMeet(t *testing.T) {
	seen := map[netip.Prefix]int{}
	for n := range Count {
		s, err := New(t.TempDir(), n)
		if err != nil {
			t.Fatal(err)
		}
		for _, text := range []string{s.NodeNet(), s.Pods(), s.Services()} {
			p := netip.MustParsePrefix(text)
			for other, m := range seen {
				if p.Overlaps(other) {
					t.Fatalf("%v of slot %d meets %v of slot %d", p, n, other, m)
				}
			}
			seen[p] = n
		}
		if !netip.MustParsePrefix(s.Services()).Contains(netip.MustParseAddr(s.DNS())) {
			t.Errorf("slot %d: DNS() = %s is not in Services() = %s", n, s.DNS(), s.Services())
		}
	}
}

func TestASlotIsTakenByOneUntilItIsReleased(t *testing.T) {
	s, err := New(t.TempDir(), 7)
	if err != nil {
		t.Fatal(err)
	}
	l, err := s.Take()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Take(); !errors.Is(err, ErrTaken) {
		t.Errorf("Take() of a taken slot = %v, want ErrTaken", err)
	}
	if next, other, err := TakeFree(s.Cache, 7); err != nil || next.Number != 8 {
		t.Errorf("TakeFree(7) = slot %d, %v, want 8", next.Number, err)
	} else {
		other.Release()
	}
	l.Release()
	again, err := s.Take()
	if err != nil {
		t.Fatalf("Take() of a released slot: %v", err)
	}
	again.Release()
}

func TestThereIsNoSlotOutsideTheRange(t *testing.T) {
	for _, n := range []int{-1, Count} {
		if _, err := New(t.TempDir(), n); err == nil {
			t.Errorf("New(%d) = nil, want an error", n)
		}
	}
}
