package checker

import (
	"slices"
	"sort"
	"time"
)

// repeats reports answers whose count is higher than the number of requests of the session that had been sent by then: some
// request reached the replica more than once.
func repeats(requests []request, report *Report) {
	starts := make([]time.Duration, len(requests))
	for i := range requests {
		starts[i] = requests[i].Start
	}
	slices.Sort(starts)
	for i := range requests {
		r := &requests[i]
		if r.Instance == "" || !r.Answered() {
			continue
		}
		if sent := sort.Search(len(starts), func(j int) bool { return starts[j] > r.End }); r.Count > sent {
			report.Repeated++
		}
	}
}
