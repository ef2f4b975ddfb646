package testbed

import (
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/limpet-project/limpet/lab/clientip"
)

func newBed(t *testing.T, endpoints int) *Testbed {
	t.Helper()
	if err := Missing(); err != nil {
		t.Skip(err)
	}
	b, err := New(t.Context(), endpoints)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(b.Close)
	return b
}

func clients(first, n int) []netip.Addr {
	list := make([]netip.Addr, n)
	for i := range list {
		list[i] = Client(first + i)
	}
	return list
}

// send sends a load all of whose queries are to be answered, and returns the endpoints that each client saw.
func (b *Testbed) send(t *testing.T, l Load) []map[int]bool {
	t.Helper()
	l.Timeout = 30 * time.Second
	queries, err := b.Send(t.Context(), l)
	if err != nil {
		t.Fatal(err)
	}
	seen := make([]map[int]bool, len(l.Clients))
	for i := range seen {
		seen[i] = map[int]bool{}
	}
	for i, q := range queries {
		if q.Endpoint < 0 {
			t.Fatalf("query %d of client %d was not answered", i, q.Client)
		}
		seen[q.Client][q.Endpoint] = true
	}
	return seen
}

// eachMode runs a test in both modes of kube-proxy.
func eachMode(t *testing.T, test func(t *testing.T, mode clientip.Mode)) {
	for _, mode := range []clientip.Mode{clientip.IPTables, clientip.NFTables} {
		t.Run(string(mode), func(t *testing.T) { test(t, mode) })
	}
}

func TestClientsReachTheEndpoints(t *testing.T) {
	b := newBed(t, 3)
	eachMode(t, func(t *testing.T, mode clientip.Mode) {
		for _, tt := range []struct {
			name     string
			timeout  time.Duration
			reuse    bool
			together int // most endpoints that a client may see
		}{
			{"a flow at a time without affinity", 0, false, 3},
			{"one with it", time.Hour, false, 1},
			{"one over one socket", 0, true, 1},
		} {
			if _, err := b.KubeProxy(t.Context(), mode, tt.timeout, 0, 1, 2); err != nil {
				t.Fatal(err)
			}
			// A client misses one of three endpoints in 10 draws once in 19 cases; all twenty do so never.
			all, most := map[int]bool{}, 0
			for _, seen := range b.send(t, Load{Clients: clients(0, 20), Queries: 200, Rate: 5000, Reuse: tt.reuse, Turns: true}) {
				most = max(most, len(seen))
				for e := range seen {
					all[e] = true
				}
			}
			if most != tt.together || len(all) < 2 { // twenty clients are all on one once in 10^9 cases
				t.Errorf("%s: clients see up to %d endpoints, together %d; want %d, 2 or 3", tt.name, most, len(all), tt.together)
			}
		}
	})
}

func TestRulesFollowTheEndpoints(t *testing.T) {
	b := newBed(t, 4)
	eachMode(t, func(t *testing.T, mode clientip.Mode) {
		k, err := b.KubeProxy(t.Context(), mode, time.Hour, 0, 1, 2)
		if err != nil {
			t.Fatal(err)
		}
		load := Load{Clients: clients(0, 30), Queries: 60, Rate: 5000, Turns: true}
		before := b.send(t, load)
		if err := k.Sync(t.Context(), false, 1, 2, 3); err != nil {
			t.Fatal(err)
		}
		for i, seen := range b.send(t, load) {
			if seen[0] || !before[i][0] && !sameKeys(seen, before[i]) || len(seen) != 1 {
				t.Errorf("client %d sees %v after %v, want the same, or another if that was endpoint 0", i, seen, before[i])
			}
		}
		if err := k.Sync(t.Context(), false, 3); err != nil {
			t.Fatal(err)
		}
		for i, seen := range b.send(t, load) {
			if !sameKeys(seen, map[int]bool{3: true}) {
				t.Errorf("client %d sees %v, want the only endpoint, 3", i, seen)
			}
		}
		b.checkRules(t, mode, 1)
	})
}

func sameKeys(a, b map[int]bool) bool {
	for e := range a {
		if !b[e] {
			return false
		}
	}
	return len(a) == len(b)
}

