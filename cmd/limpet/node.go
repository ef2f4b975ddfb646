package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"reflect"
	"sync"
	"sync/atomic"
	"time"

	"github.com/limpet-project/limpet/admin"
	"github.com/limpet-project/limpet/affinity"
	"github.com/limpet-project/limpet/config"
	"github.com/limpet-project/limpet/endpoint"
	"github.com/limpet-project/limpet/proxy"
	"github.com/limpet-project/limpet/router"
	"github.com/limpet-project/limpet/telemetry"
)

// A node is one gateway process: everything that limpet serve runs, and who ends what in which order.
type node struct {
	config    *config.Config
	log       *slog.Logger
	secrets   *secrets
	metrics   *telemetry.Metrics
	observing observing
	source    *config.Source
	table     *endpoint.Table
	store     *store
	router    *router.Router
	gateway   *proxy.Gateway
	listeners []*listener
	admin     net.Listener // nil is none

	inForce  *config.Config // the one applied last; reload's alone
	draining atomic.Bool
}

// A listener is one address on which requests are taken.
type listener struct {
	proxy.Listener
	name   string
	socket net.Listener
}

// newNode opens every file and address that the configuration names, so that what is wrong is said at once, and serves nothing yet.
func newNode(ctx context.Context, c *config.Config, state string, log *slog.Logger) (*node, error) {
	n := &node{config: c, inForce: c, log: log}
	if err := n.open(ctx, state); err != nil {
		n.close()
		return nil, err
	}
	return n, nil
}

func (n *node) open(ctx context.Context, state string) (err error) {
	if n.secrets, err = loadSecrets(n.config, state, n.log); err != nil {
		return err
	}
	n.metrics = telemetry.NewMetrics()
	if n.observing, err = openObserving(ctx, n.config, n.metrics); err != nil {
		return err
	}
	if err := n.openRouting(); err != nil {
		return err
	}
	return n.listen()
}

// openRouting makes what decides and forwards: table, store, router, gateway.
func (n *node) openRouting() (err error) {
	if n.store, err = openStore(n.config, n.secrets, n.metrics, n.log); err != nil {
		return err
	}
	n.table = endpoint.NewTable(endpoint.Options{
		Drains: n.store.drains, MaxQueue: n.config.Router.MaxQueue, MaxProbes: n.config.Router.MaxProbes,
		Logger: n.log, Observer: n.metrics.Endpoints(),
	})
	n.store.table.Store(n.table)
	n.source = config.NewSource(n.config)
	n.router = router.New(router.Options{
		Endpoints:    n.table,
		Store:        n.store.Store,
		Tokens:       n.secrets.tokens,
		Keys:         affinity.Keyer{Digester: n.secrets.digester, Trust: n.config.TrustedProxies},
		StoreTimeout: n.store.timeout,
		MaxWaiters:   n.config.Router.MaxWaiters,
		Observer:     n.metrics.Router(),
	})
	n.gateway = proxy.New(proxy.PickWith(n.router), telemetry.Observers(n.metrics, n.observing.log, n.observing.tracing))
	routes, err := n.config.Proxy()
	if err != nil {
		return err
	}
	n.metrics.Watch(n.table, n.store.status)
	if err := n.gateway.Swap(routes); err != nil {
		return usageError{err}
	}
	return nil
}

// listen opens the addresses.
func (n *node) listen() error {
	for _, l := range n.config.Listeners {
		open := &listener{name: l.Name}
		open.Handler, open.Limits = n.gateway, l.Limits.Compile()
		if l.TLS != nil {
			var err error
			if open.Certificates, err = certificates(l.TLS); err != nil {
				return fmt.Errorf("listener %s: %w", l.Name, err)
			}
			if l.TLS.MinVersion == "1.3" {
				open.MinVersion = tls.VersionTLS13
			}
		}
		socket, err := net.Listen("tcp", l.Address)
		if err != nil {
			return fmt.Errorf("listener %s: %w", l.Name, err)
		}
		open.socket = socket
		n.listeners = append(n.listeners, open)
	}
	if n.config.Admin.Address == "off" {
		return nil
	}
	socket, err := net.Listen("tcp", n.config.Admin.Address)
	if err != nil {
		return fmt.Errorf("admin listener: %w", err)
	}
	n.admin = socket
	return nil
}

