package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"syscall"
	"time"

	"github.com/limpet-project/limpet/test/soak/checker"
)

// A schedule does things to a fleet, one after the other: all of them in a random order, then all again in another.
type schedule struct {
	fleet *fleet
	rng   *rand.Rand
	quiet time.Time // until when the store is left alone, so that the log does not join two outages to one
}

// fewest is how many replicas of a revision stay listed and alive.
const fewest = 2

// run acts until ctx ends. An error means that a process could not be started.
func (s *schedule) run(ctx context.Context) error {
	deeds := []func(context.Context) error{
		s.add, s.remove, s.drain, s.undrain, s.killAndRestart, s.killAndReplace, s.shift, s.withdraw, s.restore,
		s.emptyStore, s.loseStore, s.haltStore, s.restartGateway,
	}
	for ctx.Err() == nil {
		s.rng.Shuffle(len(deeds), func(i, j int) { deeds[i], deeds[j] = deeds[j], deeds[i] })
		for _, deed := range deeds {
			if !s.rest(ctx, 200*time.Millisecond, 1200*time.Millisecond) {
				return nil
			}
			if err := deed(ctx); err != nil && ctx.Err() == nil {
				return err
			}
		}
	}
	return nil
}

// rest waits for a random time between two bounds; false if ctx ended.
func (s *schedule) rest(ctx context.Context, least, most time.Duration) bool {
	return pause(ctx, least+time.Duration(s.rng.Int64N(int64(most-least))))
}

func (s *schedule) anyRevision() *revision {
	return s.fleet.revisions[s.rng.IntN(len(s.fleet.revisions))]
}

// spare returns a replica that its revision can do without, after adding one if need be.
func (s *schedule) spare(r *revision) (*replica, error) {
	live := 0
	for _, n := range r.replicas {
		if !n.draining {
			live++
		}
	}
	if live <= fewest {
		if err := s.addTo(r); err != nil {
			return nil, err
		}
	}
	for {
		if n := r.replicas[s.rng.IntN(len(r.replicas))]; !n.draining {
			return n, nil
		}
	}
}

func (s *schedule) addTo(r *revision) error {
	n, err := s.fleet.addReplica(r)
	if err != nil {
		return err
	}
	return s.fleet.do(checker.Event{Kind: checker.Added, Endpoint: n.name, Revision: r.name}, s.fleet.configure)
}

func (s *schedule) add(ctx context.Context) error {
	s.fleet.calm(ctx)
	for _, r := range s.fleet.revisions {
		if len(r.replicas) > 2*s.fleet.o.replicas {
			return nil // the machine is small
		}
	}
	return s.addTo(s.anyRevision())
}

// delist takes a replica from the configuration.
func (s *schedule) delist(n *replica) error {
	for _, r := range s.fleet.revisions {
		for i, o := range r.replicas {
			if o == n {
				r.replicas = append(r.replicas[:i:i], r.replicas[i+1:]...)
			}
		}
	}
	return s.fleet.do(checker.Event{Kind: checker.Removed, Endpoint: n.name}, s.fleet.configure)
}

func (s *schedule) remove(ctx context.Context) error {
	s.fleet.calm(ctx)
	n, err := s.spare(s.anyRevision())
	if err != nil {
		return err
	}
	s.fleet.stopLater(ctx, n)
	return s.delist(n)
}

// order orders a drain with a deadline shortly after every gateway has learnt of it.
func (s *schedule) order(ctx context.Context) (*replica, error) {
	s.fleet.calm(ctx)
	n, err := s.spare(s.anyRevision())
	if err != nil {
		return nil, err
	}
	left := calmness + time.Duration(s.rng.Int64N(int64(2*time.Second)))
	n.draining, n.until = true, time.Now().Add(left)
	event := checker.Event{Kind: checker.Draining, Endpoint: n.name, Until: s.fleet.clock() + left}
	return n, s.fleet.do(event, s.fleet.configure)
}

// drain drains a replica, lets its deadline pass, and removes it.
func (s *schedule) drain(ctx context.Context) error {
	n, err := s.order(ctx)
	if err != nil {
		return err
	}
	pause(ctx, time.Until(n.until)+time.Second)
	s.fleet.stopLater(ctx, n)
	return s.delist(n)
}

// undrain ends a drain, mostly before its deadline.
func (s *schedule) undrain(ctx context.Context) error {
	n, err := s.order(ctx)
	if err != nil {
		return err
	}
	s.fleet.calm(ctx)
	n.draining = false
	return s.fleet.do(checker.Event{Kind: checker.Added, Endpoint: n.name, Revision: n.revision}, s.fleet.configure)
}

func (s *schedule) kill(n *replica) error {
	return s.fleet.do(checker.Event{Kind: checker.Killed, Endpoint: n.name}, func() error { n.process.kill(); return nil })
}

