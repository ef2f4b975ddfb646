package transport

import (
	"sync/atomic"
	"time"
)

// What is kept of datagrams from clients.
const (
	maxWaiting   = 8           // datagrams of a flow that has no target yet
	maxUnsure    = 4           // datagrams of a flow that may still turn out to be refused
	unsureTime   = time.Second // how long they may: a refusal takes as long as a round trip
	maxRoom      = 2048        // bytes of a buffer that a flow keeps for its next datagram
	maxKeptBytes = 64 << 20    // bytes of all flows of a listener; copies of what was sent take up to a half
)

// A budget bounds bytes that many hold together.
type budget struct {
	limit int64
	used  atomic.Int64
}

// take takes n bytes if fewer than limit are taken then.
func (b *budget) take(n int, limit int64) bool {
	if b.used.Add(int64(n)) <= limit {
		return true
	}
	b.used.Add(-int64(n))
	return false
}

// give gives n bytes back.
func (b *budget) give(n int) { b.used.Add(-int64(n)) }

// A parcel is a copy of a datagram.
type parcel struct {
	data []byte
	sent time.Duration // by the listener's clock; waiting if it was not
}

// waiting is the time at which a parcel was sent that was not.
const waiting time.Duration = -1

// A backlog keeps the datagrams of a flow that wait for a target, and those that were sent and not answered, which go to another one if
// they are refused. The flow's lock guards it.
type backlog struct {
	parcels []parcel // with the buffers of earlier ones behind the first n
	n       int
}

// wait keeps a datagram until there is a target, at the cost of what was sent already. It reports whether there was room.
func (b *backlog) wait(datagram []byte, room *budget) bool {
	if b.n == maxWaiting && b.parcels[0].sent != waiting {
		b.dropFirst()
	}
	return b.n < maxWaiting && b.put(datagram, waiting, room, room.limit)
}

// sent keeps a datagram that is sent now instead of the oldest one, and reports whether there was room.
func (b *backlog) sent(datagram []byte, now time.Duration, room *budget) bool {
	if b.n >= maxUnsure {
		b.dropFirst()
	}
	return b.put(datagram, now, room, room.limit/2)
}

func (b *backlog) put(datagram []byte, sent time.Duration, room *budget, limit int64) bool {
	if b.n == len(b.parcels) {
		b.parcels = append(b.parcels, parcel{})
	}
	p := &b.parcels[b.n]
	if more := len(datagram) - cap(p.data); more > 0 {
		if !room.take(more, limit) {
			return false
		}
		p.data = make([]byte, len(datagram))
	}
	p.data, p.sent = append(p.data[:0], datagram...), sent
	b.n++
	return true
}

// dropFirst drops the first parcel and keeps its buffer behind the others.
func (b *backlog) dropFirst() {
	first := b.parcels[0]
	copy(b.parcels, b.parcels[1:b.n])
	b.n--
	b.parcels[b.n] = first
}

// answered forgets what was sent: who answers did not refuse it.
func (b *backlog) answered(room *budget) {
	for b.n > 0 && b.parcels[0].sent != waiting {
		b.dropFirst()
		if p := &b.parcels[b.n]; cap(p.data) > maxRoom {
			room.give(cap(p.data))
			p.data = nil
		}
	}
}

// rewind has those that were sent a short while ago wait again, and forgets the others.
func (b *backlog) rewind(now time.Duration) {
	for b.n > 0 && b.parcels[0].sent != waiting && now-b.parcels[0].sent > unsureTime {
		b.dropFirst()
	}
	for i := range b.n {
		b.parcels[i].sent = waiting
	}
}

// waits reports whether a datagram waits.
func (b *backlog) waits() bool { return b.n > 0 && b.parcels[b.n-1].sent == waiting }

// next appends the first that waits to a buffer, as one that is sent now.
func (b *backlog) next(into []byte, now time.Duration) []byte {
	for i := range b.n {
		if p := &b.parcels[i]; p.sent == waiting {
			p.sent = now
			return append(into, p.data...)
		}
	}
	return into
}

// free gives everything back and returns how many waited.
func (b *backlog) free(room *budget) (lost int) {
	for i := range b.parcels {
		if i < b.n && b.parcels[i].sent == waiting {
			lost++
		}
		room.give(cap(b.parcels[i].data))
	}
	*b = backlog{}
	return lost
}
