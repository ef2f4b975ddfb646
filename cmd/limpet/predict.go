package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/limpet-project/limpet/lab/report"
	"github.com/limpet-project/limpet/lab/spread"
)

// clientipPredict predicts how clients spread over the endpoints of a Service.
type clientipPredict struct {
	Clients     int    `help:"How many clients there are; 50 unless a file says." placeholder:"N" xor:"clients"`
	Weights     string `help:"How they differ: equal, zipf, or zipf:EXPONENT." default:"equal"`
	WeightsFile string `help:"Clients, one a line: NAME WEIGHT [NODE [ZONE]]; - is the standard input." placeholder:"FILE" xor:"clients"`
	Conntrack   string `help:"Clients from a listing of conntrack -L; - is the standard input." placeholder:"FILE" xor:"clients"`
	Service     string `help:"Only flows to this address in the listing, as ADDRESS, ADDRESS:PORT or ADDRESS:PORT/PROTOCOL."`

	Endpoints int             `help:"How many endpoints the Service has." default:"3"`
	Sockets   string          `help:"fresh for a new socket with every query, or how many each client keeps." default:"fresh"`
	Policy    []spread.Policy `help:"Policies to compare: none, flow-hash, clientip, hash, rendezvous, bound. Default: all." sep:","`
	Nodes     int             `help:"How many nodes the clients are on." default:"1"`
	Zones     int             `help:"How many zones nodes and endpoints are in; clients stay in theirs." default:"1"`
	Mode      spread.Mode     `help:"kube-proxy's mode: iptables or nftables." enum:"iptables,nftables" default:"iptables"`
	Timeout   time.Duration   `help:"The timeout of ClientIP affinity." default:"3h"`
	ListSize  int             `help:"Client addresses that a node remembers for an endpoint; 0 is the mode's own." default:"0"`

	QPS      float64         `name:"qps" help:"Queries a second of all clients together." default:"1500"`
	Window   time.Duration   `help:"How long the load is measured." default:"2s"`
	Arrivals spread.Arrivals `help:"random, or turns as load generators do." enum:"random,turns" default:"random"`

	MaxSurge       spread.Count  `help:"Of the rollout, as a Deployment's." default:"25%"`
	MaxUnavailable spread.Count  `help:"Of the rollout, as a Deployment's." default:"25%"`
	PodReady       time.Duration `help:"How long a new pod takes until it is ready." default:"10s"`
	Retries        int           `help:"How often a client repeats a query that failed." default:"2"`
	Detect         time.Duration `help:"How long a silent endpoint stays listed." default:"30s"`
	QueryTimeout   time.Duration `help:"When a query has failed." default:"5s"`
	FlowTimeout    time.Duration `help:"How long connection tracking keeps a flow of UDP." default:"30s"`
	ConntrackMax   int           `help:"How many entries a node tracks at most." default:"262144"`

	Runs   int    `help:"How many runs are simulated." default:"1000"`
	Seed   uint64 `help:"Equal seeds give equal predictions; 0 draws one, which is printed." default:"0"`
	Report string `help:"Also write a report with plots, one HTML page." placeholder:"FILE" type:"path" default:""`
	Output string `help:"Output format: text or json." enum:"text,json" default:"text" short:"o"`
}

// Run predicts and prints.
func (c clientipPredict) Run(ctx context.Context) error {
	s, err := c.scenario()
	if err != nil {
		return usageError{err}
	}
	var progress spread.Progress
	done := showProgress(&progress)
	p, err := spread.Predict(ctx, s, &progress)
	done()
	var field *spread.FieldError
	switch {
	case errors.As(err, &field):
		return usageError{fmt.Errorf("--%w", field)}
	case err != nil:
		return err
	}
	if err := c.writeReport(p); err != nil {
		return err
	}
	if c.Output == "json" {
		return printJSON(os.Stdout, p)
	}
	return report.WriteText(os.Stdout, p)
}

func (c clientipPredict) writeReport(p *spread.Prediction) error {
	if c.Report == "" {
		return nil
	}
	var b bytes.Buffer
	if err := report.Write(&b, p); err != nil {
		return err
	}
	if err := os.WriteFile(c.Report, b.Bytes(), 0o644); err != nil {
		return fmt.Errorf("writing the report: %w", err)
	}
	return nil
}

// scenario reads the flags and the files that they name. [spread.Predict] checks the rest.
func (c clientipPredict) scenario() (spread.Scenario, error) {
	s := spread.DefaultScenario()
	s.Endpoints, s.Nodes, s.Zones, s.Mode, s.Timeout, s.ListSize = c.Endpoints, c.Nodes, c.Zones, c.Mode, c.Timeout, c.ListSize
	s.Rate, s.Window, s.Arrivals = c.QPS, c.Window, c.Arrivals
	s.MaxSurge, s.MaxUnavailable, s.PodReady = c.MaxSurge, c.MaxUnavailable, c.PodReady
	s.Retries, s.Detect, s.QueryTimeout = c.Retries, c.Detect, c.QueryTimeout
	s.FlowTimeout, s.ConntrackMax, s.Runs, s.Seed = c.FlowTimeout, c.ConntrackMax, c.Runs, c.Seed
	if len(c.Policy) > 0 {
		s.Policies = c.Policy
	}
	for s.Seed == 0 {
		s.Seed = uint64(rand.Uint32())
	}
	if c.Sockets != "fresh" {
		n, err := strconv.Atoi(c.Sockets)
		if err != nil || n < 1 {
			return s, fmt.Errorf("--sockets: got %q, expected fresh or a number from 1 to %d", c.Sockets, spread.MaxSockets)
		}
		s.Sockets = n
	}
	return s, c.addClients(&s)
}

