package checker

import (
	"slices"
	"sort"
	"time"
)

// repeats reports answers whose count is higher than the number of requests of the session that can have reached the replica by
// then: some request reached it more than once, or reached two. One that another process answered cannot have.
func repeats(requests []request, report *Report) {
	starts := map[string][]time.Duration{} // by who answered, "" if nobody did
	for i := range requests {
		r := &requests[i]
		by := ""
		if r.Answered() {
			by = r.Instance
		}
		starts[by] = append(starts[by], r.Start)
	}
	for _, at := range starts {
		slices.Sort(at)
	}
	for i := range requests {
		r := &requests[i]
		if r.Instance == "" || !r.Answered() {
			continue
		}
		if r.Count > until(starts[r.Instance], r.End)+until(starts[""], r.End) {
			report.Repeated++
		}
	}
}

// until counts the moments up to t, which are sorted.
func until(at []time.Duration, t time.Duration) int {
	return sort.Search(len(at), func(i int) bool { return at[i] > t })
}
