package redis

import (
	"context"
	"fmt"
	"time"

	"github.com/redis/rueidis"

	"github.com/limpet-project/limpet/affinity"
	"github.com/limpet-project/limpet/binding"
)

// List implements binding.Lister. It returns about n entries: the server hands out its index in pieces. Each piece takes two
// round trips of at most CallTimeout each.
func (s *Store) List(ctx context.Context, service affinity.ServiceName, cursor string, n int) ([]binding.Entry, string, error) {
	at, err := parseCursor(cursor)
	if err != nil {
		return nil, "", fmt.Errorf("listing %s: %w", service, err)
	}
	var all []binding.Entry
	for at.shard < shards && len(all) < max(n, 1) {
		members, next, err := s.scan(ctx, s.keys.index(service, at.shard), at.scan, max(n, 10))
		if err != nil {
			return nil, "", err
		}
		entries, err := s.entries(ctx, service, members)
		if err != nil {
			return nil, "", err
		}
		all = append(all, entries...)
		at.scan = next
		if next == 0 {
			at.shard++
		}
	}
	return all, at.String(), nil
}

// A position is how far a List has come: the shard, and the server's own cursor in its index.
type position struct {
	shard int
	scan  uint64
}

func (p position) String() string {
	if p.shard >= shards {
		return ""
	}
	return fmt.Sprintf("%d.%d", p.shard, p.scan)
}

func parseCursor(c string) (position, error) {
	var p position
	if c == "" {
		return p, nil
	}
	if _, err := fmt.Sscanf(c, "%d.%d", &p.shard, &p.scan); err != nil || p.String() != c || p.shard < 0 {
		return position{}, fmt.Errorf("cursor %q is none of this store", c)
	}
	return p, nil
}

func (s *Store) scan(ctx context.Context, index string, cursor uint64, n int) (members []string, next uint64, err error) {
	piece, err := ask(ctx, s, "listing bindings", func(ctx context.Context, c rueidis.Client) (rueidis.ScanEntry, error) {
		return c.Do(ctx, c.B().Zscan().Key(index).Cursor(cursor).Count(int64(n)).Build()).AsScanEntry()
	})
	for i := 0; i < len(piece.Elements); i += 2 { // member, score
		members = append(members, piece.Elements[i])
	}
	return members, piece.Cursor, err
}

// entries reads the bindings of members; those that ended are left out.
func (s *Store) entries(ctx context.Context, service affinity.ServiceName, members []string) ([]binding.Entry, error) {
	var found []affinity.Key
	for _, m := range members {
		if k, ok := parseMember(service, m); ok {
			found = append(found, k)
		}
	}
	if len(found) == 0 {
		return nil, nil
	}
	names := make([]string, len(found))
	for i, k := range found {
		names[i] = s.keys.place(k).binding
	}
	replies, err := ask(ctx, s, "listing bindings", func(ctx context.Context, c rueidis.Client) ([]rueidis.RedisResult, error) {
		commands := make(rueidis.Commands, 0, 2*len(names))
		for _, name := range names {
			commands = append(commands, c.B().Get().Key(name).Build(), c.B().Pttl().Key(name).Build())
		}
		results := c.DoMulti(ctx, commands...)
		return results, firstError(results)
	})
	if err != nil {
		return nil, err
	}
	entries := make([]binding.Entry, 0, len(found))
	for i, k := range found {
		if e, ok := entry(k, replies[2*i], replies[2*i+1]); ok {
			entries = append(entries, e)
		}
	}
	return entries, nil
}

func entry(k affinity.Key, value, left rueidis.RedisResult) (binding.Entry, bool) {
	v, _ := value.ToString() // nil if it ended
	b, ok := decode(v)
	ms, _ := left.ToInt64()
	if !ok || ms <= 0 {
		return binding.Entry{}, false
	}
	// What is left is 1.25 × Idle of a binding that is used now.
	idle := time.Duration(ms) * time.Millisecond * 4 / 5
	return binding.Entry{Key: k, Binding: b, Life: binding.Life{Idle: idle, Until: b.Until}}, true
}
