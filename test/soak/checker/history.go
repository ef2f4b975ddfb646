package checker

import (
	"cmp"
	"fmt"
	"slices"
	"time"
)

// A request is an observation as one history sees it.
type request struct {
	*Observation
	answer *subject // nil: unknown, or does not say who holds
	// brings is the revision of the session that brought a flow whose holder the answer does not show: the flow is bound to it if
	// it is not bound to another one that is valid.
	brings *subject
	// view is the gateway through whose eyes the request is judged: "" for what all gateways share, or the name of one that cannot
	// ask the store.
	view     string
	slot     uint     // of states' done while it is open
	previous *request // the one answered before
}

// binds returns what r may have bound its session or flow to, nil if that may be anything.
func (r *request) binds() *subject {
	if r.answer == nil {
		return r.brings
	}
	return r.answer
}

// A state is one explanation of what was seen so far.
type state struct {
	holder *subject      // nil: anybody, whoever answers next
	fresh  bool          // nobody yet: no request came before
	since  time.Duration // of no holder: from when a request may have found one that did not answer
	was    *subject      // the holder before, for caches that have not heard of the move, and for the revision to stay in
	by     string        // the gateway that moved it
	moved  time.Duration
	done   uint64 // the open requests that the holder at some moment explains
}

// nobody is the state before the first request.
var nobody = state{fresh: true, since: never}

// A history searches for explanations of the requests of one session or flow.
type history struct {
	w      *world
	report *Report
	name   string // for the report
	flow   bool

	states map[string][]state // by view
	open   []*request
	last   *request // the last answered one
	in     *outage  // the one that views are kept for
	parted bool     // a gateway was asked for what it did not know, and could not ask
	due    *subject // the holder to which the session should have come back after the store was emptied, until it is asked for
}

type point struct {
	at  time.Duration
	end bool
	r   *request
}

// run judges the requests of one session or flow, in any order.
func (h *history) run(requests []request) {
	points := make([]point, 0, 2*len(requests))
	for i := range requests {
		r := &requests[i]
		points = append(points, point{r.Start, false, r}, point{max(r.Start, r.End), true, r})
	}
	slices.SortStableFunc(points, func(a, b point) int {
		if c := cmp.Compare(a.at, b.at); c != 0 {
			return c
		}
		if a.end != b.end && a.end {
			return 1
		}
		if a.end != b.end {
			return -1
		}
		return 0
	})
	h.states = map[string][]state{"": {nobody}}
	from := always
	for _, p := range points {
		h.advance(from, p.at)
		h.settle(p.at)
		h.cross(from, p.at)
		if p.end {
			h.end(p.r)
		} else {
			h.begin(p.r)
		}
		from = p.at
	}
}

// begin opens a request and decides whose eyes it is judged through.
func (h *history) begin(r *request) {
	if o := h.w.outageAt(r.Start, r.End); o != nil {
		h.in = o
		h.look(r)
	}
	var used uint64
	for _, o := range h.open {
		used |= 1 << o.slot
	}
	for used&(1<<r.slot) != 0 {
		r.slot++
	}
	if r.slot >= 64 {
		panic("checker: more than 64 requests of one session at once")
	}
	h.open = append(h.open, r)
	for i := range h.states[r.view] {
		s := &h.states[r.view][i]
		if s.holder == nil {
			s.since = min(s.since, r.Start)
		}
		h.mark(s, r)
	}
}

// advance lets explanations develop over [from, to], in which no request begins or ends.
func (h *history) advance(from, to time.Duration) {
	meeting := h.in != nil && from <= h.in.settled && to >= h.in.back
	if len(h.open) == 0 && !meeting {
		return
	}
	h.developAll(from, to)
	if meeting {
		h.meet(to)
		h.developAll(from, to) // what it took over may be gone
	}
}

func (h *history) developAll(from, to time.Duration) {
	for view, states := range h.states {
		for i := 0; i < len(states); i++ { // states grows: a move may follow a move
			states = h.develop(view, states, i, from, to)
		}
		h.states[view] = states
	}
}

// develop adds the states that the i-th one may become.
func (h *history) develop(view string, states []state, i int, from, to time.Duration) []state {
	s := states[i]
	if s.holder != nil && !s.holder.invalid.overlap(from, to) {
		return states
	}
	for _, r := range h.open {
		if r.view != view || s.done&(1<<r.slot) != 0 || !h.moves(&s, r.binds(), from, to) {
			continue
		}
		next := state{holder: r.binds(), was: s.holder, by: r.Gateway, moved: to, done: s.done}
		if next.holder == nil {
			next.since = from
		}
		for _, o := range h.open {
			h.mark(&next, o)
		}
		states = add(states, next)
	}
	return states
}

// moves reports whether a request may bind to next in [from, to] what s explains: next takes new sessions then, or did when a
// request that was not answered may have found it, and a session does not leave a revision that is valid and has room.
func (h *history) moves(s *state, next *subject, from, to time.Duration) bool {
	switch {
	case next == s.holder:
		return false
	case next == nil:
		return true
	}
	was := s.holder
	if was == nil {
		was, from = s.was, min(from, s.since)
	}
	return next.places.overlap(from, to) && (h.flow || was == nil || h.room(was, next.revision, from, to) == nil)
}

