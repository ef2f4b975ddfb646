package token

import (
	"sync/atomic"
	"time"

	"github.com/limpet-project/limpet/affinity"
)

// Keys holds the ring in force, which can be swapped while requests use it. The zero Keys has no ring: nothing opens, and sealing
// returns [ErrNoKey]. It is safe for concurrent use and must not be copied.
type Keys struct {
	ring atomic.Pointer[Ring]
}

// NewKeys returns Keys that hold r.
func NewKeys(r *Ring) *Keys {
	k := new(Keys)
	k.Swap(r)
	return k
}

// Swap puts r in force and returns what was before, nil if there was none.
func (k *Keys) Swap(r *Ring) *Ring { return k.ring.Swap(r) }

// Ring returns the ring in force, nil if there is none.
func (k *Keys) Ring() *Ring { return k.ring.Load() }

// Seal is [Ring.Seal] of the ring in force.
func (k *Keys) Seal(c Claim, now time.Time) (string, error) { return k.Ring().Seal(c, now) }

// Open is [Ring.Open] of the ring in force.
func (k *Keys) Open(value string, scope affinity.Scope, now time.Time) (Claim, error) {
	return k.Ring().Open(value, scope, now)
}
