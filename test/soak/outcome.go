package main

import (
	"fmt"
	"io"
	"time"

	"github.com/limpet-project/limpet/test/soak/checker"
)

// killSlack is how long after a kill, or after a gateway's return, a request may fail because of it: connections that were open
// are found dead one by one, on a machine that is busy.
const killSlack = time.Second

// An outcome is what came of a run.
type outcome struct {
	report      *checker.Report
	events      map[checker.Kind]int
	unexplained []checker.Observation
	errors      int64 // 5xx
	broken      int64 // connections, each followed by an attempt at the other gateway
	lost        int64 // requests given up
	rate        float64
}

// ok reports whether sessions were kept and every failure has a reason.
func (o *outcome) ok() bool { return o.report.OK() && len(o.unexplained) == 0 && o.lost == 0 }

// judge has the checker judge a run and prints the figures.
func judge(o *options, f *fleet, l *load, took time.Duration, out io.Writer) *outcome {
	seen := l.observations()
	v := &outcome{
		report: checker.Check(f.events, seen, o.allow), events: map[checker.Kind]int{},
		unexplained: checker.Unexplained(f.events, seen, killSlack),
		errors:      l.errors.Load(), broken: l.broken.Load(), lost: l.lost.Load(), rate: float64(l.ended.Load()) / took.Seconds(),
	}
	fmt.Fprintln(out, "events:")
	for _, e := range f.events {
		if e.From >= 0 {
			fmt.Fprintln(out, " ", e)
			v.events[e.Kind]++
		}
	}
	fmt.Fprintf(out, "took            %.1fs, %.0f requests/s, seed %d\n", took.Seconds(), v.rate, o.seed)
	fmt.Fprintf(out, "5xx             %d; %d broken connections, asked again elsewhere; %d requests given up\n", v.errors, v.broken, v.lost)
	fmt.Fprintf(out, "unexplained     %d\n", len(v.unexplained))
	for _, u := range v.unexplained[:min(len(v.unexplained), 20)] {
		fmt.Fprintf(out, "  %s %s %s\n", u.Session, u.Flow, u.String())
	}
	fmt.Fprint(out, v.report)
	if v.ok() {
		fmt.Fprintln(out, "PASS")
	} else {
		fmt.Fprintln(out, "FAIL")
	}
	return v
}