// checkRules looks for what is left of endpoints that are gone.
func (b *Testbed) checkRules(t *testing.T, mode clientip.Mode, endpoints int) {
	t.Helper()
	name, args, chain := "iptables-save", []string{"-t", "nat"}, ":KUBE-SEP-"
	if mode == clientip.NFTables {
		name, args, chain = "nft", []string{"list", "ruleset"}, "chain endpoint-"
	}
	rules, err := b.node.run(t.Context(), "", name, args...)
	if err != nil {
		t.Fatal(err)
	}
	if got := strings.Count(rules, chain); got != endpoints {
		t.Errorf("the rules have %d chains of endpoints, want %d:\n%s", got, endpoints, rules)
	}
	if n := strings.Count(rules, "-A KUBE-SERVICES -d "); mode == clientip.IPTables && n != 1 {
		t.Errorf("%d rules lead to the Service, want 1:\n%s", n, rules)
	}
}

func TestFlowsToAnEndpointThatIsGoneAreForgotten(t *testing.T) {
	b := newBed(t, 2)
	eachMode(t, func(t *testing.T, mode clientip.Mode) {
		for _, leave := range []bool{false, true} {
			k, err := b.KubeProxy(t.Context(), mode, 0, 0, 1)
			if err != nil {
				t.Fatal(err)
			}
			b.send(t, Load{Clients: clients(0, 40), Queries: 40, Turns: true, Rate: 5000})
			before, err := b.Flows(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if err := k.Sync(t.Context(), leave, 1); err != nil {
				t.Fatal(err)
			}
			after, err := b.Flows(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if before != 40 || (after < before) == leave { // none of 40 at endpoint 0: once in 2^40 cases
				t.Errorf("flows = %d, then %d with leaving them %t; want 40, then fewer unless left", before, after, leave)
			}
		}
	})
}

func TestASilentEndpointSaysNothing(t *testing.T) {
	b := newBed(t, 1)
	if _, err := b.KubeProxy(t.Context(), clientip.NFTables, 0, 0); err != nil {
		t.Fatal(err)
	}
	if err := b.Silence(t.Context(), 0); err != nil {
		t.Fatal(err)
	}
	load := Load{Clients: clients(0, 3), Queries: 6, Timeout: 50 * time.Millisecond, Retries: 1}
	queries, err := b.Send(t.Context(), load)
	if err != nil {
		t.Fatal(err)
	}
	for i, q := range queries {
		if q.Endpoint >= 0 {
			t.Errorf("query %d was answered by %d, want no answer", i, q.Endpoint)
		}
	}
	if err := b.Heal(t.Context(), 0); err != nil {
		t.Fatal(err)
	}
	b.send(t, load)
}

func TestAWrongLoadIsRefused(t *testing.T) {
	b := newBed(t, 1)
	for _, l := range []Load{{}, {Clients: clients(0, 2), Weights: []float64{1}}} {
		if _, err := b.Send(t.Context(), l); err == nil {
			t.Errorf("Send(%+v) sends, want an error", l)
		}
	}
	for _, n := range []int{0, MaxEndpoints + 1} {
		if bed, err := New(t.Context(), n); err == nil {
			bed.Close()
			t.Errorf("New(%d) = a testbed, want an error", n)
		}
	}
}

// TestNothingIsLeft closes a testbed and looks for its namespaces among all that anything on this machine is in.
func TestNothingIsLeft(t *testing.T) {
	if err := Missing(); err != nil {
		t.Skip(err)
	}
	b, err := New(t.Context(), 3)
	if err != nil {
		t.Fatal(err)
	}
	var mine []string // the kernel gives their numbers to others once nobody holds them
	for _, n := range []*Namespace{b.clients, b.node, b.endpoints[0].Namespace, b.endpoints[1].Namespace, b.endpoints[2].Namespace} {
		inode, err := os.Readlink(n.path)
		if err != nil {
			t.Fatal(err)
		}
		held, err := os.Open(n.path)
		if err != nil {
			t.Fatal(err)
		}
		defer held.Close()
		mine = append(mine, inode)
	}
	goroutines := runtime.NumGoroutine()
	b.Close()
	if n := runtime.NumGoroutine(); n >= goroutines {
		t.Errorf("%d goroutines before and %d after Close, want fewer", goroutines, n)
	}
	deadline := time.Now().Add(30 * time.Second)
	for left := inUse(t, mine); len(left) > 0; left = inUse(t, mine) { // a thread takes a moment to end
		if time.Now().After(deadline) {
			t.Fatalf("%v are still in use, want none", left)
		}
		time.Sleep(time.Millisecond)
	}
}

// inUse returns which namespaces a task of this machine is in.
func inUse(t *testing.T, namespaces []string) []string {
	t.Helper()
	tasks, err := filepath.Glob("/proc/[0-9]*/task/*/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	var used []string
	for _, task := range tasks {
		inode, err := os.Readlink(task)
		if err != nil {
			continue // it has ended
		}
		for _, n := range namespaces {
			if n == inode {
				used = append(used, task)
			}
		}
	}
	return used
}
