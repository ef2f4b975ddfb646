package spread

import (
	"math/rand/v2"
	"slices"
	"testing"
	"time"
)

// A slowMemory is what memory does, written as a list.
type slowMemory struct {
	size    int
	evicts  bool
	entries []slowEntry // oldest first
}

type slowEntry struct {
	client int32
	last   time.Duration
}

func (m *slowMemory) find(client int32) int {
	return slices.IndexFunc(m.entries, func(e slowEntry) bool { return e.client == client })
}

func (m *slowMemory) holds(client int32, now, timeout time.Duration) bool {
	i := m.find(client)
	if i < 0 {
		return false
	}
	held := now-m.entries[i].last <= timeout
	if now-m.entries[0].last > timeout {
		m.entries = m.entries[1:]
	}
	return held
}

func (m *slowMemory) set(client int32, now, timeout time.Duration) bool {
	if i := m.find(client); i >= 0 {
		m.entries = slices.Delete(m.entries, i, i+1)
	} else if len(m.entries) >= m.size {
		if !m.evicts && now-m.entries[0].last <= timeout {
			return false
		}
		m.entries = m.entries[1:]
	}
	m.entries = append(m.entries, slowEntry{client, now})
	return true
}

func TestMemoryDoesWhatAListDoes(t *testing.T) {
	for _, mode := range []Mode{ModeIPTables, ModeNFTables} {
		rng := rand.New(rand.NewPCG(1, 2))
		fast, slow := newMemory(10, mode), &slowMemory{size: 10, evicts: mode == ModeIPTables}
		now := time.Duration(0)
		const timeout = 20 * time.Second
		for step := range 20_000 {
			now += time.Duration(rng.IntN(3)) * time.Second
			client := int32(rng.IntN(15))
			if got, want := fast.holds(client, now, timeout), slow.holds(client, now, timeout); got != want {
				t.Fatalf("%s, step %d: holds(%d) = %t, want %t", mode, step, client, got, want)
			}
			if rng.IntN(2) == 0 {
				if got, want := fast.set(client, now, timeout), slow.set(client, now, timeout); got != want {
					t.Fatalf("%s, step %d: set(%d) = %t, want %t", mode, step, client, got, want)
				}
			}
		}
	}
}

// A node looks into one list only. The rules look into all.
func TestNodeFindsWhatAllListsWouldFind(t *testing.T) {
	for _, mode := range []Mode{ModeIPTables, ModeNFTables} {
		const endpoints, timeout = 3, 20 * time.Second
		c := newChance(1, 1, 1)
		n := newNode(50, endpoints, 10, mode, timeout)
		lists := make([]*slowMemory, endpoints)
		for e := range lists {
			lists[e] = &slowMemory{size: 10, evicts: mode == ModeIPTables}
		}
		now := time.Duration(0)
		for step := range 20_000 {
			now += time.Duration(c.IntN(3)) * time.Second / 2
			client := int32(c.IntN(50))
			want := -1
			for e, list := range lists {
				if list.holds(client, now, timeout) {
					want = e
					break
				}
			}
			got := n.route(client, now, []int{0, 1, 2}, c)
			if want >= 0 && got != want {
				t.Fatalf("%s, step %d: route(%d) = %d, want %d", mode, step, client, got, want)
			}
			lists[got].set(client, now, timeout)
		}
	}
}

func TestActiveClientsStayPastTheTimeout(t *testing.T) {
	n, c := newNode(1, 3, 100, ModeIPTables, 5*time.Second), newChance(1, 1, 1)
	first := n.route(0, 0, []int{0, 1, 2}, c)
	for now := 3 * time.Second; now < 36*time.Second; now += 3 * time.Second {
		if got := n.route(0, now, []int{0, 1, 2}, c); got != first {
			t.Fatalf("route after %s = %d, want %d: every new flow begins the timeout again", now, got, first)
		}
	}
}

func TestSilentClientsMove(t *testing.T) {
	s := scenario(PolicyClientIP, Equal(20), 100, func(s *Scenario) {
		s.Timeout, s.Window, s.Rate, s.Arrivals = 2*time.Second, 36*time.Second, 20./3, ArrivalsInTurns
	})
	// Twelve flows each, three seconds apart: a client stays with all of them with probability 3^-11.
	if got := simulate(t, s).MovedClients.Mean; got < 0.99 {
		t.Errorf("share of clients that moved = %.3f, want all", got)
	}
	s.Timeout = 5 * time.Second
	if got := simulate(t, s).MovedClients.Mean; got != 0 {
		t.Errorf("share of clients that moved = %.3f, want none", got)
	}
}
