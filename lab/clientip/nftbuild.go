package clientip

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"strings"
	"time"
)

// services puts the Services together from their chains, found by their names, and their fronts.
func (p *nftables) services() ([]Service, error) {
	found := map[string]*Service{} // by family and the part of the name that the chains have in common
	for name, rules := range p.rules {
		base, policy := strings.CutPrefix(name.name, nftCluster)
		if !policy {
			var local bool
			if base, local = strings.CutPrefix(name.name, nftLocal); !local {
				continue
			}
		}
		port, ok := parseNFTName(base)
		if !ok {
			continue
		}
		c, err := p.chain(name, rules)
		if err != nil {
			return nil, err
		}
		key := name.family + " " + base
		if found[key] == nil {
			found[key] = &Service{ServicePort: port, Mode: NFTables}
		}
		if s := found[key]; policy { // cluster before local
			c.Policy = "cluster"
			s.Chains = append([]Chain{c}, s.Chains...)
		} else {
			c.Policy = "local"
			s.Chains = append(s.Chains, c)
		}
	}
	for _, f := range p.fronts {
		p.addFront(found, f)
	}
	return collect(p.source, found)
}

func (p *nftables) addFront(found map[string]*Service, f nftFront) {
	target := f.chain
	base := strings.TrimPrefix(strings.TrimPrefix(strings.TrimPrefix(target, nftCluster), nftLocal), nftExternal)
	if target == "" || target == "reject-chain" {
		if f.port.Name == "" {
			return
		}
		base = f.port.nftBase()
	}
	key := f.family + " " + base
	s := found[key]
	if s == nil && f.port.Name != "" {
		s = &Service{ServicePort: f.port, Mode: NFTables}
		found[key] = s
	}
	if s == nil {
		return
	}
	if strings.HasPrefix(target, nftExternal) {
		target = p.outside(nftName{f.family, target})
	}
	if p.clusterIPs[f.front.Address] {
		f.front.Kind = "cluster IP"
	}
	if s.chain(target) != nil {
		f.front.Chain = target
	}
	s.Fronts = append(s.Fronts, f.front)
}

// outside returns where the chain for traffic from outside leads: its last rule, as the ones before are for packets of this node.
func (p *nftables) outside(name nftName) string {
	rules := p.rules[name]
	if len(rules) == 0 {
		return ""
	}
	if last := expressions(rules[len(rules)-1]); len(last) == 1 && last[0].Goto != nil {
		return last[0].Goto.Target
	}
	return ""
}

// expressions returns the statements of a rule; those that are not understood are empty.
func expressions(r nftRule) []nftExpr {
	all := make([]nftExpr, len(r.Expr))
	for i, raw := range r.Expr {
		if json.Unmarshal(raw, &all[i]) != nil {
			all[i] = nftExpr{}
		}
	}
	return all
}

// chain reads the rules of a chain that chooses: those with sets, then the draw.
func (p *nftables) chain(name nftName, rules []nftRule) (Chain, error) {
	c := Chain{Name: name.name}
	for _, r := range rules {
		e := expressions(r)
		switch {
		case len(e) == 2 && e[0].Match != nil && e[0].Match.Left.Payload.Field == "saddr" && e[1].Goto != nil:
			s, err := p.sticky(r, e)
			if err != nil {
				return c, err
			}
			c.Sticky = append(c.Sticky, s)
		case len(e) == 1 && e[0].Vmap != nil:
			if err := p.draws(&c, r, e[0].Vmap, p.verdict); err != nil {
				return c, err
			}
		case len(e) > 0 && e[len(e)-1].DNAT != nil:
			var m struct {
				Map *nftDraw `json:"map"`
			}
			if json.Unmarshal(e[len(e)-1].DNAT.Addr, &m) == nil && m.Map != nil {
				if err := p.draws(&c, r, m.Map, direct); err != nil {
					return c, err
				}
			}
		}
	}
	return c, nil
}

func (p *nftables) ruleFault(r nftRule, format string, args ...any) error {
	return p.fault("rule with handle %d of chain %s: %s", r.Handle, clip(r.Chain), fmt.Sprintf(format, args...))
}

func (p *nftables) sticky(r nftRule, e []nftExpr) (Sticky, error) {
	var set string
	if json.Unmarshal(e[0].Match.Right, &set) != nil || !strings.HasPrefix(set, "@") {
		return Sticky{}, p.ruleFault(r, "got %s, expected a set", clip(string(e[0].Match.Right)))
	}
	to, ok := p.destination(r.Family, e[1].Goto.Target)
	if !ok {
		return Sticky{}, p.ruleFault(r, "chain %s: expected a rule with dnat to ADDRESS:PORT in it", clip(e[1].Goto.Target))
	}
	s := Sticky{Endpoint: to, List: set[1:], Rule: p.rule(r, fmt.Sprintf("%s saddr %s goto %s", r.Family, set, e[1].Goto.Target))}
	if found := p.sets[nftName{r.Family, set[1:]}]; found != nil && found.Timeout <= int64(maxTimeout/time.Second) {
		s.Timeout = time.Duration(found.Timeout) * time.Second
	}
	return s, nil
}

func (p *nftables) rule(r nftRule, text string) Rule {
	return Rule{Source: p.source, Handle: r.Handle, Text: printable(r.Family + " kube-proxy " + r.Chain + " " + text)}
}

// draws adds the endpoints of a map with a random key: each has the same chance, or more if it is in it more than once.
func (p *nftables) draws(c *Chain, r nftRule, d *nftDraw, resolve func(family string, value json.RawMessage) (netip.AddrPort, bool)) error {
	entries := d.entries()
	if len(entries) == 0 || d.Key.Numgen.Mod != len(entries) {
		return p.ruleFault(r, "expected numgen random mod N and N values")
	}
	rule := p.rule(r, fmt.Sprintf("numgen random mod %d", len(entries)))
	for _, e := range entries {
		to, ok := resolve(r.Family, e[1])
		if !ok {
			return p.ruleFault(r, "got %s, expected an endpoint", clip(string(e[1])))
		}
		c.Draws = append(c.Draws, Draw{to, 1 / float64(len(entries)), rule})
	}
	return nil
}

// destination returns where the chain of an endpoint translates addresses to.
func (p *nftables) destination(family, chain string) (netip.AddrPort, bool) {
	for _, r := range p.rules[nftName{family, chain}] {
		for _, e := range expressions(r) {
			if e.DNAT != nil {
				return join(e.DNAT.Addr, e.DNAT.Port)
			}
		}
	}
	return netip.AddrPort{}, false
}

// verdict reads an endpoint whose chain stands in a map: {"goto": {"target": chain}}.
func (p *nftables) verdict(family string, value json.RawMessage) (netip.AddrPort, bool) {
	var v nftExpr
	if json.Unmarshal(value, &v) != nil || v.Goto == nil {
		return netip.AddrPort{}, false
	}
	return p.destination(family, v.Goto.Target)
}

// direct reads an endpoint that stands in the map itself: {"concat": [address, port]}.
func direct(_ string, value json.RawMessage) (netip.AddrPort, bool) {
	var key nftKey
	if json.Unmarshal(value, &key) != nil || len(key.Concat) != 2 {
		return netip.AddrPort{}, false
	}
	return join(key.Concat[0], key.Concat[1])
}

func join(address, port json.RawMessage) (netip.AddrPort, bool) {
	a, err := parseJSONAddress(address)
	var n uint16
	if err != nil || json.Unmarshal(port, &n) != nil || n == 0 {
		return netip.AddrPort{}, false
	}
	return netip.AddrPortFrom(a, n), true
}
