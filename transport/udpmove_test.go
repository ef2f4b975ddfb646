package transport

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/limpet-project/limpet/affinity"
	"github.com/limpet-project/limpet/binding"
	"github.com/limpet-project/limpet/endpoint"
)

// trio returns three endpoints and a function that finds one by name.
func trio(t testing.TB) (all []*udpEndpoint, find func(name string) *udpEndpoint) {
	for _, name := range []string{"coredns-a", "coredns-b", "coredns-c"} {
		all = append(all, startUDPEndpoint(t, name, nil))
	}
	return all, func(name string) *udpEndpoint {
		return all[slices.IndexFunc(all, func(e *udpEndpoint) bool { return e.name == name })]
	}
}

func member(e *udpEndpoint) endpoint.Member {
	return endpoint.Member{Name: e.name, Address: e.address()}
}

// membersBut publishes the endpoints with one of them edited.
func (g *udpGateway) membersBut(all []*udpEndpoint, name string, edit func(*endpoint.Member)) {
	var list []endpoint.Member
	for _, e := range all {
		m := member(e)
		if e.name == name {
			edit(&m)
		}
		list = append(list, m)
	}
	g.members(list...)
}

func TestAFlowMovesWithItsNextDatagram(t *testing.T) {
	tests := []struct {
		name   string
		edit   func(all []*udpEndpoint, g *udpGateway, name string)
		reason affinity.Reason
	}{
		{"when its endpoint is down", func(all []*udpEndpoint, g *udpGateway, name string) {
			g.membersBut(all, name, func(m *endpoint.Member) { m.NotReady = true })
		}, affinity.ReasonEndpointGone},
		{"when its endpoint is gone", func(all []*udpEndpoint, g *udpGateway, name string) {
			g.list(slices.DeleteFunc(slices.Clone(all), func(e *udpEndpoint) bool { return e.name == name })...)
		}, affinity.ReasonEndpointGone},
		{"when the drain of its endpoint is over", func(all []*udpEndpoint, g *udpGateway, name string) {
			g.membersBut(all, name, func(m *endpoint.Member) {
				m.Draining, m.DrainUntil = true, time.Now().Add(-time.Millisecond)
			})
		}, affinity.ReasonEndpointGone},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			all, _ := trio(t)
			g := startUDPGateway(t, udpOptions{policy: stickyByAddress(time.Hour)}, all...)
			c := dialUDP(t, "127.0.1.1", g.address)
			before := c.endpointOf("q1")
			test.edit(all, g, before)
			after := c.endpointOf("q2")
			if after == before {
				t.Errorf("the next datagram went to %s, want another endpoint", after)
			}
			if got := dialUDP(t, "127.0.1.1", g.address).endpointOf("q3"); got != after {
				t.Errorf("another flow of the client went to %s, want %s, to which the session moved", got, after)
			}
			picks := g.seen.picks()
			if len(picks) < 2 || picks[1].Reason != test.reason {
				t.Errorf("picks = %+v, want the second with reason %s", picks, test.reason)
			}
		})
	}
}

func TestAFlowStaysWhileItsEndpointDrainsAndMovesAtTheDeadline(t *testing.T) {
	all, _ := trio(t)
	g := startUDPGateway(t, udpOptions{policy: stickyByAddress(time.Hour)}, all...)
	c := dialUDP(t, "127.0.1.1", g.address)
	before := c.endpointOf("q1")
	until := time.Now().Add(300 * time.Millisecond)
	g.membersBut(all, before, func(m *endpoint.Member) { m.Draining, m.DrainUntil = true, until })
	for i := 0; ; i++ {
		asked := time.Now()
		got := c.endpointOf(fmt.Sprintf("q%d", i))
		if got != before {
			if time.Now().Before(until) {
				t.Errorf("moved to %s %v before the deadline", got, time.Until(until))
			}
			return
		}
		if asked.After(until.Add(10 * time.Millisecond)) {
			t.Fatalf("still at %s %v after the deadline", got, time.Since(until))
		}
		time.Sleep(time.Millisecond)
	}
}

func TestAFlowFollowsItsEndpointToAnotherAddress(t *testing.T) {
	a := startUDPEndpoint(t, "coredns-a", nil)
	moved := startUDPEndpoint(t, "coredns-a-elsewhere", nil)
	g := startUDPGateway(t, udpOptions{policy: stickyByAddress(time.Hour)}, a)
	c := dialUDP(t, "127.0.1.1", g.address)
	c.endpointOf("q1")
	g.members(endpoint.Member{Name: a.name, Address: moved.address()})
	if got := c.endpointOf("q2"); got != moved.name {
		t.Errorf("the next datagram went to %s, want the new address of the endpoint", got)
	}
}

func TestWhatAnEndpointRefusesGoesToAnotherOneAtOnce(t *testing.T) {
	all, find := trio(t)
	g := startUDPGateway(t, udpOptions{policy: stickyByAddress(time.Hour)}, all...)
	c := dialUDP(t, "127.0.1.1", g.address)
	first := c.endpointOf("q1")
	find(first).stop()
	second := c.endpointOf("q2")
	if second == first {
		t.Fatalf("answered by %s, whose socket is closed", second)
	}
	find(second).stop()
	third := c.endpointOf("q3")
	if third == first || third == second {
		t.Errorf("answered by %s, want the endpoint that is left", third)
	}
	if got := dialUDP(t, "127.0.1.1", g.address).endpointOf("q4"); got != third {
		t.Errorf("another flow went to %s, want %s, to which the session moved", got, third)
	}
}

