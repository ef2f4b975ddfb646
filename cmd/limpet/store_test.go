package main

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/limpet-project/limpet/node/nodetest"
	"github.com/limpet-project/limpet/redis/redistest"
)

func TestGatewayWithAnotherDigestSecretIsNotReady(t *testing.T) {
	redis, replica := redistest.Start(t), startHeld(t)
	configuration := func() string {
		secret := t.TempDir() + "/digest.key"
		limpetRun(t, "keys", "digest", secret)
		return fmt.Sprintf("secrets: {digestFile: %q}\nstore: {redis: {addresses: [%q], timeout: 1s}}\n", secret, redis.Addr()) + replica.service()
	}
	first := serve(t, configuration())
	nodetest.Eventually(t, "the first gateway's secret is in the store", func() bool {
		return strings.Contains(fmt.Sprint(redis.Do("KEYS", "*")), "limpet:1:f")
	})
	second := serveUnready(t, configuration())
	second.logs(1, "this gateway's digest secret is not the other gateways'")
	nodetest.Eventually(t, "the second gateway is not ready", func() bool { return strings.HasPrefix(nodetest.Fetch(second.admin()+"/readyz"), "503 ") })
	if got := nodetest.Fetch(second.admin() + "/store"); !strings.Contains(got, `"mismatch"`) {
		t.Errorf("the store's state = %s, want it to tell of the mismatch", got)
	}
	if got := nodetest.Fetch(first.admin() + "/readyz"); got != "200 ready" {
		t.Errorf("the first gateway = %s, want 200 ready", got)
	}
	if got := nodetest.Fetch(second.url() + "/fast"); got != "200 done" {
		t.Errorf("a request of the gateway that is not ready = %s, want 200 done: there may be no other", got)
	}
}

func TestTracingThatIsOffLeavesTracesAlone(t *testing.T) {
	const traceparent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
	var sent atomic.Int64
	collector := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { sent.Add(1) }))
	defer collector.Close()
	seen := make(chan string, 1)
	server := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { seen <- r.Header.Get("Traceparent") }))
	defer server.Close()
	upstream := func(tracing, header string) string {
		p := serve(t, tracing+(&held{Server: server}).service())
		if status, _, err := p.get(header); err != nil || status != http.StatusOK {
			t.Fatalf("a request = %d, %v, want 200", status, err)
		}
		at := <-seen
		p.client.CloseIdleConnections()
		_ = p.cmd.Process.Signal(syscall.SIGTERM)
		p.exit()
		return at
	}
	if got := upstream("", ""); got != "" {
		t.Errorf("with tracing off the replica gets traceparent %q, want none", got)
	}
	if got := upstream("", "Traceparent: "+traceparent); got != traceparent {
		t.Errorf("with tracing off the replica gets traceparent %q, want the client's", got)
	}
	if n := sent.Load(); n != 0 {
		t.Errorf("with tracing off the collector got %d calls, want 0", n)
	}
	on := fmt.Sprintf("tracing: {endpoint: \"%s/v1/traces\", sampleRatio: 1}\n", collector.URL)
	if got := upstream(on, "Traceparent: "+traceparent); !strings.HasPrefix(got, traceparent[:35]) || got == traceparent {
		t.Errorf("with tracing on the replica gets traceparent %q, want a span of the client's trace", got)
	}
	if sent.Load() == 0 {
		t.Error("the last spans were not sent when the gateway ended")
	}
}
