package node

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"reflect"
	"slices"
	"sync"

	"github.com/limpet-project/limpet/config"
	"github.com/limpet-project/limpet/proxy"
)

// A UsageError is an error in what the user gave: a configuration, or a file that it names. Programs end with exit code 2 for it,
// after any other error with 1.
type UsageError struct{ Err error }

// Error returns the text of the error in it.
func (e UsageError) Error() string { return e.Err.Error() }

// Unwrap returns the error in it.
func (e UsageError) Unwrap() error { return e.Err }

// Load reads the configuration of a node with these options: the file, and whether the files that it names can be read. What is wrong
// with it is a [UsageError].
func (o Options) Load(file string) (*config.Config, error) {
	c, err := config.Load(file)
	if err == nil {
		err = o.accept(c)
	}
	if err == nil {
		_, err = c.Proxy() // reads the certificates of authorities
	}
	if err != nil {
		return nil, usage(err)
	}
	return c, nil
}

// usage makes err a UsageError unless it is one.
func usage(err error) error {
	if errors.As(err, new(UsageError)) {
		return err
	}
	return UsageError{err}
}

// accept returns what a configuration lacks, or has too much, for a node with these options.
func (o Options) accept(c *config.Config) error {
	if o.Certificates == nil {
		if err := c.CheckCertificates(); err != nil {
			return UsageError{err}
		}
	}
	if o.Source == nil {
		return nil
	}
	for i := range c.Listeners {
		if p := c.Listeners[i].Protocol(); p != "http" {
			return UsageError{fmt.Errorf("%s: listeners[%d].%s: expected listeners for HTTP only: services come from elsewhere", c.File(), i, p)}
		}
	}
	if len(c.Services)+len(c.Routes) > 0 {
		return UsageError{fmt.Errorf("%s: got services or routes, expected none: they come from elsewhere", c.File())}
	}
	if c.Store.Redis != nil && c.Secrets.TokenKeysFile == "" {
		return UsageError{fmt.Errorf("%s: secrets.tokenKeysFile: missing, expected the name of a file: any service may use session mode token,"+
			" and gateways that share a store need the same keys; make them once with `limpet keys tokens` and give them to all of them", c.File())}
	}
	return nil
}

// Check reads the files that a configuration names as New would: authorities, certificates, secrets, passwords. It opens no address,
// makes no file and asks no server.
func (o Options) Check(c *config.Config) error {
	if err := o.accept(c); err != nil {
		return err
	}
	if err := checkRoutes(c); err != nil {
		return err
	}
	for i, l := range c.Listeners {
		if l.TLS == nil || len(l.TLS.Certificates) == 0 {
			continue
		}
		if _, err := fileCertificates(l.TLS); err != nil {
			return fmt.Errorf("%s: listeners[%d].tls: %w", c.File(), i, err)
		}
	}
	if _, err := readSecrets(string(c.Secrets.DigestFile), string(c.Secrets.TokenKeysFile)); err != nil {
		return fmt.Errorf("%s: secrets: %w", c.File(), err)
	}
	if r := c.Store.Redis; r != nil {
		if _, err := redisOptions(r, slog.New(slog.DiscardHandler)); err != nil {
			return fmt.Errorf("%s: store.redis: %w", c.File(), err)
		}
	}
	return nil
}

func checkRoutes(c *config.Config) error {
	routes, err := c.Proxy()
	if err != nil {
		return UsageError{err}
	}
	gateway := proxy.New(nil, nil) // asked for nothing, so it picks nothing
	defer gateway.Close()
	if err := gateway.Swap(routes); err != nil {
		return UsageError{fmt.Errorf("%s: %w", c.File(), err)}
	}
	return nil
}

// reload applies the configuration when its file changes and on SIGHUP. There is nothing to apply where services come from elsewhere:
// all else changes with a restart only.
func (n *Node) reload(ctx context.Context, hup <-chan os.Signal) {
	if n.source == nil {
		return
	}
	for ctx.Err() == nil {
		n.watch(ctx, hup)
	}
}

// watch applies each change of the file until ctx ends or a signal has the file read. What changes after a signal is compared with
// what the signal put in force, so that a file that goes back to what it was goes back here too.
func (n *Node) watch(ctx context.Context, hup <-chan os.Signal) {
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
		n.apply(n.options.Load(n.config.File()))
	}
}

// apply puts a configuration in force, or says why not and keeps the old one. Only one goroutine at a time calls it.
func (n *Node) apply(c *config.Config, err error) {
	var routes proxy.Config
	if err == nil {
		err = n.options.accept(c)
	}
	if err == nil {
		routes, err = c.Proxy()
		routes.TrustedProxies = n.config.TrustedProxies // the router's ids of client addresses go by these too
	}
	if err == nil {
		err = n.source.Apply(c, func() error {
			err := n.gateway.Swap(routes)
			if err == nil {
				n.swapTransports(c)
			}
			return err
		})
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
		{"listeners", fixedListeners(a), fixedListeners(b)},
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

// fixedListeners returns the listeners without what a running gateway changes: where connections and datagrams go.
func fixedListeners(c *config.Config) []config.Listener {
	list := slices.Clone(c.Listeners)
	for i := range list {
		if t := list[i].TCP; t != nil {
			fixed := *t
			fixed.Service, fixed.Namespace = "", ""
			list[i].TCP = &fixed
		}
		if u := list[i].UDP; u != nil {
			fixed := *u
			fixed.Service, fixed.Namespace = "", ""
			list[i].UDP = &fixed
		}
	}
	return list
}
