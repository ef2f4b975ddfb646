package spread

import (
	"context"
	"encoding/json"
	"errors"
	"math"
	"runtime"
	"strings"
	"testing"
	"time"
)

func TestEqualSeedsGiveEqualPredictionsOnAnyNumberOfProcessors(t *testing.T) {
	predict := func(processors int, seed uint64) string {
		defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(processors))
		s := DefaultScenario()
		s.Clients, s.Runs, s.Seed = Zipf(150, 1), 20, seed
		p, err := Predict(context.Background(), s, nil)
		if err != nil {
			t.Fatal(err)
		}
		text, err := json.Marshal(p)
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}
	one := predict(1, 7)
	if predict(4, 7) != one {
		t.Error("four processors predict something else than one")
	}
	if predict(1, 8) == one {
		t.Error("another seed predicts the same")
	}
}

func TestPredictEndsWithItsContext(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := Predict(ctx, DefaultScenario(), nil); !errors.Is(err, context.Canceled) {
		t.Errorf("Predict = %v, want %v", err, context.Canceled)
	}
}

func TestProgressEndsWithAll(t *testing.T) {
	var p Progress
	if p.Share() != 0 {
		t.Errorf("Share before = %v, want 0", p.Share())
	}
	s := DefaultScenario()
	s.Runs = 2
	if _, err := Predict(context.Background(), s, &p); err != nil {
		t.Fatal(err)
	}
	if p.Share() != 1 {
		t.Errorf("Share after = %v, want 1", p.Share())
	}
}

func TestValidateNamesTheFlag(t *testing.T) {
	tests := []struct {
		name string
		edit func(*Scenario)
		want string
	}{
		{"no clients", func(s *Scenario) { s.Clients = nil }, "clients: got 0, expected a number from 1 to 100000"},
		{"too many clients", func(s *Scenario) { s.Clients = Equal(1 << 30) }, "clients: got 100001, expected a number from 1 to 100000"},
		{"no endpoint", func(s *Scenario) { s.Endpoints = 0 }, "endpoints: got 0, expected a number from 1 to 500"},
		{"a rate that is none", func(s *Scenario) { s.Rate = math.NaN() }, "qps: got NaN, expected a number from 0.001 to 100000000"},
		{"a timeout that Kubernetes refuses", func(s *Scenario) { s.Timeout = 25 * time.Hour }, "timeout: got 25h0m0s, expected a time from 1s to 24h0m0s"},
		{"a window without a query", func(s *Scenario) { s.Rate, s.Window = 0.01, time.Second }, "window: got 1s, expected a time in which 1 to 20000000 queries"},
		{"a mode", func(s *Scenario) { s.Mode = "ipvs" }, `mode: got "ipvs", expected iptables or nftables`},
		{"a policy", func(s *Scenario) { s.Policies = []Policy{"maglev"} }, `policy: got "maglev", expected each at most once of none, flow-hash`},
		{"a policy twice", func(s *Scenario) { s.Policies = []Policy{PolicyNone, PolicyNone} }, `policy: got "none", expected each at most once`},
		{"no policy", func(s *Scenario) { s.Policies = nil }, "policy: got none, expected at least one"},
		{"a single run", func(s *Scenario) { s.Runs = 1 }, "runs: got 1, expected a number from 2 to 20000"},
		{"turns of unequal clients", func(s *Scenario) { s.Clients, s.Arrivals = Zipf(3, 1), ArrivalsInTurns }, "arrivals: got turns, expected random where clients differ"},
		{"a node that is not there", func(s *Scenario) { s.Clients[2].Node = 1 }, "clients: got 1 for client 3, expected as its node a number from 0 to 0"},
		{"a node in two zones", func(s *Scenario) { s.Zones = 2; s.Clients[1].Zone = 1 }, "clients: got 1 for client 2, expected as its zone that of other clients of node 0: 0"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := DefaultScenario()
			tt.edit(&s)
			err := s.Validate()
			if err == nil || !strings.HasPrefix(err.Error(), tt.want) || !errors.As(err, new(*FieldError)) {
				t.Errorf("Validate = %v, want %s", err, tt.want)
			}
		})
	}
}

func TestCountIsAsInADeployment(t *testing.T) {
	for text, want := range map[string]Count{"0": {}, "3": {3, false}, "25%": {25, true}} {
		var got Count
		if err := got.UnmarshalText([]byte(text)); err != nil || got != want || got.String() != text {
			t.Errorf("UnmarshalText(%s) = %v, %v, want %v", text, got, err, want)
		}
	}
	for _, text := range []string{"", "-1", "1.5", "%", "25 %", "9999999999", "many"} {
		if err := new(Count).UnmarshalText([]byte(text)); err == nil {
			t.Errorf("UnmarshalText(%q) = nil, want an error", text)
		}
	}
}

