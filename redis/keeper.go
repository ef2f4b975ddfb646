package redis

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strings"
	"sync"
	"time"

	"github.com/redis/rueidis"
)

// A keeper makes the client and asks every server for the time once a second. That shows who answers, tells the clocks apart, and
// makes connections anew: calls never do. All of it happens in one goroutine.
type keeper struct {
	store  *Store
	kicked chan struct{}

	client   rueidis.Client // nil until it was made
	tracking bool
	answered time.Time            // when any server last answered
	heard    map[string]time.Time // when each server last answered; zero once its silence was reported
	delay    time.Duration        // before the next attempt, while no server answers
}

type dialFunc = func(context.Context, string, *net.Dialer, *tls.Config) (net.Conn, error)

const (
	firstDelay = 50 * time.Millisecond
	// rebuildAfter is how long no server may answer until the client is made anew, with addresses looked up again.
	rebuildAfter = 10 * time.Second
)

func newKeeper(s *Store) *keeper {
	return &keeper{store: s, kicked: make(chan struct{}, 1), heard: map[string]time.Time{}}
}

// wake makes the keeper look at the servers now. It does not block.
func (k *keeper) wake() {
	select {
	case k.kicked <- struct{}{}:
	default:
	}
}

func (k *keeper) run(ctx context.Context, log *slog.Logger) {
	defer k.drop()
	for ctx.Err() == nil {
		k.beat(ctx, log)
		k.rest(ctx)
	}
}

// rest waits until the next beat is due: a second, or when woken after a short while, so that a server that keeps hanging up
// is not asked without pause.
func (k *keeper) rest(ctx context.Context) {
	pause := beatInterval
	if k.delay > 0 {
		pause = k.delay
	}
	sleep(ctx, firstDelay, nil)
	sleep(ctx, pause-firstDelay, k.kicked)
}

func sleep(ctx context.Context, d time.Duration, until <-chan struct{}) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-t.C:
	case <-until:
	}
}

// beat asks all servers once and draws the conclusions.
func (k *keeper) beat(ctx context.Context, log *slog.Logger) {
	if err := k.connect(ctx); err != nil {
		k.away(err, log)
		return
	}
	seen := k.store.watchers.seen()
	answers := k.ask(ctx)
	now := time.Now()
	var failed error
	alive := false
	for _, a := range answers {
		if a.err != nil {
			failed = a.err
			continue
		}
		alive = true
		if !a.server.IsZero() {
			k.store.clock.measured(a.sent, a.received, a.server)
		}
	}
	k.listen(answers, now)
	switch {
	case alive:
		k.present(now, seen, log)
	case ctx.Err() == nil:
		k.away(failed, log)
		if errors.Is(failed, rueidis.ErrNoCache) || now.Sub(k.answered) > rebuildAfter {
			k.drop()
		}
	}
}

// present lets calls in.
func (k *keeper) present(now time.Time, seen uint64, log *slog.Logger) {
	k.answered, k.delay = now, 0
	if k.store.gate.open(k.client) {
		log.Info("redis answers", "mode", string(k.client.Mode()), "reportsChanges", k.tracking)
	}
	if k.tracking {
		k.store.watchers.alive(seen)
	}
}

// away keeps calls out.
func (k *keeper) away(err error, log *slog.Logger) {
	k.delay = min(max(2*k.delay, 2*firstDelay), beatInterval)
	if k.store.gate.shut(err) {
		log.Warn("redis does not answer", "error", err)
	}
}

// listen notes who answered. A server that was silent for too long may have changed what it did not report.
func (k *keeper) listen(answers []answer, now time.Time) {
	heard := make(map[string]time.Time, len(answers))
	for _, a := range answers {
		last, known := k.heard[a.address]
		switch {
		case a.err == nil || !known:
			last = now
		case !last.IsZero() && now.Sub(last) >= silence:
			last = time.Time{}
			k.store.watchers.lost()
		}
		heard[a.address] = last
	}
	k.heard = heard
}

// connect makes the client if there is none. One that tracks is tried first.
func (k *keeper) connect(ctx context.Context) error {
	if k.client != nil {
		return nil
	}
	client, err := k.open(ctx, true)
	k.tracking = err == nil
	if errors.Is(err, rueidis.ErrNoCache) {
		client, err = k.open(ctx, false)
	}
	if err != nil {
		return fmt.Errorf("connecting: %w", err)
	}
	k.client, k.answered = client, time.Now()
	if k.tracking {
		k.store.watchers.allow()
	} else {
		k.store.watchers.refuse(errNoTracking)
	}
	return nil
}

func (k *keeper) open(ctx context.Context, track bool) (rueidis.Client, error) {
	client, err := rueidis.NewClient(k.store.options.client(track, k.dialer(ctx), k.store.invalidated))
	if err != nil && client != nil {
		client.Close()
	}
	return client, err
}

// dialer returns how connections are made: not for calls, and not after ctx ended.
func (k *keeper) dialer(ctx context.Context) dialFunc {
	return func(asking context.Context, address string, d *net.Dialer, t *tls.Config) (net.Conn, error) {
		if asking.Value(requestKey{}) != nil {
			k.wake()
			return nil, errNotConnected
		}
		asking, cancel := context.WithCancel(asking)
		defer cancel()
		defer context.AfterFunc(ctx, cancel)()
		if t != nil {
			return (&tls.Dialer{NetDialer: d, Config: t}).DialContext(asking, "tcp", address)
		}
		return d.DialContext(asking, "tcp", address)
	}
}

// drop closes the client; the next beat makes another.
func (k *keeper) drop() {
	if k.client == nil {
		return
	}
	k.store.gate.shut(errNotConnected)
	k.client.Close()
	k.client = nil
	k.heard = map[string]time.Time{}
	k.store.watchers.lost()
}

type answer struct {
	address                string
	sent, received, server time.Time
	err                    error
}

// ask asks every server for its time, all at once.
func (k *keeper) ask(ctx context.Context) []answer {
	ctx, cancel := context.WithTimeout(ctx, k.store.options.ConnectTimeout)
	defer cancel()
	nodes := k.client.Nodes()
	answers := make([]answer, 0, len(nodes))
	for address := range nodes {
		answers = append(answers, answer{address: address})
	}
	var group sync.WaitGroup
	for i := range answers {
		group.Go(func() { answers[i].ask(ctx, nodes[answers[i].address]) })
	}
	group.Wait()
	return answers
}

func (a *answer) ask(ctx context.Context, c rueidis.Client) {
	a.sent = time.Now()
	parts, err := c.Do(ctx, c.B().Time().Build()).AsIntSlice()
	a.received, a.err = time.Now(), err
	if e, replied := rueidis.IsRedisErr(err); replied && strings.HasPrefix(e.Error(), "NOPERM") {
		a.err = nil // a server that does not tell the time to this user is there
	}
	if err == nil && len(parts) == 2 {
		a.server = time.Unix(parts[0], parts[1]*1000)
	}
}