// close gives up what newNode opened.
func (n *node) close() {
	for _, l := range n.listeners {
		l.socket.Close()
	}
	if n.admin != nil {
		n.admin.Close()
	}
	if n.gateway != nil {
		n.gateway.Close()
	}
	if n.store != nil {
		n.store.close()
	}
	n.observing.close(n.log)
}

// run serves until ctx ends, then drains: readiness goes first, then listeners end what is under way, then what they used ends.
func (n *node) run(ctx context.Context, hup <-chan os.Signal) error {
	defer n.close()
	inner, stop := context.WithCancel(context.WithoutCancel(ctx)) // outlives ctx until the listeners are done
	defer stop()
	var parts sync.WaitGroup
	defer parts.Wait()
	defer stop()
	parts.Go(func() { n.table.Run(inner) })
	parts.Go(func() { n.source.Run(inner, n.table) })
	parts.Go(func() { n.store.run(inner) })
	parts.Go(func() { n.router.Run(inner) })
	parts.Go(func() { n.secrets.watch(inner, n.log) })
	parts.Go(func() { n.reload(inner, hup) })
	failed := make(chan error, len(n.listeners)+1)
	parts.Go(func() { n.serveAdmin(inner, failed) })
	for _, l := range n.listeners {
		parts.Go(func() { n.serve(inner, l, failed) })
	}
	select {
	case <-ctx.Done():
		n.log.Info("draining", "for", time.Duration(n.config.Shutdown.Drain))
		return n.drain(inner)
	case err := <-failed:
		return errors.Join(err, n.drain(inner))
	}
}

// serve runs one listener, as soon as the gateway knows what it needs to. Until then connections wait to be accepted.
func (n *node) serve(ctx context.Context, l *listener, failed chan<- error) {
	select {
	case <-n.store.greeted:
	case <-ctx.Done():
		return
	}
	n.log.Info("listening", "name", l.name, "address", l.socket.Addr().String(), "tls", l.Certificates != nil)
	if err := l.Serve(ctx, l.socket, n.log); err != nil {
		failed <- fmt.Errorf("listener %s: %w", l.name, err)
	}
}

// drain ends the listeners in order. What is not done at the deadline is broken off.
func (n *node) drain(ctx context.Context) error {
	n.draining.Store(true)
	select {
	case <-time.After(time.Duration(n.config.Shutdown.Delay)):
	case <-ctx.Done():
	}
	ctx, cancel := context.WithTimeout(ctx, time.Duration(n.config.Shutdown.Drain))
	defer cancel()
	var ends sync.WaitGroup
	for _, l := range n.listeners {
		ends.Go(func() {
			if err := l.Shutdown(ctx); err != nil {
				n.log.Warn("requests were broken off at the end of the drain", "listener", l.name, "error", err)
			}
		})
	}
	ends.Wait()
	return nil
}

// serveAdmin serves the operators' listener until ctx ends.
func (n *node) serveAdmin(ctx context.Context, failed chan<- error) {
	if n.admin == nil {
		<-ctx.Done()
		return
	}
	handler := admin.Handler(admin.Options{
		Router: n.router, Endpoints: n.table, Store: n.store.Store, Resolve: n.resolve,
		Ready: n.ready, StoreState: n.store.view, Metrics: n.metrics.Handler(),
	})
	n.log.Info("admin API", "address", n.admin.Addr().String())
	l := proxy.Listener{Handler: handler}
	if err := l.Serve(ctx, n.admin, n.log); err != nil {
		failed <- fmt.Errorf("admin listener: %w", err)
	}
}

