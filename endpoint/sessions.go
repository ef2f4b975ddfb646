package endpoint

// Sessions returns how many sessions are bound to each endpoint of a revision, by name, as this gateway sees it. Endpoints without
// sessions, and those that are not listed, are left out. The map is the caller's own.
func (t *Table) Sessions(r RevisionName) map[string]int64 {
	t.mu.Lock()
	defer t.mu.Unlock()
	sessions := make(map[string]int64)
	p := t.pools[r]
	if p == nil {
		return sessions
	}
	for _, m := range p.members {
		if n := m.counter.bound.Load(); m.listed && n > 0 {
			sessions[m.id.endpoint] = n
		}
	}
	return sessions
}
