package redis

import (
	"context"
	"math/rand/v2"
	"slices"

	"github.com/redis/rueidis"

	"github.com/limpet-project/limpet/binding"
)

// Restore implements binding.Restorer.
func (s *Store) Restore(ctx context.Context, entries []binding.Entry) ([]binding.Binding, error) {
	inForce := make([]binding.Binding, 0, len(entries))
	for some := range slices.Chunk(entries, batch) {
		calls := make([]call, len(some))
		for i, e := range some {
			calls[i] = s.restoration(e)
		}
		answers, err := ask(ctx, s, "restoring bindings", func(ctx context.Context, c rueidis.Client) ([]rueidis.RedisResult, error) {
			results := restoreScript.run(ctx, c, calls)
			return results, firstError(results)
		})
		for i := range answers {
			m, failed := answers[i].ToMessage()
			if failed != nil {
				break
			}
			b, _ := bound(m) // full or unknown: nothing is in force
			inForce = append(inForce, b)
		}
		if err != nil {
			return inForce, err
		}
	}
	return inForce, nil
}

func (s *Store) restoration(e binding.Entry) call {
	p := s.keys.place(e.Key)
	version := encodeVersion(e.Binding.Version)
	if e.Binding.Provisional {
		version = ""
	}
	return call{keys: []string{p.binding, p.index}, args: []string{
		version, encodeNonce(rand.Uint64()), idleMillis(e.Life), number(micros(e.Life.Until)), encodeTarget(e.Binding.Target),
		shardQuota(e.Life.Quota), p.member, number(micros(e.Binding.Until)),
	}}
}
