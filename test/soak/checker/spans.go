package checker

import (
	"math"
	"slices"
	"sort"
	"time"
)

const (
	always = time.Duration(math.MinInt64)
	never  = time.Duration(math.MaxInt64)
)

// A span is a closed interval of time.
type span struct{ from, to time.Duration }

// spans are disjoint and sorted. nil is no time at all.
type spans []span

// overlap reports whether some moment of [from, to] lies in s.
func (s spans) overlap(from, to time.Duration) bool {
	i := sort.Search(len(s), func(i int) bool { return s[i].to >= from })
	return i < len(s) && s[i].from <= to
}

// A signal is a fact that changes over time, of which others learn late.
type signal struct {
	initial bool
	changes []change
}

// A change of a signal has no effect before from and is known everywhere by sure.
type change struct {
	from, sure time.Duration
	value      bool
}

func (s *signal) set(from, sure time.Duration, value bool) {
	s.changes = append(s.changes, change{from, sure, value})
}

// may reports whether somebody may take the signal for value at t: a state is possible from its beginning until a later one is sure.
func (s *signal) may(t time.Duration, value bool) bool {
	for i := len(s.changes) - 1; i >= 0; i-- {
		c := s.changes[i]
		if t >= c.from && c.value == value {
			return true
		}
		if t > c.sure {
			return false
		}
	}
	return s.initial == value
}

// edges returns the moments between which no signal changes, first and last included.
func edges(signals ...*signal) []time.Duration {
	at := []time.Duration{always, never}
	for _, s := range signals {
		for _, c := range s.changes {
			at = append(at, c.from, c.sure)
		}
	}
	slices.Sort(at)
	return slices.Compact(at)
}

// when returns the spans between edges in which is holds, as asked at one moment inside each.
func when(edges []time.Duration, is func(t time.Duration) bool) spans {
	var out spans
	for i := range len(edges) - 1 {
		from, to := edges[i], edges[i+1]
		if !is(inside(from, to)) {
			continue
		}
		if n := len(out); n > 0 && out[n-1].to == from {
			out[n-1].to = to
			continue
		}
		out = append(out, span{from, to})
	}
	return out
}

func inside(from, to time.Duration) time.Duration {
	switch {
	case from == always && to == never:
		return 0
	case from == always:
		return to - 1
	case to == never:
		return from + 1
	}
	return from + (to-from)/2
}
