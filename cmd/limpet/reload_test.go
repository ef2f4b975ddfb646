package main

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/limpet-project/limpet/admin"
	"github.com/limpet-project/limpet/node/nodetest"
)

// demoNamed is a configuration with one service of the given name and these endpoints of demo-00001 and demo-00002.
func demoNamed(u nodetest.Upstreams, service string, weights [2]int, letters string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "services:\n  - name: %s\n    affinity: {}\n    revisions:\n", service)
	for i, revision := range demoRevisions {
		fmt.Fprintf(&b, "      - name: %s\n        weight: %d\n        endpoints:\n", revision, weights[i])
		for _, letter := range letters {
			name := revision + "-" + string(letter)
			fmt.Fprintf(&b, "          - {name: %s, address: %q}\n", name, u[name].Listener.Addr())
		}
	}
	fmt.Fprintf(&b, "routes: [{service: %s}]\n", service)
	return b.String()
}

func TestChangesOfTheConfigurationDropNoRequest(t *testing.T) {
	u := nodetest.StartUpstreams(t)
	changes := []struct {
		name, service string
		weights       [2]int
		letters       string
		hup           bool
	}{
		{"weights", "demo", [2]int{95, 5}, "abc", false},
		{"weights, by signal", "demo", [2]int{5, 95}, "abc", true},
		{"a weight becomes 0", "demo", [2]int{0, 1}, "abc", true},
		{"endpoints removed", "demo", [2]int{50, 50}, "a", true},
		{"endpoints added", "demo", [2]int{50, 50}, "abc", false},
		{"a service renamed with its route", "cart", [2]int{50, 50}, "abc", true},
		{"and renamed again with other endpoints", "shop", [2]int{50, 50}, "bc", true},
		{"and back", "demo", [2]int{50, 50}, "abc", false},
	}
	p := serve(t, demoNamed(u, "demo", [2]int{50, 50}, "abc"))
	p.load(func() {
		for _, c := range changes {
			before := strings.Count(p.log.String(), "configuration read")
			p.configure(demoNamed(u, c.service, c.weights, c.letters))
			if c.hup {
				p.signal(syscall.SIGHUP)
			}
			// A signal that comes late has the file read again, so that its line alone may be of the change before.
			nodetest.Eventually(t, c.name, func() bool {
				return strings.Count(p.log.String(), "configuration read") > before && p.serves(c.service, c.weights, c.letters)
			})
			for range 50 {
				if status, replica, err := p.get(""); err != nil || status != http.StatusOK || !strings.ContainsAny(replica[len(replica)-1:], c.letters) {
					t.Errorf("%s: a request after it = %d by %s, %v, want 200 by one of %s", c.name, status, replica, err, c.letters)
				}
			}
		}
	})
	if log := p.log.String(); strings.Contains(log, "level=ERROR") || strings.Contains(log, "level=WARN") {
		t.Errorf("reloading logs:\n%s", log)
	}
}

// serves reports whether the gateway has the service of demoNamed.
func (p *process) serves(service string, weights [2]int, letters string) bool {
	_, body, _ := strings.Cut(nodetest.Fetch(p.admin()+"/services"), " ")
	var all []admin.ServiceView
	if json.Unmarshal([]byte(body), &all) != nil || len(all) != 1 || all[0].Name != service || len(all[0].Revisions) != len(weights) {
		return false
	}
	for i, r := range all[0].Revisions {
		listed := ""
		for _, e := range r.Endpoints {
			if e.State != "gone" {
				listed += e.Name[len(e.Name)-1:]
			}
		}
		if r.Weight != weights[i] || listed != letters {
			return false
		}
	}
	return true
}

