package node_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/limpet-project/limpet/admin"
	"github.com/limpet-project/limpet/node/nodetest"
)

// order sends one call to the admin API of gateway i and returns the status and the answer in one line.
func (p *pair) order(t *testing.T, i int, method, path string, in any) string {
	t.Helper()
	body, err := json.Marshal(in)
	if err != nil {
		t.Fatal(err)
	}
	req, err := http.NewRequest(method, p.gateways[i].Admin()+path, bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := p.client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("%d %s", resp.StatusCode, strings.TrimSpace(string(text)))
}

// accepted is order for an order that is right. The store may be away for a moment on a busy machine: then it is given again.
func (p *pair) accepted(t *testing.T, i int, method, path string, in any) {
	t.Helper()
	again := false
	nodetest.Eventually(t, method+" "+path+" is accepted", func() bool {
		got := p.order(t, i, method, path, in)
		switch got[:3] {
		case "200":
			return true
		case "503":
			again = true
			return false
		}
		// What was to be forgotten may have been, although the answer came too late.
		if !again || method != http.MethodDelete || got[:3] != "404" {
			t.Errorf("%s %s = %s, want 200", method, path, got)
		}
		return true
	})
}

// draining reports whether gateway i knows of a drain of the endpoint.
func (p *pair) draining(i int, endpoint string) bool {
	var services []admin.ServiceView
	_, body, _ := strings.Cut(nodetest.Fetch(p.gateways[i].Admin()+"/services"), " ")
	_ = json.Unmarshal([]byte(body), &services) // a gateway that does not answer knows of none
	for _, s := range services {
		for _, r := range s.Revisions {
			for _, e := range r.Endpoints {
				if e.Name == endpoint {
					return e.Draining
				}
			}
		}
	}
	return false
}

func TestDrainOrderedAtOneGatewayHoldsAtTheOther(t *testing.T) {
	p := startPair(t)
	const replica = "demo-00001-a"
	order := admin.DrainOrder{Service: admin.ServiceRef{Name: "demo"}, Revision: "demo-00001", Endpoint: replica}
	p.load(t, func() {
		p.accepted(t, 0, http.MethodPost, "/drain", order)
		nodetest.Eventually(t, "both gateways drain", func() bool { return p.draining(0, replica) && p.draining(1, replica) })
		for i := range 100 {
			_, got, err := p.gateways[i%2].Ask(p.client, fmt.Sprintf("late-%d", i))
			if err != nil || got == replica {
				t.Errorf("a new session through gateway %d went to %s, %v, want another than the one that drains", i%2, got, err)
			}
		}
		p.expectHome(t) // also those on the replica that drains
		order.Cancel = true
		p.accepted(t, 1, http.MethodPost, "/drain", order)
		nodetest.Eventually(t, "neither gateway drains", func() bool { return !p.draining(0, replica) && !p.draining(1, replica) })
	})
	p.expectHome(t)
}

func TestBindingForgottenAtOneGatewayIsForgottenAtTheOther(t *testing.T) {
	p := startPair(t)
	session, home := "session-0", p.home["session-0"]
	key := p.keyOf(t, session)
	// A drain makes the session's next place another one, so that forgetting shows.
	drain := admin.DrainOrder{Service: admin.ServiceRef{Name: "demo"}, Revision: home[:len("demo-00001")], Endpoint: home}
	p.accepted(t, 0, http.MethodPost, "/drain", drain)
	nodetest.Eventually(t, "both gateways drain", func() bool { return p.draining(0, home) && p.draining(1, home) })
	p.accepted(t, 0, http.MethodDelete, "/bindings", admin.ForgetOrder{Service: admin.ServiceRef{Name: "demo"}, Kind: "session", Key: key})
	next := ""
	nodetest.Eventually(t, "gateway 1 has forgotten it", func() bool {
		_, at, err := p.gateways[1].Ask(p.client, session)
		next = at
		return err == nil && at != home
	})
	if _, at, err := p.gateways[0].Ask(p.client, session); err != nil || at != next {
		t.Errorf("the forgotten session is on %s by gateway 0, %v, want %s as by gateway 1", at, err, next)
	}
}

// keyOf returns the whole key of a session: explain tells its first half, the list of bindings the whole.
func (p *pair) keyOf(t *testing.T, session string) string {
	t.Helper()
	var explained struct{ Session struct{ Key string } }
	answer := p.order(t, 0, http.MethodPost, "/explain", admin.Question{
		URL: "http://demo.example.com/incr", Header: map[string][]string{"K-Session": {session}},
	})
	if strings.Contains(answer, session) {
		t.Errorf("explain tells the id %s:\n%s", session, answer)
	}
	_, body, _ := strings.Cut(answer, " ")
	if err := json.Unmarshal([]byte(body), &explained); err != nil {
		t.Fatalf("explain = %s: %v", answer, err)
	}
	key, cursor := "", ""
	nodetest.Eventually(t, "the binding of "+explained.Session.Key+" is listed", func() bool {
		var page admin.Page
		_, body, _ := strings.Cut(nodetest.Fetch(p.gateways[1].Admin()+"/bindings?service=demo&limit=50&cursor="+cursor), " ")
		if json.Unmarshal([]byte(body), &page) != nil {
			return false // the store is away for a moment
		}
		for _, b := range page.Bindings {
			if strings.HasPrefix(b.Key, explained.Session.Key) {
				key = b.Key
			}
		}
		cursor = page.Next
		return key != ""
	})
	return key
}
