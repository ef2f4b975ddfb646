package clientip

import (
	"fmt"
	"io"
	"net/netip"
	"strconv"
	"strings"
)

// A Flow is an entry of the kernel's table of connections: what the client sent, and who answers.
type Flow struct {
	Protocol    string         `json:"protocol"`
	Client      netip.AddrPort `json:"client"`
	Destination netip.AddrPort `json:"destination"`
	Server      netip.AddrPort `json:"server"` // where replies come from: the endpoint, if kube-proxy's rules translated the address
	// Packets are those that the client sent; 0 where the kernel does not count (net.netfilter.nf_conntrack_acct).
	Packets uint64 `json:"-"`
}

// ReadFlows reads what conntrack -L or /proc/net/nf_conntrack printed and calls keep for each flow of TCP, UDP and SCTP. It holds one
// at a time, so that the table may have any size.
func ReadFlows(source string, r io.Reader, keep func(Flow)) error {
	lines := newLineReader(source, r)
	for lines.next() {
		if strings.HasPrefix(lines.text, "conntrack v") { // its summary, where both streams went to one file
			continue
		}
		f, ok, err := parseFlow(lines.text)
		if err != nil {
			return lines.fail("%s", err)
		}
		if ok {
			keep(f)
		}
	}
	return lines.err()
}

// parseFlow reads "udp 17 29 src=A dst=A sport=P dport=P [UNREPLIED] src=A dst=A sport=P dport=P mark=0 use=1", with the family before
// it or not. It returns false for protocols without ports.
func parseFlow(text string) (Flow, bool, error) {
	var f Flow
	var tuple [2]struct{ src, dst, sport, dport, packets string }
	side := -1
	for word := range strings.FieldsSeq(text) {
		if f.Protocol == "" && isProtocol(word) {
			f.Protocol = strings.Clone(word)
		}
		name, value, _ := strings.Cut(word, "=")
		if name == "src" {
			side++
		}
		if side < 0 || side > 1 {
			continue
		}
		switch t := &tuple[side]; name {
		case "src":
			t.src = value
		case "dst":
			t.dst = value
		case "sport":
			t.sport = value
		case "dport":
			t.dport = value
		case "packets":
			t.packets = value
		}
	}
	if side < 1 {
		return f, false, fmt.Errorf("got %q, expected PROTOCOL ... src= dst= sport= dport= twice", clip(text))
	}
	if f.Protocol == "" {
		return f, false, nil
	}
	var err error
	join := func(address, port string) netip.AddrPort {
		a, bad := parseAddress(address)
		n, wrong := strconv.ParseUint(port, 10, 16) // UDP has a source port 0
		if err == nil && bad != nil {
			err = bad
		} else if err == nil && wrong != nil {
			err = fmt.Errorf("got %q, expected a port", clip(port))
		}
		return netip.AddrPortFrom(a, uint16(n))
	}
	f.Client, f.Destination = join(tuple[0].src, tuple[0].sport), join(tuple[0].dst, tuple[0].dport)
	f.Server = join(tuple[1].src, tuple[1].sport)
	if p := tuple[0].packets; err == nil && p != "" {
		if f.Packets, err = strconv.ParseUint(p, 10, 48); err != nil {
			err = fmt.Errorf("got %q, expected a number of packets", clip(p))
		}
	}
	return f, err == nil, err
}
