package endpoint

import (
	"cmp"
	"container/list"
	"slices"
	"strings"
	"time"

	"github.com/limpet-project/limpet/affinity"
)

// tombstoneTime is how long what went stays listed, or the service's Retain if that is longer.
const tombstoneTime = 10 * time.Minute

// maxTombstones bounds what went and stays listed: endpoints of one revision, revisions of one service. The oldest ends early.
const maxTombstones = 10_000

// A pool is the endpoints of one revision and the rules that hold for them. The table's lock guards it.
type pool struct {
	name      RevisionName
	members   []*member // sorted by name; those that left until their tombstones end
	users     map[*service]*revision
	published *affinity.Pool
	set       bool // a source has said which members there are
	forgotten bool // the source will not say more of it
	dirty     bool
	deadline  entry[dirtier]
	idle      *list.Element // its place among the pools that no service lists

	probe    *Probe // nil: none
	ejection *Ejection
	retain   time.Duration
	inUse    bool // some service sends requests here
}

// find returns the member with that name, in whatever state.
func (p *pool) find(name string) *member {
	i, found := slices.BinarySearchFunc(p.members, name, func(m *member, name string) int {
		return strings.Compare(m.id.endpoint, name)
	})
	if !found {
		return nil
	}
	return p.members[i]
}

// setMembers takes over what a source says and reports whether anything changed. assign is called for each new member.
func (p *pool) setMembers(members []Member, always bool, now time.Time, assign func(*member)) bool {
	first := !p.set
	changed := first || p.forgotten
	p.set, p.forgotten = true, false
	listed := make(map[string]bool, len(members))
	var added []*member
	for _, spec := range members {
		if listed[spec.Name] {
			continue // of several with one name the first counts
		}
		listed[spec.Name] = true
		if m := p.find(spec.Name); m != nil {
			changed = m.update(spec) || changed
			continue
		}
		m := p.newMember(spec, always && first, now)
		assign(m)
		added = append(added, m)
	}
	for _, m := range p.members {
		if m.listed && !listed[m.id.endpoint] {
			m.listed, changed = false, true
		}
	}
	if len(added) > 0 {
		p.members = append(p.members, added...)
		slices.SortFunc(p.members, func(a, b *member) int { return cmp.Compare(a.id.endpoint, b.id.endpoint) })
	}
	return changed || len(added) > 0
}

// newMember returns a member that is listed for the first time. One that was there when this gateway began is so since ever.
func (p *pool) newMember(spec Member, always bool, now time.Time) *member {
	m := &member{id: identity{p.name, spec.Name}, spec: spec, listed: true}
	if always {
		m.health = healthHoped
	} else {
		m.since = now
	}
	return m
}

// update takes over what a source says of a member that it listed before. The member keeps its identity and slot whatever changes.
func (m *member) update(spec Member) bool {
	if m.listed && m.spec.same(spec) {
		return false
	}
	if !m.listed { // it is back: what was found out before it left is worth nothing
		m.health, m.streak, m.probeText = healthUnproven, 0, ""
		m.counter.failures.Store(0)
	}
	m.spec, m.listed = spec, true
	return true
}

// chooseRules takes over the rules of the services that use the pool. Where they differ, the service first by name decides.
func (p *pool) chooseRules(now time.Time) {
	p.probe, p.ejection, p.retain, p.inUse = nil, nil, 0, false
	users := make([]*service, 0, len(p.users))
	for s := range p.users {
		users = append(users, s)
	}
	slices.SortFunc(users, func(a, b *service) int { return compareNames(a.name, b.name) })
	for _, s := range users {
		p.retain = max(p.retain, s.spec.Retain)
		if !p.users[s].inUse(s.spec.Retain, now) {
			continue
		}
		p.inUse = true
		if p.probe == nil {
			p.probe = s.spec.Probe
		}
		if p.ejection == nil {
			p.ejection = s.spec.Ejection
		}
	}
}

// endTombstones drops the members whose tombstones have ended, the oldest ones early if there are too many, and returns them.
func (p *pool) endTombstones(now time.Time) []*member {
	var ended []*member
	if p.forgotten && len(p.users) == 0 {
		ended, p.members = p.members, nil
		return ended
	}
	var gone []*member
	for _, m := range p.members {
		if m.state == affinity.EndpointGone && !m.listed {
			gone = append(gone, m)
		}
	}
	slices.SortFunc(gone, func(a, b *member) int { return a.since.Compare(b.since) })
	for len(gone) > maxTombstones || len(gone) > 0 && !now.Before(p.tombstoneEnd(gone[0])) {
		gone[0].ended = true
		ended, gone = append(ended, gone[0]), gone[1:]
	}
	p.members = slices.DeleteFunc(p.members, func(m *member) bool { return m.ended })
	return ended
}

// tombstoneEnd returns when a member that went is no longer listed.
func (p *pool) tombstoneEnd(m *member) time.Time { return m.since.Add(max(tombstoneTime, p.retain)) }

// nextDeadline returns when something of the pool changes by itself, the zero time if nothing does.
func (p *pool) nextDeadline() time.Time {
	var next time.Time
	consider := func(at time.Time) {
		if next.IsZero() || at.Before(next) {
			next = at
		}
	}
	for _, m := range p.members {
		if m.state == affinity.EndpointGone {
			consider(p.tombstoneEnd(m))
		}
		if !m.ejectedUntil.IsZero() {
			consider(m.ejectedUntil)
		}
	}
	return next
}
