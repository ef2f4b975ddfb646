package clientip

import (
	"bufio"
	"fmt"
	"io"
	"net/netip"
	"strings"
)

// WriteNFTables writes the rules of a Service as kube-proxy gives them to nft -f. With frame it also writes the table and the rules
// that all Services share, so that the output works in an empty network namespace.
func (s Spec) WriteNFTables(w io.Writer, frame bool) error {
	if err := s.Check(); err != nil {
		return err
	}
	p := &nftWriter{Spec: s.normal(), w: bufio.NewWriter(w), family: "ip", address: "ipv4_addr"}
	if s.ClusterIP.Is6() {
		p.family, p.address = "ip6", "ipv6_addr"
	}
	if frame {
		p.frame()
	}
	p.chains()
	p.fronts()
	p.externalRules()
	if p.Timeout > 0 {
		p.sets()
		p.stickyRules()
		p.endpointRules()
	} else {
		p.drawRule()
	}
	return p.w.Flush()
}

type nftWriter struct {
	Spec
	w               *bufio.Writer
	family, address string
}

// add writes one command: what, the family and table, and the rest.
func (p *nftWriter) add(what, format string, args ...any) {
	fmt.Fprintf(p.w, "add %s %s kube-proxy %s\n", what, p.family, fmt.Sprintf(format, args...)) // Flush reports what went wrong
}

func (p *nftWriter) service() string                  { return nftCluster + p.nftBase() }
func (p *nftWriter) outside() string                  { return nftExternal + p.nftBase() }
func (p *nftWriter) endpoint(e netip.AddrPort) string { return nftEndpoint + p.nftEndpointBase(e) }

func (p *nftWriter) affinity(e netip.AddrPort) string { return nftAffinity + p.nftEndpointBase(e) }

func (p *nftWriter) masquerade() string { return "mark set mark or " + masqueradeMark }

func (p *nftWriter) tuple(address netip.Addr) string {
	return fmt.Sprintf("%s . %s . %d", address, p.Protocol, p.Number)
}

func (p *nftWriter) serviceIP(a netip.Addr, to string) {
	p.add("element", "service-ips { %s : goto %s }", p.tuple(a), to)
}

func (p *nftWriter) rule(chain, text string, v ...any) {
	p.add("rule", "%s %s", chain, fmt.Sprintf(text, v...))
}
func (p *nftWriter) set(name, kind string, text string) { p.add(kind, "%s { %s }", name, text) }

// frame writes the table, what enters its chains, the maps of addresses, and what masquerades.
func (p *nftWriter) frame() {
	fmt.Fprintf(p.w, "add table %s kube-proxy { comment \"rules for kube-proxy\" ; }\n", p.family)
	for _, c := range [][3]string{
		{"nat-prerouting", "prerouting", "-100"}, {"nat-output", "output", "-100"}, {"nat-postrouting", "postrouting", "100"},
	} {
		p.add("chain", "%s { type nat hook %s priority %s ; }", c[0], c[1], c[2])
	}
	p.add("chain", "services")
	p.add("chain", "masquerading")
	p.set("cluster-ips", "set", fmt.Sprintf(`type %s ; comment "Active ClusterIPs" ;`, p.address))
	p.set("hairpin-connections", "set", fmt.Sprintf(`type %s . %s . inet_proto . inet_service ; comment "service hairpin connections" ;`,
		p.address, p.address))
	p.set("service-ips", "map", fmt.Sprintf(
		`type %s . inet_proto . inet_service : verdict ; comment "ClusterIP, ExternalIP and LoadBalancer IP traffic" ;`, p.address))
	p.set("service-nodeports", "map", `type inet_proto . inet_service : verdict ; comment "NodePort traffic" ;`)
	p.rule("nat-output", "jump services")
	p.rule("nat-prerouting", "jump services")
	p.rule("nat-postrouting", "jump masquerading")
	p.rule("masquerading", "mark and %s != 0 mark set mark xor %s masquerade fully-random", masqueradeMark, masqueradeMark)
	p.rule("masquerading", "ct status dnat %s saddr . %s daddr . meta l4proto . th dport @hairpin-connections masquerade fully-random",
		p.family, p.family)
	p.dispatch()
}

