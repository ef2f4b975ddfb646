package checker

import (
	"testing"
	"time"
)

func TestOnlyKilledReplicasAndRestartedGatewaysExplainFailures(t *testing.T) {
	broken := func(o Observation) Observation { o.Status = 0; return o }
	kill := on(10, Killed, Event{Endpoint: podA})
	restart := []Event{on(10, GatewayDown, Event{Gateway: "gw1"}), on(12, GatewayUp, Event{Gateway: "gw1"})}
	tests := []struct {
		name   string
		events []Event
		asked  []Observation
		want   int
	}{
		{"answered", nil, []Observation{ask("gw1", 1, 2, podA)}, 0},
		{"5xx for no reason", nil, []Observation{ask("gw1", 1, 2, "")}, 1},
		{"its replica was killed under way", []Event{kill}, []Observation{ask("gw1", 1, 2, podA), ask("gw1", 9, 10.1, "")}, 0},
		{"its replica was killed shortly before", []Event{kill}, []Observation{ask("gw1", 1, 2, podA), ask("gw1", 10.2, 10.3, "")}, 0},
		{"its replica was killed long before", []Event{kill}, []Observation{ask("gw1", 1, 2, podA), ask("gw1", 12, 13, "")}, 1},
		{"its replica was killed later", []Event{kill}, []Observation{ask("gw1", 1, 2, podA), ask("gw1", 8, 9, "")}, 1},
		{"another replica was killed", []Event{kill}, []Observation{ask("gw1", 1, 2, podB), ask("gw1", 9, 10.1, "")}, 1},
		{
			"new, and answered by another one meanwhile",
			[]Event{kill},
			[]Observation{ask("gw1", 9, 10.1, ""), ask("gw2", 9.5, 10.2, podB)},
			0,
		},
		{
			"moved by this request to the one that was killed",
			[]Event{on(5, Removed, Event{Endpoint: podB}), kill},
			[]Observation{ask("gw1", 1, 2, podB), ask("gw1", 9.9, 10.1, "")},
			0,
		},
		{"new, so it may have been there", []Event{kill}, []Observation{ask("gw1", 9, 10.1, "")}, 0},
		{
			"new, and answered by another one afterwards",
			[]Event{kill},
			[]Observation{ask("gw1", 9, 10.1, ""), ask("gw1", 11, 11.1, podB)},
			0,
		},
		{"the gateway was down", restart, []Observation{broken(ask("gw1", 11, 11.1, ""))}, 0},
		{"the other gateway was down", restart, []Observation{broken(ask("gw2", 11, 11.1, ""))}, 1},
		{"a gateway that is down answers no 5xx", restart, []Observation{ask("gw1", 11, 11.1, "")}, 1},
		{"the gateway was long up again", restart, []Observation{broken(ask("gw1", 20, 21, ""))}, 1},
		{
			"a removed replica explains nothing",
			[]Event{on(10, Removed, Event{Endpoint: podA})},
			[]Observation{ask("gw1", 1, 2, podA), ask("gw1", 9, 10.1, "")},
			1,
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := Unexplained(setup(tt.events...), tt.asked, time.Second); len(got) != tt.want {
				t.Errorf("Unexplained(%v) = %v, want %d", tt.asked, got, tt.want)
			}
		})
	}
}
