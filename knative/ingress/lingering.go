package ingress

import (
	"maps"
	"slices"
	"time"

	"github.com/limpet-project/limpet/affinity"
	"github.com/limpet-project/limpet/endpoint"
	"github.com/limpet-project/limpet/knative/backend"
	"github.com/limpet-project/limpet/proxy"
)

// lingering is how revisions are spoken to that left a split and may still be given to requests: those under way, and for the time
// that a policy retains a revision also others. Their backends stay in use, so that the table learns where their pods are, and that
// they went: an address may be another's soon. It is not changed once it is made.
type lingering map[affinity.ServiceName]map[string]left

// A left is a backend that left a split.
type left struct {
	backend  proxy.Backend
	revision endpoint.RevisionName
	names    []backend.Name // those under which the revision was used
	until    time.Time
}

// underWay is how long a request may be between its match and its pick.
const underWay = time.Minute

// after returns what lingers once next is in force instead of old: what lingers and is not over, and the backends of old that next
// lacks. Nothing lingers of a service that next does not list.
func (l lingering) after(old, next Program, now time.Time) lingering {
	retain := make(map[affinity.ServiceName]time.Duration, len(next.Services))
	for _, s := range next.Services {
		retain[s.Name] = s.Retain
	}
	all := l.remaining(retain, now)
	present := make(map[affinity.ServiceName]map[string]proxy.Backend, len(next.Services))
	for _, r := range slices.Concat(next.Local, next.External) {
		present[r.Service] = r.Backends
	}
	names := namesOf(old.Backends)
	for _, r := range slices.Concat(old.Local, old.External) {
		kept, listed := retain[r.Service]
		if !listed {
			continue
		}
		for revision, b := range r.Backends {
			if _, stays := present[r.Service][revision]; !stays {
				name := endpoint.RevisionName{Namespace: r.Service.Namespace, Name: revision}
				all.add(r.Service, revision, left{b, name, names(name), now.Add(kept + underWay)})
			}
		}
	}
	return all
}

// namesOf returns a function that says which backends are used under the name of a revision. Most programs leave nothing behind: the
// index is made when it is first asked.
func namesOf(backends map[backend.Name]endpoint.RevisionName) func(endpoint.RevisionName) []backend.Name {
	var index map[endpoint.RevisionName][]backend.Name
	return func(r endpoint.RevisionName) []backend.Name {
		if index == nil {
			index = make(map[endpoint.RevisionName][]backend.Name, len(backends))
			for name, revision := range backends {
				index[revision] = append(index[revision], name)
			}
		}
		return index[r]
	}
}

func (l lingering) add(service affinity.ServiceName, revision string, b left) {
	if l[service] == nil {
		l[service] = make(map[string]left)
	}
	l[service][revision] = b
}

// remaining returns a copy without what is over, and without services that are not listed any longer.
func (l lingering) remaining(listed map[affinity.ServiceName]time.Duration, now time.Time) lingering {
	all := make(lingering, len(l))
	for service, revisions := range l {
		if _, ok := listed[service]; !ok {
			continue
		}
		for revision, b := range revisions {
			if now.Before(b.until) {
				all.add(service, revision, b)
			}
		}
	}
	return all
}

// end returns when the first of them is over, the zero time if there is none.
func (l lingering) end() time.Time {
	var first time.Time
	for _, revisions := range l {
		for _, b := range revisions {
			first = sooner(first, b.until)
		}
	}
	return first
}

// sooner returns the earlier of two times, of which a zero one is never.
func sooner(a, b time.Time) time.Time {
	if a.IsZero() || !b.IsZero() && b.Before(a) {
		return b
	}
	return a
}

// use adds the backends that linger to those in use, unless they are used under another name.
func (l lingering) use(backends map[backend.Name]endpoint.RevisionName) {
	for _, revisions := range l {
		for _, b := range revisions {
			for _, name := range b.names {
				if _, again := backends[name]; !again {
					backends[name] = b.revision
				}
			}
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