func TestTheFirstDatagramsOfAFlowAreSentAgainInOrder(t *testing.T) {
	all, find := trio(t)
	store := binding.NewMemory(binding.MemoryOptions{})
	g := startUDPGateway(t, udpOptions{policy: stickyByAddress(time.Hour), store: store}, all...)
	first := dialUDP(t, "127.0.1.1", g.address).endpointOf("q")
	find(first).stop()
	c := dialUDP(t, "127.0.1.1", g.address) // the session is bound to an endpoint that refuses
	for i := range 4 {
		c.send(fmt.Sprintf("q%d", i))
	}
	var got []string
	for range 4 {
		got = append(got, c.read(patience))
	}
	for i, answer := range got {
		var name, text string
		if fmt.Sscan(answer, &name, &text); name == first || text != fmt.Sprintf("q%d", i) {
			t.Fatalf("answers = %q, want q0 to q3 in order from an endpoint that is there", got)
		}
	}
}

func TestAFlowThatNobodyTakesEndsAndTheNextDatagramBeginsAnother(t *testing.T) {
	a := startUDPEndpoint(t, "coredns-a", nil)
	g := startUDPGateway(t, udpOptions{policy: stickyByAddress(time.Hour)}, a)
	address := a.address()
	a.stop()
	c := dialUDP(t, "127.0.1.1", g.address)
	c.send("q1")
	eventually(t, "the datagram is dropped", func() bool { return g.seen.dropped(CauseRefused) == 1 })
	eventually(t, "the flow has ended", func() bool { return len(g.seen.ends()) > 0 })
	if e := g.seen.ends(); len(e) != 1 || e[0].Cause != CauseRefused || e[0].Err == nil || e[0].Attempts != 1 {
		t.Errorf("ends = %+v, want one refused after one attempt", e)
	}
	a.close()
	startUDPEndpointAt(t, "coredns-a", address, nil)
	c.endpointOf("q2")
}

func TestDatagramsWithoutAServiceOrEndpointAreDropped(t *testing.T) {
	g := startUDPGateway(t, udpOptions{policy: stickyByAddress(time.Hour)})
	c := dialUDP(t, "127.0.1.1", g.address)
	c.send("q")
	eventually(t, "no endpoint", func() bool { return g.seen.dropped(CauseNoEndpoint) == 1 })
	g.Swap(Route{Service: affinity.ServiceName{Name: "other"}})
	c.send("q")
	eventually(t, "no service", func() bool { return g.seen.dropped(CauseNoService) == 1 })
}

func TestAFlowMovesToTheServiceOfANewRoute(t *testing.T) {
	a, b := startUDPEndpoint(t, "coredns-a", nil), startUDPEndpoint(t, "unbound-a", nil)
	g := startUDPGateway(t, udpOptions{}, a)
	c := dialUDP(t, "127.0.1.1", g.address)
	c.endpointOf("q1")
	unbound := affinity.ServiceName{Name: "unbound"}
	g.table.SetServices([]endpoint.Service{
		{Name: coredns, Revisions: []endpoint.Revision{{Name: corednsRevision, Weight: 1}}},
		{Name: unbound, Revisions: []endpoint.Revision{{Name: "unbound-00001", Weight: 1}}},
	})
	g.table.SetMembers(endpoint.RevisionName{Name: "unbound-00001"}, []endpoint.Member{member(b)})
	g.Swap(Route{Service: coredns, Policy: stickyByAddress(time.Hour)})
	if got := c.endpointOf("q2"); got != a.name {
		t.Errorf("after another policy the flow went to %s, want %s", got, a.name)
	}
	g.Swap(Route{Service: unbound})
	if got := c.endpointOf("q3"); got != b.name {
		t.Errorf("after another service the flow went to %s, want %s", got, b.name)
	}
}

// TestALongFlowKeepsItsSession is what kube-proxy does not do: there, packets of a flow that goes on do not renew the affinity.
func TestALongFlowKeepsItsSession(t *testing.T) {
	all, _ := trio(t)
	store := newClockedStore()
	g := startUDPGateway(t, udpOptions{policy: stickyByAddress(time.Second), store: store}, all...)
	clients := make([]*udpClient, 8)
	names := make([]string, len(clients))
	for i := range clients {
		clients[i] = dialUDP(t, fmt.Sprintf("127.0.3.%d", i+1), g.address)
		names[i] = clients[i].endpointOf("q")
	}
	for range 4 { // thrice as long as the sessions would live without renewal
		for _, c := range clients {
			c.endpointOf("q")
		}
		store.pass(t, len(clients), time.Second)
	}
	for i := range clients {
		if got := dialUDP(t, fmt.Sprintf("127.0.3.%d", i+1), g.address).endpointOf("q"); got != names[i] {
			t.Errorf("client %d: a new socket after 4 s of one flow went to %s, want %s: the flow renews the session", i, got, names[i])
		}
	}
	for _, p := range g.seen.picks()[len(clients):] {
		if p.Reason != affinity.ReasonBound {
			t.Errorf("a new socket was picked with reason %s, want bound", p.Reason)
		}
	}
}