func TestWrongConfigurationKeepsTheOldOneAndSaysWhere(t *testing.T) {
	u := nodetest.StartUpstreams(t)
	p := serve(t, demoNamed(u, "demo", [2]int{1, 0}, "abc"))
	p.load(func() {
		right := demoNamed(u, "demo", [2]int{0, 1}, "abc")
		for i, wrong := range []struct{ text, says string }{
			{strings.Replace(right, "weight: 1", "weight: -1", 1), `limpet.yaml:15: services[0].revisions[1].weight: got \"-1\"`},
			{
				strings.Replace(right, "affinity: {}", "affinity: {session: {mode: sticky}}", 1),
				`limpet.yaml:6: services[0].affinity.session.mode: expected bound, hash or token, got \"sticky\"`,
			},
			{"routes: [", `limpet.yaml:4: not YAML`},
		} {
			p.configure(wrong.text)
			if i%2 == 0 {
				p.signal(syscall.SIGHUP)
			}
			p.logs(1, wrong.says)
			if _, replica, err := p.get(""); err != nil || !strings.HasPrefix(replica, "demo-00001") {
				t.Errorf("after a wrong configuration a request goes to %s, %v, want demo-00001", replica, err)
			}
		}
	})
	if metrics := nodetest.Fetch(p.admin() + "/metrics"); !strings.Contains(metrics, "\nlimpet_config_last_reload_successful 0\n") {
		t.Error("limpet_config_last_reload_successful is not 0 after a wrong configuration")
	}
	p.configure(demoNamed(u, "demo", [2]int{0, 1}, "abc"))
	p.logs(1, "configuration read")
	if _, replica, err := p.get(""); err != nil || !strings.HasPrefix(replica, "demo-00002") {
		t.Errorf("after a right configuration a request goes to %s, %v, want demo-00002", replica, err)
	}
}

func TestPartsThatNeedARestartAreNamedAndStayAsTheyWere(t *testing.T) {
	replica := startHeld(t)
	p := serve(t, replica.service())
	p.configure("trustedProxies: [127.0.0.1]\nshutdown: {drain: 1s}\n" + replica.service())
	p.logs(1, `change with a restart only" parts="[trustedProxies shutdown]"`)
}

func TestTokenKeysRotatedUnderLoadKeepSessions(t *testing.T) {
	keys := filepath.Join(t.TempDir(), "tokens.keys")
	limpetRun(t, "keys", "tokens", keys)
	u := nodetest.StartUpstreams(t)
	p := serve(t, fmt.Sprintf("secrets: {tokenKeysFile: %q}\n", keys)+
		strings.Replace(demoNamed(u, "demo", [2]int{50, 50}, "abc"), "affinity: {}", "affinity: {session: {mode: token}}", 1))
	type session struct{ cookie, home string }
	sessions := make([]session, 50)
	begin := func() session {
		resp, err := p.client.Get(p.url())
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if len(resp.Cookies()) != 1 {
			t.Fatalf("a new session has cookies %v, want a token", resp.Cookies())
		}
		return session{"Cookie: limpet=" + resp.Cookies()[0].Value, resp.Header.Get("Replica")}
	}
	for i := range sessions {
		sessions[i] = begin()
	}
	expectHome := func(when string) {
		for _, s := range sessions {
			if status, replica, err := p.get(s.cookie); err != nil || status != http.StatusOK || replica != s.home {
				t.Errorf("%s a session = %d by %s, %v, want %s", when, status, replica, err, s.home)
			}
		}
	}
	p.load(func() {
		for i, delay := range []string{"1h", "0s"} {
			limpetRun(t, "keys", "tokens", "--rotate", "--keep", "3", "--delay", delay, keys)
			p.logs(i+1, "token keys read")
			expectHome("after a rotation")
			sessions = append(sessions, begin())
		}
		good := readFile(t, keys)
		if err := os.WriteFile(keys, []byte("no keys"), 0o600); err != nil {
			t.Fatal(err)
		}
		p.logs(1, "the token keys are wrong, the old ones stay")
		expectHome("with wrong keys in the file")
		if err := os.WriteFile(keys, []byte(good), 0o600); err != nil {
			t.Fatal(err)
		}
	})
	expectHome("at the end")
}
