package reliability

import (
	"cmp"
	"fmt"
	"slices"
	"time"
)

// A stay is what a request was at a pod, by the clock of the pod's queue-proxy. While it is between admitted and done it is in the
// container.
type stay struct {
	arrived  time.Time // at queue-proxy's own queue
	admitted time.Time // by the queue
	done     time.Time // the container's whole answer has been read, and nothing of its end sent on
}

// What queue-proxy says of a request in its trace: how long it was in the queue, and the request to the container below that.
const waitSpan = "kn.queueproxy.wait"

// stays returns the requests at each pod. One of which the container said nothing was never in it.
func stays(spans []span) map[string][]stay {
	done := map[string]time.Time{} // by the span above
	for _, s := range spans {
		if s.parent != "" && s.end.After(done[s.parent]) {
			done[s.parent] = s.end
		}
	}
	all := map[string][]stay{}
	for _, s := range spans {
		if s.name != waitSpan {
			continue
		}
		until, asked := done[s.id]
		if !asked {
			until = s.end
		}
		all[s.pod] = append(all[s.pod], stay{arrived: s.start, admitted: s.end, done: until})
	}
	return all
}

// A queued request is one that queue-proxy's queue held because the container was full.
type queued struct {
	pod  string
	from time.Time
	wait time.Duration
}

// full returns the requests that came to a pod when its container had its limit already, and how many there were in a container at most.
//
// An activator that counts right sends a request when the whole answer to one before has arrived. Queue-proxy has read all of that answer
// before it sends the end of it, though it may say only later that the request is over; so a container that is full by these times when
// a request comes is one that somebody has sent more than its limit, however slow the machine is.
func full(pods map[string][]stay, limit int) (held []queued, most int) {
	for pod, all := range pods {
		slices.SortFunc(all, func(a, b stay) int { return a.admitted.Compare(b.admitted) })
		for i := range all {
			most = max(most, 1+within(all, i, all[i].admitted))
			if within(all, i, all[i].arrived) >= limit {
				held = append(held, queued{pod, all[i].arrived, all[i].admitted.Sub(all[i].arrived)})
			}
		}
	}
	slices.SortFunc(held, func(a, b queued) int { return cmp.Or(a.from.Compare(b.from), cmp.Compare(a.pod, b.pod)) })
	return held, most
}

// within returns how many others than the i-th are in the container at a moment. They are in the order of their admission.
func within(all []stay, i int, t time.Time) int {
	n := 0
	for j := range all {
		if all[j].admitted.After(t) {
			break
		}
		if j != i && all[j].done.After(t) {
			n++
		}
	}
	return n
}

// deepest returns how many requests of one pod waited at once at most, and the longest wait.
func deepest(held []queued) (depth int, longest time.Duration) {
	for _, q := range held {
		longest = max(longest, q.wait)
		n := 0
		for _, o := range held {
			if o.pod == q.pod && !o.from.After(q.from) && o.from.Add(o.wait).After(q.from) {
				n++
			}
		}
		depth = max(depth, n)
	}
	return depth, longest
}

// String returns the request as a line of a log.
func (q queued) String() string { return fmt.Sprintf("%s, for %v", q.pod, q.wait) }
