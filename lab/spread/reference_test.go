package spread

import (
	"math"
	"math/rand/v2"
	"slices"
	"testing"
)

// What an experiment measured in network namespaces with kube-proxy's rules: 3 endpoints, 1500 queries a second for 2 s, the mean of 8 runs;
// one cell has the root mean square of 40.
var measured = []struct {
	clients        string
	weights        []Client
	sockets        int
	none, clientIP float64
	runs           int
}{
	{"3 equal", Equal(3), 0, 0.025, 0.866, 8},
	{"10 equal", Equal(10), 0, 0.023, 0.466, 8},
	{"50 equal", Equal(50), 0, 0.022, 0.162, 8},
	{"200 equal", Equal(200), 0, 0.016, 0.104, 8},
	{"10 by Zipf", Zipf(10, 1), 0, 0.031, 0.542, 8},
	{"50 by Zipf", Zipf(50, 1), 0, 0.023, 0.378, 8},
	{"200 by Zipf", Zipf(200, 1), 0, 0.027, 0.264, 8},
	{"3 equal, reused", Equal(3), 1, 0.806, 0.815, 40},
	{"50 equal, reused", Equal(50), 1, 0.153, 0.161, 8},
	{"200 by Zipf, reused", Zipf(200, 1), 1, 0.320, 0.303, 8},
}

func TestSimulationAgreesWithMeasurements(t *testing.T) {
	cells, inside := 0, 0
	for _, m := range measured {
		for policy, want := range map[Policy]float64{PolicyNone: m.none, PolicyClientIP: m.clientIP} {
			s := scenario(policy, m.weights, 500, func(s *Scenario) { s.Sockets = m.sockets })
			v := simulate(t, s).Variation
			low, high := v.Simulated.OfRuns(m.runs, 1)
			if m.runs == 40 {
				low, high = rootMeanSquares(v.Simulated.Samples(), m.runs)
			}
			cells++
			if low <= want && want <= high {
				inside++
			} else {
				t.Logf("%s, %s: measured %.3f, simulated %.3f to %.3f", m.clients, policy, want, low, high)
			}
			if ratio := v.Simulated.RMS / *v.Formula; ratio < 0.75 || ratio > 1.33 {
				t.Errorf("%s, %s: variation = %.4f, formula %.4f", m.clients, policy, v.Simulated.RMS, *v.Formula)
			}
			// Of measurements that are 8 draws of a chance those alone are as near that have the chance of the clients in them.
			if policy == PolicyClientIP && (want/v.Simulated.RMS < 0.75 || want/v.Simulated.RMS > 1.33) {
				t.Errorf("%s, %s: measured %.4f, simulated %.4f", m.clients, policy, want, v.Simulated.RMS)
			}
		}
	}
	t.Logf("%d of %d measurements are inside the simulation's intervals", inside, cells)
	if inside*10 < cells*9 {
		t.Errorf("%d of %d measurements are inside, want 90 %% or more", inside, cells)
	}
}

// rootMeanSquares returns where that of n runs lies in 95 % of cases.
func rootMeanSquares(samples []float64, n int) (low, high float64) {
	rng := rand.New(rand.NewPCG(1, 2))
	roots := make([]float64, 4000)
	for i := range roots {
		for range n {
			x := samples[rng.IntN(len(samples))]
			roots[i] += x * x / float64(n)
		}
		roots[i] = math.Sqrt(roots[i])
	}
	slices.Sort(roots)
	return roots[100], roots[3899]
}