func TestConntrackEntries(t *testing.T) {
	tests := []struct {
		name              string
		scenario          Scenario
		entries, expected float64
	}{
		{"many clients: the rate times the time-out", scenario(PolicyNone, Equal(2000), 200), 45_000, 44_982},
		// As measured within 2 s: 2961 and 2968 entries of 3000 flows of 3 clients, which use some ports again.
		{"few clients use ports again", scenario(PolicyNone, Equal(3), 200, func(s *Scenario) { s.FlowTimeout = 2 * time.Second }), 3000, 2947},
		{"reused sockets", scenario(PolicyNone, Equal(50), 200, func(s *Scenario) { s.Sockets = 2 }), 100, 100},
		{"the fuller of two nodes", scenario(PolicyNone, Equal(3), 200, func(s *Scenario) {
			s.Sockets, s.Nodes = 1, 2
			Distribute(s.Clients, 2, 1)
		}), 2, 2},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := newWorld(&tt.scenario).conntrack(testJob(tt.scenario))
			if err != nil {
				t.Fatal(err)
			}
			if !near(got.Entries, tt.entries, 0.01) || !near(got.Expected, tt.expected, 1) {
				t.Errorf("conntrack = %.2f, expected %.2f, want %v, %v", got.Entries, got.Expected, tt.entries, tt.expected)
			}
			if half := got.Simulated.High - got.Simulated.Mean; !near(got.Simulated.Mean, got.Expected, 3*half+1e-9) {
				t.Errorf("simulated = %.1f ± %.1f, want %.1f", got.Simulated.Mean, half, got.Expected)
			}
		})
	}
}

func TestWarnings(t *testing.T) {
	tests := []struct {
		name string
		edit func(*Scenario)
		want string
	}{
		{"nothing to warn of", func(*Scenario) {}, ""},
		{"beyond the cliff", func(s *Scenario) { s.Clients = Equal(400) }, "ClientIP affinity does not hold: a node has 400 clients and its lists hold 300 addresses; 17 %"},
		{"not with nftables", func(s *Scenario) { s.Clients, s.Mode = Equal(400), ModeNFTables }, ""},
		{"nor with other policies", func(s *Scenario) { s.Clients, s.Policies = Equal(400), []Policy{PolicyBound} }, ""},
		{"near the cliff", func(s *Scenario) { s.Clients = Equal(280) }, "A node has 280 clients and its lists hold 300 addresses: some lists are full already"},
		{"zones make it nearer", func(s *Scenario) { s.Clients, s.Zones = Equal(150), 3 }, "ClientIP affinity does not hold: a node has 150 clients and its lists hold 100"},
		{"nodes make it farther", func(s *Scenario) { s.Clients, s.Nodes = Equal(400), 4; Distribute(s.Clients, 4, 1) }, ""},
		{"sockets that stay", func(s *Scenario) { s.Clients, s.Sockets = Equal(400), 1 }, "A node has 400 clients and its lists hold 300 addresses: not all are remembered."},
		{"connection tracking is full", func(s *Scenario) { s.Rate = 8000; s.Clients = Equal(200) }, "Connection tracking is "},
		{"a timeout that ends", func(s *Scenario) { s.Timeout = time.Second }, "A client that is silent for longer than 1s chooses anew"},
		{"one endpoint", func(s *Scenario) { s.Endpoints = 1 }, "There is one endpoint"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := DefaultScenario()
			s.Runs, s.Policies = 2, []Policy{PolicyNone, PolicyClientIP}
			s.Detect = time.Second
			tt.edit(&s)
			p, err := Predict(context.Background(), s, nil)
			if err != nil {
				t.Fatal(err)
			}
			got := strings.Join(p.Warnings, "\n")
			if (tt.want == "") != (got == "") || !strings.HasPrefix(got, tt.want) {
				t.Errorf("Warnings = %q, want %q", got, tt.want)
			}
		})
	}
}

// The share of flows that move is by formula what it is in simulations, well beyond the cliff.
func TestMovedFlowsByFormula(t *testing.T) {
	for _, clients := range [][]Client{Equal(400), Equal(1000), Zipf(600, 1)} {
		s := scenario(PolicyClientIP, clients, 30, func(s *Scenario) { s.Rate = 30_000 })
		want := newWorld(&s).cliff().MovedFlows
		if got := simulate(t, s).MovedFlows.Mean; got < 0.9*want || got > 1.1*want {
			t.Errorf("share of flows that moved, %d clients = %.4f, formula %.4f", len(clients), got, want)
		}
	}
}

func TestLimpetLeavesASilentEndpointOut(t *testing.T) {
	for _, retries := range []int{0, 1} {
		s := scenario(PolicyBound, Equal(60), 500, func(s *Scenario) { s.Retries = retries })
		got := outageOf(t, s)
		// Without retries a third of the queries of the first 5 of 30 seconds fails.
		want := map[int]float64{0: 1. / 3 * 5 / 30, 1: 0}[retries]
		if f := got.FailedQueries; !near(*f.Formula, want, 0.001) || !near(f.Simulated.Mean, want, 0.003) {
			t.Errorf("failed queries with %d retries = %.4f, formula %.4f, want %.4f", retries, f.Simulated.Mean, *f.Formula, want)
		}
		if got.ClientsOut.Simulated.Mean > 0.001 {
			t.Errorf("clients out with %d retries = %.4f, want none", retries, got.ClientsOut.Simulated.Mean)
		}
	}
}

func TestOutageOfReusedSockets(t *testing.T) {
	s := scenario(PolicyNone, Equal(90), 500, func(s *Scenario) { s.Sockets, s.Retries = 2, 1 })
	// Both sockets are broken with 1/9, one with 4/9; then each attempt has one half.
	checkFigure(t, "clients out", outageOf(t, s).ClientsOut, 1./9)
	checkFigure(t, "failed queries", outageOf(t, s).FailedQueries, 1./9+4./9/4)
}

// BenchmarkSpread is one policy's simulation of 200 clients, 1000 runs.
func BenchmarkSpread(b *testing.B) {
	for _, p := range Policies {
		b.Run(string(p), func(b *testing.B) {
			s := scenario(p, Zipf(200, 1), 1000)
			for b.Loop() {
				if _, err := newWorld(&s).spread(testJob(s), p); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
