package spread

import "time"

// A memory is what kube-proxy on one node remembers of the clients that an endpoint served: a list of client addresses with the time of
// their last flow. The two modes differ in what happens when it is full.
//
// It keeps its order in a ring of links, by slot; slot 0 is the ring's head, whose next is the oldest.
type memory struct {
	size   int
	evicts bool // xt_recent forgets the least recently used; a set of nft takes no more
	at     map[int32]int32
	links  []link
	free   []int32
}

type link struct {
	client         int32
	previous, next int32
	last           time.Duration
}

func newMemory(size int, mode Mode) *memory {
	return &memory{size: size, evicts: mode == ModeIPTables, at: map[int32]int32{}, links: make([]link, 1)}
}

// holds reports whether a flow of the client came within the timeout. As the rule with --reap does, it forgets the oldest address if that
// is too old, and only when it finds the client.
func (m *memory) holds(client int32, now, timeout time.Duration) bool {
	slot, found := m.at[client]
	if !found {
		return false
	}
	held := now-m.links[slot].last <= timeout
	if oldest := m.links[0].next; now-m.links[oldest].last > timeout {
		m.forget(oldest)
	}
	return held
}

// set remembers a flow of the client, and reports whether there was room for it.
func (m *memory) set(client int32, now, timeout time.Duration) bool {
	slot, found := m.at[client]
	if found {
		m.unlink(slot)
	} else {
		if len(m.at) >= m.size && !m.makeRoom(now, timeout) {
			return false
		}
		slot = m.newSlot(client)
	}
	m.links[slot].last = now
	m.append(slot)
	return true
}

// makeRoom forgets the oldest address. A set of nft loses addresses by their own timeout only.
func (m *memory) makeRoom(now, timeout time.Duration) bool {
	oldest := m.links[0].next
	if !m.evicts && now-m.links[oldest].last <= timeout {
		return false
	}
	m.forget(oldest)
	return true
}

func (m *memory) newSlot(client int32) int32 {
	if n := len(m.free); n > 0 {
		slot := m.free[n-1]
		m.free = m.free[:n-1]
		m.links[slot].client = client
		m.at[client] = slot
		return slot
	}
	m.links = append(m.links, link{client: client})
	m.at[client] = int32(len(m.links) - 1)
	return m.at[client]
}

func (m *memory) forget(slot int32) {
	m.unlink(slot)
	delete(m.at, m.links[slot].client)
	m.free = append(m.free, slot)
}

func (m *memory) unlink(slot int32) {
	l := m.links[slot]
	m.links[l.previous].next = l.next
	m.links[l.next].previous = l.previous
}

func (m *memory) append(slot int32) {
	last := m.links[0].previous
	m.links[slot].previous, m.links[slot].next = last, 0
	m.links[last].next, m.links[0].previous = slot, slot
}

// A node is what one node's rules of a Service do: they look for the client in the lists of the endpoints, else draw an endpoint, and
// remember the client there.
type node struct {
	lists   []*memory // by endpoint, nil while it had no client
	latest  []int32   // by client: the endpoint whose list took it last, -1 for none
	size    int
	mode    Mode
	timeout time.Duration
}

func newNode(clients, endpoints, size int, mode Mode, timeout time.Duration) *node {
	n := &node{lists: make([]*memory, endpoints), latest: make([]int32, clients), size: size, mode: mode, timeout: timeout}
	for i := range n.latest {
		n.latest[i] = -1
	}
	return n
}

// route returns the endpoint, one of those named, that a new flow of the client reaches. Of all lists only the one that took the client
// last can hold it: another endpoint is drawn only when that one forgot it or is too old. So one look is as good as the rules' many.
func (n *node) route(client int32, now time.Duration, endpoints []int, c chance) int {
	chosen := int(n.latest[client])
	if chosen < 0 || !n.lists[chosen].holds(client, now, n.timeout) {
		chosen = endpoints[c.IntN(len(endpoints))]
	}
	if n.lists[chosen] == nil {
		n.lists[chosen] = newMemory(n.size, n.mode)
	}
	if n.lists[chosen].set(client, now, n.timeout) {
		n.latest[client] = int32(chosen)
	}
	return chosen
}
