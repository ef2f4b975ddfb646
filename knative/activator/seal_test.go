package activator

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/limpet-project/limpet/affinity"
)

func newTestSealer(t *testing.T, secret string) *sealer {
	t.Helper()
	d, err := affinity.NewDigester([]byte(secret))
	if err != nil {
		t.Fatal(err)
	}
	return newSealer(d)
}

func TestASealHoldsForAShortTimeAndForThoseWhoShareTheSecret(t *testing.T) {
	s, other := newTestSealer(t, strings.Repeat("a", 32)), newTestSealer(t, strings.Repeat("b", 32))
	now := time.Unix(1_800_000_000, 0)
	want := claim{Ask: askPlace, From: "activator-1", Pod: "6f0c1d52", Limit: 10, Term: 7, Wait: 10 * time.Second}
	sealed := s.seal(want, now)
	for _, tt := range []struct {
		name   string
		by     *sealer
		sealed string
		at     time.Time
		good   bool
	}{
		{"at once", s, sealed, now, true},
		{"just in time", s, sealed, now.Add(validity), true},
		{"by a clock that is behind", s, sealed, now.Add(-validity), true},
		{"too late", s, sealed, now.Add(validity + time.Second), false},
		{"by a clock that is far behind", s, sealed, now.Add(-2 * validity), false},
		{"with another secret", other, sealed, now, false},
		{"without its seal", s, sealed[:strings.IndexByte(sealed, '.')], now, false},
		{"cut", s, sealed[:len(sealed)-2], now, false},
		{"empty", s, "", now, false},
		{"no base64", s, "!.!", now, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, err := tt.by.open(tt.sealed, tt.at)
			if (err == nil) != tt.good || tt.good && got != want {
				t.Errorf("open() = %+v, %v, want %+v, good %t", got, err, want, tt.good)
			}
		})
	}
}

func FuzzOpen(f *testing.F) {
	d, err := affinity.NewDigester([]byte(strings.Repeat("a", 32)))
	if err != nil {
		f.Fatal(err)
	}
	s := newSealer(d)
	now := time.Unix(1_800_000_000, 0)
	good := s.seal(claim{Ask: askTake, From: "activator-1", Pod: "6f0c1d52"}, now)
	f.Add(good)
	f.Add("a.b")
	f.Fuzz(func(t *testing.T, sealed string) {
		if c, err := s.open(sealed, now); err == nil && s.seal(c, now) != good {
			t.Errorf("open(%q) = %+v, which nobody has sealed", sealed, c)
		}
	})
}

func TestEveryPodHasOneOwnerAndFewChangeIt(t *testing.T) {
	all := &Peers{o: PeersOptions{PodName: "activator-1"}}
	list := func(n int) {
		var peers []peer
		for i := range n {
			peers = append(peers, peer{name: fmt.Sprintf("activator-%d", i+1), url: "http://x"})
		}
		all.list.Store(&peers)
	}
	const pods = 3000
	owners := func() map[string]string {
		of := make(map[string]string)
		for i := range pods {
			pod := fmt.Sprintf("6f0c1d52-3b0e-4a53-9b0f-%012d", i)
			of[pod] = all.owned(pod)
		}
		return of
	}
	list(3)
	before, count := owners(), make(map[string]int)
	for _, owner := range before {
		count[owner]++
	}
	for owner, n := range count {
		if n < 900 || n > 1100 { // 1000 and 4 standard deviations of 26
			t.Errorf("%s counts for %d of %d pods, want about a third", owner, n, pods)
		}
	}
	list(4)
	for pod, owner := range owners() {
		if owner != before[pod] && owner != "activator-4" {
			t.Errorf("pod %s went from %s to %s when activator-4 came, want it to stay or go there", pod, before[pod], owner)
		}
	}
}

// owned returns the name of the activator that counts for a pod.
func (p *Peers) owned(pod string) string {
	owner, _ := p.owner(pod, nil)
	return owner.name
}
