package checker

import (
	"slices"
	"time"
)

// Unexplained returns the observations that were not answered and whose failure nothing in the log explains. A 5xx or a broken
// connection is explained by a replica that was killed while the request may have been there: a replica that answered the session
// at any time, or any if there is no session, none had answered it, or the one that answered last may have been invalid since, so
// that this request was the one to move it. A broken connection, or one refused, is also explained by its gateway's being down.
// All are late by up to slack.
func Unexplained(events []Event, observations []Observation, slack time.Duration) []Observation {
	answered := map[string][]*Observation{} // by session
	for i := range observations {
		if o := &observations[i]; o.Answered() && o.Session != "" {
			answered[o.Session] = append(answered[o.Session], o)
		}
	}
	w, down := newWorld(events, Allowances{}), downtimes(events, slack)
	var out []Observation
	for i := range observations {
		o := &observations[i]
		if o.Answered() || o.Status == 0 && down[o.Gateway].overlap(o.Start, o.End) {
			continue
		}
		if !killed(events, o, w.holders(answered[o.Session], o), slack) {
			out = append(out, *o)
		}
	}
	return out
}

// holders returns the replicas that o may have been sent to by what its session's answers say, nil if that may be any.
func (w *world) holders(answered []*Observation, o *Observation) []string {
	var out []string
	var last *Observation
	for _, a := range answered {
		out = append(out, a.Endpoint)
		if a.End <= o.Start && (last == nil || a.End > last.End) {
			last = a
		}
	}
	if last == nil || w.endpoint(last.Endpoint).invalid.overlap(last.End, o.End) {
		return nil
	}
	return out
}

// killed reports whether a replica that may have held o was killed while o was under way: one of the holders, any if none is named.
func killed(events []Event, o *Observation, holders []string, slack time.Duration) bool {
	return slices.ContainsFunc(events, func(e Event) bool {
		under := e.From <= o.End && o.Start <= e.To+slack
		return e.Kind == Killed && under && (holders == nil || slices.Contains(holders, e.Endpoint))
	})
}

// downtimes returns when each gateway was told to end and not yet up again.
func downtimes(events []Event, slack time.Duration) map[string]spans {
	down := map[string]spans{}
	for _, e := range events {
		switch e.Kind {
		case GatewayDown:
			down[e.Gateway] = append(down[e.Gateway], span{e.From, never})
		case GatewayUp:
			if s := down[e.Gateway]; len(s) > 0 {
				s[len(s)-1].to = e.To + slack
			}
		}
	}
	return down
}
