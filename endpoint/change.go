package endpoint

import (
	"slices"
	"time"

	"github.com/limpet-project/limpet/affinity"
)

// pool returns the pool of a revision, which it makes if there is none.
func (t *Table) pool(r RevisionName) *pool {
	p := t.pools[r]
	if p == nil {
		p = &pool{name: r, users: make(map[*service]*revision)}
		p.deadline.thing = p
		t.pools[r] = p
	}
	return p
}

// addMember gives a new member its slot.
func (t *Table) addMember(m *member, now time.Time) {
	t.slots.assign(m, now)
	m.counter.failures.Store(0)
	m.counter.setLimit(m.spec.Limit)
	m.order = t.orders.find(m.id)
}

// setService takes over what a source says of one service.
func (t *Table) setService(spec *Service, now time.Time) {
	s, since := t.all[spec.Name], now
	if s == nil {
		s = &service{name: spec.Name, revisions: make(map[string]*revision, len(spec.Revisions))}
		s.deadline.thing = s
		t.all[spec.Name], t.allChanged = s, true
		t.markService(s)
		if !t.synced {
			since = time.Time{} // was there when this gateway began
		}
	}
	if s.updateRules(*spec) {
		t.markService(s)
		for _, r := range s.revisions {
			t.markPool(r.pool)
		}
	}
	t.setRevisions(s, spec.Revisions, since, now)
}

// setRevisions takes over what a source says of the revisions of one service. New ones are what they are from since on.
func (t *Table) setRevisions(s *service, revisions []Revision, since, now time.Time) {
	listed := make(map[string]bool, len(revisions))
	for _, spec := range revisions {
		if listed[spec.Name] {
			continue // of several with one name the first counts
		}
		listed[spec.Name] = true
		if r := s.revisions[spec.Name]; r != nil {
			t.changeRevision(s, r, spec, now)
		} else {
			t.addRevision(s, spec, since)
		}
	}
	for name, r := range s.revisions {
		if !listed[name] && r.state != affinity.RevisionRemoved {
			r.state, r.since = affinity.RevisionRemoved, now
			t.markService(s)
		}
	}
}

// addRevision lists a revision that the service did not list before, not even as removed.
func (t *Table) addRevision(s *service, spec Revision, since time.Time) {
	r := &revision{pool: t.pool(RevisionName{s.name.Namespace, spec.Name})}
	r.update(spec, since)
	r.since = since
	if r.state == affinity.RevisionActive && !r.valid() {
		r.since = time.Time{} // it was never valid here, so it has not stopped to be
	}
	s.revisions[spec.Name] = r
	r.pool.users[s] = r
	t.markPool(r.pool)
}

// changeRevision takes over what a source says of a revision that the service lists, or listed a while ago.
func (t *Table) changeRevision(s *service, r *revision, spec Revision, now time.Time) {
	wasRemoved := r.state == affinity.RevisionRemoved
	if r.update(spec, now) {
		t.markService(s)
	}
	if wasRemoved {
		t.markPool(r.pool) // it may be probed again
	}
}

// dropService forgets a service that does not exist any longer.
func (t *Table) dropService(s *service) {
	s.dropped = true
	for _, r := range s.revisions {
		t.removeUser(r.pool, s)
	}
	delete(t.all, s.name)
	t.allChanged = true
	t.markService(s)
}

// endRevisions drops the removed revisions of s whose tombstones have ended, the oldest ones early if there are too many, and
// lets pools know which are not in use any more.
func (t *Table) endRevisions(s *service, now time.Time) {
	if s.dropped {
		return
	}
	var removed []*revision
	for _, r := range s.revisions {
		if r.state == affinity.RevisionRemoved {
			removed = append(removed, r)
		}
	}
	slices.SortFunc(removed, func(a, b *revision) int { return a.since.Compare(b.since) })
	for i, r := range removed {
		switch {
		case len(removed)-i > maxTombstones || !now.Before(s.tombstoneEnd(r)):
			delete(s.revisions, r.spec.Name)
			t.removeUser(r.pool, s)
		case r.pool.inUse && !r.inUse(s.spec.Retain, now):
			t.markPool(r.pool)
		}
	}
}

// removeUser lets a pool know that a service does not list its revision any longer, not even as removed.
func (t *Table) removeUser(p *pool, s *service) {
	delete(p.users, s)
	t.markPool(p)
}

// setIdle keeps account of the pools that no service lists: empty ones end, and so does the oldest of too many.
func (t *Table) setIdle(p *pool) {
	switch {
	case len(p.users) > 0 || len(p.members) == 0:
		if p.idle != nil {
			t.idle.Remove(p.idle)
			p.idle = nil
		}
		if len(p.users) == 0 {
			t.deadlines.remove(&p.deadline)
			delete(t.pools, p.name)
		}
	case p.idle == nil:
		p.idle = t.idle.PushBack(p)
		if t.idle.Len() > maxIdlePools {
			oldest := t.idle.Front().Value.(*pool)
			oldest.forgotten = true
			t.markPool(oldest)
		}
	}
}
