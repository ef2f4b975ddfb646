package flow

import (
	"cmp"
	"net/netip"
	"slices"
	"time"

	"github.com/limpet-project/limpet/lab/clientip"
)

// maxStrangers is how many endpoints of a Service that no rule has are counted apart. A node's rules change before they are read again, so
// some are seen.
const maxStrangers = 64

// A Tracker counts flows. It is pure: it knows what it is told, and the time that comes with it. One goroutine at a time may use it.
type Tracker struct {
	options  Options
	services map[serviceKey]*service
	fronts   map[frontKey]*service
	clients  *clients
	slot     int
	number   uint64 // of the interval, from 1
	begun    time.Time
	stale    bool
}

// A serviceKey names a port of a Service in one family.
type serviceKey struct {
	clientip.ServicePort
	family string
}

// A frontKey is where clients send to; of a node port it has the unspecified address.
type frontKey struct {
	protocol string
	to       netip.AddrPort
}

// A service is a port of a Service as rules serve it, and its flows.
type service struct {
	report    clientip.ServiceReport
	timeout   time.Duration
	endpoints map[netip.AddrPort]*endpoint
	strangers int
	flows     uint64
	current   uint64 // flows of this interval
	moved     int
	moves     Moves
	unsettled map[netip.AddrPort]uint64 // moves whose cause is not known, by the endpoint before
	gone      bool
}

// An endpoint is what is counted of one.
type endpoint struct {
	address netip.AddrPort
	place   int // in the rules; -1 if it is not in them
	live    int
	list    Fill
	window  ring
	current uint64
	flows   uint64
}

// NewTracker returns a Tracker that knows no rules and begins now. Options that Check refuses are a mistake of the caller.
func NewTracker(o Options, now time.Time) *Tracker {
	o = o.normal()
	return &Tracker{
		options: o, services: map[serviceKey]*service{}, fronts: map[frontKey]*service{}, clients: newClients(o.Clients, o.slots()),
		number: 1, begun: now,
	}
}

// SetRules takes the rules and the lists of a node in, instead of those before.
func (t *Tracker) SetRules(n *clientip.Node) {
	t.stale = false
	before := t.services
	t.services, t.fronts = map[serviceKey]*service{}, map[frontKey]*service{}
	for _, r := range n.Explain(clientip.Question{Service: t.options.Service}).Services {
		key := serviceKey{r.ServicePort, r.Family}
		s := cmp.Or(t.services[key], before[key])
		if s == nil {
			s = &service{endpoints: map[netip.AddrPort]*endpoint{}, unsettled: map[netip.AddrPort]uint64{}}
		}
		t.services[key] = s
		s.set(r, t.options.slots())
		for _, f := range r.Fronts {
			t.fronts[frontKey{r.Protocol, netip.AddrPortFrom(frontAddress(f, r.Family), f.Port)}] = s
		}
	}
	for key, s := range before {
		s.gone = t.services[key] == nil
	}
}

// frontAddress returns the address of a front, and the unspecified one for a port of the node.
func frontAddress(f clientip.Front, family string) netip.Addr {
	switch {
	case f.Address.IsValid():
		return f.Address
	case family == "IPv6":
		return netip.IPv6Unspecified()
	}
	return netip.IPv4Unspecified()
}

// set takes the rules of the Service in.
func (s *service) set(r clientip.ServiceReport, slots int) {
	s.report, s.timeout, s.gone = r, time.Duration(r.Timeout), false
	for _, e := range s.endpoints {
		e.place, e.live, e.list = -1, 0, Fill{}
	}
	for i, v := range r.Endpoints {
		e := s.endpoints[v.Address]
		if e == nil {
			e = &endpoint{address: v.Address, window: newRing(slots)}
			s.endpoints[v.Address] = e
		}
		e.place, e.live, e.list = i, v.Live, Fill{v.Entries, v.Limit}
	}
	s.strangers = 0
	for address, e := range s.endpoints {
		if e.place < 0 && e.window.sum == 0 {
			delete(s.endpoints, address)
		} else if e.place < 0 {
			s.strangers++
		}
	}
	s.settle()
}

