// Package node assembles one Limpet process: it makes secrets, store, table, router, metrics and listeners by a configuration, runs
// them, and ends them in order.
//
// It promises that what is wrong with a configuration or a file that it names is said before anything is served, as a [UsageError] if
// it is in what they say, and that nothing is left running when [Node.Run] has returned. Where services, routes and certificates come
// from is for its maker to say: the configuration, or whatever the [Options] name. It reads no command line and decides nothing
// about requests.
//
// Start with [New] and [Options]; limpet serve is the simplest use.
package node

import (
	"context"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"sync/atomic"

	"github.com/limpet-project/limpet/affinity"
	"github.com/limpet-project/limpet/binding"
	"github.com/limpet-project/limpet/config"
	"github.com/limpet-project/limpet/endpoint"
	"github.com/limpet-project/limpet/proxy"
	"github.com/limpet-project/limpet/router"
	"github.com/limpet-project/limpet/telemetry"
	"github.com/limpet-project/limpet/token"
)

// Options are what a node gets from its maker instead of from the configuration. Only Log is needed.
type Options struct {
	// State is the folder for secrets that the configuration does not name; they are made there if they are missing. "" keeps them
	// in the process.
	State string
	// Log is where the node says what happens to it.
	Log *slog.Logger
	// Handler returns what serves a listener. It is called by Run, once for each listener before any of them serves, so that it can
	// refer to the node and to gateways of NewGateway. nil, or a nil result, is the node's own Gateway.
	Handler func(l *config.Listener) http.Handler
	// Certificates returns the certificates of a listener with TLS whose configuration names none; nil refuses the listener. It is
	// called by New. nil takes certificates from files only.
	Certificates func(l *config.Listener) proxy.CertificateSource
	// Ready returns why the node should get no traffic yet, beside the node's own reasons. It is asked whenever somebody asks for the
	// node's readiness, from many goroutines. nil is no further reason.
	Ready func() error
	// Source publishes services and endpoints; who makes it also gives the gateways their routes. Run runs it, and ends if it returns
	// an error. The configuration must have neither services nor routes then and is not read again; the token keys and certificates
	// that it names are, when they change. nil is the configuration's services and routes, read again when it changes.
	Source endpoint.Source
}

// A Node is one Limpet process. Make one with New and run it once. Its accessors may be used as soon as New has returned, from any
// goroutine; what they return is the node's and lives until Run returns.
type Node struct {
	config    *config.Config
	options   Options
	log       *slog.Logger
	secrets   *secrets
	metrics   *telemetry.Metrics
	observing observing
	source    *config.Source // nil with Options.Source
	table     *endpoint.Table
	store     *store
	router    *router.Router
	gateway   *proxy.Gateway
	listeners []*listener
	admin     net.Listener // nil is none

	mu       sync.Mutex
	gateways []*proxy.Gateway // all of them, the node's own first

	inForce  *config.Config // the one applied last; reload's alone
	draining atomic.Bool
}

// New opens every file and address that the configuration names, so that what is wrong is said at once, and serves nothing yet. Whatever
// it returned has to be run, be it with a context that has ended: Run is what closes it.
func New(ctx context.Context, c *config.Config, o Options) (*Node, error) {
	n := &Node{config: c, options: o, inForce: c, log: o.Log}
	if err := n.open(ctx); err != nil {
		n.close()
		return nil, err
	}
	return n, nil
}

func (n *Node) open(ctx context.Context) (err error) {
	if err := n.options.accept(n.config); err != nil {
		return err
	}
	if n.secrets, err = loadSecrets(n.config, n.options.State, n.log); err != nil {
		return err
	}
	n.metrics = telemetry.NewMetrics()
	if n.observing, err = openObserving(ctx, n.config, n.metrics); err != nil {
		return err
	}
	if err := n.openRouting(); err != nil {
		return err
	}
	return n.listen(ctx)
}

// openRouting makes what decides and forwards: table, store, router, gateway.
func (n *Node) openRouting() (err error) {
	if n.store, err = openStore(n.config, n.secrets, n.metrics, n.log); err != nil {
		return err
	}
	n.table = endpoint.NewTable(endpoint.Options{
		Drains: n.store.drains, MaxQueue: n.config.Router.MaxQueue, MaxProbes: n.config.Router.MaxProbes,
		Logger: n.log, Observer: n.metrics.Endpoints(),
	})
	n.store.table.Store(n.table)
	if n.options.Source == nil {
		n.source = config.NewSource(n.config)
	}
	n.router = router.New(router.Options{
		Endpoints:    n.table,
		Store:        n.store.Store,
		Tokens:       n.secrets.tokens,
		Keys:         affinity.Keyer{Digester: n.secrets.digester, Trust: n.config.TrustedProxies},
		StoreTimeout: n.store.timeout,
		MaxWaiters:   n.config.Router.MaxWaiters,
		Observer:     n.metrics.Router(),
	})
	n.gateway = n.NewGateway()
	routes, err := n.config.Proxy()
	if err != nil {
		return UsageError{err}
	}
	n.metrics.Watch(n.table, n.store.status)
	if err := n.gateway.Swap(routes); err != nil {
		return UsageError{err}
	}
	return nil
}

// close gives up what New opened.
func (n *Node) close() {
	for _, l := range n.listeners {
		l.close()
	}
	if n.admin != nil {
		n.admin.Close()
	}
	for _, g := range n.allGateways() {
		g.Close()
	}
	if n.store != nil {
		n.store.close()
	}
	n.observing.close(n.log)
}

// NewGateway returns another gateway with the node's router and observers, and without routes. The node closes it in the end, and its
// admin API finds the routes of all gateways.
func (n *Node) NewGateway() *proxy.Gateway {
	g := proxy.New(proxy.PickWith(n.router), telemetry.Observers(n.metrics, n.observing.log, n.observing.tracing))
	n.mu.Lock()
	defer n.mu.Unlock()
	n.gateways = append(n.gateways, g)
	return g
}

// allGateways returns the gateways in the order in which they were made.
func (n *Node) allGateways() []*proxy.Gateway {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.gateways[:len(n.gateways):len(n.gateways)]
}

// Gateway returns the node's own gateway. It has the routes of the configuration, or with [Options.Source] none until somebody swaps
// them in.
func (n *Node) Gateway() *proxy.Gateway { return n.gateway }

// Table returns what knows the services and their endpoints.
func (n *Node) Table() *endpoint.Table { return n.table }

// Router returns what chooses endpoints, for data planes other than a gateway.
func (n *Node) Router() *router.Router { return n.router }

// Metrics returns what counts.
func (n *Node) Metrics() *telemetry.Metrics { return n.metrics }

// Store returns where bindings are remembered: with a shared store behind its near cache and its breaker.
func (n *Node) Store() binding.Store { return n.store.Store }

// Digester returns what makes keys of ids.
func (n *Node) Digester() *affinity.Digester { return n.secrets.digester }

// Tokens returns the keys of sealed tokens, which follow their file while the node runs.
func (n *Node) Tokens() *token.Keys { return n.secrets.tokens }
