package checker

import "time"

// Unexplained returns the observations that were not answered and whose failure nothing in the log explains. A 5xx or a broken
// connection is explained by a replica that was killed while the request may have been there: a replica that had answered this
// session or flow before, or any if none had. A broken connection, or one refused, is also explained by its gateway's being down.
// Both are late by up to slack.
func Unexplained(events []Event, observations []Observation, slack time.Duration) []Observation {
	answered := map[string]map[string]time.Duration{} // by session or flow, and replica: when it answered first
	for i := range observations {
		if o := &observations[i]; o.Answered() {
			id := idOf(o)
			if answered[id] == nil {
				answered[id] = map[string]time.Duration{}
			}
			if first, ok := answered[id][o.Endpoint]; !ok || o.End < first {
				answered[id][o.Endpoint] = o.End
			}
		}
	}
	down := downtimes(events, slack)
	var out []Observation
	for i := range observations {
		o := &observations[i]
		if o.Answered() || o.Status == 0 && down[o.Gateway].overlap(o.Start, o.End) || killed(events, o, answered[idOf(o)], slack) {
			continue
		}
		out = append(out, *o)
	}
	return out
}

func idOf(o *Observation) string {
	if o.Session != "" {
		return "session " + o.Session
	}
	return "flow " + o.Flow
}

// killed reports whether a replica that may have held o was killed while o was under way.
func killed(events []Event, o *Observation, answered map[string]time.Duration, slack time.Duration) bool {
	fresh := true // no replica had answered before
	for _, first := range answered {
		fresh = fresh && first > o.Start
	}
	for _, e := range events {
		under := e.From <= o.End && o.Start <= e.To+slack
		_, known := answered[e.Endpoint]
		if e.Kind == Killed && under && (o.Session == "" || fresh || known) {
			return true
		}
	}
	return false
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
