package spread

import (
	"encoding/binary"
	"fmt"

	"github.com/limpet-project/limpet/affinity"
)

// revision is the one revision of the service that is simulated.
const revision = "demo-00001"

// A gateway decides for Limpet's policies, with Limpet's own code: one gateway, which sees the sessions that it bound.
type gateway struct {
	policy *affinity.Policy
	scope  affinity.Scope
	bound  boundSessions // by endpoint
}

// boundSessions are the sessions bound to each endpoint. Requests in flight do not count: sessions are placed before their load shows.
type boundSessions []int64

// Load returns the load of an endpoint.
func (b boundSessions) Load(e *affinity.Endpoint) affinity.Load {
	return affinity.Load{Bound: b[e.Slot]}
}

func newGateway(p Policy, endpoints int) *gateway {
	mode := affinity.ModeBound
	if p == PolicyHash {
		mode = affinity.ModeHash
	}
	policy := affinity.Policy{Session: &affinity.SessionAffinity{Mode: mode}}
	return &gateway{
		policy: policy.WithDefaults(),
		scope:  affinity.Scope{Service: affinity.ServiceName{Name: "demo"}, Kind: affinity.KindSession},
		bound:  make(boundSessions, endpoints),
	}
}

// snapshot returns the service with these endpoints ready, each with its number as its slot.
func snapshot(endpoints []int) *affinity.Snapshot {
	list := make([]affinity.Endpoint, len(endpoints))
	for i, e := range endpoints {
		list[i] = affinity.Endpoint{Name: fmt.Sprintf("%s-%05d", revision, e), Slot: int32(e)}
	}
	r := affinity.Revision{Name: revision, Weight: 1, Pool: affinity.NewPool(list)}
	return affinity.NewSnapshot(affinity.ServiceName{Name: "demo"}, []affinity.Revision{r}, true)
}

// place binds a session to an endpoint of the snapshot and returns it; -1 if there is none.
func (g *gateway) place(s *affinity.Snapshot, session affinity.Key) int {
	d, err := affinity.Decide(g.policy, s, affinity.Request{Session: session, Loads: g.bound, Settled: true})
	if err != nil || d.Endpoint == nil {
		return -1
	}
	g.bound[d.Endpoint.Slot]++
	return int(d.Endpoint.Slot)
}

// session draws a key.
func (g *gateway) session(c chance) affinity.Key {
	k := affinity.Key{Scope: g.scope}
	binary.LittleEndian.PutUint64(k.Digest[:8], c.Uint64())
	binary.LittleEndian.PutUint64(k.Digest[8:], c.Uint64())
	return k
}
