package main

import (
	"bufio"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"

	"github.com/limpet-project/limpet/affinity"
	"github.com/limpet-project/limpet/lab/clientip"
)

// mostRows is how many flows or clients of a kind are printed for people.
const mostRows = 10

// printClientIP writes a report for people.
func printClientIP(to io.Writer, r clientip.Report) error {
	w := bufio.NewWriter(to)
	for i, s := range r.Services {
		if i > 0 {
			fmt.Fprintln(w)
		}
		printClientIPService(w, s)
	}
	if len(r.Services) == 0 {
		fmt.Fprintln(w, "no Service has affinity to client addresses")
	}
	for _, n := range r.Notes {
		fmt.Fprintf(w, "note: %s\n", n)
	}
	return w.Flush()
}

func printClientIPService(w io.Writer, s clientip.ServiceReport) {
	affine := "no affinity"
	if s.Timeout > 0 {
		affine = "affinity for " + s.Timeout.String()
	}
	var fronts []string
	for _, f := range s.Fronts {
		fronts = append(fronts, f.Kind+" "+f.String())
	}
	fmt.Fprintf(w, "%s %s %s, %s, %s: %s\n", s.ServicePort, s.Protocol, s.Family, s.Mode, affine, orDash(strings.Join(fronts, ", ")))
	printClientIPEndpoints(w, s)
	for _, text := range s.Warnings {
		fmt.Fprintf(w, "  warning: %s\n", text)
	}
	for _, f := range s.Flows[:min(mostRows, len(s.Flows))] {
		fmt.Fprintf(w, "  stale: %s from %s to %s is answered by %s\n", f.Protocol, f.Client, f.Destination, f.Server)
	}
	printMore(w, s.Stale)
	for _, c := range s.SplitSome[:min(mostRows, len(s.SplitSome))] {
		fmt.Fprintf(w, "  split: %s goes to %s by %s, and to %s by %s\n", c.Client, c.Endpoint, s.Protocol, c.To, c.Other.Protocol)
	}
	printMore(w, s.Split)
	for _, n := range s.Next {
		printNext(w, s, n)
	}
}

func printMore(w io.Writer, total int) {
	if total > mostRows {
		fmt.Fprintf(w, "  and %d more; -o json has up to 100\n", total-mostRows)
	}
}

func printClientIPEndpoints(w io.Writer, s clientip.ServiceReport) {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "  ENDPOINT\tPOD\tSTATE\tCLIENTS\tLIST\tFIRST ENDS IN\tLAST ENDS IN")
	for _, e := range s.Endpoints {
		list := "-"
		if s.Timeout > 0 {
			list = fmt.Sprint(e.Entries)
			if e.Limit > 0 {
				list = fmt.Sprintf("%d/%d", e.Entries, e.Limit)
			}
		}
		fmt.Fprintf(t, "  %s\t%s\t%s\t%d\t%s\t%s\t%s\n",
			e.Address, orDash(e.Pod), orDash(e.State), e.Clients, list, ends(e.FirstEnd), ends(e.LastEnd))
		for _, c := range e.Held {
			fmt.Fprintf(t, "    %s\t\t\t\t\t%s\t\n", c.Client, ends(c.Ends))
		}
	}
	t.Flush() // to a buffer; its own Flush reports errors
}

func ends(d *affinity.Duration) string {
	if d == nil {
		return "-"
	}
	return d.String()
}

// printNext says where a client goes.
func printNext(w io.Writer, s clientip.ServiceReport, n clientip.Next) {
	via := ""
	if len(s.Next) > 1 {
		via = " by " + n.Chain
	}
	switch {
	case n.Refused:
		fmt.Fprintf(w, "  %s goes nowhere: the Service has no endpoints\n", n.Client)
	case n.Rule != nil && n.Unknown && n.Ends == nil:
		fmt.Fprintf(w, "  %s goes to %s%s next if its entry has not expired\n    by %s\n", n.Client, n.Endpoint, via, n.Rule)
	case n.Rule != nil && n.Ends != nil:
		fmt.Fprintf(w, "  %s goes to %s%s next; it is stuck for %s unless it connects again\n    by %s\n", n.Client, n.Endpoint, via, n.Ends, n.Rule)
	case n.Rule != nil:
		fmt.Fprintf(w, "  %s goes to %s%s next, the only endpoint\n    by %s\n", n.Client, n.Endpoint, via, n.Rule)
	}
	if len(n.Odds) > 0 {
		stuck := "is not stuck"
		if n.Unknown {
			stuck = "may be stuck; if it is not"
		}
		fmt.Fprintf(w, "  %s %s%s, it is drawn by lot:\n", n.Client, stuck, via)
		for _, o := range n.Odds {
			fmt.Fprintf(w, "    %5.1f %%  %s by %s\n", 100*o.Probability, o.Endpoint, o.Rule)
		}
	}
}
