package main

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"time"

	"github.com/limpet-project/limpet/lab/experiment"
	"github.com/limpet-project/limpet/lab/report"
)

// clientipLab measures in network namespaces what clientip predict predicts.
type clientipLab struct {
	Preset    experiment.Preset  `help:"quick, reference, cliff, blackhole or faults." enum:"quick,reference,cliff,blackhole,faults," default:""`
	Cells     []experiment.Shape `help:"A table of clients, weights and sockets instead, such as 50:zipf:reused." placeholder:"SHAPE" sep:","`
	Mode      []experiment.Mode  `help:"What serves: iptables, nftables (with and without affinity), limpet, or all." default:"all" sep:","`
	Dnsperf   bool               `help:"Also let dnsperf ask, as it is usually run: ten of it, a socket each."`
	Runs      int                `help:"How often each measurement is repeated; 0 is the preset's own. Fewer than 8 give no verdict." default:"0"`
	Endpoints int                `help:"How many endpoints there are in a table." default:"3"`
	Queries   int                `help:"How many queries all clients of a table send in one run." default:"600"`
	QPS       float64            `name:"qps" help:"How many queries a second are sent at most." default:"8000"`
	Seed      uint64             `help:"Of loads and simulations; the kernel draws without one. 0 draws one, which is printed." default:"0"`
	Out       string             `help:"Also write a report with plots, one HTML page." placeholder:"FILE" type:"path" default:""`
	Output    string             `help:"Output format: text or json." enum:"text,json" default:"text" short:"o"`
}

// Run measures and prints.
func (c clientipLab) Run(ctx context.Context) error {
	plan, err := c.plan()
	if err != nil {
		return usageError{err}
	}
	program, err := os.Executable()
	if err != nil {
		return fmt.Errorf("finding this program: %w", err)
	}
	for c.Seed == 0 {
		c.Seed = uint64(rand.Uint32())
	}
	r, err := experiment.Run(ctx, plan, experiment.Options{Program: program, Seed: c.Seed, Rate: c.QPS, Progress: progressLines(os.Stderr)})
	if err != nil {
		return err
	}
	if err := c.writeReport(r); err != nil {
		return err
	}
	if c.Output == "json" {
		return printJSON(os.Stdout, r)
	}
	return report.WriteMeasuredText(os.Stdout, r)
}

// plan reads the flags.
func (c clientipLab) plan() (experiment.Plan, error) {
	modes, err := c.modes()
	switch {
	case err != nil:
		return experiment.Plan{}, err
	case c.Runs < 0 || c.Runs > experiment.MaxRuns:
		return experiment.Plan{}, fmt.Errorf("--runs: got %d, expected 0 to %d", c.Runs, experiment.MaxRuns)
	case c.Queries < 1 || c.Queries > experiment.MaxQueries:
		return experiment.Plan{}, fmt.Errorf("--queries: got %d, expected 1 to %d", c.Queries, experiment.MaxQueries)
	case !(c.QPS >= 1 && c.QPS <= 1e6):
		return experiment.Plan{}, fmt.Errorf("--qps: got %v, expected 1 to 1000000", c.QPS)
	}
	if c.Preset != "" && len(c.Cells) > 0 {
		return experiment.Plan{}, errors.New("--cells: expected no --preset with it")
	}
	size := experiment.Sizes{Runs: c.Runs, Queries: c.Queries, Endpoints: c.Endpoints}
	plan := cmp.Or(c.Preset, experiment.Quick).Plan(modes, size, c.QPS)
	if len(c.Cells) > 0 {
		plan = experiment.Plan{Cells: experiment.Table(modes, c.Cells, size, c.QPS)}
	}
	if c.Dnsperf {
		plan.DNSPerf = experiment.DNSPerf(modes, size)
	}
	return plan, plan.Check()
}

func (c clientipLab) modes() ([]experiment.Mode, error) {
	var modes []experiment.Mode
	for _, m := range c.Mode {
		switch m {
		case "all":
			return experiment.Modes[:], nil
		case experiment.IPTables, experiment.NFTables, experiment.Limpet:
			modes = append(modes, m)
		default:
			return nil, fmt.Errorf("--mode: got %q, expected iptables, nftables, limpet or all", m)
		}
	}
	if len(modes) == 0 {
		return nil, errors.New("--mode: expected iptables, nftables, limpet or all")
	}
	return modes, nil
}

func (c clientipLab) writeReport(r *experiment.Result) error {
	if c.Out == "" {
		return nil
	}
	var b bytes.Buffer
	if err := report.WriteMeasured(&b, r); err != nil {
		return err
	}
	if err := os.WriteFile(c.Out, b.Bytes(), 0o644); err != nil {
		return fmt.Errorf("writing the report: %w", err)
	}
	return nil
}

// progressLines says what is measured, and about how long it takes still.
func progressLines(w io.Writer) func(done, total int, next string) {
	began := time.Now()
	return func(done, total int, next string) {
		left := ""
		if done > 0 {
			rest := time.Since(began) / time.Duration(done) * time.Duration(total-done)
			left = fmt.Sprintf(", about %s left", rest.Round(time.Second))
		}
		fmt.Fprintf(w, "[%d/%d%s] %s\n", done+1, total, left, next)
	}
}
