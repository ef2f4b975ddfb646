package main

import (
	"bytes"
	"context"
	"math/rand/v2"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/limpet-project/limpet/test/soak/checker"
)

// gated skips tests that need half a minute and the machine to themselves unless they are asked for.
func gated(t *testing.T) {
	t.Helper()
	if os.Getenv("LIMPET_SOAK") == "" {
		t.Skip("set LIMPET_SOAK=1, as make soak-short does, to drive real gateways for half a minute")
	}
	if _, err := exec.LookPath("redis-server"); err != nil {
		t.Fatal("redis-server is needed: apt-get install redis-server")
	}
}

func drive(t *testing.T, args ...string) (*outcome, string) {
	t.Helper()
	o, err := parse(args, t.Output())
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	var out bytes.Buffer
	v, err := soak(ctx, o, &out)
	if err != nil {
		t.Fatalf("soak(%v) = %v\n%s", args, err, out.String())
	}
	return v, out.String()
}

func TestSessionsSurviveWhatHappensToReplicasStoreAndGateways(t *testing.T) {
	gated(t)
	v, out := drive(t, "--requests", "20000", "--sessions", "500", "--duration", "45s")
	t.Log(out)
	if !v.ok() {
		t.Errorf("soak = %d misroutes, %d repeated, %d unexplained failures, %d requests given up, want none",
			v.report.Misrouted, v.report.Repeated, len(v.unexplained), v.lost)
	}
	for _, kind := range []checker.Kind{
		checker.Added, checker.Draining, checker.Removed, checker.Killed, checker.Weighted, checker.StoreLost, checker.GatewayDown,
	} {
		if v.events[kind] == 0 {
			t.Errorf("nothing was %s in the run, want each kind of event", kind)
		}
	}
}

func TestTheCheckerNoticesThatAffinityIsOff(t *testing.T) {
	gated(t)
	v, out := drive(t, "--requests", "3000", "--sessions", "100", "--duration", "4s", "--affinity", "off")
	if v.report.Misrouted < 100 || v.ok() {
		t.Errorf("soak with affinity off = %d misroutes, ok %t, want hundreds and not ok\n%s", v.report.Misrouted, v.ok(), out)
	}
}

func TestFlagsAreChecked(t *testing.T) {
	for _, args := range [][]string{
		{"--workers", "65"}, {"--workers", "0"}, {"--affinity", "maybe"}, {"--requests", "0"}, {"--sessions", "1"}, {"--revisions", "1"}, {"x"},
	} {
		if _, err := parse(args, t.Output()); err == nil {
			t.Errorf("parse(%v) = no error, want one", args)
		}
	}
	o, err := parse([]string{"--affinity", "off"}, t.Output())
	if err != nil || o.affinity || o.seed == 0 {
		t.Errorf("parse(--affinity off) = %+v, %v, want it off and a seed", o, err)
	}
}

func TestSpawnedProcessesEndWithTheRun(t *testing.T) {
	s := newSpawner()
	defer s.close()
	log := t.TempDir() + "/log"
	p, err := s.spawn(log, nil, "sleep", "60")
	if err != nil {
		t.Fatal(err)
	}
	if !p.stop(30 * time.Second) {
		t.Error("stop of sleep had to kill it, want SIGTERM to do")
	}
	deaf, err := s.spawn(log, func(line string) {
		if line != "ready" {
			t.Errorf("first line = %q, want ready", line)
		}
	}, "sh", "-c", "trap '' TERM; echo ready; while :; do sleep 1; done")
	if err != nil {
		t.Fatal(err)
	}
	if deaf.stop(50 * time.Millisecond) {
		t.Error("stop of a process that ignores SIGTERM says that it ended by itself")
	}
	if _, err := s.spawn(log, func(string) {}, "sh", "-c", "echo broken >&2; exit 1"); err == nil || !strings.Contains(err.Error(), "broken") {
		t.Errorf("spawn of a process that ends at once = %v, want its complaint", err)
	}
}

func TestNewSessionsComeIntoBeingAllThroughTheRun(t *testing.T) {
	o := &options{requests: 10_000, sessions: 1000, seed: 1}
	l := newLoad(o, nil)
	rng := rand.New(rand.NewPCG(1, 1))
	first := map[string]int{}
	flows := map[string]string{}
	for n := 1; n <= o.requests; n++ {
		session, flow := l.choose(rng, n)
		if _, ok := first[session]; !ok {
			first[session] = n
		}
		if session == "" && flow == "" {
			t.Fatalf("choose(%d) = no id at all", n)
		}
		if known, ok := flows[session]; ok && session != "" && known != flow {
			t.Fatalf("choose(%d) = %s with flow %q, want its flow %q", n, session, flow, known)
		}
		flows[session] = flow
	}
	late := 0
	for _, n := range first {
		if n > o.requests/2 {
			late++
		}
	}
	// 80 % of the sessions come in evenly over the first 10/12 of the run, so 32 % of them in its second half before that end.
	if late < 250 || late > 400 {
		t.Errorf("%d of %d sessions began in the second half, want about 320", late, len(first))
	}
}
