package testbed

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os/exec"
	"strconv"
	"strings"
	"time"

	"github.com/limpet-project/limpet/lab/clientip"
)

// The limits of a testbed.
const (
	MaxEndpoints = 32
	MaxClients   = 60_000
	MaxQueries   = 100_000 // of one load
)

// Addresses. Clients have those of a whole network, so that each run can have its own.
const (
	clientNetwork = "10.1.0.0/16"
	clientLink    = "10.9.0.2"
	nodeLink      = "10.9.0.1"
)

// ServicePort is where clients reach the Service.
const ServicePort uint16 = dnsPort

var clusterIP = netip.AddrFrom4([4]byte{10, 96, 0, 10})

// A Testbed is a node, a network of clients, and endpoints, each in a namespace of its own. Its methods are not safe for concurrent use,
// but for Send beside the faults.
type Testbed struct {
	clients   *Namespace
	node      *Namespace
	endpoints []*place
	byAddress map[netip.Addr]int
}

// A place is where an endpoint runs.
type place struct {
	*Namespace
	address   netip.Addr
	responder *responder
}

// Missing returns what this machine lacks for a testbed, or nil.
func Missing() error {
	for _, name := range []string{"ip", "iptables-restore", "nft", "conntrack"} {
		if _, err := exec.LookPath(name); err != nil {
			return fmt.Errorf("%s is missing; on Debian: apt-get install iproute2 iptables nftables conntrack", name)
		}
	}
	n, err := newNamespace()
	if err != nil {
		return err
	}
	n.close()
	return nil
}

// New makes a testbed with so many endpoints, all answering. Close ends it, and so does the end of this process in any way.
func New(ctx context.Context, endpoints int) (b *Testbed, err error) {
	if endpoints < 1 || endpoints > MaxEndpoints {
		return nil, fmt.Errorf("got %d endpoints, expected 1 to %d", endpoints, MaxEndpoints)
	}
	b = &Testbed{byAddress: map[netip.Addr]int{}}
	defer func() {
		if err != nil {
			b.Close()
			b = nil
		}
	}()
	if b.node, err = newNamespace(); err != nil {
		return b, err
	}
	if b.clients, err = newNamespace(); err != nil {
		return b, err
	}
	for i := range endpoints {
		n, err := newNamespace()
		if err != nil {
			return b, err
		}
		b.endpoints = append(b.endpoints, &place{Namespace: n, address: endpointAddress(i, 2)})
		b.byAddress[endpointAddress(i, 2)] = i
	}
	return b, b.connect(ctx)
}

// Close ends everything in the testbed.
func (b *Testbed) Close() {
	for _, e := range b.endpoints {
		if e.responder != nil {
			e.responder.close()
		}
		e.close()
	}
	for _, n := range []*Namespace{b.clients, b.node} {
		if n != nil {
			n.close()
		}
	}
}

// endpointAddress returns an address of the link between the node (1) and an endpoint (2).
func endpointAddress(endpoint, side int) netip.Addr {
	return netip.AddrFrom4([4]byte{10, 2, byte(endpoint), byte(side)})
}

// Client returns the address of the nth client, counted from 0.
func Client(n int) netip.Addr {
	n++ // 10.1.0.0 is the network's
	return netip.AddrFrom4([4]byte{10, 1, byte(n >> 8), byte(n)})
}

// Endpoint returns where the nth endpoint answers, counted from 0.
func (b *Testbed) Endpoint(n int) netip.AddrPort {
	return netip.AddrPortFrom(b.endpoints[n].address, dnsPort)
}

// Endpoints returns how many there are.
func (b *Testbed) Endpoints() int { return len(b.endpoints) }

// connect links the namespaces, sets up their routes and starts the responders.
func (b *Testbed) connect(ctx context.Context) error {
	if err := b.link(ctx); err != nil {
		return fmt.Errorf("connecting namespaces: %w", err)
	}
	for i, e := range b.endpoints {
		var err error
		if e.responder, err = newResponder(e.Namespace, e.address); err != nil {
			return fmt.Errorf("starting endpoint %d: %w", i, err)
		}
	}
	return nil
}

