package spread

import (
	"cmp"
	"fmt"
	"io"
	"net/netip"
	"slices"
	"strings"

	"github.com/limpet-project/limpet/lab/clientip"
)

// A Flow is what of a connection names a Service: where the client sent it. The zero Flow is any, a zero part any of its kind.
type Flow struct {
	Protocol string // udp, tcp or sctp
	Address  netip.Addr
	Port     uint16
}

// ReadConntrack reads a listing as conntrack -L or /proc/net/nf_conntrack prints it, and returns a client for every source address of
// a flow to the service. Its weight is the number of its packets if every such entry counts packets, else that of its entries. File is
// the name to give in errors, which are *[clientip.SyntaxError] where a line is wrong.
func ReadConntrack(r io.Reader, file string, service Flow) ([]Client, error) {
	sums := senders{found: make(map[netip.Addr]sent), counted: true}
	err := clientip.ReadFlows(file, r, func(f clientip.Flow) {
		if service.matches(f) {
			sums.add(f)
		}
	})
	switch {
	case err != nil:
		return nil, err
	case sums.full:
		return nil, fmt.Errorf("%s: more than %d clients", file, MaxClients)
	case len(sums.found) == 0:
		return nil, fmt.Errorf("%s: no flow to the service; expected lines such as: udp 17 29 src=10.244.0.7 dst=10.96.0.10 sport=41234 dport=53 …", file)
	}
	return sums.clients(), nil
}

func (f Flow) matches(of clientip.Flow) bool {
	return (f.Protocol == "" || f.Protocol == of.Protocol) &&
		(!f.Address.IsValid() || f.Address == of.Destination.Addr()) &&
		(f.Port == 0 || f.Port == of.Destination.Port())
}

// senders sum up what clients sent.
type senders struct {
	found   map[netip.Addr]sent
	counted bool // every flow counts packets
	full    bool // there were too many clients
}

type sent struct{ flows, packets float64 }

func (s *senders) add(f clientip.Flow) {
	from := f.Client.Addr()
	if _, known := s.found[from]; !known && len(s.found) == MaxClients {
		s.full = true
		return
	}
	sum := s.found[from]
	s.found[from] = sent{sum.flows + 1, sum.packets + float64(f.Packets)}
	s.counted = s.counted && f.Packets > 0
}

// clients returns them, the heaviest first.
func (s *senders) clients() []Client {
	clients := make([]Client, 0, len(s.found))
	for address, sum := range s.found {
		c := Client{Name: address.String(), Weight: sum.flows}
		if s.counted {
			c.Weight = sum.packets
		}
		clients = append(clients, c)
	}
	slices.SortFunc(clients, func(a, b Client) int {
		return cmp.Or(cmp.Compare(b.Weight, a.Weight), strings.Compare(a.Name, b.Name))
	})
	return clients
}
