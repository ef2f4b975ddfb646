package spread

import (
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func pods(n int) Count { return Count{Number: n} }

func TestRolloutStepsAreADeploymentsOnes(t *testing.T) {
	tests := []struct {
		name               string
		pods               int
		surge, unavailable Count
		want               [][]int
	}{
		{
			"one more, one after the other", 3, pods(1), pods(0),
			[][]int{{0, 1, 2, 3}, {1, 2, 3}, {1, 2, 3, 4}, {2, 3, 4}, {2, 3, 4, 5}, {3, 4, 5}},
		},
		{"one less", 3, pods(0), pods(1), [][]int{{1, 2}, {1, 2, 3}, {2, 3}, {2, 3, 4}, {3, 4}, {3, 4, 5}}},
		{"all at once", 2, Count{100, true}, pods(0), [][]int{{0, 1, 2, 3}, {2, 3}}},
		{"a share of surge is rounded up, of unavailable down", 3, Count{25, true}, Count{25, true}, rolloutSteps(3, pods(1), pods(0))},
		{"neither means one unavailable", 3, pods(0), Count{25, true}, rolloutSteps(3, pods(0), pods(1))},
		{"all unavailable", 2, pods(0), pods(2), [][]int{{}, {2, 3}}},
		{"more than there are", 2, pods(1_000_000), pods(0), [][]int{{0, 1, 2, 3}, {2, 3}}},
		{"a single pod", 1, pods(1), pods(0), [][]int{{0, 1}, {1}}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if diff := cmp.Diff(tt.want, rolloutSteps(tt.pods, tt.surge, tt.unavailable)); diff != "" {
				t.Errorf("rolloutSteps(%d, %v, %v): -want +got\n%s", tt.pods, tt.surge, tt.unavailable, diff)
			}
		})
	}
}

func TestRolloutSharesByTheory(t *testing.T) {
	tests := []struct {
		name               string
		pods               int
		surge, unavailable Count
		want               []float64
	}{
		{"three pods, one more", 3, pods(1), pods(0), []float64{37. / 81, 28. / 81, 16. / 81}},
		{"three pods, one less: the last gets nothing", 3, pods(0), pods(1), []float64{5. / 8, 3. / 8, 0}},
		{"all at once is even", 3, Count{100, true}, pods(0), []float64{1. / 3, 1. / 3, 1. / 3}},
		{"everything gone at once is even", 3, pods(0), pods(3), []float64{1. / 3, 1. / 3, 1. / 3}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got := RolloutShares(tt.pods, tt.surge, tt.unavailable)
			if !slices.EqualFunc(got, tt.want, func(a, b float64) bool { return near(a, b, 1e-12) }) {
				t.Errorf("RolloutShares(%d, %v, %v) = %v, want %v", tt.pods, tt.surge, tt.unavailable, got, tt.want)
			}
		})
	}
	ten := RolloutShares(10, pods(1), pods(0))
	if most, last := 10*slices.Max(ten), 10*ten[9]; !near(most, 1.59, 0.006) || !near(last, 0.24, 0.006) {
		t.Errorf("ten pods: highest and last relative to the mean = %.3f, %.3f, want 1.59, 0.24", most, last)
	}
}

// A share is a mean over the runs, and three half-widths of its interval of 95 % are 5.9 deviations.
func TestRolloutSimulationAgreesWithTheory(t *testing.T) {
	tests := []struct {
		name    string
		policy  Policy
		sockets int
		clients []Client
	}{
		{"ClientIP", PolicyClientIP, 0, Equal(90)},
		{"ClientIP, clients by Zipf", PolicyClientIP, 0, Zipf(90, 1)},
		{"no affinity, but sockets that are reused", PolicyNone, 2, Equal(90)},
		{"no affinity, fresh sockets", PolicyNone, 0, Equal(90)},
		{"a hash of the flow", PolicyFlowHash, 1, Equal(90)},
		{"a hash of the client", PolicyHash, 0, Equal(90)},
		{"bounded load without memory", PolicyRendezvous, 0, Equal(90)},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := scenario(tt.policy, tt.clients, 800, func(s *Scenario) { s.Sockets = tt.sockets })
			got := rolloutOf(t, s)
			for e, want := range got.Shares {
				if !near(got.Simulated[e], want, 3*got.Errors[e]) {
					t.Errorf("share of new pod %d = %.4f ± %.4f, want %.4f", e+1, got.Simulated[e], got.Errors[e], want)
				}
			}
		})
	}
}

// Measured with real rules in 12 rollouts of 90 clients: 0.460, 0.352, 0.188. A mean of 12 has a deviation of about 0.015.
func TestRolloutAgreesWithMeasurements(t *testing.T) {
	got := rolloutOf(t, scenario(PolicyClientIP, Equal(90), 800, func(s *Scenario) { s.MaxSurge, s.MaxUnavailable = pods(1), pods(0) }))
	for e, want := range []float64{0.460, 0.352, 0.188} {
		if !near(got.Simulated[e], want, 0.03) {
			t.Errorf("share of new pod %d = %.4f, measured %.3f", e+1, got.Simulated[e], want)
		}
	}
}

func TestBoundSessionsAreLessSkewedAfterARollout(t *testing.T) {
	clientIP := rolloutOf(t, scenario(PolicyClientIP, Equal(90), 500))
	bound := rolloutOf(t, scenario(PolicyBound, Equal(90), 500))
	if bound.Shares != nil {
		t.Errorf("Shares of bound = %v, want none: there is no formula", bound.Shares)
	}
	if b, c := bound.MaxOverMean.Simulated, clientIP.MaxOverMean.Simulated; b.High >= c.Low {
		t.Errorf("max/mean of bound = %.3f, want less than that of ClientIP, %.3f", b.Mean, c.Mean)
	}
}

func TestAffinityThatThrashesForgetsTheRollout(t *testing.T) {
	got := rolloutOf(t, scenario(PolicyClientIP, Equal(600), 200))
	for e, share := range got.Simulated {
		if !near(share, 1./3, 0.02) {
			t.Errorf("share of new pod %d = %.3f, want a third", e+1, share)
		}
	}
}

func rolloutOf(t *testing.T, s Scenario) Rollout {
	t.Helper()
	if err := s.Validate(); err != nil {
		t.Fatal(err)
	}
	got, err := newWorld(&s).rollout(testJob(s), s.Policies[0])
	if err != nil {
		t.Fatal(err)
	}
	return got
}
