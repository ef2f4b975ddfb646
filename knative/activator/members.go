package activator

import (
	"maps"
	"slices"
	"strconv"
	"time"

	"k8s.io/apimachinery/pkg/types"
	netapi "knative.dev/networking/pkg/apis/networking"

	"github.com/limpet-project/limpet/endpoint"
	"github.com/limpet-project/limpet/knative/backend"
)

// members are the pods of a revision as the table was told of them last.
type members struct {
	list   []endpoint.Member
	drains map[string]time.Time // when the drain of a pod ends that was seen to terminate, by name
}

// look tells the table of the pods of a revision, if they have changed.
func (s *Source) look(key types.NamespacedName) {
	known := s.members[key]
	next := s.pods(key, known)
	s.members[key] = next
	if known == nil || !slices.Equal(known.list, next.list) {
		s.o.Table.SetMembers(endpoint.RevisionName{Namespace: key.Namespace, Name: key.Name}, next.list)
	}
}

// pods returns the pods of a revision as they are now, each with the revision's limit. One that answers counts as ready before it is listed
// so. Activators that stand in for them are none:
// this one waits for a pod itself.
func (s *Source) pods(key types.NamespacedName, known *members) *members {
	m := &members{drains: make(map[string]time.Time)}
	r, err := s.revision(key)
	if err != nil {
		s.prober.forget(key)
		return m
	}
	port := strconv.Itoa(netapi.ServicePort(r.GetProtocol()))
	b, _ := s.backends.Backend(backend.Name{Namespace: key.Namespace, Service: key.Name, Port: port})
	for _, e := range b.Members {
		if e.Standby {
			continue
		}
		e.Limit = int(r.Spec.GetContainerConcurrency())
		m.list = append(m.list, m.keepDrain(e, known))
	}
	var before []endpoint.Member
	if known != nil {
		before = known.list
	}
	s.prober.admit(key, r, m.list, before)
	return m
}

// keepDrain gives a pod that terminates the deadline that it had when that was first seen, as long as it is listed.
func (m *members) keepDrain(e endpoint.Member, known *members) endpoint.Member {
	if known != nil {
		if until, seen := known.drains[e.Name]; seen {
			e.Draining, e.DrainUntil = true, until
		}
	}
	if e.Draining {
		m.drains[e.Name] = e.DrainUntil
	}
	return e
}

// forget lets the table know of which revisions no more will be said, and forgets which of them were deleted.
func (s *Source) forget() {
	for key := range s.members {
		if !s.need[key] {
			delete(s.members, key)
			s.prober.forget(key)
			s.o.Table.ForgetMembers(endpoint.RevisionName{Namespace: key.Namespace, Name: key.Name})
		}
	}
	maps.DeleteFunc(s.known, func(key types.NamespacedName, _ *revision) bool { return !s.need[key] })
	s.mu.Lock()
	defer s.mu.Unlock()
	maps.DeleteFunc(s.deleted, func(key types.NamespacedName, _ bool) bool { return !s.need[key] })
}