// slowStore is a store whose answers about the first key that it was asked for wait until they are let go.
type slowStore struct {
	binding.Store
	first atomic.Pointer[affinity.Key]
	open  chan struct{}
}

func (s *slowStore) Get(ctx context.Context, k affinity.Key) (binding.Binding, error) {
	if s.first.CompareAndSwap(nil, &k); k == *s.first.Load() {
		<-s.open
	}
	return s.Store.Get(ctx, k)
}

func TestOtherFlowsGoOnWhileOneWaitsForTheStore(t *testing.T) {
	all, _ := trio(t)
	store := &slowStore{Store: binding.NewMemory(binding.MemoryOptions{}), open: make(chan struct{})}
	g := startUDPGateway(t, udpOptions{policy: stickyByAddress(time.Hour), store: store}, all...)
	slow := dialUDP(t, "127.0.1.1", g.address)
	slow.send("w0")
	eventually(t, "the first flow waits", func() bool { return g.picking.Load() == 1 })
	for i := 1; i < maxWaiting+3; i++ {
		slow.send(fmt.Sprintf("w%d", i))
	}
	eventually(t, "what is too much is dropped", func() bool { return g.seen.dropped(CauseWaiting) == 3 })
	for i := range 20 {
		dialUDP(t, fmt.Sprintf("127.0.4.%d", i+1), g.address).endpointOf("q")
	}
	close(store.open)
	for i := range maxWaiting {
		var name, text string
		if fmt.Sscan(slow.read(patience), &name, &text); text != fmt.Sprintf("w%d", i) {
			t.Fatalf("answer %d is to %q, want the first datagrams in order", i, text)
		}
	}
}

func TestAnEndpointThatAnswersNobodyIsEjected(t *testing.T) {
	all, find := trio(t)
	g := startUDPGateway(t, udpOptions{
		policy: stickyByAddress(time.Hour),
		edit:   func(u *UDP) { u.AnswerTimeout = 50 * time.Millisecond },
		rules:  endpoint.Service{Ejection: &endpoint.Ejection{Consecutive: 3, Base: time.Hour, Max: time.Hour}},
	}, append(all, startUDPEndpoint(t, "coredns-d", nil))...)
	c := dialUDP(t, "127.0.1.1", g.address)
	first := ""
	eventually(t, "a first answer", func() bool { // a machine that stands still lets the flow end before it
		c.send("first")
		first, _, _ = strings.Cut(c.read(time.Second), " ")
		return first != ""
	})
	if first == "coredns-d" {
		t.Skip("the digest changed: the client's endpoint is not one of the three")
	}
	find(first).silent.Store(true)
	begin := time.Now()
	for i := 0; ; i++ {
		c.send("q")
		if answer := c.read(100 * time.Millisecond); answer != "" && !strings.HasSuffix(answer, " first") { // which may have been asked twice
			if i < 3 {
				t.Errorf("moved after %d datagrams without an answer, want 3 failures before", i)
			}
			break
		}
		if time.Since(begin) > patience {
			t.Fatalf("still sent to an endpoint that answers nobody: %+v %+v", g.seen.ends()[:3], g.table.Status())
		}
	}
	eventually(t, "three flows have ended unanswered", func() bool { // the endpoint is told of a failure before the observer is
		unanswered := 0
		for _, e := range g.seen.ends() {
			if e.Ending == EndUnanswered && e.Outcome == endpoint.OutcomeFailed {
				unanswered++
			}
		}
		return unanswered >= 3
	})
}

func TestADatagramWithoutAnAnswerIsNoFailureOfAnEndpointThatAnswersOthers(t *testing.T) {
	a := startUDPEndpoint(t, "coredns-a", func(datagram []byte) [][]byte {
		if string(datagram) == "lost" {
			return nil
		}
		return [][]byte{append([]byte("coredns-a "), datagram...)}
	})
	g := startUDPGateway(t, udpOptions{edit: func(u *UDP) { u.IdleTimeout, u.AnswerTimeout = 24*time.Hour, time.Hour }}, a)
	c, other := dialUDP(t, "127.0.1.1", g.address), dialUDP(t, "127.0.1.2", g.address)
	c.endpointOf("q")
	f := g.flowOf(t, c)
	lose := func() (asked time.Duration) {
		c.send("lost")
		eventually(t, "the datagram is sent on", func() bool { _, asked = f.times(); return asked > 0 })
		return asked
	}
	asked := lose()
	other.endpointOf("q")
	if _, open := f.look(asked + time.Hour); !open {
		t.Errorf("ends = %+v, want none: the endpoint answered somebody else since", g.seen.ends())
	}
	asked = lose()
	if _, open := f.look(asked + time.Hour); open {
		t.Error("the flow is open although nobody was answered since, want its end")
	}
}
