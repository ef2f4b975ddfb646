package main

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
)

// replicas runs the upstream until the test ends and returns its addresses.
func replicas(t *testing.T) []string {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	r, w := io.Pipe()
	ended := make(chan error, 1)
	go func() { ended <- run(ctx, []string{"upstream"}, w) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("upstream = %v, want nil", err)
		}
	})
	b := make([]byte, 200)
	n, err := r.Read(b)
	if err != nil {
		t.Fatal(err)
	}
	return strings.Split(strings.TrimSpace(string(b[:n])), ",")
}

func TestLoadIsCarriedWhole(t *testing.T) {
	all := replicas(t)
	if len(all) != upstreams {
		t.Fatalf("upstream prints %v, want %d addresses", all, upstreams)
	}
	for _, args := range [][]string{{"--bytes", "10000000"}, {"--short", "500"}} {
		var out bytes.Buffer
		if err := run(t.Context(), append([]string{"load", "--to", all[0], "--connections", "4"}, args...), &out); err != nil {
			t.Fatalf("load %v = %v", args, err)
		}
		var s served
		if err := json.Unmarshal(out.Bytes(), &s); err != nil || s.Bytes+s.Connections == 0 || s.Seconds <= 0 {
			t.Errorf("load %v = %s, %v, want what it carried in some time", args, out.String(), err)
		}
	}
}

func TestLoadTakesNothingButTheWhole(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var serving sync.WaitGroup
	defer serving.Wait()
	defer l.Close()
	serving.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			_, _ = io.WriteString(c, "part")
			c.Close()
		}
	})
	args := []string{"load", "--to", l.Addr().String(), "--short", "10"}
	if err := run(t.Context(), args, io.Discard); err == nil {
		t.Error("load of a part = nil, want an error")
	}
}

func TestBothSubjectsHaveOneConfiguration(t *testing.T) {
	b := &bench{o: &options{}, to: "127.0.0.1:1,127.0.0.1:2,127.0.0.1:3"}
	for _, text := range []string{b.limpetConfiguration("127.0.0.1:9"), b.haproxyConfiguration("127.0.0.1:9")} {
		for _, want := range []string{"127.0.0.1:1", "127.0.0.1:2", "127.0.0.1:3", "127.0.0.1:9"} {
			if !strings.Contains(text, want) {
				t.Errorf("configuration = %s, want %s in it", text, want)
			}
		}
	}
}
