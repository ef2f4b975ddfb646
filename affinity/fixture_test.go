package affinity

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"sync/atomic"
	"testing"
	"time"
)

// What the tests share: a service "demo" with revisions demo-00001… as Knative names them, and pods named by UID.

var (
	demo = ServiceName{Namespace: "shop", Name: "demo"}
	noon = time.Date(2025, time.June, 3, 12, 0, 0, 0, time.UTC)
)

// pod returns the identity of a revision's n-th pod.
func pod(revision string, n int) string {
	h := seed(fmt.Sprintf("%s/%d", revision, n))
	return fmt.Sprintf("%08x-%04x-4%03x-8%03x-%012x", uint32(h), uint16(h>>32), h>>48&0xfff, h>>52, mix(h)&0xffffffffffff)
}

// pods returns ready endpoints.
func pods(revision string, count int) []Endpoint {
	list := make([]Endpoint, count)
	for i := range list {
		list[i] = Endpoint{Name: pod(revision, i), Address: fmt.Sprintf("10.244.%d.%d:8080", i/250, i%250+1), Slot: int32(i)}
	}
	return list
}

// revision returns an active revision with ready pods, valid since always.
func revision(name string, weight, count int, tags ...string) Revision {
	return Revision{Name: name, Weight: weight, Tags: tags, Pool: NewPool(pods(name, count))}
}

// split returns a synchronised snapshot whose revisions demo-00001… have those weights and three pods each.
func split(weights ...int) *Snapshot {
	var list []Revision
	for i, weight := range weights {
		list = append(list, revision(fmt.Sprintf("demo-%05d", i+1), weight, 3))
	}
	return NewSnapshot(demo, list, true)
}

// sessionKey and flowKey return the key of the n-th user, whose digest is as random as a real one.
func sessionKey(n int) Key { return key(KindSession, n) }
func flowKey(n int) Key    { return key(KindFlow, n) }

func key(kind Kind, n int) Key {
	k := Key{Scope: Scope{Service: demo, Kind: kind}}
	h := mix(uint64(n)*2 + uint64(kind))
	binary.LittleEndian.PutUint64(k.Digest[:8], h)
	binary.LittleEndian.PutUint64(k.Digest[8:], mix(h+0x9e3779b97f4a7c15))
	return k
}

// loads are live counters by slot, as a gateway has them.
type loads struct{ bound, inFlight []atomic.Int64 }

func newLoads(slots int) *loads {
	return &loads{bound: make([]atomic.Int64, slots), inFlight: make([]atomic.Int64, slots)}
}

func (l *loads) Load(e *Endpoint) Load {
	return Load{Bound: l.bound[e.Slot].Load(), InFlight: l.inFlight[e.Slot].Load()}
}

// decide fails the test if there is no decision.
func decide(t testing.TB, p *Policy, s *Snapshot, r Request) Decision {
	t.Helper()
	d, err := Decide(p, s, r)
	if err != nil {
		t.Fatalf("Decide(%+v): %v", r, err)
	}
	return d
}

// message is a request as a data plane would hand it over.
type message struct {
	host, path, query string
	header            map[string][]string
	peer              netip.Addr
}

func (m *message) Method() string              { return "GET" }
func (m *message) Host() string                { return m.host }
func (m *message) Path() string                { return m.path }
func (m *message) Query() string               { return m.query }
func (m *message) Header(name string) []string { return m.header[name] }
func (m *message) Peer() netip.Addr            { return m.peer }