// addClients takes the clients from where the flags say.
func (c clientipPredict) addClients(s *spread.Scenario) (err error) {
	switch {
	case c.Service != "" && c.Conntrack == "":
		return errors.New("--service: expected --conntrack with it")
	case c.WeightsFile != "":
		return c.readWeights(s)
	case c.Conntrack != "":
		var service spread.Flow
		if service, err = parseFlow(c.Service); err != nil {
			return err
		}
		err = withFile(c.Conntrack, func(r io.Reader, name string) (err error) {
			s.Clients, err = spread.ReadConntrack(r, name, service)
			return err
		})
	default:
		s.Clients, err = c.madeClients()
	}
	if err == nil {
		spread.Distribute(s.Clients, c.Nodes, c.Zones)
	}
	return err
}

// readWeights takes nodes and zones from the file too if it names them.
func (c clientipPredict) readWeights(s *spread.Scenario) error {
	var places spread.Placement
	err := withFile(c.WeightsFile, func(r io.Reader, name string) (err error) {
		s.Clients, places, err = spread.ReadWeights(r, name)
		return err
	})
	if err != nil {
		return err
	}
	if places.Nodes == 0 {
		spread.Distribute(s.Clients, c.Nodes, c.Zones)
		return nil
	}
	if c.Nodes != 1 {
		return fmt.Errorf("--nodes: got %d, expected none: %s names the nodes", c.Nodes, c.WeightsFile)
	}
	s.Nodes = places.Nodes
	switch {
	case places.Zones == 0:
		for i := range s.Clients {
			s.Clients[i].Zone = s.Clients[i].Node % max(1, c.Zones)
		}
	case c.Zones != 1:
		return fmt.Errorf("--zones: got %d, expected none: %s names the zones", c.Zones, c.WeightsFile)
	default:
		s.Zones = places.Zones
	}
	return nil
}

// madeClients makes clients by number and kind.
func (c clientipPredict) madeClients() ([]spread.Client, error) {
	n := c.Clients
	if n == 0 {
		n = 50
	}
	kind, exponent, given := strings.Cut(c.Weights, ":")
	power := 1.0
	if given {
		var err error
		if power, err = strconv.ParseFloat(exponent, 64); err != nil || !(power > 0 && power <= 3) || kind != "zipf" {
			kind = ""
		}
	}
	switch {
	case n < 1 || n > spread.MaxClients:
		return nil, fmt.Errorf("--clients: got %d, expected a number from 1 to %d", n, spread.MaxClients)
	case kind == "equal":
		return spread.Equal(n), nil
	case kind == "zipf":
		clients := spread.Zipf(n, power)
		return clients, nil
	}
	return nil, fmt.Errorf("--weights: got %q, expected equal, zipf, or zipf:EXPONENT with an exponent above 0 and up to 3", c.Weights)
}

// parseFlow reads ADDRESS[:PORT[/PROTOCOL]].
func parseFlow(text string) (f spread.Flow, err error) {
	if text == "" {
		return f, nil
	}
	address, protocol, _ := strings.Cut(text, "/")
	f.Protocol = strings.ToLower(protocol)
	wrong := fmt.Errorf("--service: got %q, expected ADDRESS, ADDRESS:PORT or ADDRESS:PORT/PROTOCOL, such as 10.96.0.10:53/udp", text)
	if f.Protocol != "" && f.Protocol != "udp" && f.Protocol != "tcp" && f.Protocol != "sctp" {
		return f, wrong
	}
	if f.Address, err = netip.ParseAddr(address); err == nil {
		return f, nil
	}
	to, err := netip.ParseAddrPort(address)
	if err != nil {
		return f, wrong
	}
	f.Address, f.Port = to.Addr().Unmap(), to.Port()
	return f, nil
}

// withFile opens a file, or the standard input for "-".
func withFile(name string, read func(r io.Reader, name string) error) error {
	if name == "-" {
		return read(os.Stdin, "standard input")
	}
	f, err := os.Open(name)
	if err != nil {
		return fmt.Errorf("reading clients: %w", err)
	}
	defer f.Close()
	return read(f, name)
}

// showProgress draws a bar on the standard error, if that is a terminal and it takes longer than a moment. The function that it returns
// removes the bar and waits until nothing is drawn any more.
func showProgress(p *spread.Progress) (done func()) {
	if s, err := os.Stderr.Stat(); err != nil || s.Mode()&os.ModeCharDevice == 0 {
		return func() {}
	}
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		drawProgress(os.Stderr, p, stop)
	}()
	return func() {
		close(stop)
		<-stopped
	}
}

func drawProgress(w io.Writer, p *spread.Progress, stop <-chan struct{}) {
	const columns, moment = 40, 300 * time.Millisecond
	tick := time.NewTicker(moment)
	defer tick.Stop()
	drawn := false
	for {
		select {
		case <-stop:
			if drawn {
				fmt.Fprint(w, "\r\x1b[K")
			}
			return
		case <-tick.C:
			full := int(p.Share() * columns)
			fmt.Fprintf(w, "\rsimulating [%s%s] %3.0f %%", strings.Repeat("#", full), strings.Repeat(".", columns-full), 100*p.Share())
			drawn = true
		}
	}
}
