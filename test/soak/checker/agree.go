package checker

import (
	"fmt"
	"slices"
	"time"
)

// disagreements reports sessions that began while the store was down and that gateways put in different places although all knew
// the same endpoints and weights: they choose alike without talking. One that brings a flow may have followed that.
func (w *world) disagreements(name string, requests []request, report *Report) {
	for _, o := range w.outages {
		var placed *request
		for _, r := range within(requests, o.down, o.back) {
			switch {
			case placed == nil:
				placed = r
			case placed.answer != r.answer && w.steady(min(placed.Start, r.Start), max(placed.End, r.End)):
				report.add(Misroute{
					Name: name, Before: []Observation{*placed.Observation}, Got: *r.Observation,
					Why: fmt.Sprintf("%s was chosen without the store, from the same endpoints", placed.answer.name),
				})
				return
			}
		}
	}
}

// within returns the answered requests that began and ended in [from, to] in the order of their beginnings, none if the session
// is older or brings a flow.
func within(requests []request, from, to time.Duration) []*request {
	var out []*request
	for i := range requests {
		r := &requests[i]
		if r.Start <= from || r.Flow != "" {
			return nil
		}
		if r.answer != nil && r.End < to {
			out = append(out, r)
		}
	}
	slices.SortFunc(out, func(a, b *request) int { return int(a.Start - b.Start) })
	return out
}

// steady reports whether all gateways know the same in [from, to].
func (w *world) steady(from, to time.Duration) bool {
	for _, subjects := range []map[string]*subject{w.endpoints, w.revisions} {
		for _, s := range subjects {
			for _, g := range []*signal{&s.listed, &s.alive, &s.undrained, &s.takes, &s.weighted} {
				if slices.ContainsFunc(g.changes, func(c change) bool { return c.from <= to && from <= c.sure }) {
					return false
				}
			}
		}
	}
	return true
}
