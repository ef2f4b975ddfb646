// Command judge reads what a run did and observed as JSON and lets the checker of the soak test judge it. It is built with the
// project's own module, which the test cluster's does not depend on.
package main

import (
	"encoding/json"
	"fmt"
	"os"
	"time"

	"github.com/limpet-project/limpet/test/soak/checker"
)

// A run is what the test writes.
type run struct {
	Events []struct {
		checker.Event
		Kind string // in place of the checker's number
	}
	Observations []checker.Observation
	Allow        checker.Allowances
}

func main() {
	var r run
	if err := json.NewDecoder(os.Stdin).Decode(&r); err != nil {
		fmt.Fprintln(os.Stderr, "judge: reading the run:", err)
		os.Exit(2)
	}
	kinds := map[string]checker.Kind{}
	for k := checker.Added; k.String() != "unknown"; k++ {
		kinds[k.String()] = k
	}
	var events []checker.Event
	for _, e := range r.Events {
		e.Event.Kind = kinds[e.Kind]
		if e.Event.Kind == 0 {
			fmt.Fprintf(os.Stderr, "judge: no kind of event is called %q\n", e.Kind)
			os.Exit(2)
		}
		events = append(events, e.Event)
	}
	report := checker.Check(events, r.Observations, r.Allow)
	fmt.Print(report)
	unexplained := checker.Unexplained(events, r.Observations, time.Second)
	fmt.Printf("unexplained     %d failures\n", len(unexplained))
	for _, o := range unexplained[:min(len(unexplained), 20)] {
		fmt.Println(" ", o.String(), o.Session, o.Flow)
	}
	if !report.OK() || len(unexplained) > 0 {
		os.Exit(1)
	}
}
