package activator

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"
)

// Protects against prototype defect 45: what held a connection for long was not a request like others.
func TestAnUpgradedConnectionHoldsItsPlaceAtThePod(t *testing.T) {
	c := newCluster(t)
	c.revision("demo-00001", 1)
	c.pod("demo-00001", "pod-a", "pod-b", "pod-c", "pod-d")
	c.route(waits, share{"demo-00001", 100, ""})
	all := c.activators(memory(), "activator-1", "activator-2")
	for _, a := range all {
		a.knows("demo-00001", 4)
	}
	one, home := all[0].remoteSession()
	conn, err := net.Dial("tcp", strings.TrimPrefix(all[0].url, "http://"))
	c.must(err)
	defer conn.Close()
	c.must(conn.SetDeadline(time.Now().Add(time.Minute)))
	fmt.Fprintf(conn, "GET /echo HTTP/1.1\r\nHost: %s\r\nConnection: Upgrade\r\nUpgrade: echo\r\nK-Session: %s\r\n"+
		"Knative-Serving-Namespace: shop\r\nKnative-Serving-Revision: demo-00001\r\n\r\n", host, one.header["K-Session"])
	r := bufio.NewReader(conn)
	resp, err := http.ReadResponse(r, nil)
	if err != nil || resp.StatusCode != http.StatusSwitchingProtocols {
		t.Fatalf("the upgrade = %v, %v, want 101", resp, err)
	}
	fmt.Fprintln(conn, "beep")
	if line, err := r.ReadString('\n'); line != "beep\n" {
		t.Fatalf("the echo = %q, %v, want beep", line, err)
	}
	waited := make(chan string, 1)
	go func() {
		got, _ := all[1].send(c.ctx, one)
		waited <- got.pod
	}()
	all[0].eventually("a second request waits at the owner of the pod", func() bool {
		for _, a := range all {
			if _, waiting := a.peers.ledger.state(home); waiting == 1 {
				return a.peers.counts(home)
			}
		}
		return false
	})
	conn.Close()
	if got := <-waited; got != home {
		t.Errorf("the second request = %s, want %s when the first has ended", got, home)
	}
}

func TestHTTP2GoesToThePodAsSuch(t *testing.T) {
	c := newCluster(t)
	c.revision("demo-00001", 2)
	c.pod("demo-00001", "pod-a", "pod-b", "pod-c", "pod-d")
	c.route(nil, share{"demo-00001", 100, ""})
	all := c.activators(memory(), "activator-1", "activator-2")
	for _, a := range all {
		a.knows("demo-00001", 4)
	}
	one, home := all[0].remoteSession()
	var protocols http.Protocols
	protocols.SetUnencryptedHTTP2(true)
	client := &http.Client{Transport: &http.Transport{Protocols: &protocols}}
	defer client.CloseIdleConnections()
	for _, a := range all {
		r, err := http.NewRequest(http.MethodPost, a.url+"/incr", strings.NewReader("amount=1"))
		c.must(err)
		r.Host = host
		r.Header = http.Header{"K-Session": {one.header["K-Session"]}, "Knative-Serving-Namespace": {shop}, "Knative-Serving-Revision": {"demo-00001"}}
		resp, err := client.Do(r)
		if err != nil {
			t.Fatalf("through %s: %v", a.name, err)
		}
		io.Copy(io.Discard, resp.Body)
		resp.Body.Close()
		if resp.ProtoMajor != 2 || resp.Header.Get("Pod") != home || resp.Header.Get("Protocol") != "HTTP/2.0" {
			t.Errorf("through %s = %s, %s by %s, want %s by HTTP/2.0", a.name, resp.Status, resp.Header.Get("Pod"), resp.Header.Get("Protocol"), home)
		}
	}
}
