package redis

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/redis/rueidis"

	"github.com/limpet-project/limpet/affinity"
	"github.com/limpet-project/limpet/binding"
	"github.com/limpet-project/limpet/endpoint"
)

// A Store keeps bindings and drains in Redis or Valkey. It is safe for concurrent use. Make one with [Open] and Close it.
//
// It is also a binding.Restorer, Lister, Invalidator, Clock and Pinger, and an endpoint.DrainStore.
type Store struct {
	options  Options
	keys     keys
	gate     gate
	watchers watchers
	clock    clock
	stop     context.CancelFunc
	keeper   sync.WaitGroup // the goroutine that keeps the connection
}

var (
	_ binding.Store       = (*Store)(nil)
	_ binding.Restorer    = (*Store)(nil)
	_ binding.Lister      = (*Store)(nil)
	_ binding.Invalidator = (*Store)(nil)
	_ binding.Clock       = (*Store)(nil)
	_ binding.Pinger      = (*Store)(nil)
	_ endpoint.DrainStore = (*Store)(nil)
)

// batch is how many bindings travel in one round trip.
const batch = 128

// Open returns a Store for the server that o describes. It returns before the server was asked: until it answers, every call
// fails with binding.ErrUnavailable. An error means that o is wrong.
func Open(o Options) (*Store, error) {
	o, err := o.withDefaults()
	if err != nil {
		return nil, err
	}
	log := o.Log
	o.Log = nil // the keeper's goroutine alone has it
	ctx, stop := context.WithCancel(context.Background())
	s := &Store{options: o, keys: keys{prefix: o.Prefix}, stop: stop}
	k := newKeeper(s)
	s.watchers.init(k.wake)
	s.keeper.Go(func() { k.run(ctx, log) })
	return s, nil
}

// Close ends all calls and connections and waits for them. Calls after it fail with ErrClosed. It returns nil.
func (s *Store) Close() error {
	if s.gate.close() {
		s.stop()
		s.watchers.close()
	}
	s.keeper.Wait()
	s.gate.calls.Wait()
	return nil
}

// Get implements binding.Store with one GET.
func (s *Store) Get(ctx context.Context, k affinity.Key) (binding.Binding, error) {
	where := s.keys.place(k).binding
	v, err := ask(ctx, s, "reading a binding", func(ctx context.Context, c rueidis.Client) (string, error) {
		v, err := c.Do(ctx, c.B().Get().Key(where).Build()).ToString()
		if rueidis.IsRedisNil(err) {
			return "", nil
		}
		return v, err
	})
	b, _ := decode(v) // what is not known reads as unbound
	return b, err
}

// Swap implements binding.Store with one EVALSHA. A key whose value a later Limpet wrote is refused with ErrFull.
func (s *Store) Swap(
	ctx context.Context, k affinity.Key, old binding.Version, t affinity.Target, life binding.Life,
) (binding.Binding, error) {
	p := s.keys.place(k)
	m, err := runScript(ctx, s, "binding", swapScript, []string{p.binding, p.index}, []string{
		encodeVersion(old), encodeNonce(rand.Uint64()), idleMillis(life), number(micros(life.Until)), encodeTarget(t),
		shardQuota(life.Quota), p.member,
	})
	if err != nil {
		return binding.Binding{}, err
	}
	return bound(m)
}

// bound reads the answer of a script that binds.
func bound(m rueidis.RedisMessage) (binding.Binding, error) {
	fields, err := m.ToArray()
	if err != nil || len(fields) == 0 {
		return binding.Binding{}, fmt.Errorf("binding: %w: unexpected answer %s", binding.ErrUnavailable, m.String())
	}
	answer, _ := fields[0].ToInt64()
	var b binding.Binding
	if len(fields) > 1 {
		v, _ := fields[1].ToString()
		b, _ = decode(v)
	}
	switch answer {
	case answerBound:
		return b, nil
	case answerHeld:
		return b, binding.ErrConflict
	case answerFull:
		return b, fmt.Errorf("%w: the quota of the service is reached", binding.ErrFull)
	}
	return b, fmt.Errorf("%w: the key holds a format of a later version", binding.ErrFull)
}

// Touch implements binding.Store. It works while the server is out of memory.
func (s *Store) Touch(ctx context.Context, renewals []binding.Renewal) error {
	var errs []error
	for some := range slices.Chunk(renewals, batch) {
		calls := make([]call, 0, len(some))
		for _, r := range some {
			p := s.keys.place(r.Key)
			calls = append(calls, call{
				keys: []string{p.binding, p.index},
				args: []string{encodeVersion(r.Version), idleMillis(r.Life), number(micros(r.Life.Until))},
			})
		}
		_, err := ask(ctx, s, "renewing bindings", func(ctx context.Context, c rueidis.Client) (struct{}, error) {
			return struct{}{}, firstError(touchScript.run(ctx, c, calls))
		})
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// Delete implements binding.Store.
func (s *Store) Delete(ctx context.Context, k affinity.Key, v binding.Version) error {
	p := s.keys.place(k)
	_, err := runScript(ctx, s, "forgetting a binding", deleteScript, []string{p.binding, p.index}, []string{encodeVersion(v), p.member})
	return err
}

// Ping implements binding.Pinger by writing: to one key, in a cluster to sixteen so that each master is asked.
func (s *Store) Ping(ctx context.Context) error {
	count := 1
	if s.options.Mode == ModeCluster {
		count = shards
	}
	_, err := ask(ctx, s, "writing to redis", func(ctx context.Context, c rueidis.Client) (struct{}, error) {
		commands := make(rueidis.Commands, count)
		for i := range commands {
			commands[i] = c.B().Set().Key(s.keys.ping(i)).Value("").PxMilliseconds(time.Minute.Milliseconds()).Build()
		}
		return struct{}{}, firstError(c.DoMulti(ctx, commands...))
	})
	return err
}

// Offset implements binding.Clock. It is zero until the server was first asked for the time.
func (s *Store) Offset() time.Duration { return s.clock.offset() }

func firstError(results []rueidis.RedisResult) error {
	for _, r := range results {
		if err := r.Error(); err != nil && !rueidis.IsRedisNil(err) {
			return err
		}
	}
	return nil
}

// idleMillis returns the life of a binding that is used now, without its absolute end, in milliseconds.
func idleMillis(l binding.Life) string {
	l.Until = time.Time{}
	return number(max(1, l.TTL(time.Time{}).Milliseconds()))
}

// shardQuota returns the share of a quota that one shard may hold.
func shardQuota(quota int) string { return number(int64((quota + shards - 1) / shards)) }

func number(n int64) string { return strconv.FormatInt(n, 10) }
