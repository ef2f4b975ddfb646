package node_test

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/limpet-project/limpet/node"
	"github.com/limpet-project/limpet/node/nodetest"
	"github.com/limpet-project/limpet/redis/redistest"
)

// pair is two gateways on one Redis, with load on both.
type pair struct {
	redis    *redistest.Server
	proxy    *redistest.Proxy // between the gateways and Redis
	gateways [2]*nodetest.Gateway
	client   *http.Client
	home     map[string]string // where each session is, from before the failure
}

const (
	failureSessions = 200
	failureWorkers  = 16
)

// startPair binds the sessions, each through both gateways, so that both know all of them.
func startPair(t *testing.T) *pair {
	p := &pair{redis: redistest.Start(t), home: map[string]string{}}
	p.proxy = redistest.StartProxy(t, p.redis.Addr())
	replicas, secret := nodetest.StartUpstreams(t), t.TempDir()+"/digest.key"
	if err := node.WriteDigestSecret(secret); err != nil {
		t.Fatal(err)
	}
	for i := range p.gateways {
		p.gateways[i] = nodetest.Start(t, sharedStore(secret, p.proxy.Addr(), replicas), node.Options{})
	}
	p.client = &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 64}}
	t.Cleanup(p.client.CloseIdleConnections)
	nodetest.Eventually(t, "both gateways see the store", func() bool { return !p.open(0) && !p.open(1) && p.fresh() })
	for i := range failureSessions {
		p.bind(t, fmt.Sprintf("session-%d", i))
	}
	return p
}

// sharedStore is the configuration of a gateway that keeps its bindings in the Redis at addr. Its timeouts are ones that a machine beside
// other work does not exceed by itself.
func sharedStore(secret, addr string, replicas nodetest.Upstreams) string {
	return fmt.Sprintf(`
listeners: [{name: web, address: "127.0.0.1:0"}]
admin: {address: "127.0.0.1:0"}
accessLog: {file: "off"}
debuggers: [127.0.0.0/8]
secrets: {digestFile: %q}
store: {redis: {addresses: ["%s"], timeout: 1s}}
services:
  - name: demo
    affinity: {}
    revisions:
%sroutes: [{service: demo, upstream: {connectTimeout: 30s}}]
`, secret, addr, replicas.Configuration(50, 50))
}

// fresh reports whether both gateways bind in Redis by now, and not in their own memory.
func (p *pair) fresh() bool {
	session := fmt.Sprintf("probe-%d", rand.Uint64())
	_, first, err1 := p.gateways[0].Ask(p.client, session)
	_, second, err2 := p.gateways[1].Ask(p.client, session)
	return err1 == nil && err2 == nil && first == second && p.view(0).Provisional == 0 && p.view(1).Provisional == 0
}

func (p *pair) bind(t *testing.T, session string) {
	t.Helper()
	for i, g := range p.gateways {
		status, replica, err := g.Ask(p.client, session)
		if err != nil || status != http.StatusOK {
			t.Fatalf("binding %s through gateway %d = %d, %v", session, i, status, err)
		}
		if home, ok := p.home[session]; ok && home != replica {
			t.Fatalf("%s is on %s by gateway 0 and on %s by gateway 1", session, home, replica)
		}
		p.home[session] = replica
	}
}

// storeState is what these tests read of the admin API's view of a store.
type storeState struct {
	State       string `json:"state"`
	Provisional int    `json:"provisional"`
}

func (p *pair) view(i int) storeState {
	var v storeState
	_, body, _ := strings.Cut(nodetest.Fetch(p.gateways[i].Admin()+"/store"), " ")
	_ = json.Unmarshal([]byte(body), &v) // a gateway that does not answer has no state
	return v
}

func (p *pair) open(i int) bool { return p.view(i).State == "open" }

// calls returns how often a gateway has asked the store for a binding or for a new one.
func (p *pair) calls(i int) (n float64) {
	for line := range strings.SplitSeq(nodetest.Fetch(p.gateways[i].Admin()+"/metrics"), "\n") {
		if strings.HasPrefix(line, "limpet_store_operations_total{") &&
			(strings.Contains(line, `op="get"`) || strings.Contains(line, `op="swap"`)) {
			var v float64
			fmt.Sscan(line[strings.LastIndexByte(line, ' ')+1:], &v)
			n += v
		}
	}
	return n
}

// load sends requests of known and of new sessions through both gateways while during runs, and reports what was not 200 and
// which known session was not at home.
func (p *pair) load(t *testing.T, during func()) {
	t.Helper()
	var stop atomic.Bool
	var workers sync.WaitGroup
	var requests atomic.Int64
	for w := range failureWorkers {
		workers.Go(func() {
			rng := rand.New(rand.NewPCG(uint64(w), 7))
			for !stop.Load() {
				session := fmt.Sprintf("session-%d", rng.IntN(failureSessions))
				if rng.IntN(20) == 0 {
					session = fmt.Sprintf("new-%d-%d", w, rng.IntN(1000))
				}
				status, replica, decision, err := p.gateways[rng.IntN(2)].AskWhy(p.client, session)
				requests.Add(1)
				if err != nil || status != http.StatusOK {
					t.Errorf("%s = %d, %v, want 200", session, status, err)
					return
				}
				if home := p.home[session]; home != "" && replica != home {
					t.Errorf("%s went to %s, want %s: %s", session, replica, home, decision)
				}
			}
		})
	}
	defer func() { // also when during fails the test
		stop.Store(true)
		workers.Wait()
		t.Logf("%d requests", requests.Load())
	}()
	during()
}

