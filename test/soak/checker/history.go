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
	// view is the gateway through whose eyes the request is judged: "" for what all gateways share, or the name of one that cannot
	// ask the store.
	view string
	slot uint // of states' done while it is open
	// alone says that no other request of the history was open with it; held that its answer may have been the holder when it began.
	alone, held bool
	previous    *request // the one answered before
}

// A state is one explanation of what was seen so far.
type state struct {
	holder *subject // nil: anybody, whoever answers next
	fresh  bool     // nobody yet: no request came before
	was    *subject // the holder before, for caches that have not heard of the move
	by     string   // the gateway that moved it
	moved  time.Duration
	done   uint64 // the open requests that the holder at some moment explains
}

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
	knew   map[string]bool
	parted bool // a gateway was asked for what it did not know, and could not ask
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
	h.states = map[string][]state{"": {{fresh: true}}}
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
		if h.in == nil {
			h.enter(o)
		}
		h.look(r)
		h.follow(r)
	}
	var used uint64
	r.alone = len(h.open) == 0
	for _, o := range h.open {
		used |= 1 << o.slot
		o.alone = false
	}
	for used&(1<<r.slot) != 0 {
		r.slot++
	}
	if r.slot >= 64 {
		panic("checker: more than 64 requests of one session at once")
	}
	for _, states := range h.states {
		for _, s := range states {
			r.held = r.held || s.holder == r.answer || s.was == r.answer || s.holder == nil && !s.fresh
		}
	}
	h.open = append(h.open, r)
	for i := range h.states[r.view] {
		h.mark(&h.states[r.view][i], r)
	}
}

// look has r judged by its gateway's own view, in which a gateway that knew the session begins with what all knew.
func (h *history) look(r *request) {
	r.view = h.viewOf(r)
	h.parted = h.parted || !h.knew[r.view]
	if h.states[r.view] != nil {
		return
	}
	h.states[r.view] = []state{{fresh: true}}
	if h.knew[r.view] {
		h.states[r.view] = slices.Clone(h.states[""])
	}
}

// follow has a flow that its gateway does not know bound to the revision of the session that brings it, which decides the answer.
func (h *history) follow(r *request) {
	if revision := h.w.revisions[r.Revision]; h.flow && r.answer == nil && r.Answered() && revision != nil && !h.knew[r.view] {
		h.states[r.view] = add(h.states[r.view], state{holder: revision})
	}
}

// viewOf names the view of the process that answered r: a gateway that is started anew begins with none.
func (h *history) viewOf(r *request) string {
	return fmt.Sprintf("%s since %d", r.Gateway, h.w.incarnation(r.Gateway, r.Start))
}

// cross lives through the outages that began in (from, to], in which no request began or ended.
func (h *history) cross(from, to time.Duration) {
	for i := range h.w.outages {
		if o := &h.w.outages[i]; h.in == nil && o.lost > from && o.lost <= to {
			h.enter(o)
			h.settle(to)
		}
	}
}

// enter begins to keep views for an outage: it finds the gateways that knew the session when the store was lost, and still ran when it
// was back. They are those that the last holder answered through.
func (h *history) enter(o *outage) {
	h.in, h.knew = o, map[string]bool{}
	for _, r := range h.recent(o.lost) {
		began := h.w.incarnation(r.Gateway, r.Start)
		if began == h.w.incarnation(r.Gateway, o.settled) {
			h.knew[h.viewOf(r)] = true
		}
	}
}

// recent returns the requests that the last holder before t answered without another one answering in between.
func (h *history) recent(t time.Duration) []*request {
	var out []*request
	for r := h.last; r != nil; r = r.previous {
		if r.End > t {
			continue
		}
		if len(out) > 0 && out[0].answer != r.answer {
			break
		}
		out = append(out, r)
	}
	return out
}

// advance lets explanations develop over [from, to], in which no request begins or ends.
func (h *history) advance(from, to time.Duration) {
	meeting := h.in != nil && from <= h.in.settled && to >= h.in.back
	if len(h.open) == 0 && !meeting {
		return
	}
	for view, states := range h.states {
		for i := 0; i < len(states); i++ { // states grows: a move may follow a move
			states = h.develop(view, states, i, from, to)
		}
		h.states[view] = states
	}
	if meeting {
		h.meet(from, to)
	}
}

