package redis

import (
	"context"
	"errors"
	"math/rand/v2"
	"slices"

	"github.com/redis/rueidis"

	"github.com/limpet-project/limpet/binding"
)

// Restore implements binding.Restorer. An entry that finds no room, or whose life is over, is not written. After an error the
// result holds what is known, the zero Binding for the rest.
func (s *Store) Restore(ctx context.Context, entries []binding.Entry) ([]binding.Binding, error) {
	inForce := make([]binding.Binding, 0, len(entries))
	var errs []error
	for some := range slices.Chunk(entries, batch) {
		calls := make([]call, len(some))
		for i, e := range some {
			calls[i] = s.restoration(e)
		}
		answers, err := ask(ctx, s, "restoring bindings", func(ctx context.Context, c rueidis.Client) ([]rueidis.RedisResult, error) {
			results := restoreScript.run(ctx, c, calls)
			return results, firstError(results)
		})
		errs = append(errs, err)
		for i := range some {
			b := binding.Binding{}
			if i < len(answers) {
				b = restored(answers[i])
			}
			inForce = append(inForce, b)
		}
	}
	return inForce, errors.Join(errs...)
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

// restored returns the binding in force that an answer names, the zero Binding if there is none.
func restored(r rueidis.RedisResult) binding.Binding {
	m, err := r.ToMessage()
	if err != nil {
		return binding.Binding{} // Restore returns the error
	}
	b, _ := bound(m) // full or unknown: nothing is in force
	return b
}