// expectHome checks every session through both gateways.
func (p *pair) expectHome(t *testing.T) {
	t.Helper()
	for session, home := range p.home {
		for i, g := range p.gateways {
			if status, replica, err := g.Ask(p.client, session); err != nil || status != http.StatusOK || replica != home {
				t.Errorf("afterwards %s through gateway %d = %d, %s, %v, want %s", session, i, status, replica, err, home)
			}
		}
	}
}

// Defects 2 to 7: the prototype failed, spun or paniced when Redis was away, and never came back.
func TestStoreMayFailAndRequestsMayNot(t *testing.T) {
	away := []struct {
		name       string
		fail, mend func(*pair)
	}{
		{"stopped, then started empty", func(p *pair) { p.redis.Stop() }, func(p *pair) { p.redis.Restart() }},
		{"killed, then started empty", func(p *pair) { p.redis.Kill() }, func(p *pair) { p.redis.Restart() }},
		{"frozen", func(p *pair) { p.redis.Freeze() }, func(p *pair) { p.redis.Thaw() }},
		{"half-open: packets vanish", func(p *pair) { p.proxy.Cut() }, func(p *pair) { p.proxy.Pass() }},
		{"read-only", func(p *pair) { p.redis.SetReadonly(true) }, func(p *pair) { p.redis.SetReadonly(false) }},
	}
	for _, tt := range away {
		t.Run(tt.name, func(t *testing.T) {
			p := startPair(t)
			p.load(t, func() {
				tt.fail(p)
				nodetest.Eventually(t, "both breakers are open", func() bool { return p.open(0) && p.open(1) })
				p.nobodyAsks(t)
				tt.mend(p)
				nodetest.Eventually(t, "both breakers are closed", func() bool { return !p.open(0) && !p.open(1) })
			})
			p.expectHome(t)
		})
	}
}

// nobodyAsks checks that with open breakers requests go on and none of them asks the store. A call that was under way when the
// breaker opened is counted when it ends, so each worker of the load may still add one.
func (p *pair) nobodyAsks(t *testing.T) {
	t.Helper()
	before := p.calls(0) + p.calls(1)
	for i := range 300 {
		if status, _, err := p.gateways[i%2].Ask(p.client, fmt.Sprintf("away-%d", i)); err != nil || status != http.StatusOK {
			t.Errorf("with the store away = %d, %v, want 200", status, err)
		}
	}
	if after := p.calls(0) + p.calls(1); after-before > failureWorkers && p.open(0) && p.open(1) {
		t.Errorf("%v calls of the store for 300 requests while both breakers were open, want at most %d", after-before, failureWorkers)
	}
}

func TestEmptiedStoreGetsItsBindingsBack(t *testing.T) {
	p := startPair(t)
	p.load(t, func() {
		for range 3 {
			p.redis.Flush()
			p.expectHome(t)
		}
	})
	p.expectHome(t)
}

func TestFullStoreKeepsKnownSessionsAndTakesNewOnesByHash(t *testing.T) {
	p := startPair(t)
	p.load(t, func() {
		p.redis.FillMemory(true)
		nodetest.Eventually(t, "a session was refused for want of room", func() bool {
			_, _, _ = p.gateways[0].Ask(p.client, fmt.Sprintf("refused-%d", rand.Uint64()))
			return strings.Contains(nodetest.Fetch(p.gateways[0].Admin()+"/metrics"), "limpet_bindings_refused_total{")
		})
		// A machine that stands still may open it for a moment.
		nodetest.Eventually(t, "the breaker is closed: a full store can still be read", func() bool { return !p.open(0) })
		p.expectHome(t)
		p.redis.FillMemory(false)
	})
	p.expectHome(t)
}

func TestRestartedStoreUnderLoadLosesNoSession(t *testing.T) {
	p := startPair(t)
	p.load(t, func() {
		for range 3 {
			p.redis.Kill()
			p.redis.Restart()
			nodetest.Eventually(t, "both breakers are closed", func() bool { return !p.open(0) && !p.open(1) })
		}
	})
	p.expectHome(t)
}

func TestSessionsOfOneGatewayAreFoundByAnotherAfterARestartOfBoth(t *testing.T) {
	p := startPair(t)
	for i := range p.gateways {
		configuration, err := os.ReadFile(p.gateways[i].File)
		if err != nil {
			t.Fatal(err)
		}
		p.gateways[i].Stop()
		p.gateways[i] = nodetest.Start(t, string(configuration), node.Options{})
	}
	nodetest.Eventually(t, "both gateways see the store", func() bool { return p.fresh() })
	p.expectHome(t)
}

func TestGatewayStartsWithoutItsStore(t *testing.T) {
	server := redistest.Start(t)
	server.Stop()
	secret := t.TempDir() + "/digest.key"
	if err := node.WriteDigestSecret(secret); err != nil {
		t.Fatal(err)
	}
	g := nodetest.Start(t, sharedStore(secret, server.Addr(), nodetest.StartUpstreams(t)), node.Options{})
	client := &http.Client{}
	defer client.CloseIdleConnections()
	_, first, err := g.Ask(client, "alice")
	if err != nil {
		t.Fatalf("ask() = %v", err)
	}
	server.Restart()
	p := &pair{gateways: [2]*nodetest.Gateway{g, g}, client: client}
	nodetest.Eventually(t, "the store is in use", func() bool { v := p.view(0); return v.State == "closed" && v.Provisional == 0 })
	if _, again, err := g.Ask(client, "alice"); err != nil || again != first {
		t.Errorf("alice = %s, %v, want %s, where she was before the store came", again, err, first)
	}
}
