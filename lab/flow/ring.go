package flow

// A ring counts by interval over a window. Its slots belong to the Tracker's clock.
type ring struct {
	slots []uint32
	sum   uint64
}

func newRing(n int) ring { return ring{slots: make([]uint32, n)} }

func (r *ring) add(slot int) {
	r.slots[slot]++
	r.sum++
}

// clear empties a slot, which the next interval takes.
func (r *ring) clear(slot int) {
	r.sum -= uint64(r.slots[slot])
	r.slots[slot] = 0
}
