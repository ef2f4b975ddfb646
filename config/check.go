package config

import (
	"fmt"
	"reflect"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/limpet-project/limpet/affinity"
)

// A checker finds what is wrong between fields that are right alone.
type checker struct {
	*decoder
	root *yaml.Node
}

// failAt notes a problem with a field, in the line where it or the innermost thing around it was given.
func (k *checker) failAt(at *position, format string, args ...any) {
	line := &yaml.Node{Line: 1}
	if n := k.find(at); n != nil {
		line = &yaml.Node{Line: n.Line}
	}
	k.fail(node{Node: line, at: at}, format, args...)
}

// find returns the node at a position, or the innermost one around it that was given.
func (k *checker) find(at *position) *yaml.Node {
	if at == nil {
		return k.root
	}
	outer := k.find(at.outer)
	if outer == nil {
		return nil
	}
	if at.name == "" {
		if outer.Kind == yaml.SequenceNode && at.index < len(outer.Content) {
			return outer.Content[at.index]
		}
		return outer
	}
	for i := 0; outer.Kind == yaml.MappingNode && i+1 < len(outer.Content); i += 2 {
		if key, value := outer.Content[i], outer.Content[i+1]; key.Value == at.name {
			if value.Kind == yaml.ScalarNode {
				return key
			}
			return value
		}
	}
	return outer
}

// policies returns the policy of each service that has affinity.
func (k *checker) policies(c *Config) map[affinity.ServiceName]*affinity.Policy {
	policies := make(map[affinity.ServiceName]*affinity.Policy)
	services := (*position)(nil).field("services")
	for i := range c.Services {
		s := &c.Services[i]
		if s.Affinity != nil {
			policies[s.serviceName()] = k.policy(services.element(i).field("affinity"), s.Affinity)
		}
	}
	return policies
}

// policy checks a policy and returns it with its defaults.
func (k *checker) policy(at *position, p *affinity.Policy) *affinity.Policy {
	text, known := at.String(), make(map[string]bool)
	for _, problem := range k.problems {
		known[problem.Field] = true
	}
	for _, e := range p.Validate() {
		if field := join(text, e.Field); !known[field] {
			k.failAt(parsePosition(field), "%s", e.Reason)
		}
	}
	filled := p.WithDefaults()
	k.zeros(at, k.find(at), reflect.ValueOf(filled))
	return filled
}

// zeros refuses zeros that would silently become a default: in a policy zero is what was left out.
func (k *checker) zeros(at *position, n *yaml.Node, filled reflect.Value) {
	filled = reflect.Indirect(filled)
	switch {
	case n == nil || !filled.IsValid():
	case n.Kind == yaml.MappingNode && filled.Kind() == reflect.Struct:
		fields := fieldsOf(filled.Type())
		for i := 0; i+1 < len(n.Content); i += 2 {
			if f, ok := fields[n.Content[i].Value]; ok {
				k.zeros(at.field(jsonName(f)), n.Content[i+1], filled.FieldByIndex(f.Index))
			}
		}
	case n.Kind == yaml.SequenceNode && filled.Kind() == reflect.Slice:
		for i, e := range n.Content[:min(len(n.Content), filled.Len())] {
			k.zeros(at.element(i), e, filled.Index(i))
		}
	case n.Kind == yaml.ScalarNode && (filled.CanInt() || filled.CanFloat()) && !filled.IsZero():
		given := reflect.New(filled.Type()).Elem()
		if setScalar(n, given) && given.IsZero() {
			k.fail(node{Node: n, at: at}, "got %s, expected more: leave it out for the default, %v", n.Value, filled.Interface())
		}
	}
}

func join(outer, inner string) string {
	if outer == "" {
		return inner
	}
	return outer + "." + inner
}

// parsePosition reads what position.String wrote.
func parsePosition(text string) *position {
	var at *position
	for name := range strings.SplitSeq(text, ".") {
		name, rest, _ := strings.Cut(name, "[")
		at = at.field(name)
		for rest != "" {
			var i int
			if _, err := fmt.Sscanf(rest, "%d", &i); err != nil {
				return at
			}
			at = at.element(i)
			_, rest, _ = strings.Cut(rest, "[")
		}
	}
	return at
}

