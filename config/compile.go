package config

import (
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/limpet-project/limpet/affinity"
	"github.com/limpet-project/limpet/endpoint"
	"github.com/limpet-project/limpet/proxy"
)

// Policy returns the policy of a service, with its defaults filled in, or nil if the service has no affinity. Each call returns
// the same one; it must not be changed.
func (c *Config) Policy(s affinity.ServiceName) *affinity.Policy { return c.origin.policies[s] }

// File returns the name of the file that c was read from, as it was given.
func (c *Config) File() string { return c.origin.file }

// EndpointServices returns the services as an endpoint.Table takes them.
func (c *Config) EndpointServices() []endpoint.Service {
	services := make([]endpoint.Service, len(c.Services))
	for i, s := range c.Services {
		services[i] = endpoint.Service{Name: s.serviceName(), Probe: s.Probe.compile(), Ejection: s.Ejection.compile()}
		if s.Affinity != nil {
			services[i].Retain = duration(s.Affinity.Retain)
		}
		for _, r := range s.Revisions {
			services[i].Revisions = append(services[i].Revisions,
				endpoint.Revision{Name: r.Name, Weight: r.Weight, Tags: r.Tags, Failed: r.Failed})
		}
	}
	return services
}

// Members returns the endpoints of each revision that a service lists; a revision without endpoints has an empty list.
func (c *Config) Members() map[endpoint.RevisionName][]endpoint.Member {
	members := make(map[endpoint.RevisionName][]endpoint.Member)
	for _, s := range c.Services {
		for _, r := range s.Revisions {
			name := endpoint.RevisionName{Namespace: s.Namespace, Name: r.Name}
			if len(members[name]) == 0 {
				members[name] = r.members(s.EndpointLimit)
			}
		}
	}
	return members
}

// Proxy returns the routes and networks as proxy.Gateway takes them. Routes of one service share its policy. It reads the files of
// authorities that routes name, and returns [Problems] if it cannot.
func (c *Config) Proxy() (proxy.Config, error) {
	p := proxy.Config{TrustedProxies: c.TrustedProxies, Debuggers: c.Debuggers}
	var problems Problems
	for i, r := range c.Routes {
		route := r.compile(c.Policy(r.serviceName()))
		if r.Upstream.CAFile != "" {
			pem, err := os.ReadFile(string(r.Upstream.CAFile))
			if err != nil {
				problems = append(problems, c.problem(fmt.Sprintf("routes[%d].upstream.caFile", i), err.Error()))
			}
			route.Upstream.RootCAs = pem
		}
		p.Routes = append(p.Routes, route)
	}
	return p, problems.err()
}

// Compile returns the limits as a listener takes them.
func (l Limits) Compile() proxy.Limits {
	return proxy.Limits{
		ReadHeaderTimeout: duration(l.ReadHeaderTimeout),
		IdleTimeout:       duration(l.IdleTimeout),
		WriteStall:        duration(l.WriteStall),
		ReadStall:         duration(l.ReadStall),
		MaxHeaderBytes:    l.MaxHeaderBytes,
		MaxConnections:    l.MaxConnections,
		MaxStreams:        l.MaxStreams,
	}
}

func (s *Service) serviceName() affinity.ServiceName {
	return affinity.ServiceName{Namespace: s.Namespace, Name: s.Name}
}

func (r *Route) serviceName() affinity.ServiceName {
	return affinity.ServiceName{Namespace: r.Namespace, Name: r.Service}
}

// hosts returns the hosts in the form in which they are compared.
func (r *Route) hosts() []string {
	if len(r.Hosts) == 0 {
		return []string{"*"}
	}
	hosts := make([]string, len(r.Hosts))
	for i, h := range r.Hosts {
		hosts[i] = strings.ToLower(h)
	}
	return hosts
}

// path returns the path without a slash at its end, which matches the same requests.
func (r *Route) path() string {
	if trimmed := strings.TrimSuffix(r.Path, "/"); trimmed != "" {
		return trimmed
	}
	return "/"
}

func (r *Route) compile(policy *affinity.Policy) proxy.Route {
	return proxy.Route{
		Hosts:           r.hosts(),
		Path:            r.path(),
		Service:         r.serviceName(),
		Tag:             r.Tag,
		TagHeader:       r.TagHeader,
		Policy:          policy,
		Upstream:        r.Upstream.compile(),
		RetryIdempotent: r.RetryIdempotent,
		MaxBodyBytes:    r.MaxBodyBytes,
		ForwardedHeader: r.ForwardedHeader,
		PreserveHost:    r.PreserveHost,
	}
}

func (u Upstream) compile() proxy.Upstream {
	idle := duration(u.IdleTimeout)
	if idle == 0 {
		idle = -1 // here 0 is none, there it is the default
	}
	return proxy.Upstream{
		Protocol:        proxy.Protocol(u.Protocol),
		ServerName:      u.ServerName,
		ConnectTimeout:  duration(u.ConnectTimeout),
		ResponseTimeout: duration(u.ResponseTimeout),
		RequestTimeout:  duration(u.RequestTimeout),
		IdleTimeout:     idle,
		MaxIdleConns:    u.MaxIdleConns,
	}
}

func (r Revision) members(limit int) []endpoint.Member {
	members := make([]endpoint.Member, len(r.Endpoints))
	for i, e := range r.Endpoints {
		members[i] = endpoint.Member{
			Name:       e.Name,
			Address:    e.Address,
			Draining:   e.Draining,
			DrainUntil: e.DrainUntil,
			Limit:      e.Limit,
		}
		if e.Limit == 0 {
			members[i].Limit = limit
		}
	}
	return members
}

func (p *Probe) compile() *endpoint.Probe {
	if p == nil {
		return nil
	}
	probe := &endpoint.Probe{
		Port:               p.Port,
		Interval:           duration(p.Interval),
		Timeout:            duration(p.Timeout),
		HealthyThreshold:   p.HealthyThreshold,
		UnhealthyThreshold: p.UnhealthyThreshold,
	}
	if p.HTTP != nil {
		probe.HTTPPath, probe.HTTPHost = p.HTTP.Path, p.HTTP.Host
	}
	if p.UDP != nil {
		send, _ := decodeHex(p.UDP.Send) // checked when it was read
		probe.UDP, probe.UDPSend = true, string(send)
	}
	return probe
}

func (e *Ejection) compile() *endpoint.Ejection {
	if e == nil {
		return nil
	}
	return &endpoint.Ejection{
		Consecutive: e.Consecutive,
		Base:        duration(e.Base),
		Max:         duration(e.Max),
		MaxShare:    e.MaxShare,
	}
}

// duration is a policy's or a configuration's duration as other packages take it.
func duration(d affinity.Duration) time.Duration { return time.Duration(d) }
