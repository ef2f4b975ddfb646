package redis

import (
	"context"
	"sync"

	"github.com/redis/rueidis"
)

// A gate is where calls get the client, or learn at once that there is none. The zero gate has none yet.
type gate struct {
	mu     sync.RWMutex
	client rueidis.Client // nil while the server is away
	err    error          // why
	closed bool
	calls  sync.WaitGroup
}

// enter returns the client for one call, which must leave.
func (g *gate) enter() (rueidis.Client, error) {
	g.mu.RLock()
	defer g.mu.RUnlock()
	switch {
	case g.closed:
		return nil, ErrClosed
	case g.client != nil:
		g.calls.Add(1)
		return g.client, nil
	case g.err != nil:
		return nil, g.err
	}
	return nil, errNotConnected
}

func (g *gate) leave() { g.calls.Done() }

// open lets calls in and reports whether that is new.
func (g *gate) open(c rueidis.Client) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	news := g.client == nil
	g.client, g.err = c, nil
	return news
}

// shut keeps calls out, because of err, and reports whether that is new.
func (g *gate) shut(err error) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	news := g.client != nil || g.err == nil
	g.client, g.err = nil, err
	return news
}

// close keeps calls out for good and reports whether they were let in before.
func (g *gate) close() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	was := g.closed
	g.closed = true
	return !was
}

// requestKey marks the contexts of calls: connections are never made for them.
type requestKey struct{}

type result[T any] struct {
	value T
	err   error
}

// ask runs f with the client, no longer than CallTimeout. The client can block where it does not look at the context (waiting for
// another's connection, or for room in a full pipeline), hence the goroutine; the gate waits for it when the Store is closed.
// What f uses must not change after ask returned.
func ask[T any](ctx context.Context, s *Store, doing string, f func(context.Context, rueidis.Client) (T, error)) (T, error) {
	var none T
	if err := ctx.Err(); err != nil {
		return none, failure(ctx, doing, err)
	}
	client, err := s.gate.enter()
	if err != nil {
		return none, failure(ctx, doing, err)
	}
	bounded, cancel := context.WithTimeout(context.WithValue(ctx, requestKey{}, true), s.options.CallTimeout)
	defer cancel()
	answer := make(chan result[T], 1)
	go func() {
		defer s.gate.leave()
		v, err := f(bounded, client)
		answer <- result[T]{v, err}
	}()
	select {
	case r := <-answer:
		return r.value, failure(ctx, doing, r.err)
	case <-bounded.Done():
		return none, failure(ctx, doing, bounded.Err())
	}
}

// runScript runs one call of a script.
func runScript(ctx context.Context, s *Store, doing string, x script, keys, args []string) (rueidis.RedisMessage, error) {
	return ask(ctx, s, doing, func(ctx context.Context, c rueidis.Client) (rueidis.RedisMessage, error) {
		return x.run(ctx, c, []call{{keys, args}})[0].ToMessage()
	})
}