// develop adds the states that the i-th one may become.
func (h *history) develop(view string, states []state, i int, from, to time.Duration) []state {
	s := states[i]
	if s.holder != nil && !s.holder.invalid.overlap(from, to) {
		return states
	}
	for _, r := range h.open {
		if r.view != view || s.done&(1<<r.slot) != 0 || r.answer == s.holder {
			continue
		}
		next := state{holder: r.answer, was: s.holder, by: r.Gateway, moved: to, done: s.done}
		for _, o := range h.open {
			h.mark(&next, o)
		}
		states = add(states, next)
	}
	return states
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

// add adds a state unless it is there; of two that differ in the time of the move the later is kept.
func add(states []state, s state) []state {
	for i := range states {
		o := states[i]
		o.moved, o.by = s.moved, s.by
		if o == s {
			states[i].moved = max(states[i].moved, s.moved)
			return states
		}
	}
	return append(states, s)
}

// meet lets each view take over what another one holds and may be valid: the store is back, and one binding of several wins.
func (h *history) meet(from, to time.Duration) {
	if len(h.states) == 1 {
		return
	}
	var all []state
	for _, states := range h.states {
		all = append(all, states...)
	}
	for view, states := range h.states {
		for _, s := range all {
			if s.fresh || s.holder == nil || !s.holder.holds.overlap(from, to) {
				continue
			}
			for _, old := range slices.Clone(states) {
				if old.holder == s.holder {
					continue
				}
				next := state{holder: s.holder, was: old.holder, moved: min(to, h.in.settled), done: old.done}
				for _, r := range h.open {
					if r.view == view {
						h.mark(&next, r)
					}
				}
				states = add(states, next)
			}
		}
		h.states[view] = states
	}
}

// settle ends the views of an outage that is over at t: from there all gateways share one explanation again.
func (h *history) settle(t time.Duration) {
	if h.in == nil || t <= h.in.settled {
		return
	}
	if h.in.emptied && len(h.knew) == 0 && !h.states[""][0].fresh {
		h.report.Forgotten++
		h.states[""] = nil
	}
	shared := h.agreed()
	for _, r := range h.open { // those that began in the outage are excused
		r.view = ""
		for i := range shared {
			shared[i].done |= 1 << r.slot
		}
	}
	if h.parted {
		h.report.Afresh++
	}
	h.states = map[string][]state{"": shared}
	h.in, h.knew, h.parted = nil, nil, false
}

// agreed returns the states in which any view ends: one binding of several wins, and it may be to a holder that is gone by then,
// which the next request finds out.
func (h *history) agreed() []state {
	var all []state
	for _, states := range h.states {
		for _, s := range states {
			if !s.fresh || len(h.states) == 1 {
				all = add(all, s)
			}
		}
	}
	if len(all) == 0 {
		return []state{{}}
	}
	return all
}

// end closes a request: explanations that do not explain it are dropped, and if none is left it is a misroute.
func (h *history) end(r *request) {
	h.open = slices.DeleteFunc(h.open, func(o *request) bool { return o == r })
	defer h.release(r)
	if r.answer == nil {
		return
	}
	states := h.states[r.view]
	holders := slices.Clone(states)
	states = slices.DeleteFunc(states, func(s state) bool { return s.done&(1<<r.slot) == 0 })
	if len(states) == 0 {
		h.misroute(r, "%s holds it", h.names(holders))
		s := state{holder: r.answer}
		for _, o := range h.open {
			if o.view == r.view {
				h.mark(&s, o)
			}
		}
		states = []state{s}
	} else {
		h.judge(r, holders, states)
	}
	h.states[r.view] = states
	h.count(r)
	r.previous = h.last
	h.last = r
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
func (h *history) judge(r *request, before, after []state) {
	late := !slices.ContainsFunc(after, func(s state) bool { return s.holder == r.answer })
	if late {
		h.report.Late++
	}
	switch {
	case !r.answer.holds.overlap(r.Start, r.End):
		h.misroute(r, "%s is not valid", r.answer.name)
	case r.alone && !r.held && !r.answer.places.overlap(r.Start, r.End):
		h.misroute(r, "%s takes no new sessions", r.answer.name)
	case r.alone && !r.held && r.view == "" && h.in == nil && !h.flow && !late && len(after) == 1 && after[0].was != nil && after[0].moved == r.End:
		h.judgeMove(r, after[0].was)
	}
}

// judgeMove reports a session that left a revision that was valid and had room.
func (h *history) judgeMove(r *request, was *subject) {
	revision := h.w.revisions[was.revision]
	if was.revision == r.answer.revision || revision != nil && revision.invalid.overlap(r.Start, r.End) {
		return
	}
	for _, e := range h.w.endpoints {
		if e.revision == was.revision && !e.closed.overlap(r.Start, r.End) {
			h.misroute(r, "it left %s, whose revision is valid and has %s", was.name, e.name)
			return
		}
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

func (h *history) misroute(r *request, why string, args ...any) {
	m := Misroute{Name: h.name, Flow: h.flow, Got: *r.Observation, Why: fmt.Sprintf(why, args...)}
	for p := h.last; p != nil && len(m.Before) < 5; p = p.previous {
		m.Before = append(m.Before, *p.Observation)
	}
	slices.Reverse(m.Before)
	h.report.add(m)
}

// count adds a move to the report, by its cause.
func (h *history) count(r *request) {
	if h.last == nil || h.last.answer == r.answer {
		return
	}
	was := h.last.answer
	cause, ok := was.cause(r.Start, r.End)
	if !ok && h.w.outageAt(r.Start, r.End) != nil {
		cause, ok = CauseStore, true
	}
	if !ok {
		cause, ok = was.cause(h.last.Start, r.End)
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
