package node_test

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/limpet-project/limpet/admin"
	"github.com/limpet-project/limpet/node"
	"github.com/limpet-project/limpet/node/nodetest"
)

// startDatabase runs an endpoint that says its name to whoever connects, and returns its address.
func startDatabase(t *testing.T, name string) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var running sync.WaitGroup
	running.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			running.Go(func() {
				defer c.Close()
				if _, err := fmt.Fprintln(c, name); err == nil {
					_, _ = io.Copy(io.Discard, c) // until the client is done
				}
			})
		}
	})
	t.Cleanup(func() { ln.Close(); running.Wait() })
	return ln.Addr().String()
}

// ask posts a question to /explain.
func ask(t *testing.T, g *nodetest.Gateway, q admin.Question) (a admin.Answer) {
	t.Helper()
	body, err := json.Marshal(q)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.Post(g.Admin()+"/explain", "application/json", bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode == http.StatusOK {
		err = json.Unmarshal(text, &a)
	}
	if err != nil || resp.StatusCode != http.StatusOK {
		t.Fatalf("POST /explain %s = %s, %v\n%s", body, resp.Status, err, text)
	}
	return a
}

// reach connects to a listener, says a first line, and returns who answers.
func reach(t *testing.T, address, line string) string {
	t.Helper()
	c, err := net.DialTimeout("tcp", address, time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(time.Minute)); err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(c, line); err != nil {
		t.Fatal(err)
	}
	name, err := bufio.NewReader(c).ReadString('\n')
	if err != nil {
		t.Fatalf("reading who answers = %q, %v", name, err)
	}
	return strings.TrimSpace(name)
}

// atRest waits until no connection of the service is open: what is open counts where sessions are placed.
func atRest(t *testing.T, g *nodetest.Gateway) {
	t.Helper()
	nodetest.Eventually(t, "no connection is open", func() bool {
		for _, s := range g.Table().Status() {
			for _, r := range s.Revisions {
				for _, e := range r.Endpoints {
					if e.InFlight > 0 {
						return false
					}
				}
			}
		}
		return true
	})
}

// The address that counts is the one that the listener believes: that of a trusted proxy's header, or the proxy's own.
func TestExplainGoesByTheAddressInThePROXYHeader(t *testing.T) {
	var endpoints []string
	for _, name := range []string{"postgres-a", "postgres-b", "postgres-c"} {
		endpoints = append(endpoints, fmt.Sprintf("{name: %s, address: %q}", name, startDatabase(t, name)))
	}
	g := nodetest.Start(t, fmt.Sprintf(`
listeners:
- {name: web, address: "127.0.0.1:0"}
- {name: db, address: "127.0.0.1:0", tcp: {service: postgres, proxyProtocol: accept}}
- {name: spread, address: "127.0.0.1:0", tcp: {service: mysql}}
admin: {address: "127.0.0.1:0"}
accessLog: {file: "off"}
trustedProxies: [127.0.0.1/32]
services:
- name: postgres
  affinity: {session: {from: [{clientAddress: {ipv4Prefix: 24}}]}}
  revisions: [{name: postgres-00001, endpoints: [%[1]s]}]
- name: mysql
  revisions: [{name: mysql-00001, endpoints: [%[1]s]}]
`, strings.Join(endpoints, ", ")), node.Options{})
	db := g.Address("db")
	question := func(client string) admin.Answer {
		t.Helper()
		atRest(t, g)
		a := ask(t, g, admin.Question{URL: "tcp://" + db, Client: client})
		if a.Listener == nil || a.Listener.Name != "db" || a.Listener.Open != db || !a.Listener.AcceptsProxy || a.Service != "postgres" {
			t.Fatalf("explain %s = %+v, want the listener db", client, a)
		}
		return a
	}
	visit := func(client, header string) {
		t.Helper()
		before := question(client)
		if at := reach(t, db, header); at != before.Endpoint {
			t.Errorf("%s is at %s, want %s as explain said: %q", client, at, before.Endpoint, before.Steps)
		}
		if after := question(client); after.Reason != "bound" || after.Endpoint != before.Endpoint {
			t.Errorf("explain %s afterwards = %s, %s, want bound to %s", client, after.Endpoint, after.Reason, before.Endpoint)
		}
	}
	for i := range 20 {
		client := fmt.Sprintf("10.0.%d.7", i)
		if a := question(client); a.Reason != "new" {
			t.Errorf("explain %s = %s, want new", client, a.Reason)
		}
		visit(client, fmt.Sprintf("PROXY TCP4 %s 10.9.9.9 40000 5432\r\n", client))
		visit(fmt.Sprintf("10.0.%d.8", i), fmt.Sprintf("PROXY TCP4 10.0.%d.8 10.9.9.9 40000 5432\r\n", i))
		six := fmt.Sprintf("2001:db8:0:%x::7", i)
		visit(six, fmt.Sprintf("PROXY TCP6 %s 2001:db8::1 40000 5432\r\n", six))
	}
	visit("127.0.0.1", "PROXY UNKNOWN\r\n") // the load balancer's own health checks
	spread := ask(t, g, admin.Question{URL: "tcp://spread", Client: "10.0.0.7"})
	if spread.Reason != "none" || spread.Session != nil || len(spread.Next) > 0 || !strings.Contains(strings.Join(spread.Steps, "\n"), "no session") {
		t.Errorf("explain of a service without affinity = %+v, want that nothing holds the client", spread)
	}
}
