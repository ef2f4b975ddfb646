package serving

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"text/tabwriter"
)

// Names of the activators.
const (
	stock = "stock"
	ours  = "limpet"
)

// A table holds results by activator and by test, which is named with its suite.
type table map[string]map[string]result

// of returns the results with an activator.
func (t table) of(activator string) map[string]result {
	if t[activator] == nil {
		t[activator] = map[string]result{}
	}
	return t[activator]
}

// String returns a line for each test: its name, and how it ended after how many seconds with each activator.
func (t table) String() string {
	tests := map[string]bool{}
	for _, results := range t {
		for test := range results {
			tests[test] = true
		}
	}
	var b strings.Builder
	w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	fmt.Fprintf(w, "TEST\t%s\t%s\n", strings.ToUpper(stock), strings.ToUpper(ours))
	for _, test := range slices.Sorted(maps.Keys(tests)) {
		fmt.Fprintf(w, "%s\t%s\t%s\n", test, t.cell(stock, test), t.cell(ours, test))
	}
	w.Flush() // to memory
	return b.String()
}

// cell returns the outcome of a test and its seconds; an asterisk says that a first attempt, beside others, had failed.
func (t table) cell(activator, test string) string {
	r, found := t[activator][test]
	switch {
	case !found:
		return "-"
	case r.outcome == "":
		return "NONE"
	case r.again:
		return fmt.Sprintf("%s* %.0fs", r.outcome, r.took.Seconds())
	default:
		return fmt.Sprintf("%s %.0fs", r.outcome, r.took.Seconds())
	}
}
