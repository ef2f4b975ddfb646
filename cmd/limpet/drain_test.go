package main

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/coder/websocket"

	"github.com/limpet-project/limpet/node/nodetest"
)

func TestTermEndsRequestsInFlightWellAndReadinessFirst(t *testing.T) {
	replica := startHeld(t)
	p := serve(t, replica.service())
	answer := make(chan string, 1)
	go func() { answer <- nodetest.Fetch(p.url() + "/slow") }()
	<-replica.arrived
	p.signal(syscall.SIGTERM)
	nodetest.Eventually(t, "readiness fails", func() bool { return nodetest.Fetch(p.admin()+"/readyz") == "503 draining" })
	if got := nodetest.Fetch(p.admin() + "/healthz"); got != "200 ok" {
		t.Errorf("health while draining = %s, want 200 ok", got)
	}
	nodetest.Eventually(t, "nothing new is accepted", func() bool { return strings.Contains(nodetest.Fetch(p.url()+"/fast"), "refused") })
	if p.over() {
		t.Fatal("the gateway ended while a request was in flight")
	}
	close(replica.release)
	if got := <-answer; got != "200 done" {
		t.Errorf("the request in flight = %s, want 200 done", got)
	}
	if code := p.exit(); code != 0 {
		t.Errorf("exit code = %d, want 0", code)
	}
	if log := p.log.String(); strings.Contains(log, "broken off") || strings.Contains(log, "level=ERROR") {
		t.Errorf("a drain that ended well logs:\n%s", log)
	}
}

func TestDelayOfTheShutdownTakesNewRequestsThatLoadBalancersStillSend(t *testing.T) {
	replica := startHeld(t)
	p := serve(t, "shutdown: {delay: 10m}\n"+replica.service())
	p.signal(syscall.SIGTERM)
	nodetest.Eventually(t, "readiness fails", func() bool { return nodetest.Fetch(p.admin()+"/readyz") == "503 draining" })
	for range 20 {
		fresh := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
		resp, err := fresh.Get(p.url() + "/fast")
		if err != nil {
			t.Fatalf("a new request on a new connection during the delay = %v, want 200", err)
		}
		resp.Body.Close()
		if resp.StatusCode != http.StatusOK {
			t.Fatalf("a new request during the delay = %s, want 200", resp.Status)
		}
	}
	if p.over() {
		t.Error("the gateway ended before its delay")
	}
}

func TestDelayOfTheShutdownEnds(t *testing.T) {
	p := serve(t, "shutdown: {delay: 300ms}\n"+startHeld(t).service())
	began := time.Now()
	p.signal(syscall.SIGTERM)
	if code := p.exit(); code != 0 {
		t.Errorf("exit code = %d, want 0", code)
	}
	if took := time.Since(began); took < 300*time.Millisecond {
		t.Errorf("ended after %v, want 300ms or more", took)
	}
}

// echo is a replica that speaks WebSocket.
func startEcho(t *testing.T) *held {
	h := &held{}
	h.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c, err := websocket.Accept(w, r, nil)
		if err != nil {
			return // the client sees it
		}
		defer c.CloseNow()
		for {
			kind, data, err := c.Read(r.Context())
			if err != nil || c.Write(r.Context(), kind, data) != nil {
				return
			}
		}
	}))
	t.Cleanup(h.CloseClientConnections)
	return h
}

func TestWebSocketsLiveUntilTheDeadlineOfTheDrain(t *testing.T) {
	const deadline = 2 * time.Second
	p := serve(t, "shutdown: {drain: 2s}\n"+startEcho(t).service())
	c, _, err := websocket.Dial(t.Context(), p.url()+"/ws", nil)
	if err != nil {
		t.Fatalf("Dial() = %v", err)
	}
	defer c.CloseNow()
	echoes := func() error {
		if err := c.Write(t.Context(), websocket.MessageText, []byte("session-4711")); err != nil {
			return err
		}
		_, _, err := c.Read(t.Context())
		return err
	}
	if err := echoes(); err != nil {
		t.Fatalf("the WebSocket before the drain = %v", err)
	}
	began := time.Now()
	p.signal(syscall.SIGTERM)
	for err == nil {
		err = echoes()
	}
	if lived := time.Since(began); lived < deadline {
		t.Errorf("the WebSocket was cut after %v (%v), want %v or more", lived, err, deadline)
	}
	if code := p.exit(); code != 0 {
		t.Errorf("exit code = %d, want 0", code)
	}
	p.logs(1, "requests were broken off at the end of the drain")
}

func TestWebSocketThatEndsLetsTheDrainEndEarly(t *testing.T) {
	p := serve(t, "shutdown: {drain: 1h}\n"+startEcho(t).service())
	c, _, err := websocket.Dial(t.Context(), p.url()+"/ws", nil)
	if err != nil {
		t.Fatalf("Dial() = %v", err)
	}
	p.signal(syscall.SIGTERM)
	nodetest.Eventually(t, "readiness fails", func() bool { return nodetest.Fetch(p.admin()+"/readyz") == "503 draining" })
	if err := c.Close(websocket.StatusNormalClosure, ""); err != nil {
		t.Errorf("Close() = %v", err)
	}
	if code := p.exit(); code != 0 {
		t.Errorf("exit code = %d, want 0", code)
	}
}
