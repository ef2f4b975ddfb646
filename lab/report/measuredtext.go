package report

import (
	"fmt"
	"io"
	"math"
	"text/tabwriter"

	"github.com/limpet-project/limpet/lab/experiment"
)

// WriteMeasuredText writes what an experiment showed as tables for a terminal.
func WriteMeasuredText(w io.Writer, r *experiment.Result) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintf(t, "Measured in %s on Linux %s; seed %d. Intervals: where the mean of so many runs lies in 95 %% of cases, by theory\n",
		r.Took, r.Kernel, r.Seed)
	for _, part := range []struct {
		title string
		cells []experiment.CellResult
		moved bool
	}{
		{"How uneven the load is", r.Cells, false},
		{"When lists overflow: clients ask in turns", r.Cliff, true},
		{"With dnsperf as the load", r.DNSPerf, false},
	} {
		if len(part.cells) > 0 {
			fmt.Fprintf(t, "\n%s\n", part.title)
			writeCells(t, part.cells, part.moved)
		}
	}
	if len(r.Trials) > 0 {
		fmt.Fprintln(t, "\nFaults\nFAULT\tARM\tRUNS\tFIGURE\tMEASURED\tTHEORY\tINTERVAL\t")
	}
	for _, trial := range r.Trials {
		for _, f := range trial.Figures {
			fmt.Fprintf(t, "%s\t%s\t%d\t%s\t%s\t%s\t%s\t%s\n", trial.Fault, trial.Arm, trial.Runs, f.Name, number(f.Mean), theory(f), byTheory(f), mark(f))
		}
	}
	fmt.Fprintln(t)
	for _, v := range r.Verdicts {
		for _, line := range v.Text {
			fmt.Fprintln(t, line)
		}
	}
	return t.Flush()
}

func writeCells(t io.Writer, cells []experiment.CellResult, moved bool) {
	header := "CLIENTS\tARM\tRUNS\tCV\tTHEORY\tINTERVAL\tRATIO\tMAX/MEAN\tTHEORY\t"
	if moved {
		header = "CLIENTS\tARM\tRUNS\tMOVED\tTHEORY\tINTERVAL\t\tCV\tTHEORY\t"
	}
	fmt.Fprintln(t, header)
	for i := range cells {
		c := &cells[i]
		first, second, quotient := c.Variation, c.MaxOverMean, ratio(c.Variation)
		if moved {
			first, second, quotient = *c.Moved, c.Variation, ""
		}
		fmt.Fprintf(t, "%s\t%s\t%d\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n", c.Shape, c.Arm, c.Runs, number(first.Mean), theory(first), byTheory(first),
			quotient, number(second.Mean), theory(second), validity(c))
	}
}

// validity says what is wrong with a cell, if anything is.
func validity(c *experiment.CellResult) string {
	switch {
	case !c.Valid():
		return fmt.Sprintf("not valid: %d queries lost", c.Lost)
	case c.Moved != nil && !c.Moved.Inside():
		return "clients that moved outside"
	case !c.Variation.Inside():
		return "CV outside"
	}
	return ""
}

// mark says that a figure is not where the theory has it.
func mark(f experiment.Figure) string {
	if f.Inside() {
		return ""
	}
	return "outside"
}

// theory prints what a figure should be.
func theory(f experiment.Figure) string {
	return orDash(f.Theory != nil, func() string {
		if f.Theory.AtMost {
			return "≤ " + number(f.Theory.Value)
		}
		return number(f.Theory.Value)
	})
}

// byTheory prints where the mean should be.
func byTheory(f experiment.Figure) string {
	if f.Theory == nil || f.Theory.AtMost {
		return "–"
	}
	return fmt.Sprintf("%s–%s", number(f.Theory.Low), number(f.Theory.High))
}

// ratio prints measured relative to predicted.
func ratio(f experiment.Figure) string {
	q := f.Ratio()
	return orDash(!math.IsNaN(q), func() string { return fmt.Sprintf("%.2f", q) })
}
