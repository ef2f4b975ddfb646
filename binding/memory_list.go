package binding

import (
	"context"

	"github.com/limpet-project/limpet/affinity"
)

// List lists the bindings of one service. It locks one shard at a time, and that briefly.
func (m *Memory) List(_ context.Context, service affinity.ServiceName, from string, n int) ([]Entry, string, error) {
	at, err := parseCursor(from)
	if err != nil {
		return nil, "", err
	}
	entries, next := m.walk(&service, at, n)
	if next == (cursor{}) {
		return entries, "", nil
	}
	return entries, next.String(), nil
}

// walk returns up to n bindings of a service (nil: of all) from a cursor on, and the next cursor, zero at the end.
func (m *Memory) walk(service *affinity.ServiceName, at cursor, n int) ([]Entry, cursor) {
	now := m.now()
	return walk(len(m.shards), at, n, func(shard int, entries []Entry, from uint32, n int) ([]Entry, uint32) {
		return m.shards[shard].page(entries, service, from, n, now)
	})
}

// Restore takes back bindings: the newer version wins, provisional ones are written only where the key is not bound. An entry
// that its Life.Quota refuses has the zero Binding as its result.
func (m *Memory) Restore(_ context.Context, entries []Entry) ([]Binding, error) {
	results, now := make([]Binding, len(entries)), m.micros()
	for i := range entries {
		e := &entries[i]
		h := hash(&e.Key)
		results[i] = m.shard(h).restore(h, e, now)
	}
	return results, nil
}
