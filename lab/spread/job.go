package spread

import (
	"context"
	"runtime"
	"sync"
	"sync/atomic"
)

// Progress says how far a prediction is. Its zero value is ready to use; it may be read while [Predict] runs.
type Progress struct{ done, total atomic.Int64 }

// Share returns the part that is done, from 0 to 1.
func (p *Progress) Share() float64 {
	total := p.total.Load()
	if total == 0 {
		return 0
	}
	return min(1, float64(p.done.Load())/float64(total))
}

// A job runs the simulations of one prediction, one after the other, each on all processors.
type job struct {
	ctx         context.Context
	seed        uint64
	progress    *Progress
	simulations int // begun so far: each has its own random numbers
}

// run does a simulation's runs and waits for them. Each has its own chance, so the outcome does not depend on who does which.
func (j *job) run(runs int, do func(run int, c chance, r *room)) error {
	j.simulations++
	var next atomic.Int64
	var workers sync.WaitGroup
	for range min(runs, runtime.GOMAXPROCS(0)) {
		workers.Go(func() {
			var r room
			for run := int(next.Add(1)) - 1; run < runs && j.ctx.Err() == nil; run = int(next.Add(1)) - 1 {
				do(run, newChance(j.seed, j.simulations, run), &r)
				if run%16 == 0 {
					j.progress.done.Store(int64(j.simulations-1)*stepsPerSimulation + int64(run)*stepsPerSimulation/int64(runs))
				}
			}
		})
	}
	workers.Wait()
	return j.ctx.Err()
}

// stepsPerSimulation is how finely progress is counted.
const stepsPerSimulation = 1000
