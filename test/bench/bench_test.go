package main

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net"
	"strings"
	"testing"

	"github.com/limpet-project/limpet/test/bench/stats"
)

// play runs a part until the test ends and returns the line that it prints first.
func play(t *testing.T, args ...string) string {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	r, w := io.Pipe()
	ended := make(chan error, 1)
	go func() { ended <- run(ctx, args, w) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("run(%v) = %v, want nil", args, err)
		}
	})
	b := make([]byte, 200)
	n, err := r.Read(b)
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(b[:n]))
}

func TestLoadThroughTheBareProxyIsServedWhole(t *testing.T) {
	replicas := play(t, "upstream")
	if n := len(strings.Split(replicas, ",")); n != upstreams {
		t.Fatalf("upstream prints %q, want %d addresses", replicas, upstreams)
	}
	gateway := play(t, "bare", "--to", replicas)
	var out bytes.Buffer
	args := []string{"load", "--to", gateway, "--requests", "500", "--connections", "4", "--sessions", "10"}
	if err := run(t.Context(), args, &out); err != nil {
		t.Fatal(err)
	}
	var s served
	if err := json.Unmarshal(out.Bytes(), &s); err != nil || s.Requests != 500 || s.Seconds <= 0 {
		t.Errorf("load = %s, %v, want 500 requests in some time", out.String(), err)
	}
}

// fake answers every request with one text and hands on what it was asked.
func fake(t *testing.T, text string) (address string, asked <-chan string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	heads := make(chan string, 10)
	go func() {
		c, err := l.Accept()
		if err != nil {
			return
		}
		defer c.Close()
		b := make([]byte, 4096)
		for {
			n, err := c.Read(b)
			if err != nil {
				return
			}
			heads <- string(b[:n])
			if _, err := io.WriteString(c, text); err != nil {
				return
			}
		}
	}()
	return l.Addr().String(), heads
}

func TestLoadRepeatsTheCookieThatItWasGiven(t *testing.T) {
	to, asked := fake(t, "HTTP/1.1 200 OK\r\nset-cookie: limpet=abc; Path=/\r\nContent-Length: 2\r\n\r\nok")
	if err := run(t.Context(), []string{"load", "--to", to, "--requests", "2"}, io.Discard); err != nil {
		t.Fatal(err)
	}
	if first, second := <-asked, <-asked; strings.Contains(first, "Cookie") || !strings.Contains(second, "\r\nCookie: limpet=abc\r\n") {
		t.Errorf("requests = %q, %q, want the cookie in the second", first, second)
	}
}

func TestLoadTakesNothingButSuccess(t *testing.T) {
	for _, text := range []string{
		"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n",
		"HTTP/1.1 200 OK\r\n\r\n",
		"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n",
	} {
		to, _ := fake(t, text)
		if err := run(t.Context(), []string{"load", "--to", to, "--requests", "1"}, io.Discard); err == nil {
			t.Errorf("load answered %q = nil, want an error", text)
		}
	}
}

func TestVerdictTakesTheUpperBound(t *testing.T) {
	for want, e := range map[string]stats.Estimate{
		"PASS": {Median: 1.01, Low: 0.99, High: 1.04}, "MISS": {Median: 1.01, Low: 0.99, High: 1.06},
	} {
		var out strings.Builder
		verdict(&out, "at most 1.05", e, 1.05)
		if !strings.HasPrefix(out.String(), want) {
			t.Errorf("verdict(%v) = %q, want %s", e, out.String(), want)
		}
	}
}
