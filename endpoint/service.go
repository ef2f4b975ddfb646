package endpoint

import (
	"cmp"
	"slices"
	"sync/atomic"
	"time"

	"github.com/limpet-project/limpet/affinity"
)

// A service is what the table knows of one service. Only snapshot is read without the table's lock.
type service struct {
	name      affinity.ServiceName
	snapshot  atomic.Pointer[affinity.Snapshot]
	spec      Service // without revisions; probe and ejection with their defaults filled in
	revisions map[string]*revision
	dirty     bool
	dropped   bool
	deadline  entry[dirtier]
}

// A revision is what the table knows of one revision of one service, listed or removed.
type revision struct {
	spec  Revision
	state affinity.RevisionState
	since time.Time
	pool  *pool
}

// compareNames orders services by namespace and name.
func compareNames(a, b affinity.ServiceName) int {
	return cmp.Or(cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name))
}

// valid reports whether the revision may be chosen without a tag.
func (r *revision) valid() bool { return r.state == affinity.RevisionActive && r.spec.Weight > 0 }

// inUse reports whether the revision may still get requests: it is listed, or was so shortly ago.
func (r *revision) inUse(retain time.Duration, now time.Time) bool {
	return r.state != affinity.RevisionRemoved || now.Before(r.since.Add(retain))
}

// update takes over what a source says of the revision and reports whether it changed.
func (r *revision) update(spec Revision, now time.Time) bool {
	state := affinity.RevisionActive
	if spec.Failed {
		state = affinity.RevisionFailed
	}
	old := *r
	r.spec, r.state = spec, state
	r.spec.Tags = slices.Clone(spec.Tags)
	if old.state != r.state || old.valid() != r.valid() {
		r.since = now
	}
	return old.state != r.state || old.spec.Weight != spec.Weight || old.spec.Relayed != spec.Relayed ||
		!slices.Equal(old.spec.Tags, spec.Tags)
}

// updateRules takes over what a source says for all revisions of the service and reports whether it changed.
func (s *service) updateRules(spec Service) bool {
	rules := Service{Name: spec.Name, Retain: spec.Retain}
	if spec.Probe != nil {
		probe := spec.Probe.withDefaults()
		rules.Probe = &probe
	}
	if spec.Ejection != nil {
		ejection := spec.Ejection.withDefaults()
		rules.Ejection = &ejection
	}
	old := s.spec
	s.spec = rules
	return old.Retain != rules.Retain || !equal(old.Probe, rules.Probe) || !equal(old.Ejection, rules.Ejection)
}

// equal reports whether two pointers are both nil or point to equal values.
func equal[T comparable](a, b *T) bool {
	if a == nil || b == nil {
		return a == b
	}
	return *a == *b
}

// tombstoneEnd returns when a removed revision is no longer listed.
func (s *service) tombstoneEnd(r *revision) time.Time {
	return r.since.Add(max(tombstoneTime, s.spec.Retain))
}

// nextDeadline returns when something of the service changes by itself, the zero time if nothing does: a removed revision ends
// to be retained, or its tombstone ends.
func (s *service) nextDeadline(now time.Time) time.Time {
	var next time.Time
	for _, r := range s.revisions {
		if r.state != affinity.RevisionRemoved {
			continue
		}
		at := s.tombstoneEnd(r)
		if retained := r.since.Add(s.spec.Retain); retained.After(now) {
			at = retained
		}
		if next.IsZero() || at.Before(next) {
			next = at
		}
	}
	return next
}

// view returns the service as its snapshot shows it. A removed revision has no share and no tags: they may be another's by now.
func (s *service) view(synced bool) *affinity.Snapshot {
	list := make([]affinity.Revision, 0, len(s.revisions))
	for _, r := range s.revisions {
		v := affinity.Revision{Name: r.spec.Name, State: r.state, Since: r.since, Pool: r.pool.published, Relayed: r.spec.Relayed}
		if r.state != affinity.RevisionRemoved {
			v.Weight, v.Tags = r.spec.Weight, r.spec.Tags
		}
		list = append(list, v)
	}
	return affinity.NewSnapshot(s.name, list, synced)
}
