package checker

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// keptMisroutes bounds how many misroutes a report describes; all are counted.
const keptMisroutes = 20

// A Report is the outcome of [Check].
type Report struct {
	Requests  int // observations
	Answered  int // of them by a replica
	Sessions  int
	Flows     int
	Moves     map[Cause]int // of sessions, as seen by their clients
	FlowMoves map[Cause]int

	Misrouted int        // answers that break the rule
	Misroutes []Misroute // the first of them
	Repeated  int        // answers whose count shows that a request reached a replica twice

	Afresh    int // sessions and flows asked for, during an outage of the store, through a gateway that did not know them
	Forgotten int // sessions and flows that no gateway knew when the store was emptied
	// Outvoted counts sessions and flows that came to where a gateway had placed them without the store, which was emptied, although
	// their holder was valid and another gateway knew it: whoever offers its binding first wins.
	Outvoted int
	Late     int // answers by the holder before, within the cache allowance
}

// A Misroute is an answer that no history of one holder explains.
type Misroute struct {
	Name   string // the session's or flow's
	Flow   bool
	Before []Observation // the last answers before, oldest first
	Got    Observation
	Why    string
}

// String returns the misroute in several lines.
func (m Misroute) String() string {
	kind := "session"
	if m.Flow {
		kind = "flow"
	}
	var b strings.Builder
	fmt.Fprintf(&b, "%s %s: %s\n", kind, m.Name, m.Why)
	for _, o := range m.Before {
		fmt.Fprintf(&b, "  before %s\n", o.String())
	}
	fmt.Fprintf(&b, "  got    %s", m.Got.String())
	return b.String()
}

// OK reports whether nothing broke the rule.
func (r *Report) OK() bool { return r.Misrouted == 0 && r.Repeated == 0 }

func (r *Report) add(m Misroute) {
	r.Misrouted++
	if len(r.Misroutes) < keptMisroutes {
		r.Misroutes = append(r.Misroutes, m)
	}
}

// String returns the figures, a line each, and then the misroutes.
func (r *Report) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "requests        %d, %d of them answered by a replica\n", r.Requests, r.Answered)
	fmt.Fprintf(&b, "sessions        %d, flows %d\n", r.Sessions, r.Flows)
	for _, c := range slices.Sorted(maps.Keys(r.Moves)) {
		fmt.Fprintf(&b, "sessions moved  %d by %s\n", r.Moves[c], c)
	}
	for _, c := range slices.Sorted(maps.Keys(r.FlowMoves)) {
		fmt.Fprintf(&b, "flows moved     %d by %s\n", r.FlowMoves[c], c)
	}
	fmt.Fprintf(&b, "excused         %d asked for without a store at a gateway that did not know them, %d forgotten by all, %d outvoted, "+
		"%d late answers\n", r.Afresh, r.Forgotten, r.Outvoted, r.Late)
	fmt.Fprintf(&b, "repeated        %d\n", r.Repeated)
	fmt.Fprintf(&b, "misroutes       %d\n", r.Misrouted)
	for _, m := range r.Misroutes {
		fmt.Fprintln(&b, m)
	}
	return b.String()
}

// Check judges observations by the event log. Both may be in any order; neither is changed.
func Check(events []Event, observations []Observation, allow Allowances) *Report {
	w := newWorld(events, allow)
	report := &Report{Requests: len(observations), Moves: map[Cause]int{}, FlowMoves: map[Cause]int{}}
	sessions, flows := map[string][]request{}, map[string][]request{}
	for i := range observations {
		o := &observations[i]
		if o.Answered() {
			report.Answered++
		}
		if o.Session != "" {
			sessions[o.Session] = append(sessions[o.Session], request{Observation: o, answer: w.answer(o)})
		}
		if o.Flow != "" {
			flows[o.Flow] = append(flows[o.Flow], request{Observation: o})
		}
	}
	report.Sessions, report.Flows = len(sessions), len(flows)
	chose := map[*Observation]bool{}
	for _, name := range slices.Sorted(maps.Keys(sessions)) {
		w.noteChoices(sessions[name], chose)
		repeats(sessions[name], report)
		w.disagreements(name, sessions[name], report)
		h := history{w: w, report: report, name: name}
		h.run(sessions[name])
	}
	for _, name := range slices.Sorted(maps.Keys(flows)) {
		requests := flows[name]
		for i := range requests {
			// Where a session that is known already decides, the answer does not say who holds the flow.
			switch r := &requests[i]; {
			case !r.Answered():
			case r.Session == "" || chose[r.Observation]:
				r.answer = w.revision(r.Revision)
			default:
				r.brings = w.revision(r.Revision)
			}
		}
		h := history{w: w, report: report, name: name, flow: true}
		h.run(requests)
	}
	return report
}

// answer returns who answered. One that the log does not list is taken as never valid.
func (w *world) answer(o *Observation) *subject {
	if !o.Answered() {
		return nil
	}
	return w.endpoint(o.Endpoint)
}

// noteChoices notes which of a session's requests had its revision chosen, so that the flow, if there is one, decided: the first,
// and one that was answered by a revision that had not answered before. Those are left out of which nobody can say it, because
// others were under way, a cache may have been late, or the store was lost.
func (w *world) noteChoices(requests []request, chose map[*Observation]bool) {
	inOrder := slices.Clone(requests)
	slices.SortStableFunc(inOrder, func(a, b request) int { return cmp.Compare(a.Start, b.Start) })
	seen := map[string]bool{}
	ended := always
	for i := range inOrder {
		o := inOrder[i].Observation
		alone := (i == 0 || ended+w.allow.Cache < o.Start) && (i+1 == len(inOrder) || o.End < inOrder[i+1].Start)
		if i > 0 {
			before := inOrder[i-1].Observation
			alone = alone && before.Answered() && w.outageAt(before.Start, o.End) == nil
		}
		if alone && o.Answered() && !seen[o.Revision] {
			chose[o] = true
		}
		seen[o.Revision] = true
		ended = max(ended, o.End)
	}
}
