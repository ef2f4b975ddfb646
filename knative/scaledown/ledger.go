package scaledown

import (
	"maps"
	"slices"
	"time"
)

// pause is how long the cost of one pod stays at least.
const pause = time.Minute

// A ledger knows which cost was written on which pod. Make one with newLedger.
type ledger struct {
	entries map[podKey]entry
	begun   bool
}

func newLedger() *ledger { return &ledger{entries: make(map[podKey]entry)} }

// An entry is what was written on a pod.
type entry struct {
	cost    int64
	unsure  bool      // others may have written something else
	written time.Time // when it was tried last; the zero time: never
}

// wants reports whether a cost is to be written now.
func (e entry) wants(cost int64, now time.Time) bool {
	rested := e.written.IsZero() || now.Sub(e.written) >= pause
	return rested && (e.unsure || e.cost != cost)
}

// A change is a cost that is to be written.
type change struct {
	pod  Pod
	cost int64
}

// due returns the costs that are to be written now, those first that wait for longest. It forgets the pods that are not listed. What
// the pods that are there at first have on them is not known: another process wrote it. Those that come later have nothing.
func (l *ledger) due(pods []Pod, now time.Time) []change {
	listed := make(map[podKey]bool, len(pods))
	var changes []change
	for _, p := range pods {
		key := p.key()
		listed[key] = true
		e, known := l.entries[key]
		if !known {
			e = entry{unsure: !l.begun}
			l.entries[key] = e
		}
		c := change{p, cost(p.Sessions)}
		if !p.Unknown && !p.Fixed && e.wants(c.cost, now) {
			changes = append(changes, c)
		}
	}
	l.begun = true
	maps.DeleteFunc(l.entries, func(key podKey, _ entry) bool { return !listed[key] })
	slices.SortStableFunc(changes, func(a, b change) int {
		return l.entries[a.pod.key()].written.Compare(l.entries[b.pod.key()].written)
	})
	return changes
}

// note notes that a cost was written, or that it was tried and may have been.
func (l *ledger) note(c change, now time.Time, err error) {
	e := l.entries[c.pod.key()]
	e.written, e.unsure = now, err != nil
	if err == nil {
		e.cost = c.cost
	}
	l.entries[c.pod.key()] = e
}
