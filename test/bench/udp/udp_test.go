package main

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"math/rand/v2"
	"strings"
	"testing"
)

func TestLoadCountsAnswersAndWhatIsLost(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	r, w := io.Pipe()
	ended := make(chan error, 1)
	go func() { ended <- run(ctx, []string{"answerer"}, w) }()
	defer func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("run(answerer) = %v, want nil", err)
		}
	}()
	b := make([]byte, 200)
	n, err := r.Read(b)
	if err != nil {
		t.Fatal(err)
	}
	to := strings.Split(strings.TrimSpace(string(b[:n])), ",")
	if len(to) != upstreams {
		t.Fatalf("answerer prints %q, want %d addresses", b[:n], upstreams)
	}
	for _, args := range [][]string{{"--size", "100"}, {"--fresh"}} {
		var out bytes.Buffer
		if err := run(t.Context(), append([]string{"load", "--to", to[0], "--questions", "200", "--clients", "4", "--wait", "30s"}, args...), &out); err != nil {
			t.Fatal(err)
		}
		var s served
		if err := json.Unmarshal(out.Bytes(), &s); err != nil || s.Answers != 200 || s.Lost != 0 || s.Seconds <= 0 {
			t.Errorf("load %v = %s, %v, want 200 answers", args, out.String(), err)
		}
	}
}

func TestFlagsAreChecked(t *testing.T) {
	for _, args := range [][]string{{"--rounds", "1"}, {"--clients", "0"}, {"--questions", "3"}, {"--size", "65508"}, {"more"}} {
		if _, err := parse(args); err == nil {
			t.Errorf("parse(%v) = nil, want an error", args)
		}
	}
}

func TestReportHasARatioForEachKindOfSockets(t *testing.T) {
	of := func(name string, cpu float64) *subject {
		s := side{cpu: []float64{cpu, cpu}, rate: []float64{1000, 1000}, lost: 3}
		return &subject{name: name, kept: s, fresh: s}
	}
	var out bytes.Buffer
	if err := report(&out, rand.New(rand.NewPCG(1, 1)), of("nginx", 10), of("limpet", 11)); err != nil {
		t.Fatal(err)
	}
	if n := strings.Count(out.String(), "1.100 [1.100 1.100]"); n != 2 {
		t.Errorf("report = %s, want the ratio 1.1 twice", out.String())
	}
}
