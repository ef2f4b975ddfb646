package report

import (
	"fmt"
	"io"
	"text/tabwriter"

	"github.com/limpet-project/limpet/lab/spread"
)

// WriteText writes the prediction as tables for a terminal.
func WriteText(w io.Writer, p *spread.Prediction) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	s := &p.Scenario
	fmt.Fprintf(t, "%s, as uneven as %s of equal weight, on %s in %s; %s; %s\n", count(p.Clients, "client"), number(p.Effective),
		count(s.Nodes, "node"), count(s.Zones, "zone"), count(s.Endpoints, "endpoint"), sockets(s.Sockets))
	fmt.Fprintf(t, "%d runs of %v queries a second for %s; seed %d; in brackets 95 %% confidence intervals\n\n", s.Runs, s.Rate, s.Window, s.Seed)

	fmt.Fprintln(t, "POLICY\tCV BY FORMULA\tCV SIMULATED\tMAX/MEAN BY FORMULA\tMAX/MEAN SIMULATED\t1 RUN IN 20 ABOVE\tCLIENTS MOVED")
	for _, r := range p.Policies {
		v, m := r.Spread.Variation, r.Spread.MaxOverMean
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\t%s\t%s\n", r.Policy, formula(v), rms(v), formula(m), mean(m), number(m.Simulated.P95),
			moved(r.Spread.MovedClients))
	}
	writeRollout(t, p)
	writeOutage(t, p)

	c := p.Cliff
	fmt.Fprintf(t, "\nClientIP affinity in %s mode: the fullest node has %s, its lists hold %d addresses (%s)\n",
		s.Mode, count(c.Clients, "client"), c.Capacity, percent(c.Fill))
	n := p.Conntrack
	fmt.Fprintf(t, "Connection tracking: %.0f entries on the fullest node, %.0f with ports that are used again (simulated %.0f to %.0f), of %d (%s)\n",
		n.Entries, n.Expected, n.Simulated.P5, n.Simulated.P95, n.Max, percent(n.Fill))
	for _, warning := range p.Warnings {
		fmt.Fprintf(t, "Warning: %s\n", warning)
	}
	return t.Flush()
}

func writeRollout(t io.Writer, p *spread.Prediction) {
	fmt.Fprintf(t, "\nAfter a rollout with maxSurge %s and maxUnavailable %s\n", p.Scenario.MaxSurge, p.Scenario.MaxUnavailable)
	fmt.Fprintln(t, "POLICY\tLOAD OF NEW PODS, OLDEST FIRST\tBY FORMULA\tMAX/MEAN OF ONE ROLLOUT")
	for _, r := range p.Policies {
		byFormula := orDash(r.Rollout.Shares != nil, func() string { return pods(r.Rollout.Shares) })
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\n", r.Policy, pods(r.Rollout.Simulated), byFormula, mean(r.Rollout.MaxOverMean))
	}
}

func writeOutage(t io.Writer, p *spread.Prediction) {
	s := &p.Scenario
	fmt.Fprintf(t, "\nWhile one endpoint is silent for %s, and queries are repeated %s\n", s.Detect, count(s.Retries, "time"))
	fmt.Fprintln(t, "POLICY\tCLIENTS OUT\tBY FORMULA\tQUERIES FAILED\tBY FORMULA")
	for _, r := range p.Policies {
		out, failed := r.Outage.ClientsOut, r.Outage.FailedQueries
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\n", r.Policy, percent(out.Simulated.Mean), share(out.Formula),
			percent(failed.Simulated.Mean), share(failed.Formula))
	}
}