// settle finds the cause of moves by whether rules still have the endpoint before.
func (s *service) settle() {
	for before, moves := range s.unsettled {
		if e := s.endpoints[before]; e != nil && e.place >= 0 {
			s.moves.Lost += moves
		} else {
			s.moves.Gone += moves
		}
	}
	clear(s.unsettled)
}

// Stale reports whether a flow reached what the rules of SetRules do not have: they may have changed.
func (t *Tracker) Stale() bool { return t.stale }

// Add counts a new flow that began now. A flow of what is not watched is left out.
func (t *Tracker) Add(f clientip.Flow, now time.Time) {
	s := t.find(f)
	if s == nil {
		return
	}
	s.flows++
	s.current++
	if e := t.endpoint(s, f.Server); e != nil {
		e.flows++
		e.current++
		e.window.add(t.slot)
	}
	t.addClient(s, f, now)
}

// find returns the Service that a flow is of, or nil.
func (t *Tracker) find(f clientip.Flow) *service {
	if s := t.fronts[frontKey{f.Protocol, f.Destination}]; s != nil || f.Server == f.Destination {
		return s
	}
	anywhere := netip.IPv4Unspecified()
	if f.Destination.Addr().Is6() {
		anywhere = netip.IPv6Unspecified()
	}
	return t.fronts[frontKey{f.Protocol, netip.AddrPortFrom(anywhere, f.Destination.Port())}]
}

// endpoint returns the endpoint of a Service, or nil if there are too many that rules do not have.
func (t *Tracker) endpoint(s *service, address netip.AddrPort) *endpoint {
	if e := s.endpoints[address]; e != nil {
		return e
	}
	if s.strangers == maxStrangers {
		return nil
	}
	t.stale = true
	s.strangers++
	e := &endpoint{address: address, place: -1, window: newRing(t.options.slots())}
	s.endpoints[address] = e
	return e
}

// addClient counts a client's flow, and whether affinity was to send it elsewhere.
func (t *Tracker) addClient(s *service, f clientip.Flow, now time.Time) {
	c, known := t.clients.touch(clientKey{s, f.Client.Addr()}, now)
	if known && c.last != f.Server && c.held(now) {
		s.moves.Total++
		s.unsettled[c.last]++
		if c.movedIn != t.number {
			c.movedIn = t.number
			s.moved++
		}
	}
	c.last, c.seen = f.Server, now
	c.window.add(t.slot)
}

// Tick ends the interval and returns what was seen in it. What Watch knows beyond flows is left empty.
func (t *Tracker) Tick(now time.Time) Interval {
	seconds := max(now.Sub(t.begun).Seconds(), 1e-3)
	v := Interval{
		Time: now, Seconds: seconds, Window: t.options.Window.Seconds(), Services: []ServiceRate{},
		Clients: Clients{t.clients.order.Len(), t.clients.limit, t.clients.forgotten},
	}
	weights := t.clients.weights()
	for _, s := range t.services {
		v.Services = append(v.Services, s.rate(seconds, weights[s]))
	}
	slices.SortFunc(v.Services, func(a, b ServiceRate) int {
		return cmp.Or(cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name), cmp.Compare(a.Port, b.Port),
			cmp.Compare(a.Protocol, b.Protocol), cmp.Compare(a.Family, b.Family))
	})
	t.advance(now)
	return v
}

// advance begins the next interval.
func (t *Tracker) advance(now time.Time) {
	t.begun = now
	t.number++
	t.slot = (t.slot + 1) % t.options.slots()
	t.clients.advance(t.slot, now)
	for _, s := range t.services {
		s.current, s.moved = 0, 0
		for _, e := range s.endpoints {
			e.current = 0
			e.window.clear(t.slot)
		}
	}
}
