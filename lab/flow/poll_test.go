package flow

import (
	"context"
	"errors"
	"slices"
	"testing"

	"github.com/limpet-project/limpet/lab/clientip"
)

// tables returns a poller that reads one table after the other.
func tables(limit int, all ...[]clientip.Flow) *poller {
	p := newPoller()
	p.limit = limit
	p.read = func(_ context.Context, keep func(clientip.Flow)) error {
		for _, f := range all[0] {
			keep(f)
		}
		all = all[1:]
		return nil
	}
	return p
}

func found(t *testing.T, p *poller) []clientip.Flow {
	t.Helper()
	var all []clientip.Flow
	if err := p.poll(t.Context(), func(f clientip.Flow) { all = append(all, f) }); err != nil {
		t.Fatal(err)
	}
	return all
}

func TestAPollFindsWhatWasNotInTheTableBefore(t *testing.T) {
	counted := by(2, 1)
	counted.Packets = 7
	p := tables(10,
		[]clientip.Flow{by(1, 1), by(2, 1)},
		[]clientip.Flow{counted, by(3, 1), by(3, 1)},
		nil,
		[]clientip.Flow{by(1, 1)},
	)
	for i, want := range [][]clientip.Flow{nil, {by(3, 1)}, nil, {by(1, 1)}} {
		if got := found(t, p); !slices.Equal(got, want) {
			t.Errorf("poll %d found %v, want %v", i, got, want)
		}
	}
}

func TestATableThatIsTooLargeHasNothingNew(t *testing.T) {
	three := []clientip.Flow{by(1, 1), by(2, 1), by(3, 1)}
	p := tables(2, nil, three, three[1:], append(three[2:], by(4, 1)))
	for i, want := range []struct {
		found   int
		dropped bool
	}{{0, false}, {2, true}, {0, false}, {1, false}} {
		if got := found(t, p); len(got) != want.found || p.dropped != want.dropped {
			t.Errorf("poll %d found %v, dropped %t, want %d and %t", i, got, p.dropped, want.found, want.dropped)
		}
	}
}

func TestAPollThatFailsCountsNothingTwice(t *testing.T) {
	p := tables(10, []clientip.Flow{by(1, 1)}, []clientip.Flow{by(1, 1), by(2, 1), by(3, 1)})
	found(t, p)
	read := p.read
	p.read = func(_ context.Context, keep func(clientip.Flow)) error {
		keep(by(2, 1))
		return errors.New("interrupted")
	}
	count := 0
	if err := p.poll(t.Context(), func(clientip.Flow) { count++ }); err == nil || count != 1 {
		t.Errorf("poll() = %v and %d flows, want what reading returned and 1", err, count)
	}
	p.read = read
	if got := found(t, p); !slices.Equal(got, []clientip.Flow{by(3, 1)}) {
		t.Errorf("poll() found %v, want the third flow", got)
	}
}
