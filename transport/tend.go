package transport

import (
	"context"
	"net"
	"time"

	"github.com/limpet-project/limpet/affinity"
)

const (
	// tendEvery is how often connections are looked at.
	tendEvery = time.Second
	// tendPause is the least time from one look to the next because endpoints changed.
	tendPause = 20 * time.Millisecond
)

// tend looks at all connections from time to time: it ends those that rest for too long and those whose endpoint went, and tells what
// was carried.
func (t *TCP) tend(ctx context.Context) {
	tick := time.NewTicker(t.interval())
	defer tick.Stop()
	for {
		var changed <-chan struct{}
		if t.CloseDown {
			changed = t.Endpoints.Changed()
		}
		t.look(time.Now())
		select {
		case <-tick.C:
			continue
		case <-changed:
		case <-ctx.Done():
			return
		}
		select {
		case <-time.After(tendPause):
		case <-ctx.Done():
			return
		}
	}
}

// interval returns how often connections are looked at: at least four times before one has rested for too long.
func (t *TCP) interval() time.Duration {
	if t.IdleTimeout > 0 {
		return min(tendEvery, max(t.IdleTimeout/4, time.Millisecond))
	}
	return tendEvery
}

// look looks at each connection once.
func (t *TCP) look(now time.Time) {
	t.mu.Lock()
	conns := t.open()
	t.mu.Unlock()
	for _, c := range conns {
		if e := c.look(now); e != "" {
			c.cut(e)
		}
	}
}

// look tells what was carried and returns why the connection has to end, "" if it has not.
func (c *connection) look(now time.Time) Ending {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.endpoint == nil || c.over || c.ending != "" {
		return "" // it is bounded otherwise
	}
	c.report()
	c.keepAlive()
	switch moved := c.in.moved.Load() + c.out.moved.Load(); {
	case moved != c.moved:
		c.moved, c.since = moved, now
	case now.Sub(c.since) >= tendEvery:
		c.in.nudge()
		c.out.nudge()
	}
	if c.t.IdleTimeout > 0 && now.Sub(c.since) >= c.t.IdleTimeout {
		return EndIdle
	}
	return c.standing(now)
}

// keepAlive has the kernel find out whether the other ends are still there. Most connections end before it matters, and it takes four system
// calls for each socket.
func (c *connection) keepAlive() {
	if c.lasts {
		return
	}
	c.lasts = true
	for _, nc := range []*net.TCPConn{c.client, c.endpoint} {
		_ = nc.SetKeepAliveConfig(net.KeepAliveConfig{Enable: true}) // the defaults; fails if it is closed, which is as good
	}
}

// standing returns EndDrained or EndDown if the endpoint may not keep the connection, "" if it may.
func (c *connection) standing(now time.Time) Ending {
	e := c.listed()
	switch {
	case e != nil && e.State == affinity.EndpointDraining && !e.Until.IsZero() && !now.Before(e.Until):
		return EndDrained
	case c.t.CloseDown && (e == nil || e.State == affinity.EndpointDown || e.State == affinity.EndpointGone || e.Address != c.o.Address):
		return EndDown
	}
	return ""
}

// listed returns the endpoint as it is known now, nil if it is not.
func (c *connection) listed() *affinity.Endpoint {
	snapshot := c.t.Endpoints.Snapshot(c.route.Service)
	if snapshot == nil {
		return nil
	}
	r := snapshot.Revision(c.o.Target.Revision)
	if r == nil {
		return nil
	}
	return r.Pool.Endpoint(c.o.Target.Endpoint)
}
