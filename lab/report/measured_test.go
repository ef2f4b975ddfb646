package report

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"github.com/limpet-project/limpet/affinity"
	"github.com/limpet-project/limpet/lab/experiment"
)

// figure returns a figure of four runs with a theory beside it.
func figure(name string, mean, low, high float64) experiment.Figure {
	from, to := mean*0.9, mean*1.1
	return experiment.Figure{
		Name: name, Values: []float64{mean, mean, mean, mean}, Mean: mean, RMS: mean, Low: &from, High: &to,
		Theory: &experiment.Theory{Value: (low + high) / 2, Low: low, High: high},
	}
}

func measuredResult() *experiment.Result {
	r := &experiment.Result{Seed: 4711, Began: time.Unix(1_790_000_000, 0).UTC(), Took: affinity.Duration(90 * time.Second), Kernel: "6.18.0"}
	for i, a := range []experiment.Arm{{Mode: experiment.IPTables}, {Mode: experiment.IPTables, Affinity: true}, {Mode: experiment.Limpet, Affinity: true}} {
		for _, reuse := range []bool{false, true} {
			moved := figure("clients that moved", 0, 0, 0)
			r.Cells = append(r.Cells, experiment.CellResult{
				Cell:      experiment.Cell{Arm: a, Shape: experiment.Shape{Clients: 50, Weights: experiment.Zipf, Reuse: reuse}, Endpoints: 3, Runs: 4},
				Variation: figure("coefficient of variation", 0.2*float64(i+1), 0.15, 0.45), MaxOverMean: figure("max/mean", 1.2, 1.1, 1.3),
				Moved: &moved, Tracked: 600,
			})
		}
		r.Trials = append(r.Trials, experiment.TrialResult{
			Trial:   experiment.Trial{Fault: experiment.BlackHole, Arm: a, Runs: 4},
			Figures: []experiment.Figure{figure("queries that failed", 0.3, 0.2, 0.4), figure("clients without any answer", 0.3, 0.2, 0.4)},
		})
		if a.Affinity {
			for _, n := range []int{200, 400} {
				moved := figure("clients that moved", float64(n/400), 0, 1)
				r.Cliff = append(r.Cliff, experiment.CellResult{
					Cell:      experiment.Cell{Arm: a, Shape: experiment.Shape{Clients: n, Weights: experiment.Equal}, Endpoints: 3, Runs: 4},
					Variation: figure("coefficient of variation", 0.1, 0, 1), Moved: &moved,
				})
			}
		}
	}
	r.Cells[1].Lost = 3
	r.DNSPerf = r.Cells[2:3]
	r.Verdicts = []experiment.Verdict{{Text: []string{"No verdict: </p><script>alert(1)</script>"}}}
	return r
}

func TestAMeasuredPageIsCompleteInItself(t *testing.T) {
	all := measuredResult()
	tests := []struct {
		name  string
		edit  func(*experiment.Result)
		plots int
	}{
		{"everything", func(*experiment.Result) {}, 5},
		{"cells only", func(r *experiment.Result) { r.Cliff, r.Trials, r.DNSPerf = nil, nil, nil }, 2},
		{"no cell is valid", func(r *experiment.Result) { r.Cells, r.Cliff, r.Trials = r.Cells[1:2], nil, nil }, 0},
		{"the cliff only", func(r *experiment.Result) { r.Cells, r.Trials = nil, nil }, 1},
		{"from one run", func(r *experiment.Result) {
			r.Cells, r.Cliff = nil, nil
			r.Trials = []experiment.TrialResult{{Trial: r.Trials[0].Trial, Figures: []experiment.Figure{{Name: "a"}, {Name: "b"}}}}
		}, 2},
		{"nothing", func(r *experiment.Result) { *r = experiment.Result{} }, 0},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r := *all
			tt.edit(&r)
			var b bytes.Buffer
			if err := WriteMeasured(&b, &r); err != nil {
				t.Fatal(err)
			}
			if m := elsewhere.FindString(b.String()); m != "" {
				t.Errorf("the page has %q, want nothing that loads or runs", m)
			}
			found := pictures.FindAllString(b.String(), -1)
			if len(found) != tt.plots {
				t.Errorf("the page has %d plots, want %d", len(found), tt.plots)
			}
			for _, svg := range found {
				checkPicture(t, svg)
			}
		})
	}
}

func TestMeasuredTextSaysWhatThePageSays(t *testing.T) {
	var b strings.Builder
	if err := WriteMeasuredText(&b, measuredResult()); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"Measured in 1m30s on Linux 6.18.0; seed 4711", "CLIENTS", "50 clients, zipf, fresh   none, iptables",
		"not valid: 3 queries lost", "0.600  0.300   0.150–0.450  2.00   1.20      1.20    CV outside", "When lists overflow", "black hole", "No verdict",
	} {
		if !strings.Contains(b.String(), want) {
			t.Errorf("the text has no %q:\n%s", want, b.String())
		}
	}
}