// room returns an endpoint to which a session that was's was has to go in [from, to] rather than to the revision, nil if none.
func (h *history) room(was *subject, revision string, from, to time.Duration) *subject {
	if r := h.w.revisions[was.revision]; was.revision == revision || r != nil && r.invalid.overlap(from, to) {
		return nil
	}
	for _, e := range h.w.endpoints {
		if e.revision == was.revision && !e.closed.overlap(from, to) {
			return e
		}
	}
	return nil
}

// mark notes that s explains r: its holder answered, or the one before did for a gateway that may not have heard of the move.
func (h *history) mark(s *state, r *request) {
	if r.answer == nil {
		return
	}
	late := s.was == r.answer && s.by != r.Gateway && r.Start <= s.moved+h.w.allow.Cache
	if s.holder == r.answer || late {
		s.done |= 1 << r.slot
	}
}

// add adds a state unless it is there; of two that differ in times the one that explains more is kept.
func add(states []state, s state) []state {
	for i := range states {
		o := states[i]
		o.moved, o.since = s.moved, s.since
		if o == s {
			states[i].moved, states[i].since = max(states[i].moved, s.moved), min(states[i].since, s.since)
			return states
		}
	}
	return append(states, s)
}

// end closes a request: explanations that do not explain it are dropped, and if none is left it is a misroute.
func (h *history) end(r *request) {
	h.open = slices.DeleteFunc(h.open, func(o *request) bool { return o == r })
	defer h.release(r)
	if r.binds() == nil {
		return
	}
	r.previous, h.last = h.last, r
	states := h.states[r.view]
	if r.answer == nil { // whatever the flow is bound to, it is bound
		h.states[r.view] = slices.DeleteFunc(states, func(s state) bool { return s.fresh })
		if len(h.states[r.view]) == 0 {
			h.states[r.view] = []state{{holder: r.brings}}
		}
		return
	}
	holders := slices.Clone(states)
	states = slices.DeleteFunc(states, func(s state) bool { return s.done&(1<<r.slot) == 0 })
	if len(states) == 0 {
		h.misroute(r, h.why(r, holders))
		s := state{holder: r.answer}
		for _, o := range h.open {
			if o.view == r.view {
				h.mark(&s, o)
			}
		}
		states = []state{s}
	} else {
		h.judge(r, states)
	}
	h.states[r.view] = states
	h.count(r)
	if h.due != nil {
		if r.answer != h.due && !h.due.invalid.overlap(r.Start, r.End) {
			h.report.Outvoted++
		}
		h.due = nil
	}
}

// why says what is wrong with an answer that none of the states explains.
func (h *history) why(r *request, states []state) string {
	for _, s := range states {
		was := s.holder
		switch {
		case was != nil && !was.invalid.overlap(r.Start, r.End):
			continue
		case !r.answer.holds.overlap(r.Start, r.End):
			return r.answer.name + " is not valid"
		case !r.answer.places.overlap(r.Start, r.End):
			return r.answer.name + " takes no new sessions"
		case was == nil:
			was = s.was
		}
		if h.flow || was == nil {
			continue
		}
		if e := h.room(was, r.answer.revision, r.Start, r.End); e != nil {
			return fmt.Sprintf("it left %s, whose revision is valid and has %s", was.name, e.name)
		}
	}
	return h.names(states) + " holds it"
}

// release frees the request's slot in every state.
func (h *history) release(r *request) {
	for view, states := range h.states {
		var kept []state
		for _, s := range states {
			s.done &^= 1 << r.slot
			kept = add(kept, s)
		}
		h.states[view] = kept
	}
}

// judge looks at what an answer that the rule of one holder allows may still break.
func (h *history) judge(r *request, states []state) {
	if !slices.ContainsFunc(states, func(s state) bool { return s.holder == r.answer }) {
		h.report.Late++
	}
	if !r.answer.holds.overlap(r.Start, r.End) {
		h.misroute(r, r.answer.name+" is not valid")
	}
}

func (h *history) names(states []state) string {
	var names []string
	for _, s := range states {
		if s.holder != nil && !slices.Contains(names, s.holder.name) {
			names = append(names, s.holder.name)
		}
	}
	if len(names) == 0 {
		return "another one"
	}
	return fmt.Sprint(names)
}

func (h *history) misroute(r *request, why string) {
	m := Misroute{Name: h.name, Flow: h.flow, Got: *r.Observation, Why: why}
	for p := r.previous; p != nil && len(m.Before) < 5; p = p.previous {
		m.Before = append(m.Before, *p.Observation)
	}
	slices.Reverse(m.Before)
	h.report.add(m)
}

// count adds a move to the report, by its cause.
func (h *history) count(r *request) {
	last := r.previous
	for last != nil && last.answer == nil {
		last = last.previous
	}
	if last == nil || last.answer == r.answer {
		return
	}
	was := last.answer
	cause, ok := was.cause(r.Start, r.End)
	if !ok && h.w.outageAt(r.Start, r.End) != nil {
		cause, ok = CauseStore, true
	}
	if !ok {
		cause, ok = was.cause(last.Start, r.End)
	}
	if !ok {
		cause = CauseOther
	}
	if h.flow {
		h.report.FlowMoves[cause]++
	} else {
		h.report.Moves[cause]++
	}
}
