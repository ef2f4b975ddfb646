package clientip

import (
	"bufio"
	"fmt"
	"io"
	"net/netip"
	"strconv"
)

// masqueradeMark is what kube-proxy marks packets with whose source has to become the node, unless configured otherwise.
const masqueradeMark = "0x00004000"

// WriteIPTables writes the rules of a Service as kube-proxy gives them to iptables-restore --noflush, or to ip6tables-restore. With
// frame it also writes the rules that all Services share, and which kube-proxy's are entered by, so that the output works in an
// empty network namespace. It leaves out the rule that only counts packets to a node port on 127.0.0.0/8, which kube-proxy writes where the
// kernel has its counter localhost_nps_accepted_pkts.
func (s Spec) WriteIPTables(w io.Writer, frame bool) error {
	if err := s.Check(); err != nil {
		return err
	}
	p := &iptablesWriter{Spec: s.normal(), w: bufio.NewWriter(w)}
	p.line("*nat")
	p.chainLines(frame)
	if frame {
		p.frame()
	}
	p.frontRules()
	p.masqueradeRule()
	p.externalRules()
	p.serviceRules()
	p.endpointRules()
	if frame {
		p.lastRule()
	}
	p.line("COMMIT")
	return p.w.Flush()
}

type iptablesWriter struct {
	Spec
	w *bufio.Writer
}

func (p *iptablesWriter) line(format string, args ...any) {
	fmt.Fprintf(p.w, format+"\n", args...) // Flush reports what went wrong
}

func (p *iptablesWriter) service() string  { return prefixCluster + p.chainHash() }
func (p *iptablesWriter) outside() string  { return prefixExternal + p.chainHash() }
func (p *iptablesWriter) protocol() string { return "-m " + p.Protocol + " -p " + p.Protocol }

// chainLines make the chains, or flush them, so that those which all Services share are named in the frame only.
func (p *iptablesWriter) chainLines(frame bool) {
	var names []string
	if frame {
		names = append(names, "KUBE-SERVICES", "KUBE-NODEPORTS", "KUBE-POSTROUTING", "KUBE-MARK-MASQ")
	}
	if p.external() {
		names = append(names, p.outside())
	}
	names = append(names, p.service())
	for _, e := range p.Endpoints {
		names = append(names, p.endpointChain(e))
	}
	for _, name := range names {
		p.line(":%s - [0:0]", name)
	}
}

// frame writes what enters kube-proxy's chains, and what masquerades.
func (p *iptablesWriter) frame() {
	for _, chain := range []string{"PREROUTING", "OUTPUT"} {
		p.line(`-A %s -m comment --comment "kubernetes service portals" -j KUBE-SERVICES`, chain)
	}
	p.line(`-A POSTROUTING -m comment --comment "kubernetes postrouting rules" -j KUBE-POSTROUTING`)
	p.line("-A KUBE-POSTROUTING -m mark ! --mark %s/%s -j RETURN", masqueradeMark, masqueradeMark)
	p.line("-A KUBE-POSTROUTING -j MARK --xor-mark %s", masqueradeMark)
	p.line(`-A KUBE-POSTROUTING -m comment --comment "kubernetes service traffic requiring SNAT" -j MASQUERADE --random-fully`)
	p.line("-A KUBE-MARK-MASQ -j MARK --or-mark %s", masqueradeMark)
}

// lastRule tries node ports after all addresses.
func (p *iptablesWriter) lastRule() {
	exclude := ""
	if p.ClusterIP.Is6() {
		exclude = "! -d ::1/128 "
	}
	p.line(`-A KUBE-SERVICES -m comment --comment "kubernetes service nodeports; NOTE: this must be the last rule in this chain" `+
		`-m addrtype --dst-type LOCAL %s-j KUBE-NODEPORTS`, exclude)
}

// frontRules lead from the addresses of the Service to its chains.
func (p *iptablesWriter) frontRules() {
	front := func(kind string, address netip.Addr, chain string) {
		p.line(`-A KUBE-SERVICES -m comment --comment "%s %s" %s -d %s --dport %d -j %s`,
			p.ServicePort, kind, p.protocol(), address, p.Number, chain)
	}
	front("cluster IP", p.ClusterIP, p.service())
	for _, a := range p.ExternalIPs {
		front("external IP", a, p.outside())
	}
	for _, a := range p.LoadBalancerIPs {
		front("loadbalancer IP", a, p.outside())
	}
	if p.NodePort != 0 {
		p.line("-A KUBE-NODEPORTS -m comment --comment %s %s --dport %d -j %s", p.ServicePort, p.protocol(), p.NodePort, p.outside())
	}
}

func (p *iptablesWriter) masqueradeRule() {
	if p.Pods.IsValid() {
		p.line(`-A %s -m comment --comment "%s cluster IP" %s -d %s --dport %d ! -s %s -j KUBE-MARK-MASQ`,
			p.service(), p.ServicePort, p.protocol(), p.ClusterIP, p.Number, p.Pods)
	}
}

func (p *iptablesWriter) externalRules() {
	if !p.external() {
		return
	}
	p.line(`-A %s -m comment --comment "masquerade traffic for %s external destinations" -j KUBE-MARK-MASQ`, p.outside(), p.ServicePort)
	p.line("-A %s -j %s", p.outside(), p.service())
}

// serviceRules choose an endpoint: the one whose list has the client, else by lot, each rule among those that are left.
func (p *iptablesWriter) serviceRules() {
	comment := func(e netip.AddrPort) string { return fmt.Sprintf(`-m comment --comment "%s -> %s"`, p.ServicePort, e) }
	if p.Timeout > 0 {
		for _, e := range p.Endpoints {
			chain := p.endpointChain(e)
			p.line("-A %s %s -m recent --name %s --rcheck --seconds %d --reap -j %s",
				p.service(), comment(e), chain, int(p.Timeout.Seconds()), chain)
		}
	}
	for i, e := range p.Endpoints {
		lot := ""
		if left := len(p.Endpoints) - i; left > 1 {
			lot = " -m statistic --mode random --probability " + strconv.FormatFloat(1/float64(left), 'f', 10, 64)
		}
		p.line("-A %s %s%s -j %s", p.service(), comment(e), lot, p.endpointChain(e))
	}
}

// endpointRules masquerade what an endpoint sends to itself, remember the client and translate the address.
func (p *iptablesWriter) endpointRules() {
	for _, e := range p.Endpoints {
		chain := p.endpointChain(e)
		start := fmt.Sprintf("-A %s -m comment --comment %s", chain, p.ServicePort)
		p.line("%s -s %s -j KUBE-MARK-MASQ", start, e.Addr())
		if p.Timeout > 0 {
			start += " -m recent --name " + chain + " --set"
		}
		p.line("%s %s -j DNAT --to-destination %s", start, p.protocol(), e)
	}
}
