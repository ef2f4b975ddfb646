package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"time"

	"github.com/limpet-project/limpet/lab/clientip"
)

// clientipCommand is about kube-proxy's affinity to client addresses, on one node.
type clientipCommand struct {
	Explain clientipExplainCommand `cmd:"" help:"Say which clients a node's kube-proxy keeps on which endpoint, and where one goes next."`
	Watch   clientipWatchCommand   `cmd:"" help:"Watch how new connections spread over the endpoints of a node's Services, and which clients move."`
	Rules   clientipRulesCommand   `cmd:"" help:"Print the rules that kube-proxy writes for a Service."`
	Predict clientipPredict        `cmd:"" help:"Predict how clients spread over the endpoints of a Service, by formula and by simulation."`
	Lab     clientipLab            `cmd:"" help:"Measure the same on this machine, as root, in network namespaces that go with the command."`
}

// clientipExplainCommand reads a node's rules and what they remember.
type clientipExplainCommand struct {
	Service  string     `arg:"" optional:"" help:"Only this Service, as NAMESPACE/NAME[:PORT]; without it, every one with affinity."`
	Protocol string     `help:"Only this protocol of the Service: tcp, udp or sctp." enum:"tcp,udp,sctp," default:""`
	Client   netip.Addr `help:"Say where this client's next connection goes, and by which rule." placeholder:"ADDR"`
	Clients  bool       `help:"List the clients of each endpoint."`
	Output   string     `help:"Output format: text or json." enum:"text,json" default:"text" short:"o"`

	Iptables       []string `name:"iptables" help:"Output of iptables-save, instead of this machine's." placeholder:"FILE" sep:"none"`
	Nft            []string `help:"Output of nft -j list ruleset." placeholder:"FILE" sep:"none"`
	Recent         string   `help:"A copy of the directory /proc/net/xt_recent." placeholder:"DIR"`
	TimerList      string   `help:"A copy of /proc/timer_list of the same moment: it tells the age of entries." placeholder:"FILE"`
	Uptime         string   `help:"A copy of /proc/uptime of the same moment: it tells the kernel's HZ." placeholder:"FILE"`
	Conntrack      []string `help:"Output of conntrack -L." placeholder:"FILE" sep:"none"`
	Endpointslices []string `help:"EndpointSlices of kubectl, as JSON or YAML; for this machine's rules too." placeholder:"FILE" sep:"none"`
	Jiffies        uint64   `help:"The jiffies of that moment, instead of a copy of /proc/timer_list."`
	HZ             int      `name:"hz" help:"The kernel's HZ, instead of a copy of /proc/uptime."`
	ListTotal      int      `help:"How many clients a list of xt_recent remembers (ip_list_tot); 0 is this machine's, or 100 with files."`
}

// Run prints what the rules do.
func (c clientipExplainCommand) Run(ctx context.Context) error {
	q, err := c.question()
	if err != nil {
		return usageError{err}
	}
	files := clientip.Files{
		IPTables: c.Iptables, NFTables: c.Nft, Recent: c.Recent, TimerList: c.TimerList, Uptime: c.Uptime, Conntrack: c.Conntrack,
		EndpointSlices: c.Endpointslices, Jiffies: c.Jiffies, HZ: c.HZ, ListTotal: c.ListTotal,
	}
	n, err := files.Read(ctx)
	if err != nil {
		return err
	}
	report := n.Explain(q)
	if q.Service.Name != "" && len(report.Services) == 0 {
		return fmt.Errorf("explaining %s: no rules of kube-proxy serve it here", c.Service)
	}
	if c.Output == "json" {
		return printJSON(os.Stdout, report)
	}
	return printClientIP(os.Stdout, report)
}

// question reads the flags that say what to tell.
func (c clientipExplainCommand) question() (clientip.Question, error) {
	q := clientip.Question{Client: c.Client.Unmap(), Clients: c.Clients}
	switch {
	case c.HZ < 0 || c.ListTotal < 0:
		return q, errors.New("--hz, --list-total: expected 0 or more")
	case c.Client.Zone() != "":
		return q, fmt.Errorf("--client: got %s, expected an address without a zone", c.Client)
	case c.Service == "" && c.Protocol != "":
		return q, errors.New("--protocol: expected a Service with it")
	case c.Service == "":
		return q, nil
	}
	port, err := clientip.ParseServicePort(c.Service)
	if err != nil {
		return q, err
	}
	port.Protocol = c.Protocol
	q.Service = port
	return q, nil
}

// clientipRulesCommand writes rules.
type clientipRulesCommand struct {
	Service        string           `arg:"" help:"The Service, as NAMESPACE/NAME, or NAMESPACE/NAME:PORT if the port has a name."`
	Form           string           `help:"Input of iptables-restore, or of nft -f." enum:"iptables,nftables" default:"iptables"`
	Protocol       string           `help:"tcp, udp or sctp." enum:"tcp,udp,sctp" default:"tcp"`
	ClusterIP      netip.Addr       `name:"cluster-ip" required:"" help:"The Service's address." placeholder:"ADDR"`
	Port           uint16           `required:"" help:"The port's number."`
	Endpoint       []netip.AddrPort `required:"" help:"A ready endpoint." placeholder:"ADDR:PORT"`
	LocalEndpoint  []netip.AddrPort `help:"An endpoint that runs on this node." placeholder:"ADDR:PORT"`
	Affinity       time.Duration    `help:"The timeout of sessionAffinity: ClientIP (Kubernetes' default is 3h); 0 is no affinity."`
	NodePort       uint16           `help:"The port on every node."`
	ExternalIP     []netip.Addr     `name:"external-ip" help:"An external address." placeholder:"ADDR"`
	LoadBalancerIP []netip.Addr     `name:"load-balancer-ip" help:"An address of the load balancer." placeholder:"ADDR"`
	Pods           netip.Prefix     `help:"The addresses of pods (kube-proxy's --cluster-cidr): other clients are masqueraded." placeholder:"CIDR"`
	Frame          bool             `help:"Also print what all Services share, so that the rules work in an empty network namespace."`
}

// Run prints the rules.
func (c clientipRulesCommand) Run() error {
	port, err := clientip.ParseServicePort(c.Service)
	if err != nil {
		return usageError{err}
	}
	port.Protocol = c.Protocol
	spec := clientip.Spec{
		ServicePort: port, ClusterIP: c.ClusterIP, Number: c.Port, NodePort: c.NodePort, ExternalIPs: c.ExternalIP,
		LoadBalancerIPs: c.LoadBalancerIP, Endpoints: c.Endpoint, Local: c.LocalEndpoint, Timeout: c.Affinity, Pods: c.Pods,
	}
	if err := spec.Check(); err != nil {
		return usageError{err}
	}
	if c.Form == "nftables" {
		return spec.WriteNFTables(os.Stdout, c.Frame)
	}
	return spec.WriteIPTables(os.Stdout, c.Frame)
}
