package affinity

import (
	"fmt"
	"strings"
	"testing"
)

// users is the number of sessions that a benchmark goes through: the same for every size of pool, and too many for a processor's
// nearest cache, as in production.
const users = 1 << 13

// An instance decides one request after another, over many users and all endpoints.
type instance struct {
	name    string
	policy  *Policy
	request func(user int, target Target) Request
}

var instances = []instance{
	{"known", Policy{}.WithDefaults(), func(user int, target Target) Request {
		return Request{Session: sessionKey(user), SessionMemory: Memory{Target: target, Made: noon}}
	}},
	{"new", Policy{}.WithDefaults(), func(user int, _ Target) Request { return Request{Session: sessionKey(user)} }},
	{"hash", Policy{Session: &SessionAffinity{Mode: ModeHash}}.WithDefaults(), func(user int, _ Target) Request {
		return Request{Session: sessionKey(user)}
	}},
	{"none", Policy{}.WithDefaults(), func(user int, _ Target) Request { return Request{Random: mix(uint64(user))} }},
}

// decider returns a function that decides the request of one user after another.
func (i instance) decider(endpoints int) func() (Decision, error) {
	pool := NewPool(pods("demo-00002", endpoints))
	s := NewSnapshot(demo, []Revision{revision("demo-00001", 5, 3), {Name: "demo-00002", Weight: 95, Pool: pool}}, true)
	counters := newLoads(endpoints)
	var targets [users]Target
	for user := range targets {
		e := &pool.Endpoints[mix(uint64(user))%uint64(endpoints)]
		targets[user] = Target{Revision: "demo-00002", Endpoint: strings.Clone(e.Name)}
	}
	user := 0
	return func() (Decision, error) {
		user = (user + 1) % users
		r := i.request(user, targets[user])
		r.Now, r.Loads = noon, counters
		return Decide(i.policy, s, r)
	}
}

func BenchmarkDecide(b *testing.B) {
	for _, i := range instances {
		for _, endpoints := range []int{10, 100, 1000, 10000} {
			b.Run(fmt.Sprintf("%s/%d", i.name, endpoints), func(b *testing.B) {
				next := i.decider(endpoints)
				b.ReportAllocs()
				for b.Loop() {
					if _, err := next(); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
	}
}

func TestDecideAllocatesNothing(t *testing.T) {
	for _, i := range instances {
		t.Run(i.name, func(t *testing.T) {
			next := i.decider(100)
			if allocs := testing.AllocsPerRun(1000, func() { _, _ = next() }); allocs != 0 {
				t.Errorf("Decide allocated %v times per request, want 0", allocs)
			}
		})
	}
}
