package node

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"sync"
	"time"

	"github.com/limpet-project/limpet/admin"
	"github.com/limpet-project/limpet/affinity"
	"github.com/limpet-project/limpet/proxy"
	"github.com/limpet-project/limpet/router"
)

// Run serves until ctx ends, then drains: readiness goes first, then listeners end what is under way, then what they used ends. A
// signal on hup has the configuration's file read at once; with [Options.Source] it means nothing. It returns an error if something
// ended that should not have.
func (n *Node) Run(ctx context.Context, hup <-chan os.Signal) error {
	defer n.close()
	inner, stop := context.WithCancel(context.WithoutCancel(ctx)) // outlives ctx until the listeners are done
	defer stop()
	var parts sync.WaitGroup
	defer parts.Wait()
	defer stop()
	n.setHandlers()
	failed := make(chan error, len(n.listeners)+2)
	parts.Go(func() { n.table.Run(inner) })
	parts.Go(func() { n.publish(inner, failed) })
	parts.Go(func() { n.store.run(inner) })
	parts.Go(func() { n.router.Run(inner) })
	parts.Go(func() { n.secrets.watch(inner, n.log) })
	parts.Go(func() { n.reload(inner, hup) })
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

// publish runs what tells the table of services and endpoints.
func (n *Node) publish(ctx context.Context, failed chan<- error) {
	if n.source != nil {
		_ = n.source.Run(ctx, n.table) // nothing fails in it
		return
	}
	if err := n.options.Source.Run(ctx, n.table); err != nil && ctx.Err() == nil {
		failed <- fmt.Errorf("publishing services and endpoints: %w", err)
	}
}

// serve runs one listener, as soon as the gateway knows what it needs to. Until then connections wait to be accepted.
func (n *Node) serve(ctx context.Context, l *listener, failed chan<- error) {
	select {
	case <-n.store.greeted:
	case <-ctx.Done():
		return
	}
	n.log.Info("listening", "name", l.config.Name, "address", l.address().String(), "protocol", l.config.Protocol(), "tls", l.Certificates != nil)
	if err := l.Serve(ctx, n.log); err != nil {
		failed <- fmt.Errorf("listener %s: %w", l.config.Name, err)
	}
}

// drain ends the listeners in order: at first they only ask clients to leave. What is not done at the deadline is broken off.
func (n *Node) drain(ctx context.Context) error {
	n.draining.Store(true)
	for _, l := range n.listeners {
		l.Drain()
	}
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
				n.log.Warn("requests were broken off at the end of the drain", "listener", l.config.Name, "error", err)
			}
		})
	}
	ends.Wait()
	return nil
}

// serveAdmin serves the operators' listener until ctx ends.
func (n *Node) serveAdmin(ctx context.Context, failed chan<- error) {
	if n.admin == nil {
		<-ctx.Done()
		return
	}
	handler := admin.Handler(admin.Options{
		Router: n.router, Endpoints: n.table, Store: n.store.Store, Resolve: n.resolve,
		Listeners: n.transports, Ready: n.ready, StoreState: n.store.view, Metrics: n.metrics.Handler(),
	})
	n.log.Info("admin API", "address", n.admin.Addr().String())
	l := proxy.Listener{Handler: handler}
	if err := l.Serve(ctx, n.admin, n.log); err != nil {
		failed <- fmt.Errorf("admin listener: %w", err)
	}
}

// resolve finds the route of a message as the data plane would.
func (n *Node) resolve(m affinity.Message) (*router.Request, error) {
	route, ok := n.match(m)
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

// match asks the gateways in the order in which they were made: an operator's question does not say which listener it would come to.
func (n *Node) match(m affinity.Message) (proxy.Route, bool) {
	for _, g := range n.allGateways() {
		if route, ok := g.MatchMessage(m); ok {
			return route, true
		}
	}
	return proxy.Route{}, false
}

// ready returns why the gateway should get no traffic.
func (n *Node) ready() error {
	switch {
	case n.draining.Load():
		return errors.New("draining")
	case !n.table.Synced():
		return errors.New("the endpoints are not known yet")
	}
	if err := n.store.ready(); err != nil || n.options.Ready == nil {
		return err
	}
	return n.options.Ready()
}
