package checker

import (
	"fmt"
	"slices"
	"time"
)

// look has r judged by its gateway's own view, in which a gateway that knew the session begins with what all knew.
func (h *history) look(r *request) {
	r.view = h.viewOf(r)
	if h.states[r.view] != nil {
		return
	}
	if slices.ContainsFunc(h.recent(h.in.lost), func(q *request) bool { return h.viewOf(q) == r.view }) {
		h.states[r.view] = slices.Clone(h.states[""])
		return
	}
	h.states[r.view], h.parted = []state{nobody}, true
}

// viewOf names the view of the process that answered r: a gateway that is started anew begins with none.
func (h *history) viewOf(r *request) string {
	return fmt.Sprintf("%s since %d", r.Gateway, h.w.incarnation(r.Gateway, r.Start))
}

// cross lives through the outages that began in (from, to], in which no request began or ended.
func (h *history) cross(from, to time.Duration) {
	for i := range h.w.outages {
		if o := &h.w.outages[i]; h.in == nil && o.lost > from && o.lost <= to {
			h.in = o
			h.settle(to)
		}
	}
}

// recent returns the requests after which their gateways knew the holder at t: those that it answered without another one
// answering in between, and those between them that sessions brought.
func (h *history) recent(t time.Duration) []*request {
	var out, brought []*request
	var holder *subject
	for r := h.last; r != nil; r = r.previous {
		switch {
		case r.End > t:
		case r.answer == nil:
			brought = append(brought, r)
		case holder != nil && holder != r.answer:
			return out
		default:
			holder = r.answer
			for _, b := range brought {
				if !holder.invalid.overlap(min(b.Start, r.End), t) {
					out = append(out, b)
				}
			}
			out, brought = append(out, r), nil
		}
	}
	return out
}

// forgotten reports whether no gateway that knew the session when an outage emptied the store was there to tell it.
func (h *history) forgotten() bool {
	return h.in.emptied && !slices.ContainsFunc(h.recent(h.in.lost), func(r *request) bool {
		return h.w.incarnation(r.Gateway, r.Start) == h.w.incarnation(r.Gateway, h.in.settled)
	})
}

// stable returns the holder of before the outage if that was valid all the time, nil if it may not have been or is not known.
func (h *history) stable() *subject {
	states := h.states[""]
	holder := states[0].holder
	other := func(s state) bool { return s.holder != holder }
	if holder == nil || holder.invalid.overlap(h.in.lost, h.in.settled) || slices.ContainsFunc(states, other) {
		return nil
	}
	return holder
}

// kept returns the holder to which all have to come back, nil if there is none: it was valid all the time, and the store, which was
// not emptied, remembers it.
func (h *history) kept() *subject {
	if h.in.emptied {
		return nil
	}
	return h.stable()
}

// meet lets each view take over what another one holds, even if that is gone: the store is back, and one binding of several wins.
// It leaves alone what all knew when the store was lost.
func (h *history) meet(to time.Duration) {
	kept := h.kept()
	var all []state
	for _, states := range h.states {
		all = append(all, states...)
	}
	for view, states := range h.states {
		if view == "" {
			continue
		}
		for _, s := range all {
			if s.holder == nil || kept != nil && kept != s.holder {
				continue
			}
			states = h.adopt(view, states, s.holder, to)
		}
		h.states[view] = states
	}
}

// adopt adds to a view's states those that the holder of another view's takes the place of.
func (h *history) adopt(view string, states []state, holder *subject, to time.Duration) []state {
	for _, old := range slices.Clone(states) {
		if old.holder == holder {
			continue
		}
		next := state{holder: holder, was: old.holder, moved: min(to, h.in.settled), done: old.done}
		for _, r := range h.open {
			if r.view == view {
				h.mark(&next, r)
			}
		}
		states = add(states, next)
	}
	return states
}

// settle ends the views of an outage that is over at t: from there all gateways share one explanation again.
func (h *history) settle(t time.Duration) {
	if h.in == nil || t <= h.in.settled {
		return
	}
	shared := h.agreed()
	for _, r := range h.open { // what its own view explains is explained
		explained := slices.ContainsFunc(h.states[r.view], func(s state) bool { return s.done&(1<<r.slot) != 0 })
		for i := range shared {
			if shared[i].done &^= 1 << r.slot; explained {
				shared[i].done |= 1 << r.slot
			}
			h.mark(&shared[i], r)
		}
		r.view = ""
	}
	if h.parted {
		h.report.Afresh++
	}
	h.states = map[string][]state{"": shared}
	h.in, h.parted = nil, false
}

// agreed returns the states in which any view ends: one binding of several wins, and it may be to a holder that is gone by then,
// which the next request finds out.
func (h *history) agreed() []state {
	kept := h.kept()
	h.due = nil
	var all []state
	for _, states := range h.states {
		for _, s := range states {
			if !s.fresh && (kept == nil || s.holder == kept) {
				all = add(all, s)
			}
		}
	}
	switch known := !h.states[""][0].fresh; {
	case known && h.forgotten():
		h.report.Forgotten++
		all = add(all, nobody)
	case known && h.in.emptied:
		h.due = h.stable()
	case len(all) == 0 && len(h.states) > 1: // a request that was not answered may have found somebody
		all = add(all, state{since: h.in.lost})
	case len(all) == 0:
		all = add(all, nobody)
	}
	return all
}