// resolve finds the route of a message as the data plane would.
func (n *node) resolve(m affinity.Message) (*router.Request, error) {
	route, ok := n.gateway.Match(m.Host(), m.Path())
	if !ok {
		return nil, fmt.Errorf("no route for host %s and this path", m.Host()) // a path may hold an id
	}
	tag := route.Tag
	if route.TagHeader != "" && tag == "" {
		if v := m.Header(http.CanonicalHeaderKey(route.TagHeader)); len(v) > 0 {
			tag = v[0]
		}
	}
	return &router.Request{Service: route.Service, Tag: tag, Policy: route.Policy, Message: m}, nil
}

// ready returns why the gateway should get no traffic.
func (n *node) ready() error {
	switch {
	case n.draining.Load():
		return errors.New("draining")
	case !n.table.Synced():
		return errors.New("the endpoints are not known yet")
	}
	return n.store.ready()
}

// reload applies the configuration when its file changes and on SIGHUP.
func (n *node) reload(ctx context.Context, hup <-chan os.Signal) {
	for ctx.Err() == nil {
		n.watch(ctx, hup)
	}
}

// watch applies each change of the file until ctx ends or a signal has the file read. What changes after a signal is compared with
// what the signal put in force, so that a file that goes back to what it was goes back here too.
func (n *node) watch(ctx context.Context, hup <-chan os.Signal) {
	watching, stop := context.WithCancel(ctx)
	var watch sync.WaitGroup
	defer watch.Wait()
	defer stop()
	watch.Go(func() { config.Watch(watching, n.inForce, 0, n.apply) })
	select {
	case <-ctx.Done():
	case <-hup:
		stop()
		watch.Wait()
		n.apply(loadConfig(n.config.File()))
	}
}

// apply puts a configuration in force, or says why not and keeps the old one. Only one goroutine at a time calls it.
func (n *node) apply(c *config.Config, err error) {
	var routes proxy.Config
	if err == nil {
		routes, err = c.Proxy()
		routes.TrustedProxies = n.config.TrustedProxies // the router's ids of client addresses go by these too
	}
	if err == nil {
		err = n.source.Apply(c, func() error { return n.gateway.Swap(routes) })
	}
	n.metrics.Reloaded(err)
	if err != nil {
		n.log.Error("the configuration is wrong, the old one stays", "error", err)
		return
	}
	n.inForce = c
	if changed := fixed(n.config, c); len(changed) > 0 {
		n.log.Warn("these parts of the configuration change with a restart only", "parts", changed)
	}
	n.log.Info("configuration read", "file", c.File(), "services", len(c.Services), "routes", len(c.Routes))
}

// fixed returns the parts that differ and that a running gateway cannot change.
func fixed(a, b *config.Config) []string {
	var parts []string
	for _, p := range []struct {
		name string
		a, b any
	}{
		{"listeners", a.Listeners, b.Listeners},
		{"admin", a.Admin, b.Admin},
		{"store", a.Store, b.Store},
		{"nearCache", a.NearCache, b.NearCache},
		{"router", a.Router, b.Router},
		{"secrets", a.Secrets, b.Secrets},
		{"trustedProxies", a.TrustedProxies, b.TrustedProxies},
		{"accessLog", a.AccessLog, b.AccessLog},
		{"tracing", a.Tracing, b.Tracing},
		{"shutdown", a.Shutdown, b.Shutdown},
	} {
		if !reflect.DeepEqual(p.a, p.b) {
			parts = append(parts, p.name)
		}
	}
	return parts
}

// certificates reads the files of a TLS listener.
func certificates(t *config.ListenerTLS) (*proxy.Certificates, error) {
	files := make([]proxy.CertificateFiles, len(t.Certificates))
	for i, c := range t.Certificates {
		files[i] = proxy.CertificateFiles{Certificate: string(c.CertFile), Key: string(c.KeyFile)}
	}
	loaded, err := proxy.LoadCertificates(files)
	if err != nil {
		return nil, usageError{err}
	}
	return loaded, nil
}
