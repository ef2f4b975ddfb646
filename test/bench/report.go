package main

import (
	"fmt"
	"io"
	"math/rand/v2"
	"text/tabwriter"

	"github.com/limpet-project/limpet/test/bench/stats"
)

// The most that stickiness may cost, as ratios of processor time for each request.
const (
	mostForMemory = 1.05 // bindings in memory, to limpet without affinity
	mostForLimpet = 1.10 // limpet without affinity, to the standard library's proxy
)

// report prints the table and how it compares to what was promised.
func report(out io.Writer, rng *rand.Rand, all []*subject) {
	bare, off := all[0], all[1]
	w := tabwriter.NewWriter(out, 0, 8, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(w, "subject\tµs CPU/request\tCV\tto off [95 %]\tto bare [95 %]\trequests/s\tCV\tto off [95 %]\t")
	estimates := map[string]stats.Estimate{}
	for _, s := range all {
		toOff, toBare := stats.Ratio(rng, s.cpu, off.cpu), stats.Ratio(rng, s.cpu, bare.cpu)
		estimates[s.name+"/off"], estimates[s.name+"/bare"] = toOff, toBare
		fmt.Fprintf(w, "%s\t%.1f\t%.1f%%\t%v\t%v\t%.0f\t%.1f%%\t%v\t\n", s.name, stats.Median(s.cpu), 100*stats.Variation(s.cpu), toOff, toBare,
			stats.Median(s.rate), 100*stats.Variation(s.rate), stats.Ratio(rng, s.rate, off.rate))
	}
	w.Flush()
	fmt.Fprintln(out, "CV is the variation from round to round: the noise of this machine. Ratios are medians of the ratios within rounds.")
	verdict(out, "bindings in memory cost at most 1.05 × off", estimates["memory/off"], mostForMemory)
	verdict(out, "limpet without affinity costs at most 1.10 × ReverseProxy", estimates["off/bare"], mostForLimpet)
}

// verdict compares the upper bound with the promise: only what the noise cannot have made counts as kept.
func verdict(out io.Writer, promise string, e stats.Estimate, most float64) {
	word := "PASS"
	if e.High > most {
		word = "MISS"
	}
	fmt.Fprintf(out, "%s  %s: %v\n", word, promise, e)
}
