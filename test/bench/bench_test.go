package main

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"math"
	"math/rand/v2"
	"net"
	"os"
	"runtime"
	"strings"
	"testing"
	"time"
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

func TestMedianAndVariation(t *testing.T) {
	if got := median([]float64{5, 1, 3}); got != 3 {
		t.Errorf("median(5, 1, 3) = %v, want 3", got)
	}
	if got := median([]float64{4, 1, 3, 2}); got != 2.5 {
		t.Errorf("median(4, 1, 3, 2) = %v, want 2.5", got)
	}
	if got := variation([]float64{9, 10, 11}); math.Abs(got-0.1) > 1e-9 {
		t.Errorf("variation(9, 10, 11) = %v, want 0.1", got)
	}
}

// The interval of a ratio of 1.2 with 5 % noise covers 1.2 in about 38 of 40 measurements: fewer than 31 (5 standard deviations)
// would mean that it is too narrow, an always-covering one is wider than 0.2.
func TestIntervalsCoverTheTruth(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 1))
	covered := 0
	for range 40 {
		x, y := make([]float64, 12), make([]float64, 12)
		for i := range x {
			machine := 1 + rng.Float64() // falls on both alike
			x[i] = 1.2 * machine * (1 + 0.05*rng.NormFloat64())
			y[i] = machine
		}
		e := ratio(rng, x, y)
		if e.low <= 1.2 && 1.2 <= e.high {
			covered++
		}
		if e.high-e.low > 0.2 {
			t.Fatalf("ratio = %v, want an interval of at most 0.2", e)
		}
	}
	if covered < 31 {
		t.Errorf("%d of 40 intervals cover the truth, want at least 31", covered)
	}
}

func TestVerdictTakesTheUpperBound(t *testing.T) {
	for want, e := range map[string]estimate{"PASS": {1.01, 0.99, 1.04}, "MISS": {1.01, 0.99, 1.06}} {
		var out strings.Builder
		verdict(&out, "at most 1.05", e, 1.05)
		if !strings.HasPrefix(out.String(), want) {
			t.Errorf("verdict(%v) = %q, want %s", e, out.String(), want)
		}
	}
}

func TestProcessorTimeGrowsWithWork(t *testing.T) {
	before, err := cpuTime(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	var spent time.Duration
	for n := 0; spent <= 0 && n < 1_000_000; n++ {
		runtime.Gosched()
		after, err := cpuTime(os.Getpid())
		if err != nil {
			t.Fatal(err)
		}
		spent = after - before
	}
	if spent <= 0 || spent > time.Hour {
		t.Errorf("processor time spent = %v, want a little", spent)
	}
}