func (b *Testbed) link(ctx context.Context) error {
	var node []string
	add := func(format string, args ...any) { node = append(node, fmt.Sprintf(format, args...)) }
	add("link set lo up")
	add("link add clients type veth peer name node netns %s", b.clients.path)
	add("addr add %s/30 dev clients", nodeLink)
	add("link set clients up")
	for i, e := range b.endpoints {
		add("link add endpoint%d type veth peer name node netns %s", i, e.path)
		add("addr add %s/30 dev endpoint%d", endpointAddress(i, 1), i)
		add("link set endpoint%d up", i)
	}
	add("route add %s via %s", clientNetwork, clientLink)
	if err := b.node.ip(ctx, node...); err != nil {
		return err
	}
	err := b.clients.ip(ctx, "link set lo up", "addr add "+clientLink+"/30 dev node", "link set node up",
		"route add local "+clientNetwork+" dev lo", "route add default via "+nodeLink)
	for i, e := range b.endpoints {
		err = errors.Join(err, e.ip(ctx, "link set lo up", fmt.Sprintf("addr add %s/30 dev node", e.address), "link set node up",
			"route add default via "+endpointAddress(i, 1).String()))
	}
	if err != nil {
		return err
	}
	for _, name := range []string{"all", "default", "clients"} { // machines differ in what new namespaces begin with
		err = errors.Join(err, b.node.set("ipv4/conf/"+name+"/rp_filter", "0"))
	}
	return errors.Join(err, b.node.set("ipv4/ip_forward", "1"))
}

// ip runs commands of the program ip, in one process.
func (n *Namespace) ip(ctx context.Context, commands ...string) error {
	_, err := n.run(ctx, strings.Join(commands, "\n")+"\n", "ip", "-batch", "-")
	return err
}

// spec is the Service, as kube-proxy knows it.
func (b *Testbed) spec(endpoints []int, timeout time.Duration) clientip.Spec {
	s := clientip.Spec{
		ServicePort: clientip.ServicePort{Namespace: "demo", Name: "counter", Port: "dns", Protocol: "udp"},
		ClusterIP:   clusterIP, Number: dnsPort, Timeout: timeout,
	}
	for _, e := range endpoints {
		s.Endpoints = append(s.Endpoints, b.Endpoint(e))
	}
	return s
}

// Silence makes an endpoint drop everything that it is sent and that it sends, as a node does that hangs; Heal ends that.
func (b *Testbed) Silence(ctx context.Context, endpoint int) error {
	_, err := b.endpoints[endpoint].run(ctx, silence, "nft", "-f", "-")
	return err
}

const silence = `table inet fault {
	chain in { type filter hook input priority 0; policy drop; }
	chain out { type filter hook output priority 0; policy drop; }
}
`

// Heal ends Silence.
func (b *Testbed) Heal(ctx context.Context, endpoint int) error {
	_, err := b.endpoints[endpoint].run(ctx, "flush ruleset", "nft", "-f", "-")
	return err
}

// Answered returns how many queries each endpoint has answered over UDP.
func (b *Testbed) Answered() []int64 {
	counts := make([]int64, len(b.endpoints))
	for i, e := range b.endpoints {
		counts[i] = e.responder.answered.Load()
	}
	return counts
}

// Flows returns how many flows the node's kernel tracks.
func (b *Testbed) Flows(ctx context.Context) (int, error) {
	out, err := b.node.run(ctx, "", "conntrack", "-C")
	if err != nil {
		return 0, err
	}
	n, err := strconv.Atoi(strings.TrimSpace(out))
	if err != nil {
		return 0, fmt.Errorf("counting flows: got %q, expected a number", firstLines(out))
	}
	return n, nil
}

// firstLines cuts what a program said.
func firstLines(text string) string {
	lines := strings.Split(strings.TrimSpace(text), "\n")
	return strings.Join(lines[:min(len(lines), 5)], "; ")
}
