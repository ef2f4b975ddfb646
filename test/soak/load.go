package main

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/limpet-project/limpet/test/soak/checker"
)

// attempts is how often a client asks for one thing before it gives up; each attempt is an observation.
const attempts = 5

// A load is the clients of a run and what they saw.
type load struct {
	o     *options
	fleet *fleet

	next, ended          atomic.Int64 // requests begun and ended
	errors, broken, lost atomic.Int64 // 5xx, broken connections, requests given up
	seen                 [][]checker.Observation
}

func newLoad(o *options, f *fleet) *load {
	return &load{o: o, fleet: f, seen: make([][]checker.Observation, o.workers)}
}

// run sends every request, or those that can be sent until ctx ends, and returns how long that took.
func (l *load) run(ctx context.Context, out io.Writer) time.Duration {
	began := time.Now()
	var working sync.WaitGroup
	for i := range l.o.workers {
		working.Go(func() { l.work(ctx, i, began) })
	}
	done := make(chan struct{})
	go func() { working.Wait(); close(done) }()
	tick := time.NewTicker(3 * time.Second)
	defer tick.Stop()
	for {
		select {
		case <-done:
			return time.Since(began)
		case <-tick.C:
			n := l.ended.Load()
			fmt.Fprintf(out, "%6.1fs  %d requests, %.0f/s, %d 5xx, %d broken connections\n",
				time.Since(began).Seconds(), n, float64(n)/time.Since(began).Seconds(), l.errors.Load(), l.broken.Load())
		}
	}
}

// work is one client: it asks for one thing after the other.
func (l *load) work(ctx context.Context, i int, began time.Time) {
	rng := rand.New(rand.NewPCG(l.o.seed, 100+uint64(i)))
	c := newClient(l.fleet)
	defer c.close()
	for ctx.Err() == nil {
		n := int(l.next.Add(1))
		if n > l.o.requests {
			return
		}
		if due := l.due(n); due > 0 && !pause(ctx, time.Until(began.Add(due))) {
			return
		}
		session, flow := l.choose(rng, n)
		l.ask(ctx, i, c, rng, session, flow)
		l.ended.Add(1)
	}
}

// due is when the n-th request is sent.
func (l *load) due(n int) time.Duration {
	return time.Duration(float64(l.o.duration) * float64(n) / float64(l.o.requests))
}

// ask sends one request to a gateway chosen at random, and if the connection breaks, to the other.
func (l *load) ask(ctx context.Context, i int, c *client, rng *rand.Rand, session, flow string) {
	at := rng.IntN(len(l.fleet.gateways))
	for range attempts {
		o := c.ask(at, session, flow)
		l.seen[i] = append(l.seen[i], o)
		switch {
		case o.Status >= 500:
			l.errors.Add(1)
			return
		case o.Status != 0:
			return
		}
		l.broken.Add(1)
		at = (at + 1) % len(l.fleet.gateways)
		if ctx.Err() != nil {
			return
		}
	}
	l.lost.Add(1)
}

// choose returns the ids of the n-th request. Sessions come into being all through the run; a tenth of the requests are for the
// newest ones, so that several clients race to be their first. A third of the sessions bring a flow id, and some requests are of a
// flow alone.
func (l *load) choose(rng *rand.Rand, n int) (session, flow string) {
	known := l.o.sessions/5 + int(float64(l.o.sessions-l.o.sessions/5)*min(1, 1.2*float64(n)/float64(l.o.requests)))
	id := rng.IntN(known)
	flows := max(1, l.o.sessions/30)
	switch rng.IntN(20) {
	case 0, 1:
		id = max(0, known-1-rng.IntN(4))
	case 2:
		return "", fmt.Sprintf("flow-%d", rng.IntN(flows))
	}
	session = fmt.Sprintf("session-%d", id)
	if id%3 == 0 {
		flow = fmt.Sprintf("flow-%d", id/3%flows)
	}
	return session, flow
}

// observations returns what all clients saw.
func (l *load) observations() []checker.Observation {
	var all []checker.Observation
	for _, seen := range l.seen {
		all = append(all, seen...)
	}
	return all
}
