package transport

import (
	"container/heap"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/limpet-project/limpet/affinity"
)

// A flowKey names a flow: where its client sends from, and to which address of the listener. Addresses of IPv4 are mapped.
type flowKey struct {
	client [16]byte
	local  [16]byte // zero where the socket has one address alone
	scope  uint32   // of a link-local client
	port   uint16
}

// A flowTable holds the open flows and when to look at each of them. It bounds how many there are. No flow's lock is taken while its
// own is held.
type flowTable struct {
	mu        sync.Mutex
	most      int
	perClient int
	flows     map[flowKey]*flow
	clients   map[netip.Prefix]*flowClient
	pulses    map[affinity.Target]*pulse
	agenda    flowAgenda
	wake      chan struct{} // the next look became an earlier one
	closed    bool          // no flow is added any longer
	empty     chan struct{} // closed when no flow is left after closed
}

// A flowClient counts what one client holds. The table's lock guards flows.
type flowClient struct {
	prefix netip.Prefix
	flows  int
}

// A pulse is when an endpoint last answered anybody, by the listener's clock. The table's lock guards flows.
type pulse struct {
	last  atomic.Int64
	flows int
}

func (t *flowTable) begin(most, perClient int) {
	t.most, t.perClient = most, perClient
	t.flows = map[flowKey]*flow{}
	t.clients = map[netip.Prefix]*flowClient{}
	t.pulses = map[affinity.Target]*pulse{}
	t.wake = make(chan struct{}, 1)
	t.empty = make(chan struct{})
}

// find returns the flow of that key, nil if there is none.
func (t *flowTable) find(k flowKey) *flow {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.flows[k]
}

// add adds a flow, to be looked at after a while, and returns "", or says why it does not.
func (t *flowTable) add(f *flow, client netip.Prefix, due time.Duration) Cause {
	t.mu.Lock()
	defer t.mu.Unlock()
	c := t.clients[client]
	switch {
	case t.closed:
		return CauseShutdown
	case len(t.flows) >= t.most:
		return CauseFlows
	case c != nil && c.flows >= t.perClient:
		return CauseClientFlows
	}
	if c == nil {
		c = &flowClient{prefix: client}
		t.clients[client] = c
	}
	c.flows++
	f.owner, f.due, f.listed = c, due, true
	t.flows[f.key] = f // one that is over and about to be removed may be there
	t.plan(f)
	return ""
}

// plan puts a flow into the agenda. The caller holds mu.
func (t *flowTable) plan(f *flow) {
	heap.Push(&t.agenda, f)
	if f.place == 0 {
		select {
		case t.wake <- struct{}{}:
		default:
		}
	}
}

// remove takes a flow out.
func (t *flowTable) remove(f *flow) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !f.listed {
		return
	}
	f.listed = false
	if t.flows[f.key] == f {
		delete(t.flows, f.key)
	}
	if f.owner.flows--; f.owner.flows == 0 {
		delete(t.clients, f.owner.prefix)
	}
	if f.place >= 0 {
		heap.Remove(&t.agenda, f.place)
	}
	t.settle()
}

// settle notes that no flow is left, if one is waited for. The caller holds mu.
func (t *flowTable) settle() {
	if t.closed && len(t.flows) == 0 {
		select {
		case <-t.empty:
		default:
			close(t.empty)
		}
	}
}

// due takes flows out of the agenda that are due, at most len(into), and returns them and, if there are fewer, in how long the next one
// is.
func (t *flowTable) due(now time.Duration, into []*flow) ([]*flow, time.Duration) {
	t.mu.Lock()
	defer t.mu.Unlock()
	into = into[:0]
	for len(into) < cap(into) && len(t.agenda) > 0 && t.agenda[0].due <= now {
		into = append(into, heap.Pop(&t.agenda).(*flow))
	}
	if len(t.agenda) == 0 {
		return into, lookEvery
	}
	return into, t.agenda[0].due - now
}

// again has a flow that is still open looked at once more.
func (t *flowTable) again(f *flow, due time.Duration) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if f.listed && f.place < 0 {
		f.due = due
		t.plan(f)
	}
}

// shut ends the adding of flows. What it returns is closed when there is none left.
func (t *flowTable) shut() <-chan struct{} {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.closed = true
	t.settle()
	return t.empty
}

func (t *flowTable) len() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return len(t.flows)
}

// all returns the open flows.
func (t *flowTable) all() []*flow {
	t.mu.Lock()
	defer t.mu.Unlock()
	list := make([]*flow, 0, len(t.flows))
	for _, f := range t.flows {
		list = append(list, f)
	}
	return list
}

// follow returns the pulse of an endpoint for one more flow, and leaves that of another one, which may be nil.
func (t *flowTable) follow(target affinity.Target) *pulse {
	t.mu.Lock()
	defer t.mu.Unlock()
	p := t.pulses[target]
	if p == nil {
		p = &pulse{}
		t.pulses[target] = p
	}
	p.flows++
	return p
}

// leave is the opposite of follow.
func (t *flowTable) leave(target affinity.Target, p *pulse) {
	if p == nil {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if p.flows--; p.flows == 0 && t.pulses[target] == p {
		delete(t.pulses, target)
	}
}

// A flowAgenda is a heap of flows by when they are due. A flow's due and place belong to it.
type flowAgenda []*flow

// Len implements heap.Interface.
func (a flowAgenda) Len() int { return len(a) }

// Less implements heap.Interface.
func (a flowAgenda) Less(i, j int) bool { return a[i].due < a[j].due }

// Swap implements heap.Interface.
func (a flowAgenda) Swap(i, j int) {
	a[i], a[j] = a[j], a[i]
	a[i].place, a[j].place = i, j
}

// Push implements heap.Interface.
func (a *flowAgenda) Push(x any) {
	f := x.(*flow)
	f.place = len(*a)
	*a = append(*a, f)
}

// Pop implements heap.Interface.
func (a *flowAgenda) Pop() any {
	last := len(*a) - 1
	f := (*a)[last]
	(*a)[last] = nil
	*a = (*a)[:last]
	f.place = -1
	return f
}

// clientPrefix returns what counts as one client: as many bits of the address as the policy goes by, else 64 of IPv6 and all of IPv4.
func clientPrefix(p *affinity.Policy, client netip.Addr) netip.Prefix {
	four, six := 32, 64
	if a := addressSource(p); a != nil {
		if a.IPv4Prefix > 0 {
			four = a.IPv4Prefix
		}
		if a.IPv6Prefix > 0 {
			six = a.IPv6Prefix
		}
	}
	bits := six
	if client.Is4() {
		bits = four
	}
	prefix, err := client.Prefix(bits)
	if err != nil {
		return netip.Prefix{} // of all whose address nobody understands
	}
	return prefix
}

// addressSource returns how the policy goes by the client's address, nil if it does not.
func addressSource(p *affinity.Policy) *affinity.AddressPrefix {
	if p == nil {
		return nil
	}
	var sources []affinity.Source
	if p.Session != nil {
		sources = append(sources, p.Session.From...)
	}
	if p.Revision != nil {
		sources = append(sources, p.Revision.From...)
	}
	for i := range sources {
		if sources[i].ClientAddress != nil {
			return sources[i].ClientAddress
		}
	}
	return nil
}
