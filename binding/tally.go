package binding

import (
	"unique"

	"github.com/limpet-project/limpet/affinity"
)

// A tally collects what a census has to be told while a lock is held, to tell it when the lock is released.
type tally struct {
	census  Census
	changes []change
}

// A change is one call of a census.
type change struct {
	service affinity.ServiceName
	target  affinity.Target
	delta   int
}

// note adds a change, if anybody asked and the scope is one of sessions.
func (t *tally) note(scope unique.Handle[affinity.Scope], target unique.Handle[affinity.Target], delta int) {
	if t.census == nil {
		return
	}
	if s := scope.Value(); s.Kind == affinity.KindSession {
		t.changes = append(t.changes, change{s.Service, target.Value(), delta})
	}
}

// take returns what was noted and forgets it.
func (t *tally) take() []change {
	changes := t.changes
	t.changes = nil
	return changes
}

// tell calls the census; without changes it does nothing.
func (c Census) tell(changes []change) {
	for _, ch := range changes {
		c(ch.service, ch.target, ch.delta)
	}
}