// config checks everything but the policies.
func (k *checker) config(c *Config) {
	k.listeners(c)
	k.store(c)
	k.services(c)
	k.routes(c)
	k.transports(c)
}

func (k *checker) listeners(c *Config) {
	list := (*position)(nil).field("listeners")
	names, addresses := make(map[string]int), make(map[string]int)
	if c.Admin.Address != "off" {
		addresses["tcp "+c.Admin.Address] = -1
	}
	for i, l := range c.Listeners {
		at := list.element(i)
		if first, taken := names[l.Name]; taken {
			k.failAt(at.field("name"), "got %s, which is the name of %s too", quoted(l.Name), list.element(first))
		}
		names[l.Name] = i
		address := l.network() + " " + l.Address
		first, taken := addresses[address]
		switch {
		case strings.HasSuffix(l.Address, ":0"): // a port that is chosen when the listener opens
		case taken && first < 0:
			k.failAt(at.field("address"), "got %s, which is the address of admin too", quoted(l.Address))
		case taken:
			k.failAt(at.field("address"), "got %s, which is the address of %s too", quoted(l.Address), list.element(first))
		}
		addresses[address] = i
	}
}

// bare returns a problem for each listener with TLS that names no certificate. Whether it is one is for the gateway to say.
func (k *checker) bare(c *Config) Problems {
	aside := checker{decoder: newDecoder(k.file), root: k.root}
	list := (*position)(nil).field("listeners")
	for i, l := range c.Listeners {
		if l.TLS != nil && len(l.TLS.Certificates) == 0 {
			aside.failAt(list.element(i).field("tls").field("certificates"), "missing, expected a list, each of it a mapping")
		}
	}
	return aside.problems
}

func (k *checker) store(c *Config) {
	store := (*position)(nil).field("store")
	r := c.Store.Redis
	if r == nil {
		return
	}
	redis := store.field("redis")
	if c.Store.Memory != nil {
		k.failAt(store, "got memory and redis, expected one of them")
	}
	switch {
	case r.Mode == "sentinel" && r.MasterName == "":
		k.failAt(redis.field("masterName"), "missing, expected the master's name in mode sentinel")
	case r.Mode != "sentinel" && r.MasterName != "":
		k.failAt(redis.field("masterName"), "expected only in mode sentinel")
	case r.Mode == "cluster" && r.Database != 0:
		k.failAt(redis.field("database"), "got %d, expected 0 in mode cluster", r.Database)
	case r.Mode == "standalone" && len(r.Addresses) > 1:
		k.failAt(redis.field("addresses"), "got %d addresses, expected one in mode standalone", len(r.Addresses))
	}
	if r.Mode != "sentinel" && (r.SentinelUsername != "" || r.SentinelPasswordFile != "") {
		k.failAt(redis, "got a username or password for sentinels, expected them only in mode sentinel")
	}
	if r.TLS != nil && (r.TLS.CertFile == "") != (r.TLS.KeyFile == "") {
		k.failAt(redis.field("tls"), "expected certFile and keyFile together")
	}
	k.sharedSecrets(c)
}

// sharedSecrets refuses gateways that would find each other's bindings and tokens by different secrets: every one a stranger.
func (k *checker) sharedSecrets(c *Config) {
	secrets := (*position)(nil).field("secrets")
	if c.Secrets.DigestFile == "" {
		k.failAt(secrets.field("digestFile"), "missing, expected the name of a file: gateways that share a store need the same secret;"+
			" make it once with `limpet keys digest` and give it to all of them")
	}
	for i, s := range c.Services {
		p := s.Affinity
		if c.Secrets.TokenKeysFile == "" && p != nil && p.Session != nil && p.Session.Mode == affinity.ModeToken {
			k.failAt(secrets.field("tokenKeysFile"), "missing, expected the name of a file: services[%d] uses session mode token, and gateways"+
				" that share a store need the same keys; make them once with `limpet keys tokens` and give them to all of them", i)
			return
		}
	}
}
