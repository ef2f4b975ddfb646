package binding

import (
	"sync"

	"github.com/limpet-project/limpet/affinity"
)

// quotas count the bindings of each service exactly. The zero value counts from nothing.
type quotas struct {
	mu     sync.Mutex
	counts map[affinity.ServiceName]int
}

// take counts one more binding of a service unless it has limit already; a limit of 0 is none.
func (q *quotas) take(service affinity.ServiceName, limit int) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	n := q.counts[service]
	if limit > 0 && n >= limit {
		return false
	}
	if q.counts == nil {
		q.counts = map[affinity.ServiceName]int{}
	}
	q.counts[service] = n + 1
	return true
}

// give counts one binding of a service less.
func (q *quotas) give(service affinity.ServiceName) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.counts[service]--; q.counts[service] == 0 {
		delete(q.counts, service)
	}
}

func (q *quotas) count(service affinity.ServiceName) int {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.counts[service]
}