// The experiment's clients sent in turns. Measured: none of 100 and 200 clients moved, 5 % of 280, 99 % of 330, all of 400 and more; and
// none with nftables.
func TestCliffAgreesWithMeasurements(t *testing.T) {
	tests := []struct {
		name        string
		clients     int
		mode        Mode
		least, most float64
	}{
		{"100 clients stay", 100, ModeIPTables, 0, 0},
		{"200 clients stay", 200, ModeIPTables, 0, 0.001},
		{"some of 280 clients move until they fit", 280, ModeIPTables, 0.005, 0.15},
		{"nearly all of 330 clients move", 330, ModeIPTables, 0.9, 1},
		{"400 clients move", 400, ModeIPTables, 0.97, 1},
		{"1000 clients move", 1000, ModeIPTables, 0.99, 1},
		{"with nftables 100 clients stay", 100, ModeNFTables, 0, 0},
		{"with nftables 400 clients stay", 400, ModeNFTables, 0, 0},
		{"with nftables 1000 clients stay", 1000, ModeNFTables, 0, 0},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got := simulate(t, scenario(PolicyClientIP, Equal(tt.clients), 50, func(s *Scenario) {
				s.Mode, s.Arrivals, s.Rate = tt.mode, ArrivalsInTurns, 10*float64(tt.clients)
			}))
			if moved := got.MovedClients.Mean; moved < tt.least || moved > tt.most {
				t.Errorf("share of clients that moved = %.4f, want %v to %v", moved, tt.least, tt.most)
			}
			if tt.clients >= 400 && tt.mode == ModeIPTables && got.Variation.Simulated.RMS > 0.02 {
				t.Errorf("variation = %.4f, want at most 0.02: without affinity clients spread again", got.Variation.Simulated.RMS)
			}
		})
	}
}

// Measured with 1 of 3 endpoints silent and 30 clients: without affinity 32.8 % of queries fail, 3.4 to 3.6 % with two retries; with
// ClientIP 29 to 35 %, and 26 to 46 % with two retries, of 5 to 14 clients in total outage.
func TestOutageAgreesWithMeasurements(t *testing.T) {
	tests := []struct {
		name           string
		policy         Policy
		retries        int
		failed         float64
		clientsOut     float64
		spread, within float64 // how single runs differ: 5 and 95 %
	}{
		{"no affinity", PolicyNone, 0, 1.0 / 3, 0, 0.32, 0.35},
		{"no affinity, two retries", PolicyNone, 2, 1.0 / 27, 0, 0.034, 0.040},
		{"ClientIP", PolicyClientIP, 0, 1.0 / 3, 1.0 / 3, 0.2, 0.5},
		{"ClientIP, two retries", PolicyClientIP, 2, 1.0 / 3, 1.0 / 3, 0.2, 0.5},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := scenario(tt.policy, Equal(30), 1000, func(s *Scenario) { s.Retries, s.Detect, s.Rate = tt.retries, 30e9, 500 })
			got := outageOf(t, s)
			checkFigure(t, "failed queries", got.FailedQueries, tt.failed)
			checkFigure(t, "clients in total outage", got.ClientsOut, tt.clientsOut)
			if f := got.FailedQueries.Simulated; f.P5 < tt.spread-0.001 || f.P95 > tt.within {
				t.Errorf("failed queries of single runs = %.3f to %.3f, want within %v to %v", f.P5, f.P95, tt.spread, tt.within)
			}
		})
	}
}

// checkFigure compares a formula and a simulation with what is wanted. Twice the interval of 95 % is left by chance in 1 of 10000 cases.
func checkFigure(t *testing.T, what string, f Figure, want float64) {
	t.Helper()
	if f.Formula == nil || !near(*f.Formula, want, 1e-9) {
		t.Errorf("%s by formula = %v, want %v", what, f.Formula, want)
	}
	if half := f.Simulated.High - f.Simulated.Mean; !near(f.Simulated.Mean, want, 2*half+1e-3) {
		t.Errorf("%s simulated = %.4f ± %.4f, want %.4f", what, f.Simulated.Mean, half, want)
	}
}

func outageOf(t *testing.T, s Scenario) Outage {
	t.Helper()
	if err := s.Validate(); err != nil {
		t.Fatal(err)
	}
	got, err := newWorld(&s).outage(testJob(s), s.Policies[0])
	if err != nil {
		t.Fatal(err)
	}
	return got
}
