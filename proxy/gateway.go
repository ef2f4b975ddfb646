package proxy

import (
	"fmt"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/limpet-project/limpet/affinity"
)

// A Gateway serves requests by a Config: it matches the route, asks its Picker and forwards. It is an http.Handler and safe for
// concurrent use. Make one with [New]; until the first Swap every request is answered 404.
type Gateway struct {
	picker   Picker
	observer Observer // may be nil
	engine   *engine
	config   atomic.Pointer[compiled]
	swap     sync.Mutex // one Swap at a time
}

// New returns a gateway without routes. observer may be nil.
func New(p Picker, observer Observer) *Gateway {
	g := &Gateway{picker: p, observer: observer, engine: newEngine()}
	g.config.Store(&compiled{})
	return g
}

// Swap replaces the configuration as a whole. A Config that is wrong is refused and the old one stays. Requests under way end
// by the Config that they began with. Connections of upstreams whose settings did not change are kept. The caller must
// not change c afterwards. It waits for nothing.
func (g *Gateway) Swap(c Config) error {
	g.swap.Lock()
	defer g.swap.Unlock()
	old := g.config.Load()
	next, err := compile(c, old.upstreams, g.engine)
	if err != nil {
		return fmt.Errorf("configuring the gateway: %w", err)
	}
	g.config.Store(next)
	for key, up := range old.upstreams {
		if next.upstreams[key] != up {
			up.retire()
		}
	}
	return nil
}

// Close removes all routes and closes the connections to endpoints; those in use are closed when their requests end. It waits for
// connections that are being made, for the longest connect timeout at most; Swap does not. Nothing may be swapped in after it.
func (g *Gateway) Close() {
	// An empty Config cannot be wrong.
	_ = g.Swap(Config{})
	g.engine.dials.Wait()
}

// Match returns the route of a request with this host and raw path and no headers, and whether there is one. The host may carry a
// port.
func (g *Gateway) Match(host, path string) (Route, bool) { return g.find(host, path, nil) }

// MatchMessage returns the route of a request as the gateway would find it, and whether there is one.
func (g *Gateway) MatchMessage(m affinity.Message) (Route, bool) {
	return g.find(m.Host(), m.Path(), m)
}

func (g *Gateway) find(host, path string, m affinity.Message) (Route, bool) {
	r := g.config.Load().match(host, path, m)
	if r == nil {
		return Route{}, false
	}
	return r.Route, true
}

// ServeHTTP serves one request. It returns when the request has ended, also for an upgraded connection.
func (g *Gateway) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	x := newExchange(g, w, r)
	defer x.end()
	if err := x.serve(); err != nil {
		x.fail(err)
	}
}

// limitsOf returns what the request's listener bounds; other servers' requests have the defaults.
func limitsOf(r *http.Request) *Limits {
	if c := connOf(r); c != nil {
		return c.limits
	}
	return &defaultLimits
}

// defaultLimits is never written.
var defaultLimits = Limits{}.withDefaults()

// withDefaults returns l with its zero values filled in.
func (l Limits) withDefaults() Limits {
	orDuration := func(d *time.Duration, def time.Duration) {
		if *d <= 0 {
			*d = def
		}
	}
	orInt := func(n *int, def int) {
		if *n <= 0 {
			*n = def
		}
	}
	orDuration(&l.ReadHeaderTimeout, 10*time.Second)
	orDuration(&l.IdleTimeout, 120*time.Second)
	orDuration(&l.WriteStall, 60*time.Second)
	orDuration(&l.ReadStall, 60*time.Second)
	orInt(&l.MaxHeaderBytes, 64<<10)
	orInt(&l.MaxConnections, 10000)
	orInt(&l.MaxStreams, 250)
	return l
}
