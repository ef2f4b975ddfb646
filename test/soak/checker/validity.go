package checker

import (
	"cmp"
	"slices"
	"time"
)

// A Cause says why a holder was no longer valid.
type Cause string

// The causes of moves.
const (
	CauseRemoved Cause = "endpoint removed"
	CauseKilled  Cause = "endpoint killed"
	CauseDrained Cause = "drain deadline"
	CauseWeight  Cause = "revision of weight 0"
	CauseStore   Cause = "store lost"
	CauseOther   Cause = "other"
)

// A subject is what can hold a session or flow: an endpoint or a revision.
type subject struct {
	name     string
	revision string // of an endpoint

	listed, alive, undrained, takes, weighted signal

	invalid spans // when it may have been invalid for those that it holds
	holds   spans // when it may have been valid for those that it holds
	places  spans // when it may have been open to new ones
	closed  spans // when it may have been closed to new ones
	causes  []causeSpans
}

type causeSpans struct {
	cause Cause
	spans spans
}

// cause says why the subject may have been invalid in [from, to].
func (s *subject) cause(from, to time.Duration) (Cause, bool) {
	for _, c := range s.causes {
		if c.spans.overlap(from, to) {
			return c.cause, true
		}
	}
	return "", false
}

// A world is what the event log says.
type world struct {
	allow     Allowances
	endpoints map[string]*subject
	revisions map[string]*subject
	outages   []outage
	starts    map[string][]time.Duration // by gateway, when its processes began
}

// An outage is a time without store: clients of it fork at lost, at the latest when it is down, may meet again from back on, and
// have met by settled.
type outage struct {
	lost, down, back, settled time.Duration
	emptied                   bool
}

func newWorld(events []Event, allow Allowances) *world {
	w := &world{
		allow: allow, endpoints: map[string]*subject{}, revisions: map[string]*subject{}, starts: map[string][]time.Duration{},
	}
	events = slices.Clone(events)
	slices.SortStableFunc(events, func(a, b Event) int { return cmp.Compare(a.From, b.From) })
	for _, e := range events {
		w.apply(e)
	}
	for _, r := range w.revisions {
		r.compile()
	}
	for _, e := range w.endpoints {
		if r := w.revisions[e.revision]; r != nil {
			e.weighted = r.weighted
		}
		e.compile()
	}
	return w
}

func (w *world) apply(e Event) {
	reload := e.To + w.allow.Reload
	switch e.Kind {
	case Added:
		s := w.endpoint(e.Endpoint)
		s.revision = e.Revision
		s.cancelDeadline(reload)
		sure := reload + w.allow.Recover
		s.listed.set(e.From, sure, true)
		s.takes.set(e.From, sure, true)
		s.undrained.set(e.From, sure, true)
	case Draining:
		s := w.endpoint(e.Endpoint)
		s.cancelDeadline(reload)
		s.takes.set(e.From, reload, false)
		if e.Until != 0 {
			s.undrained.set(e.Until, max(reload, e.Until), false)
		}
	case Removed:
		w.endpoint(e.Endpoint).listed.set(e.From, reload, false)
	case Killed:
		w.endpoint(e.Endpoint).alive.set(e.From, e.To+w.allow.Detect, false)
	case Started:
		w.endpoint(e.Endpoint).alive.set(e.From, e.To+w.allow.Recover, true)
	case Weighted:
		w.revision(e.Revision).weighted.set(e.From, reload, e.Weight > 0)
	case StoreLost, StoreRecovered:
		w.store(e)
	case GatewayUp:
		w.starts[e.Gateway] = append(w.starts[e.Gateway], e.From)
	}
}

// store opens, closes or prolongs an outage: one that begins before the last has settled is part of it.
func (w *world) store(e Event) {
	n := len(w.outages)
	if e.Kind == StoreLost {
		if n == 0 || w.outages[n-1].settled < e.From {
			w.outages = append(w.outages, outage{lost: e.From, down: e.To, back: never, settled: never})
			return
		}
		w.outages[n-1].settled = never
		return
	}
	if n == 0 {
		return // a log that begins without store and with nothing to lose
	}
	o := &w.outages[n-1]
	o.back = min(o.back, e.From)
	o.settled = e.To + w.allow.Settle
	o.emptied = o.emptied || e.Emptied
}

func (w *world) endpoint(name string) *subject {
	s := w.endpoints[name]
	if s == nil {
		s = &subject{
			name: name, alive: signal{initial: true}, takes: signal{initial: true}, undrained: signal{initial: true},
			weighted: signal{initial: true},
		}
		w.endpoints[name] = s
	}
	return s
}

func (w *world) revision(name string) *subject {
	s := w.revisions[name]
	if s == nil {
		s = &subject{
			name: name, alive: signal{initial: true}, takes: signal{initial: true}, undrained: signal{initial: true},
			listed: signal{initial: true},
		}
		w.revisions[name] = s
	}
	return s
}

// cancelDeadline forgets a drain deadline that every gateway forgets before it comes: all know at sure that the drain is over.
func (s *subject) cancelDeadline(sure time.Duration) {
	if n := len(s.undrained.changes); n > 0 {
		if last := s.undrained.changes[n-1]; !last.value && last.from > sure {
			s.undrained.changes = s.undrained.changes[:n-1]
		}
	}
}

func (s *subject) compile() {
	holding := []*signal{&s.listed, &s.alive, &s.undrained, &s.weighted}
	taking := append(slices.Clone(holding), &s.takes)
	at := edges(taking...)
	all := func(of []*signal) spans {
		return when(at, func(t time.Duration) bool {
			return !slices.ContainsFunc(of, func(g *signal) bool { return !g.may(t, true) })
		})
	}
	some := func(of ...*signal) spans {
		return when(at, func(t time.Duration) bool {
			return slices.ContainsFunc(of, func(g *signal) bool { return g.may(t, false) })
		})
	}
	s.holds, s.places, s.invalid, s.closed = all(holding), all(taking), some(holding...), some(taking...)
	s.causes = []causeSpans{
		{CauseKilled, some(&s.alive)},
		{CauseWeight, some(&s.weighted)},
		{CauseDrained, some(&s.undrained)},
		{CauseRemoved, some(&s.listed)},
	}
}

// incarnation names the gateway's process that ran at t by the time at which it was started.
func (w *world) incarnation(gateway string, t time.Duration) time.Duration {
	began := always
	for _, at := range w.starts[gateway] {
		if at <= t {
			began = max(began, at)
		}
	}
	return began
}

// outageAt returns the outage that [from, to] touches, or nil.
func (w *world) outageAt(from, to time.Duration) *outage {
	for i := range w.outages {
		if o := &w.outages[i]; o.lost <= to && from <= o.settled {
			return o
		}
	}
	return nil
}
