package redis

import (
	"sync/atomic"
	"time"
)

// A clock knows how far the server's clock is ahead. The zero clock says that it is not. One goroutine measures, any may ask.
type clock struct {
	ahead   atomic.Int64 // nanoseconds
	samples [8]sample    // of the last measurements, those of the measuring goroutine
	next    int
}

type sample struct{ trip, ahead time.Duration }

// measured takes an answer of the server, which was asked at sent and answered at received: server is a time between.
func (c *clock) measured(sent, received, server time.Time) {
	trip := max(received.Sub(sent), 1)
	c.samples[c.next%len(c.samples)] = sample{trip, server.Sub(sent.Add(trip / 2))}
	c.next++
	best := sample{}
	for _, s := range c.samples {
		// The shortest trip has the smallest error: half of it at most.
		if s.trip > 0 && (best.trip == 0 || s.trip < best.trip) {
			best = s
		}
	}
	c.ahead.Store(int64(best.ahead))
}

func (c *clock) offset() time.Duration { return time.Duration(c.ahead.Load()) }
