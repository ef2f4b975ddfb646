package experiment

import (
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/limpet-project/limpet/lab/testbed"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// The kernel draws without a seed, so what is compared is wide enough that chance fails one run in millions.
func TestKubeProxysRulesAreAsPredicted(t *testing.T) {
	if err := testbed.Missing(); err != nil {
		t.Skip(err)
	}
	modes, began := []Mode{IPTables, NFTables}, time.Now()
	p := Plan{
		Cells:  Table(modes, []Shape{{10, Zipf, false}}, Sizes{Runs: 8, Queries: 200}, DefaultRate),
		Cliff:  cliff(modes, []int{400}, 1, DefaultRate),
		Trials: trials(Rollout, modes, 1),
	}
	p.Trials = append(p.Trials, trials(ZoneHints, modes, 1)...)
	r, err := Run(t.Context(), p, Options{Seed: 1, Simulations: 150})
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("measured in %s: %q", time.Since(began), r.Verdicts[0].Text)
	if v := r.Verdicts[0]; v.Chance < 1e-6 || v.Given || v.Invalid > 0 {
		t.Errorf("verdict = %+v, want no improbable one, none at all from one run, and no query lost", v)
	}
	for _, b := range r.Verdicts[0].Broken {
		t.Errorf("a promise was not kept: %s", b)
	}
	for _, c := range r.Cliff {
		thrashes := c.Mode == IPTables && c.Clients == 400
		if moved := c.Moved.Mean; thrashes && moved < 0.9 || !thrashes && moved > 0.01 {
			t.Errorf("%s: %.3f of clients moved, want nearly all of 400 with iptables and none else", c.Cell, moved)
		}
	}
}
