package experiment

import (
	"strings"
	"testing"
)

// cells returns so many cells, of which some lie outside their intervals.
func cells(n, outside, runs int) []CellResult {
	list := make([]CellResult, n)
	for i := range list {
		v := 1.0
		if i < outside {
			v = 1.2
		}
		formula := 1.0
		list[i] = CellResult{
			Cell:      Cell{Arm: Arm{IPTables, true}, Shape: Shape{10, Equal, false}, Endpoints: 3, Runs: runs},
			Variation: Figure{Values: []float64{v}, Mean: v, RMS: v, Theory: &Theory{Value: 1, Low: 0.9, High: 1.1, Formula: &formula, RMS: true}},
		}
	}
	return list
}

func TestVerdicts(t *testing.T) {
	moved := cells(10, 0, 20)
	f := measured("clients that moved", []float64{0, 0.1}).share(0, 10)
	moved[3].Moved = &f
	lost := cells(10, 3, 20)
	for i := range 3 {
		lost[i].Lost = 1
	}
	ratio := cells(30, 0, 20)
	ratio[4].Variation.RMS = 1.4
	tests := []struct {
		name          string
		result        Result
		given, agrees bool
		text          string
	}{
		{"all inside", Result{Cells: cells(20, 0, 20)}, true, true, "kube-proxy: measurement and theory agree."},
		{"one of twenty outside is chance", Result{Cells: cells(20, 1, 20)}, true, true, "19 of 20 figures lie in their 95 % intervals (95 %)"},
		{"three of twenty outside are not", Result{Cells: cells(20, 3, 20)}, true, false, "do not agree"},
		{"a ratio that is too high", Result{Cells: ratio}, true, false, "1.00 to 1.40"},
		{"from one run there is none", Result{Cells: cells(20, 0, 1)}, false, false, "no verdict. Some figures come from 1 runs"},
		{"nor if one cell has few", Result{Cells: append(cells(20, 0, 20), cells(1, 0, MinRuns-1)...)}, false, false, "no verdict"},
		{"nor from nothing", Result{}, false, false, "Nothing was compared"},
		{"a promise that was not kept", Result{Cells: moved}, true, false, "Not so: ClientIP, iptables: 10 clients, equal, fresh: clients that moved."},
		{"cells that lost queries do not count", Result{Cells: lost}, true, true, "3 cells lost queries"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			v := tt.result.verdict("kube-proxy")
			if v.Given != tt.given || v.Agrees != tt.agrees || !strings.Contains(strings.Join(v.Text, "\n"), tt.text) {
				t.Errorf("verdict() = given %t, agrees %t, %q, want %t, %t, %q", v.Given, v.Agrees, v.Text, tt.given, tt.agrees, tt.text)
			}
		})
	}
}

func TestTheChanceOfAVerdictIsBinomial(t *testing.T) {
	r := Result{Cells: cells(20, 2, 20)}
	// 1 - 0.95^20 - 20 0.05 0.95^19
	if got := r.verdict("kube-proxy").Chance; got < 0.2641 || got > 0.2642 {
		t.Errorf("chance of 2 of 20 outside = %v, want 0.26416", got)
	}
}

func TestShapesAreRead(t *testing.T) {
	for text, want := range map[string]Shape{
		"3": {3, Equal, false}, "50:zipf": {50, Zipf, false}, "200:equal:reused": {200, Equal, true}, "1:zipf:fresh": {1, Zipf, false},
	} {
		var got Shape
		if err := got.UnmarshalText([]byte(text)); err != nil || got != want {
			t.Errorf("UnmarshalText(%q) = %+v, %v, want %+v", text, got, err, want)
		}
	}
	if text, err := (Shape{50, Zipf, true}).MarshalText(); err != nil || string(text) != "50:zipf:reused" {
		t.Errorf("MarshalText() = %q, %v, want 50:zipf:reused", text, err)
	}
	for _, text := range []string{"", "0", "-1", "x", "3x", "2001", "3:even", "3:equal:old", "3:equal:fresh:4", "3::", "3 4"} {
		if err := new(Shape).UnmarshalText([]byte(text)); err == nil {
			t.Errorf("UnmarshalText(%q) takes it, want an error", text)
		}
	}
}

func TestPresetsAreWhatTheySay(t *testing.T) {
	all := Modes[:]
	tests := []struct {
		preset               Preset
		modes                []Mode
		cells, cliff, trials int
	}{
		{Reference, all, 16 * 5, 0, 0},
		{Reference, []Mode{IPTables}, 16 * 2, 0, 0},
		{Cliff, all, 0, 8 * 3, 0},
		{Blackhole, all, 0, 0, 5},
		{AllFaults, all, 0, 0, 6*5 - 1},
		{AllFaults, []Mode{Limpet}, 0, 0, 5},
		{Quick, all, 3 * 5, 2 * 3, 5},
	}
	for _, tt := range tests {
		p := tt.preset.Plan(tt.modes, Sizes{}, DefaultRate)
		if len(p.Cells) != tt.cells || len(p.Cliff) != tt.cliff || len(p.Trials) != tt.trials {
			t.Errorf("%s of %v has %d cells, %d of the cliff, %d trials, want %d, %d, %d", tt.preset, tt.modes, len(p.Cells), len(p.Cliff), len(p.Trials), tt.cells, tt.cliff, tt.trials)
		}
		if err := p.Check(); err != nil {
			t.Errorf("%s: %v", tt.preset, err)
		}
	}
}

func TestEachRunHasClientsOfItsOwn(t *testing.T) {
	c := Cell{Shape: Shape{200, Zipf, false}, Endpoints: 3, Queries: 10, Runs: MaxRuns}
	seen := map[string]bool{}
	for run := range c.Runs {
		for _, a := range c.load(run, 1).Clients {
			if seen[a.String()] || !a.IsPrivate() {
				t.Fatalf("run %d has the client %s again", run, a)
			}
			seen[a.String()] = true
		}
	}
}

func TestKubeProxyAndLimpetAreJudgedApart(t *testing.T) {
	r := Result{Cells: append(cells(20, 0, 20), cells(20, 20, 20)...)}
	for i := range 20 {
		r.Cells[20+i].Arm = Arm{Limpet, true}
	}
	r.judge()
	if len(r.Verdicts) != 2 || !r.Verdicts[0].Agrees || r.Verdicts[1].Agrees || r.Verdicts[1].On != "Limpet" {
		t.Errorf("verdicts = %+v, want one that agrees on kube-proxy, and one on Limpet that does not", r.Verdicts)
	}
	r = Result{Cells: cells(20, 0, 20)}
	if r.judge(); len(r.Verdicts) != 1 {
		t.Errorf("verdicts = %+v, want one where there is no Limpet", r.Verdicts)
	}
}
