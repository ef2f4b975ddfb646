package endpoint

import (
	"context"
	"time"

	"github.com/limpet-project/limpet/affinity"
)

// maxIdlePools bounds the pools that no service lists. Beyond it the one that was so for longest is dropped.
const maxIdlePools = 10_000

// A dirtier can be marked as changed, so that it is rebuilt.
type dirtier interface{ mark(t *Table) }

func (p *pool) mark(t *Table)    { t.markPool(p) }
func (s *service) mark(t *Table) { t.markService(s) }

// A scratch is memory that rebuilding reuses.
type scratch struct {
	endpoints []affinity.Endpoint
	gates     []*member // whose gate changes once the snapshot is published
}

// update makes a change and returns when it is published. Changes of several callers that meet are published by one of them.
func (t *Table) update(change func(now time.Time)) {
	t.mu.Lock()
	change(time.Now())
	if !t.dirty() {
		t.mu.Unlock()
		return
	}
	t.version++
	version := t.version
	t.mu.Unlock()
	t.publish(version)
}

func (t *Table) dirty() bool {
	return len(t.dirtyPools) > 0 || len(t.dirtyServices) > 0 || t.allChanged
}

// publish publishes all changes up to version, and later ones that wait for it.
func (t *Table) publish(version uint64) {
	t.publishing.Lock()
	defer t.publishing.Unlock()
	if t.published >= version {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.rebuild(time.Now())
	t.published = t.version
}

// rebuild makes new pools and snapshots of everything that is dirty. Gates open before the snapshot that shows it is seen, and
// close after it, so that nobody is turned away by an endpoint that the current snapshot offers.
func (t *Table) rebuild(now time.Time) {
	for i := 0; i < len(t.dirtyServices); i++ {
		t.endRevisions(t.dirtyServices[i], now)
	}
	for i := 0; i < len(t.dirtyPools); i++ {
		t.rebuildPool(t.dirtyPools[i], now)
	}
	for _, s := range t.dirtyServices {
		t.rebuildService(s, now)
	}
	if t.allChanged {
		t.publishServices()
	}
	for _, m := range t.scratch.gates {
		m.counter.setLimit(m.spec.Limit)
		if !m.open() {
			m.counter.close()
		}
	}
	t.allChanged = false
	t.dirtyPools = emptied(t.dirtyPools)
	t.dirtyServices = emptied(t.dirtyServices)
	t.scratch.gates = emptied(t.scratch.gates)
	t.changed.fire()
}

// emptied returns s without elements, keeping its memory if that is little.
func emptied[T any](s []T) []T {
	if cap(s) > 1024 {
		return nil
	}
	clear(s)
	return s[:0]
}

// publishServices replaces the map of services.
func (t *Table) publishServices() {
	services := make(map[affinity.ServiceName]*service, len(t.all))
	for name, s := range t.all {
		services[name] = s
	}
	t.services.Store(&services)
}

// rebuildService makes a new snapshot of s.
func (t *Table) rebuildService(s *service, now time.Time) {
	s.dirty = false
	if s.dropped {
		t.deadlines.remove(&s.deadline)
		return
	}
	s.snapshot.Store(s.view(t.synced))
	t.schedule(&s.deadline, s.nextDeadline(now))
}

// rebuildPool finds out how the members of p are, makes a new pool of them and marks the services that list it.
func (t *Table) rebuildPool(p *pool, now time.Time) {
	p.dirty = false
	p.chooseRules(now)
	for _, m := range p.endTombstones(now) {
		t.endMember(m, now)
	}
	t.setProbes(p)
	p.endEjections(now)
	list := t.scratch.endpoints[:0]
	for _, m := range p.members {
		t.settle(p, m, now)
		list = append(list, m.endpoint())
	}
	p.published = affinity.NewPool(list)
	t.scratch.endpoints = emptied(list)
	t.schedule(&p.deadline, p.nextDeadline())
	for s := range p.users {
		t.markService(s)
	}
	t.setIdle(p)
}

// settle computes m's state, tells the observer of a change, and prepares its counter.
func (t *Table) settle(p *pool, m *member, now time.Time) {
	before, isNew := m.state, !m.settled
	switch changed := m.settle(now); {
	case isNew && !m.since.IsZero():
		t.events.add(m.event(affinity.EndpointGone, now))
	case changed:
		t.events.add(m.event(before, now))
	}
	m.counter.ejectAfter.Store(p.ejectAfter())
	if m.open() {
		m.counter.open()
	}
	if int(m.counter.limit.Load()) != m.spec.Limit || m.counter.closed.Load() == m.open() {
		t.scratch.gates = append(t.scratch.gates, m)
	}
}

// ejectAfter returns after how many failures a member is to be ejected, 0 for never.
func (p *pool) ejectAfter() int32 {
	if p.ejection == nil {
		return 0
	}
	return int32(p.ejection.Consecutive)
}

// endMember drops what is left of an endpoint whose tombstone has ended.
func (t *Table) endMember(m *member, now time.Time) {
	t.dropProbe(m)
	before := m.state
	if m.listed = false; m.settle(now) {
		t.events.add(m.event(before, now))
	}
	m.counter.close()
	t.slots.rest(m, now)
	if t.own != nil {
		t.own.forget(m.id)
	}
}

// schedule makes the thing of e be rebuilt at a time, or never if that is zero.
func (t *Table) schedule(e *entry[dirtier], at time.Time) {
	if at.IsZero() {
		t.deadlines.remove(e)
		return
	}
	t.deadlines.set(e, at)
	if t.deadlines.first() == e {
		wake(t.deadlineWake)
	}
}

// wake makes the loop that listens look again.
func wake(ch chan struct{}) {
	select {
	case ch <- struct{}{}:
	default: // it has been told
	}
}

// runDeadlines rebuilds what changes by itself: ejections and tombstones that end.
func (t *Table) runDeadlines(ctx context.Context) {
	for {
		var next time.Time
		t.update(func(now time.Time) { next = t.markDue(now) })
		if !pause(ctx, time.Until(next), t.deadlineWake) {
			return
		}
	}
}

// markDue marks everything whose deadline has come and returns the next deadline.
func (t *Table) markDue(now time.Time) time.Time {
	for {
		e, next := t.deadlines.takeDue(now)
		if e == nil {
			return next
		}
		e.thing.mark(t)
	}
}

// pause waits for d, or until it is woken. It returns false when ctx has ended.
func pause(ctx context.Context, d time.Duration, woken <-chan struct{}) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
	case <-woken:
	}
	return ctx.Err() == nil
}

// markPool makes p be rebuilt.
func (t *Table) markPool(p *pool) {
	if !p.dirty {
		p.dirty = true
		t.dirtyPools = append(t.dirtyPools, p)
	}
}

// markService makes s be rebuilt.
func (t *Table) markService(s *service) {
	if !s.dirty {
		s.dirty = true
		t.dirtyServices = append(t.dirtyServices, s)
	}
}
