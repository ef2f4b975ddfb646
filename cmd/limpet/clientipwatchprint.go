package main

import (
	"bufio"
	"bytes"
	"cmp"
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/limpet-project/limpet/lab/flow"
)

// home clears the terminal from its first place on.
const home = "\x1b[H\x1b[J"

// A screen is the size of a terminal.
type screen struct{ rows, columns int }

// drawWatch draws an interval anew on a terminal. Lines for which it has no room are counted.
func drawWatch(to io.Writer, v flow.Interval, on screen) error {
	var all bytes.Buffer
	fmt.Fprintf(&all, "%s  new connections by %s, spread over %s; conntrack %s; clients %d of %d\n",
		v.Time.Format("15:04:05"), v.Source, span(v.Window), fill(v.Conntrack), v.Clients.Tracked, v.Clients.Limit)
	for _, text := range watchWarnings(v) {
		fmt.Fprintf(&all, "note: %s\n", text)
	}
	if len(v.Services) == 0 {
		fmt.Fprintln(&all, "no Service has affinity to client addresses")
	}
	for _, s := range busiest(v.Services) {
		fmt.Fprintf(&all, "\n%s\n", watchLine(s))
		if s.Timeout > 0 {
			fmt.Fprintf(&all, "  %s\n", movesLine(s))
		}
		drawEndpoints(&all, s)
	}
	return on.fit(to, all.String())
}

// fit writes as much as the screen has room for, with the last row for the cursor.
func (on screen) fit(to io.Writer, text string) error {
	w := bufio.NewWriter(to)
	w.WriteString(home)
	lines := strings.Split(strings.TrimSuffix(text, "\n"), "\n")
	if room := max(on.rows-2, 1); len(lines) > room+1 {
		lines = append(lines[:room], fmt.Sprintf("and %d more lines; name a Service to see it alone", len(lines)-room))
	}
	for _, line := range lines {
		if runes := []rune(line); len(runes) > on.columns {
			line = string(runes[:max(on.columns-1, 0)]) + "…"
		}
		fmt.Fprintln(w, line)
	}
	return w.Flush()
}

// busiest returns Services by their rate, the highest first.
func busiest(all []flow.ServiceRate) []flow.ServiceRate {
	all = slices.Clone(all)
	slices.SortStableFunc(all, func(a, b flow.ServiceRate) int { return cmp.Compare(b.Rate, a.Rate) })
	return all
}

func drawEndpoints(w io.Writer, s flow.ServiceRate) {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(t, "ENDPOINT\tNEW/S\tSHARE\tFLOWS\tLIST\t")
	for _, e := range s.Endpoints {
		list, out := "-", ""
		if s.Timeout > 0 {
			list = fill(e.List)
		}
		if e.Out {
			list, out = "-", "  not in the rules"
		}
		fmt.Fprintf(t, "%s\t%.1f\t%.0f %%\t%d\t%s\t%s\n", e.Address, e.Rate, 100*e.Share, e.Flows, list, out)
	}
	t.Flush() // to a buffer
}

// printWatch writes a line for each Service, for files and pipes, and one for each warning that was not told in the interval before. It
// returns the warnings.
func printWatch(to io.Writer, v flow.Interval, told []string) ([]string, error) {
	w := bufio.NewWriter(to)
	at := v.Time.Format("15:04:05")
	for _, s := range v.Services {
		line := watchLine(s)
		if s.Timeout > 0 {
			line += ", " + movesLine(s) + ", fullest list " + fill(fullest(s))
		}
		fmt.Fprintf(w, "%s %s, conntrack %s\n", at, line, fill(v.Conntrack))
	}
	warnings := watchWarnings(v)
	for _, text := range warnings {
		if !slices.Contains(told, text) {
			fmt.Fprintf(w, "%s note: %s\n", at, text)
		}
	}
	return warnings, w.Flush()
}

// watchLine says how a Service's flows spread.
func watchLine(s flow.ServiceRate) string {
	line := fmt.Sprintf("%s %s %s: %.1f new/s", s.ServicePort, s.Protocol, s.Family, s.Rate)
	if s.Spread != nil {
		line += fmt.Sprintf(", variation %.2f", s.Spread.Variation)
		if s.Timeout > 0 {
			line += fmt.Sprintf(" (expected %.2f)", s.Spread.Expected)
		}
		line += fmt.Sprintf(", max/mean %.2f, effective clients %.1f", s.Spread.MaxOverMean, s.Spread.Effective)
	}
	return line
}

// movesLine says which clients affinity did not keep. The causes are those of flows, known when rules are read next.
func movesLine(s flow.ServiceRate) string {
	return fmt.Sprintf("moved %d (in all: endpoint gone %d, forgotten %d)", s.Moved, s.Moves.Gone, s.Moves.Lost)
}

// fullest returns the list that has the least room.
func fullest(s flow.ServiceRate) flow.Fill {
	var most flow.Fill
	for _, e := range s.Endpoints {
		if e.List.Part() >= most.Part() && !e.Out {
			most = e.List
		}
	}
	return most
}

// watchWarnings says what is not known, and what is wrong.
func watchWarnings(v flow.Interval) []string {
	all := slices.Clone(v.Notes)
	if v.Overruns > 0 {
		all = append(all, fmt.Sprintf("new connections came faster than they could be read, %d times: rates are too low", v.Overruns))
	}
	if n := v.Clients.Forgotten; n > 0 {
		all = append(all, fmt.Sprintf("%d clients were forgotten for others: moves are missed and effective clients are too few; raise --clients", n))
	}
	for _, s := range v.Services {
		if f := fullest(s); f.Part() >= 0.8 {
			all = append(all, fmt.Sprintf("%s %s: a list of clients is %.0f %% full; what has no room is forgotten", s.ServicePort, s.Protocol, 100*f.Part()))
		}
	}
	return all
}

func fill(f flow.Fill) string {
	if f.Limit == 0 {
		return fmt.Sprint(f.Entries)
	}
	return fmt.Sprintf("%d/%d", f.Entries, f.Limit)
}

func span(seconds float64) string { return fmt.Sprintf("%gs", seconds) }
