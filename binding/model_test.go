package binding

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/limpet-project/limpet/affinity"
)

// A model is what a Memory should hold, kept the plain way.
type model struct {
	memory *Memory
	now    time.Time
	held   map[affinity.Key]Entry // Life.Until is unused, Binding.Ends is exact
}

// alive returns k's binding in the model.
func (m *model) alive(k affinity.Key) Binding {
	if b := m.held[k].Binding; b.Ends.After(m.now) {
		return b
	}
	return Binding{}
}

func drawKey(t *rapid.T) affinity.Key {
	k := affinity.Key{Scope: affinity.Scope{Service: affinity.ServiceName{Name: "cart"}, Kind: affinity.KindSession}}
	k.Scope.Service.Name += fmt.Sprint(rapid.IntRange(0, 2).Draw(t, "service"))
	k.Digest[0] = byte(rapid.IntRange(0, 30).Draw(t, "digest"))
	return k
}

func drawLife(t *rapid.T, now time.Time) Life {
	l := Life{Idle: time.Duration(rapid.IntRange(1, 100).Draw(t, "idle")) * time.Second}
	if rapid.IntRange(0, 3).Draw(t, "capped") == 0 {
		l.Until = now.Add(time.Duration(rapid.IntRange(1, 200).Draw(t, "until")) * time.Second)
	}
	return l
}

func drawTarget(t *rapid.T) affinity.Target {
	return affinity.Target{Revision: "demo-00001", Endpoint: fmt.Sprintf("pod-%d", rapid.IntRange(0, 9).Draw(t, "pod"))}
}

// drawVersion returns k's version, or mostly wrong ones.
func (m *model) drawVersion(t *rapid.T, k affinity.Key) Version {
	switch rapid.IntRange(0, 3).Draw(t, "version") {
	case 0:
		return Version{}
	case 1:
		return Version{Made: 1, Nonce: 1}
	}
	return m.alive(k).Version
}

func (m *model) swap(t *rapid.T) {
	k, to, life := drawKey(t), drawTarget(t), drawLife(t, m.now)
	old, held := m.drawVersion(t, k), m.alive(k)
	got, err := m.memory.Swap(t.Context(), k, old, to, life)
	if old != held.Version {
		if !errors.Is(err, ErrConflict) || got != held {
			t.Fatalf("Swap(%v) of another version = %+v, %v, want %+v, ErrConflict", k, got, err, held)
		}
		return
	}
	want := Binding{Target: to, Version: got.Version, Until: held.Until}
	if want.Until.IsZero() && !life.Until.IsZero() {
		want.Until = time.UnixMicro(life.Until.UnixMicro())
	}
	life.Until = want.Until
	want.Ends = time.UnixMicro(m.now.Add(life.TTL(m.now)).UnixMicro())
	if err != nil || got != want || got.Version.Compare(held.Version) <= 0 {
		t.Fatalf("Swap(%v) = %+v, %v, want %+v", k, got, err, want)
	}
	m.held[k] = Entry{Key: k, Binding: want}
}

func (m *model) touch(t *rapid.T) {
	k, life := drawKey(t), drawLife(t, m.now)
	v, held := m.drawVersion(t, k), m.alive(k)
	if err := m.memory.Touch(t.Context(), []Renewal{{k, v, life}}); err != nil {
		t.Fatal(err)
	}
	if held.Bound() && v == held.Version {
		if !held.Until.IsZero() {
			life.Until = held.Until
		}
		held.Ends = time.UnixMicro(m.now.Add(life.TTL(m.now)).UnixMicro())
		m.held[k] = Entry{Key: k, Binding: held}
	}
}

func (m *model) delete(t *rapid.T) {
	k := drawKey(t)
	v := m.drawVersion(t, k)
	if err := m.memory.Delete(t.Context(), k, v); err != nil {
		t.Fatal(err)
	}
	if v.IsZero() || v == m.alive(k).Version {
		delete(m.held, k)
	}
}

func (m *model) advance(t *rapid.T) {
	m.now = m.now.Add(time.Duration(rapid.IntRange(0, 40).Draw(t, "seconds")) * time.Second)
}

func (m *model) check(t *rapid.T) {
	alive := 0
	for k := range m.held {
		want := m.alive(k)
		if want.Bound() {
			alive++
		}
		if got, _ := m.memory.Peek(k); got != want {
			t.Fatalf("Peek(%v) = %+v, want %+v", k, got, want)
		}
	}
	entries, _ := m.memory.walk(nil, cursor{}, 1000)
	if len(entries) != alive {
		t.Fatalf("entries listed = %d, want %d", len(entries), alive)
	}
	for i := range m.memory.shards {
		checkShard(t, &m.memory.shards[i])
	}
}

// checkShard checks that the indexes of a shard agree with its table.
func checkShard(t *rapid.T, s *memoryShard) {
	listed := 0
	for service, n := range s.services.numbers {
		length := 0
		for id := s.services.lists[n].oldest; id != 0; id = s.table.at(id).value.newer {
			length++
			if got := s.table.at(id).scope.Value().Service; got != service {
				t.Fatalf("the list of %v has a binding of %v", service, got)
			}
		}
		if length != s.services.lists[n].count || length == 0 {
			t.Fatalf("length of the list of %v = %d, want %d and not 0", service, length, s.services.lists[n].count)
		}
		listed += length
	}
	if listed != s.table.count || len(s.byEnd) != s.table.count {
		t.Fatalf("listed = %d, in the heap = %d, want %d", listed, len(s.byEnd), s.table.count)
	}
	for rank, id := range s.byEnd {
		if got := s.table.at(id).value.rank; int(got) != rank {
			t.Fatalf("rank of the cell at %d = %d", rank, got)
		}
		if s.ends(s.byEnd[(max(rank, 1)-1)/2]) > s.ends(id) {
			t.Fatalf("the heap is out of order at %d", rank)
		}
	}
}

func TestMemoryDoesWhatAPlainModelDoes(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := &model{now: time.Date(2026, 10, 1, 12, 0, 0, 0, time.UTC), held: map[affinity.Key]Entry{}}
		m.memory = NewMemory(MemoryOptions{Shards: rapid.IntRange(1, 4).Draw(t, "shards"), Now: func() time.Time { return m.now }})
		t.Repeat(map[string]func(*rapid.T){
			"swap": m.swap, "touch": m.touch, "delete": m.delete, "advance": m.advance, "": m.check,
		})
	})
}

// A table must find every key and no other while it grows and shrinks, whatever their hashes.
func TestTableFindsItsKeys(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var tab table[int]
		held := map[affinity.Key]uint32{}
		t.Repeat(map[string]func(*rapid.T){
			"add": func(t *rapid.T) {
				for range rapid.IntRange(1, 300).Draw(t, "times") {
					k := drawKey(t)
					k.Digest[15] = rapid.Byte().Draw(t, "last byte")
					if _, ok := held[k]; ok {
						continue
					}
					c, id := tab.add(hash(&k), &k)
					c.value, held[k] = int(id), id
				}
			},
			"remove": func(t *rapid.T) {
				most := rapid.IntRange(0, 300).Draw(t, "times")
				for k, id := range held {
					if most--; most < 0 {
						return
					}
					tab.remove(id)
					delete(held, k)
				}
			},
			"": func(t *rapid.T) {
				if tab.count != len(held) {
					t.Fatalf("count = %d, want %d", tab.count, len(held))
				}
				for k, id := range held {
					if c, got := tab.find(hash(&k), &k); got != id || c.value != int(id) || c.key() != k {
						t.Fatalf("find(%v) = %d, want %d", k, got, id)
					}
				}
			},
		})
	})
}
