package ingress

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/limpet-project/limpet/endpoint"
	"github.com/limpet-project/limpet/knative/backend"
	"github.com/limpet-project/limpet/proxy"
)

// pace is how often changes are put in force while they come one after the other. The first after a rest is put in force at once.
const pace = 50 * time.Millisecond

// retryPut is when a publication that failed is tried again although nothing changed.
const retryPut = time.Second

// Run publishes what changes, and what ends by itself, until ctx ends.
func (p *Programmer) Run(ctx context.Context) {
	for {
		if !p.rest(ctx) {
			return
		}
		began := time.Now()
		p.Publish()
		// Many objects take long to merge: half of a processor is enough for it.
		select {
		case <-ctx.Done():
			return
		case <-time.After(max(pace, time.Since(began))):
		}
	}
}

// rest waits until there may be something to publish. It returns false if ctx ended.
func (p *Programmer) rest(ctx context.Context) bool {
	var due <-chan time.Time
	if at := p.due(); !at.IsZero() {
		timer := time.NewTimer(time.Until(at))
		defer timer.Stop()
		due = timer.C
	}
	select {
	case <-ctx.Done():
		return false
	case <-p.wake:
	case <-due:
	}
	return true
}

// due returns when something is to be published though nothing changes, the zero time for never.
func (p *Programmer) due() time.Time {
	p.publishing.Lock()
	at := p.lingering.end()
	if !p.retry.IsZero() {
		at = p.retry
	}
	p.publishing.Unlock()
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, o := range p.objects {
		if o.waiting != nil {
			at = sooner(at, o.waiting.until())
		}
	}
	return at
}

// Publish puts everything that was set in force, if something changed or is over. It returns when it is. If that is impossible all goes
// on as before, and Run tries again; the first time that it works the table is told that it is complete.
func (p *Programmer) Publish() {
	due := p.due()
	p.publishing.Lock()
	defer p.publishing.Unlock()
	now := time.Now()
	all, stale := p.take(now)
	over := !due.IsZero() && !now.Before(due)
	if !stale && !over && p.answers.Load() != nil {
		return
	}
	next, conflicts := Merge(all.programs)
	if err := p.put(next, all.awaited, now); err != nil {
		p.o.Log.Error("programming the gateways; they go on as before", "error", err)
		p.failedPut(now)
		return
	}
	p.retry = time.Time{}
	if p.answers.Swap(&answers{probes: next.Probes, backends: all.backends}) == nil {
		p.o.Table.SetSynced()
	}
	for _, key := range append(p.note(conflicts), all.late...) {
		p.o.Changed(key)
	}
}

// failedPut has what could not be put in force tried again. publishing must be held.
func (p *Programmer) failedPut(now time.Time) {
	p.retry = now.Add(retryPut)
	p.mu.Lock()
	defer p.mu.Unlock()
	p.stale = true
}

// put goes over from the program in force to the next. While the routes are replaced the services of both are published, in the form
// that the old routes know; the new routes know the backends of both. So whichever routes a request was matched by, whatever
// revision it is given is one that they know how to speak to. publishing must be held.
func (p *Programmer) put(next Program, awaited map[backend.Name]endpoint.RevisionName, now time.Time) error {
	old, lingered := p.inForce, p.lingering
	used := lingered.after(old, next, now)
	p.o.Backends.Use(use(used, next.Backends, old.Backends, awaited))
	p.o.Table.SetServices(slices.Concat(old.Services, next.Services)) // of two of one name it takes the first
	if err := p.swap(next, used); err != nil {
		p.o.Table.SetServices(old.Services)
		p.o.Backends.Use(use(lingered, old.Backends, awaited))
		return err
	}
	p.o.Certificates(next.Certificates)
	p.o.Table.SetServices(next.Services)
	p.o.Backends.Use(use(used, next.Backends, awaited))
	p.inForce, p.lingering = next, used
	return nil
}

// swap replaces the routes of both gateways, or of none.
func (p *Programmer) swap(next Program, l lingering) error {
	if err := p.o.External.Swap(p.config(next.External, l)); err != nil {
		return fmt.Errorf("external routes: %w", err)
	}
	if err := p.o.Local.Swap(p.config(next.Local, l)); err != nil {
		_ = p.o.External.Swap(p.config(p.inForce.External, p.lingering)) // they were accepted before
		return fmt.Errorf("local routes: %w", err)
	}
	return nil
}

// config returns what a gateway is to serve by.
func (p *Programmer) config(routes []proxy.Route, l lingering) proxy.Config {
	c := p.o.Proxy
	c.Routes = l.with(routes)
	return c
}

// use joins sets of backends and those that linger. Of two names of one backend the first counts.
func use(l lingering, sets ...map[backend.Name]endpoint.RevisionName) map[backend.Name]endpoint.RevisionName {
	all := maps.Clone(sets[0])
	if all == nil {
		all = make(map[backend.Name]endpoint.RevisionName)
	}
	for _, set := range sets[1:] {
		all = with(all, set)
	}
	l.use(all)
	return all
}
