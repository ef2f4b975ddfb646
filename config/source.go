package config

import (
	"context"
	"sync"

	"github.com/limpet-project/limpet/endpoint"
)

// A Source publishes the services and endpoints of a configuration to a table, and those of each one that follows. Make one with
// NewSource. It is safe for concurrent use.
type Source struct {
	mu      sync.Mutex // one publication at a time
	table   *endpoint.Table
	current *Config
}

var _ endpoint.Source = (*Source)(nil)

// NewSource returns a source that publishes c when it runs.
func NewSource(c *Config) *Source { return &Source{current: c} }

// Run publishes to t at once, and again for each Apply, until ctx ends; then it returns nil.
func (s *Source) Run(ctx context.Context, t *endpoint.Table) error {
	s.mu.Lock()
	s.table = t
	publish(s.current, t)
	t.SetSynced()
	s.mu.Unlock()
	<-ctx.Done()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.table = nil
	return nil
}

// Apply goes over to c. While swap runs, which is to replace the routes, the services of both configurations are published, so that
// no request finds a route to a service that is not there yet, or not there any more. If swap returns an error the old
// configuration stays and the error is returned. swap must not wait for anything.
func (s *Source) Apply(c *Config, swap func() error) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.table != nil {
		publishBoth(c, s.current, s.table)
	}
	err := swap()
	if err == nil {
		c, s.current = s.current, c
	}
	if s.table != nil {
		publish(s.current, s.table)
		forget(c, s.current, s.table)
	}
	return err
}

// publish gives endpoints to revisions before services name them, so that nobody finds a service whose endpoints are on their way.
func publish(c *Config, t *endpoint.Table) {
	for name, list := range c.Members() {
		t.SetMembers(name, list)
	}
	t.SetServices(c.EndpointServices())
}

// publishBoth publishes c and the services of old that c does not have.
func publishBoth(c, old *Config, t *endpoint.Table) {
	for name, list := range c.Members() {
		t.SetMembers(name, list)
	}
	// Of two services of one name the table takes the first.
	t.SetServices(append(c.EndpointServices(), old.EndpointServices()...))
}

// forget lets the table know of revisions that are in old only. Their endpoints stay as they were while a service retains them.
func forget(old, c *Config, t *endpoint.Table) {
	kept := c.Members()
	for name := range old.Members() {
		if _, ok := kept[name]; !ok {
			t.ForgetMembers(name)
		}
	}
}