// dispatch writes the rules that look an address up.
func (p *nftWriter) dispatch() {
	noLocalhost := "ip daddr != 127.0.0.0/8"
	if p.family == "ip6" {
		noLocalhost = "ip6 daddr != ::1"
	}
	if p.Pods.IsValid() {
		p.rule("services", `%s daddr @cluster-ips %s saddr != %s %s comment "masquerade clusterIP traffic from outside cluster"`,
			p.family, p.family, p.Pods, p.masquerade())
	}
	p.rule("services", "%s daddr . meta l4proto . th dport vmap @service-ips", p.family)
	p.rule("services", "fib daddr type local %s meta l4proto . th dport vmap @service-nodeports", noLocalhost)
}

func (p *nftWriter) chains() {
	if p.Timeout > 0 {
		for _, e := range p.Endpoints {
			p.add("chain", "%s", p.endpoint(e))
		}
	}
	p.add("chain", "%s", p.service())
	if p.external() {
		p.add("chain", "%s", p.outside())
	}
	for _, e := range p.Local {
		p.add("element", "hairpin-connections { %s . %s . %s . %d }", e.Addr(), e.Addr(), p.Protocol, e.Port())
	}
}

func (p *nftWriter) fronts() {
	p.add("element", "cluster-ips { %s }", p.ClusterIP)
	p.serviceIP(p.ClusterIP, p.service())
	for _, a := range p.ExternalIPs {
		p.serviceIP(a, p.outside())
	}
	for _, a := range p.LoadBalancerIPs {
		p.serviceIP(a, p.outside())
	}
	if p.NodePort != 0 {
		p.add("element", "service-nodeports { %s . %d : goto %s }", p.Protocol, p.NodePort, p.outside())
	}
}

func (p *nftWriter) externalRules() {
	if p.external() {
		p.rule(p.outside(), `%s comment "masquerade"`, p.masquerade())
		p.rule(p.outside(), "goto %s", p.service())
	}
}

// sets remember the clients of an endpoint.
func (p *nftWriter) sets() {
	for _, e := range p.Endpoints {
		p.set(p.affinity(e), "set", fmt.Sprintf("type %s ; flags dynamic,timeout ; timeout %ds ;", p.address, int(p.Timeout.Seconds())))
	}
}

// stickyRules send a client to the endpoint whose set has it, or to one by lot.
func (p *nftWriter) stickyRules() {
	lots := make([]string, len(p.Endpoints))
	for i, e := range p.Endpoints {
		p.rule(p.service(), "%s saddr @%s goto %s", p.family, p.affinity(e), p.endpoint(e))
		lots[i] = fmt.Sprintf("%d : goto %s", i, p.endpoint(e))
	}
	p.rule(p.service(), "numgen random mod %d vmap { %s }", len(lots), strings.Join(lots, " , "))
}

func (p *nftWriter) endpointRules() {
	for _, e := range p.Endpoints {
		p.rule(p.endpoint(e), "update @%s { %s saddr }", p.affinity(e), p.family)
		p.rule(p.endpoint(e), "meta l4proto %s dnat to %s", p.Protocol, e)
	}
}

// drawRule chooses without affinity, where endpoints have no chains.
func (p *nftWriter) drawRule() {
	lots := make([]string, len(p.Endpoints))
	for i, e := range p.Endpoints {
		lots[i] = fmt.Sprintf("%d : %s . %d", i, e.Addr(), e.Port())
	}
	p.rule(p.service(), "meta l4proto %s dnat %s addr . port to numgen random mod %d map { %s }",
		p.Protocol, p.family, len(lots), strings.Join(lots, " , "))
}