func (s *schedule) killAndRestart(ctx context.Context) error {
	n, err := s.spare(s.anyRevision())
	if err != nil {
		return err
	}
	if err := s.kill(n); err != nil {
		return err
	}
	s.rest(ctx, time.Millisecond, 3*time.Second)
	return s.fleet.do(checker.Event{Kind: checker.Started, Endpoint: n.name}, func() error { return s.fleet.startReplica(n) })
}

// killAndReplace kills a replica and lists another one in its place, as an orchestrator would.
func (s *schedule) killAndReplace(ctx context.Context) error {
	r := s.anyRevision()
	n, err := s.spare(r)
	if err != nil {
		return err
	}
	if err := s.kill(n); err != nil {
		return err
	}
	s.rest(ctx, time.Millisecond, 2*time.Second)
	s.fleet.calm(ctx)
	if err := s.delist(n); err != nil {
		return err
	}
	return s.addTo(r)
}

func (s *schedule) weigh(r *revision, weight int) error {
	r.weight = weight
	return s.fleet.do(checker.Event{Kind: checker.Weighted, Revision: r.name, Weight: weight}, s.fleet.configure)
}

// shift changes weights, which may move nobody.
func (s *schedule) shift(ctx context.Context) error {
	s.fleet.calm(ctx)
	for _, r := range s.fleet.revisions {
		if r.weight > 0 {
			if err := s.weigh(r, 1+s.rng.IntN(100)); err != nil {
				return err
			}
		}
	}
	return nil
}

// withdraw sets a revision's weight to 0, unless it is the last one, and waits until that moved its sessions.
func (s *schedule) withdraw(ctx context.Context) error {
	s.fleet.calm(ctx)
	taking := 0
	for _, r := range s.fleet.revisions {
		if r.weight > 0 {
			taking++
		}
	}
	if r := s.anyRevision(); taking > 1 && r.weight > 0 {
		err := s.weigh(r, 0)
		s.rest(ctx, time.Second, 3*time.Second)
		return err
	}
	return s.restore(ctx)
}

// restore gives every revision some weight again.
func (s *schedule) restore(ctx context.Context) error {
	s.fleet.calm(ctx)
	for _, r := range s.fleet.revisions {
		if r.weight == 0 {
			if err := s.weigh(r, 1+s.rng.IntN(100)); err != nil {
				return err
			}
		}
	}
	return nil
}

// emptyStore kills Redis and starts it empty at once.
func (s *schedule) emptyStore(ctx context.Context) error { return s.outage(ctx, 0) }

// loseStore kills Redis and starts it empty some seconds later.
func (s *schedule) loseStore(ctx context.Context) error {
	return s.outage(ctx, time.Second+time.Duration(s.rng.Int64N(int64(2*time.Second))))
}

func (s *schedule) outage(ctx context.Context, away time.Duration) error {
	f := s.fleet
	pause(ctx, time.Until(s.quiet))
	if err := f.do(checker.Event{Kind: checker.StoreLost}, func() error { f.redis.kill(); return nil }); err != nil {
		return err
	}
	pause(ctx, away)
	err := f.do(checker.Event{Kind: checker.StoreRecovered, Emptied: true}, func() error { return f.startRedis(ctx) })
	s.quiet = time.Now().Add(f.o.allow.Settle + time.Second)
	return err
}

// haltStore halts Redis: its connections stay open and nothing answers.
func (s *schedule) haltStore(ctx context.Context) error {
	f := s.fleet
	signal := func(sig syscall.Signal) func() error { return func() error { return f.redis.cmd.Process.Signal(sig) } }
	pause(ctx, time.Until(s.quiet))
	if err := f.do(checker.Event{Kind: checker.StoreLost}, signal(syscall.SIGSTOP)); err != nil {
		return err
	}
	s.rest(ctx, time.Second, 3*time.Second)
	err := f.do(checker.Event{Kind: checker.StoreRecovered}, signal(syscall.SIGCONT))
	s.quiet = time.Now().Add(f.o.allow.Settle + time.Second)
	return err
}

func (s *schedule) restartGateway(ctx context.Context) error {
	f := s.fleet
	g := f.gateways[s.rng.IntN(len(f.gateways))]
	inOrder := true
	down := func() error {
		inOrder = g.process.stop(40 * time.Second)
		g.ended.Add(1)
		return nil
	}
	if err := f.do(checker.Event{Kind: checker.GatewayDown, Gateway: g.name}, down); err != nil {
		return err
	}
	if !inOrder {
		return fmt.Errorf("%s did not end within 40s of SIGTERM: %s", g.name, tail(g.process.log))
	}
	return f.do(checker.Event{Kind: checker.GatewayUp, Gateway: g.name}, func() error { return f.startGateway(ctx, g) })
}
