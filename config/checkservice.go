package config

import (
	"slices"
	"strings"

	"github.com/limpet-project/limpet/affinity"
	"github.com/limpet-project/limpet/endpoint"
)

// services checks that names are unique, that a split exists, and that a revision that is listed twice has one set of endpoints.
func (k *checker) services(c *Config) {
	list := (*position)(nil).field("services")
	names := make(map[affinity.ServiceName]*position)
	pools := make(map[endpoint.RevisionName]pool)
	for i, s := range c.Services {
		at := list.element(i)
		if first := names[s.serviceName()]; first != nil {
			k.failAt(at.field("name"), "got %s, which is the name of %s too", quoted(s.Name), first)
		} else {
			names[s.serviceName()] = at
		}
		k.revisions(at.field("revisions"), s, pools)
		if e := s.Ejection; e != nil && e.Max < e.Base {
			k.failAt(at.field("ejection").field("max"), "got %s, expected at least base, %s", e.Max, e.Base)
		}
		if p := s.Probe; p != nil && p.Timeout > p.Interval {
			k.failAt(at.field("probe").field("timeout"), "got %s, expected at most interval, %s", p.Timeout, p.Interval)
		}
		if p := s.Probe; p != nil && p.UDP != nil && p.HTTP != nil {
			k.failAt(at.field("probe").field("udp"), "expected either http or udp")
		}
	}
}

// A pool is where a revision's endpoints were given.
type pool struct {
	at        *position
	endpoints []Endpoint
}

func (k *checker) revisions(list *position, s Service, pools map[endpoint.RevisionName]pool) {
	names, tags := make(map[string]*position), make(map[string]*position)
	total := 0
	for i, r := range s.Revisions {
		at := list.element(i)
		total += r.Weight
		if first := names[r.Name]; first != nil {
			k.failAt(at.field("name"), "got %s, which is the name of %s too", quoted(r.Name), first)
			continue
		}
		names[r.Name] = at
		for j, tag := range r.Tags {
			if first := tags[tag]; first != nil {
				k.failAt(at.field("tags").element(j), "got %s, which is a tag of %s too", quoted(tag), first)
			}
			tags[tag] = at
		}
		k.endpoints(at.field("endpoints"), r.Endpoints)
		k.shared(at, endpoint.RevisionName{Namespace: s.Namespace, Name: r.Name}, r, pools)
	}
	if total == 0 {
		k.failAt(list, "the weights are all 0, expected one above 0")
	}
}

// shared refuses different endpoints for one revision of a namespace: its endpoints are known by the revision's name.
func (k *checker) shared(at *position, name endpoint.RevisionName, r Revision, pools map[endpoint.RevisionName]pool) {
	first, listed := pools[name]
	if len(r.Endpoints) == 0 {
		return
	}
	if listed && !slices.Equal(first.endpoints, r.Endpoints) {
		k.failAt(at.field("endpoints"), "other endpoints than those of %s, which is revision %s too: expected another name for the revision, "+
			"or endpoints at one of the two alone, which both then share", first.at, quoted(r.Name))
		return
	}
	pools[name] = pool{at: at, endpoints: r.Endpoints}
}

func (k *checker) endpoints(list *position, endpoints []Endpoint) {
	names := make(map[string]int)
	for i, e := range endpoints {
		at := list.element(i)
		if first, taken := names[e.Name]; taken {
			k.failAt(at.field("name"), "got %s, which is the name of %s too", quoted(e.Name), list.element(first))
		}
		names[e.Name] = i
		if !e.DrainUntil.IsZero() && !e.Draining {
			k.failAt(at.field("drainUntil"), "expected only with draining: true")
		}
	}
}

// routes checks that each leads somewhere and that no two match the same requests.
func (k *checker) routes(c *Config) {
	services := c.services()
	type match struct{ host, path string }
	matches := make(map[match]*position)
	list := (*position)(nil).field("routes")
	for i, r := range c.Routes {
		at := list.element(i)
		k.destination(at, r, services)
		for j, host := range r.hosts() {
			m := match{host: host, path: r.path()}
			if first := matches[m]; first != nil {
				k.failAt(at.hostPosition(r, j), "%s with path %s is matched by %s too", quoted(host), quoted(m.path), first)
			}
			matches[m] = at
		}
		if u := r.Upstream; u.Protocol != "https" && (u.ServerName != "" || u.CAFile != "") {
			k.failAt(at.field("upstream"), "expected serverName and caFile only with protocol https")
		}
	}
}

// services returns the services by name.
func (c *Config) services() map[affinity.ServiceName]*Service {
	services := make(map[affinity.ServiceName]*Service)
	for i := range c.Services {
		services[c.Services[i].serviceName()] = &c.Services[i]
	}
	return services
}

func (p *position) hostPosition(r Route, i int) *position {
	if len(r.Hosts) == 0 {
		return p
	}
	return p.field("hosts").element(i)
}

func (k *checker) destination(at *position, r Route, services map[affinity.ServiceName]*Service) {
	s := services[r.serviceName()]
	if s == nil {
		k.failAt(at.field("service"), "got %s, expected a service that is listed: %s", quoted(r.serviceName().String()), listed(services))
		return
	}
	tagged := func(v Revision) bool { return slices.Contains(v.Tags, r.Tag) }
	if r.Tag != "" && !slices.ContainsFunc(s.Revisions, tagged) {
		k.failAt(at.field("tag"), "got %s, expected a tag of a revision of service %s", quoted(r.Tag), quoted(s.Name))
	}
}

// listed names up to ten services in a message.
func listed(services map[affinity.ServiceName]*Service) string {
	if len(services) == 0 {
		return "there is none"
	}
	var names []string
	for name := range services {
		names = append(names, name.String())
	}
	slices.Sort(names)
	if len(names) > 10 {
		names = append(names[:10], "…")
	}
	return strings.Join(names, ", ")
}
