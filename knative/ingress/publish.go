package ingress

import (
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/limpet-project/limpet/affinity"
	"github.com/limpet-project/limpet/endpoint"
	"github.com/limpet-project/limpet/knative/backend"
	"github.com/limpet-project/limpet/proxy"
)

// put goes over from the program in force to the next. While the routes are replaced the services of both are published, in the form
// that the old routes know; the new routes know the backends of both. So whichever routes a request was matched by, whatever
// revision it is given is one that they know how to speak to. publishing must be held.
func (p *Programmer) put(next Program) error {
	old := p.inForce
	p.lingering.update(old, next, time.Now())
	p.o.Backends.Use(union(next, old))
	p.o.Table.SetServices(slices.Concat(old.Services, next.Services)) // of two of one name it takes the first
	if err := p.swap(next); err != nil {
		p.o.Table.SetServices(old.Services)
		p.o.Backends.Use(old.Backends)
		return err
	}
	p.o.Certificates(next.Certificates)
	p.o.Table.SetServices(next.Services)
	p.o.Backends.Use(next.Backends)
	p.inForce = next
	return nil
}

// swap replaces the routes of both gateways, or of none.
func (p *Programmer) swap(next Program) error {
	if err := p.o.External.Swap(p.config(next.External)); err != nil {
		return fmt.Errorf("external routes: %w", err)
	}
	if err := p.o.Local.Swap(p.config(next.Local)); err != nil {
		_ = p.o.External.Swap(p.config(p.inForce.External)) // they were accepted before
		return fmt.Errorf("local routes: %w", err)
	}
	return nil
}

// config returns what a gateway is to serve by.
func (p *Programmer) config(routes []proxy.Route) proxy.Config {
	c := p.o.Proxy
	c.Routes = p.lingering.with(routes)
	return c
}

// union returns the backends of both programs.
func union(a, b Program) map[backend.Name]endpoint.RevisionName {
	all := maps.Clone(b.Backends)
	if all == nil {
		return a.Backends
	}
	maps.Copy(all, a.Backends)
	return all
}

// lingering is how revisions are spoken to that left a split and may still be given to requests: those under way, and for the time
// that a policy retains a revision also others.
type lingering map[affinity.ServiceName]map[string]left

// A left is a backend that left a split.
type left struct {
	backend proxy.Backend
	until   time.Time
}

// underWay is how long a request may be between its match and its pick.
const underWay = time.Minute

// update notes the backends of old that next lacks, and forgets those whose time is over.
func (l lingering) update(old, next Program, now time.Time) {
	retain := make(map[affinity.ServiceName]time.Duration, len(next.Services))
	for _, s := range next.Services {
		retain[s.Name] = s.Retain
	}
	l.expire(retain, now)
	present := make(map[affinity.ServiceName]map[string]proxy.Backend, len(next.Services))
	for _, r := range slices.Concat(next.Local, next.External) {
		present[r.Service] = r.Backends
	}
	for _, r := range slices.Concat(old.Local, old.External) {
		kept, ok := retain[r.Service]
		if !ok {
			continue
		}
		for revision, b := range r.Backends {
			if _, stays := present[r.Service][revision]; !stays {
				l.add(r.Service, revision, left{b, now.Add(max(kept, underWay))})
			}
		}
	}
}

func (l lingering) add(service affinity.ServiceName, revision string, b left) {
	if l[service] == nil {
		l[service] = make(map[string]left)
	}
	l[service][revision] = b
}

// expire forgets what is over, and services that are not listed any longer.
func (l lingering) expire(listed map[affinity.ServiceName]time.Duration, now time.Time) {
	for service, revisions := range l {
		maps.DeleteFunc(revisions, func(_ string, b left) bool { return !now.Before(b.until) })
		if _, ok := listed[service]; !ok || len(revisions) == 0 {
			delete(l, service)
		}
	}
}

// with returns the routes with the backends that left. It changes no route.
func (l lingering) with(routes []proxy.Route) []proxy.Route {
	all := slices.Clone(routes)
	for i, r := range all {
		gone := l[r.Service]
		if len(gone) == 0 {
			continue
		}
		backends := maps.Clone(r.Backends)
		for revision, b := range gone {
			if _, stays := backends[revision]; !stays {
				backends[revision] = b.backend
			}
		}
		all[i].Backends = backends
	}
	return all
}
