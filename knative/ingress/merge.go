package ingress

import (
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/types"

	"github.com/limpet-project/limpet/affinity"
	"github.com/limpet-project/limpet/endpoint"
	"github.com/limpet-project/limpet/knative/backend"
	"github.com/limpet-project/limpet/proxy"
)

// Merge joins programs of different objects, oldest object first. A host of a gateway belongs to the namespace of the first object that
// names it. Of several objects there that claim requests of one kind (host, path and headers), or the certificate of one host, the first
// has them. Probes of the host are the first's as well. What another loses is reported as a [*ConflictError], and what then has no
// route is left out. The programs are not changed.
//
// Two objects never share a service: if the name of one is taken, it gets another.
func Merge(programs []Program) (Program, []error) {
	const usual = 5 // hosts of a Route: the public one on both gateways, and three inside the cluster
	m := merger{
		program:   Program{Backends: make(map[backend.Name]endpoint.RevisionName, len(programs))},
		owners:    make(map[gatewayHost]types.NamespacedName, usual*len(programs)),
		claims:    make(map[match]types.NamespacedName, usual*len(programs)),
		services:  make(map[affinity.ServiceName]bool, len(programs)),
		hosts:     make(map[string]types.NamespacedName, usual*len(programs)),
		certified: make(map[string]holder),
		reported:  make(map[ConflictError]bool),
	}
	for i := range programs {
		m.add(&programs[i])
	}
	m.certificates(programs)
	return m.program, m.conflicts
}

// A merger is the making of one Program of many.
type merger struct {
	program   Program
	owners    map[gatewayHost]types.NamespacedName // who names a host first
	claims    map[match]types.NamespacedName
	services  map[affinity.ServiceName]bool
	hosts     map[string]types.NamespacedName // who has the first route of a host
	certified map[string]holder               // by host
	reported  map[ConflictError]bool          // one claim may be lost on both gateways
	conflicts []error
}

// A gatewayHost is a host of one of the gateways.
type gatewayHost struct {
	local bool
	host  string
}

// A secret names one that holds a certificate.
type secret struct{ namespace, name string }

// A holder is whose certificate a host has.
type holder struct {
	object types.NamespacedName
	secret secret
}

func (m *merger) add(p *Program) {
	shared := slices.Concat(m.own(p.Object, p.Probes.External, false), m.own(p.Object, p.Probes.Local, true))
	names := m.rename(p.Services)
	used := make(map[affinity.ServiceName]bool)
	add := func(to *[]proxy.Route, routes []proxy.Route, local bool) {
		for _, r := range routes {
			if r.Hosts = m.won(p.Object, r, local); len(r.Hosts) > 0 {
				r.Service = names[r.Service]
				used[r.Service] = true
				*to = append(*to, r)
			}
		}
	}
	add(&m.program.External, p.External, false)
	add(&m.program.Local, p.Local, true)
	m.addServices(p, names, used)
	m.program.Probes.add(p.Probes)
	for _, c := range shared {
		m.report(c)
	}
}

// own notes whose the hosts of an object are, and returns what it loses for sharing those of an older one of its namespace.
func (m *merger) own(object types.NamespacedName, hosts map[string]string, local bool) []ConflictError {
	var shared []ConflictError
	for host := range hosts {
		owner, taken := m.owners[gatewayHost{local, host}]
		switch {
		case !taken:
			m.owners[gatewayHost{local, host}] = object
		case owner.Namespace == object.Namespace:
			shared = append(shared, ConflictError{Object: object, Owner: owner, Host: host, Probe: true})
		}
	}
	slices.SortFunc(shared, func(a, b ConflictError) int { return strings.Compare(a.Host, b.Host) })
	return shared
}

// rename returns the names that the services of an object have beside those of older ones.
func (m *merger) rename(services []endpoint.Service) map[affinity.ServiceName]affinity.ServiceName {
	names := make(map[affinity.ServiceName]affinity.ServiceName, len(services))
	for _, s := range services {
		name := s.Name
		for m.services[name] {
			name.Name += "~"
		}
		m.services[name] = true
		names[s.Name] = name
	}
	return names
}

// addServices adds the services that have a route, and their backends.
func (m *merger) addServices(p *Program, names map[affinity.ServiceName]affinity.ServiceName, used map[affinity.ServiceName]bool) {
	revisions := make(map[endpoint.RevisionName]bool)
	for _, s := range p.Services {
		if s.Name = names[s.Name]; !used[s.Name] {
			continue
		}
		m.program.Services = append(m.program.Services, s)
		for _, r := range s.Revisions {
			revisions[endpoint.RevisionName{Namespace: s.Name.Namespace, Name: r.Name}] = true
		}
	}
	for name, revision := range p.Backends {
		if revisions[revision] {
			m.program.Backends[name] = revision
		}
	}
}

// won returns the hosts of a route that the object has, and reports the others.
func (m *merger) won(object types.NamespacedName, r proxy.Route, local bool) []string {
	headers := encode(r.Headers, "")
	return slices.DeleteFunc(slices.Clone(r.Hosts), func(host string) bool {
		claim := match{local: local, host: host, path: r.Path, headers: headers}
		owner, taken := m.claims[claim]
		if first := m.owners[gatewayHost{local, host}]; first.Namespace != object.Namespace {
			owner, taken = first, true
		}
		if taken {
			m.report(ConflictError{Object: object, Owner: owner, Host: host, Path: r.Path, Headers: headers})
			return true
		}
		m.claims[claim] = object
		if _, known := m.hosts[host]; !known {
			m.hosts[host] = object
		}
		return false
	})
}

func (m *merger) report(e ConflictError) {
	if !m.reported[e] {
		m.reported[e] = true
		m.conflicts = append(m.conflicts, &e)
	}
}

// certificates gives each host its certificate: that of the object which has the host's first route before those of others, and among
// these the first. Several objects may name one secret.
func (m *merger) certificates(programs []Program) {
	index := make(map[secret]int)
	for _, own := range []bool{true, false} {
		for i := range programs {
			for _, c := range programs[i].Certificates {
				m.certify(programs[i].Object, c, own, index)
			}
		}
	}
}

// certify gives hosts the certificate: those whose first route the object has, or those of which another of its namespace
// has it.
func (m *merger) certify(object types.NamespacedName, c Certificate, own bool, index map[secret]int) {
	s := secret{c.Namespace, c.Secret}
	for _, host := range c.Hosts {
		if (m.hosts[host] == object) != own {
			continue
		}
		if owner := m.owners[gatewayHost{true, host}]; owner.Namespace != object.Namespace { // the local gateway has all hosts
			m.report(ConflictError{Object: object, Owner: owner, Host: host})
			continue
		}
		if holder, taken := m.certified[host]; taken {
			if holder.secret != s && holder.object != object {
				m.report(ConflictError{Object: object, Owner: holder.object, Host: host})
			}
			continue
		}
		m.certified[host] = holder{object, s}
		i, listed := index[s]
		if !listed {
			i = len(m.program.Certificates)
			index[s] = i
			m.program.Certificates = append(m.program.Certificates, Certificate{Namespace: c.Namespace, Secret: c.Secret})
		}
		m.program.Certificates[i].Hosts = append(m.program.Certificates[i].Hosts, host)
	}
}
