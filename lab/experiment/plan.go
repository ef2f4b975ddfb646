package experiment

import "github.com/limpet-project/limpet/lab/testbed"

// A Plan is what is measured.
type Plan struct {
	Cells   []Cell
	Cliff   []Cell
	DNSPerf []Cell // whose load is dnsperf
	Trials  []Trial
}

// A Preset is a plan by its name.
type Preset string

// The presets.
const (
	Quick     Preset = "quick"     // a bit of everything, in about a minute
	Reference Preset = "reference" // 3, 10, 50 and 200 clients, equal and by Zipf, with fresh and reused sockets
	Cliff     Preset = "cliff"     // more and more clients, until lists overflow
	Blackhole Preset = "blackhole" // one silent endpoint of three
	AllFaults Preset = "faults"    // every fault
)

// Presets lists all presets.
var Presets = [...]Preset{Quick, Reference, Cliff, Blackhole, AllFaults}

// The limits of a measurement. Limpet has a listener for each run.
const (
	MaxRuns    = 200
	MaxQueries = testbed.MaxQueries // of one run
)

// Sizes of a plan that a caller may choose; 0 is the preset's own.
type Sizes struct {
	Runs      int
	Queries   int // of one run of a cell
	Endpoints int // of the cells
}

// or returns the size, or what it is by default.
func or(size, otherwise int) int {
	if size > 0 {
		return size
	}
	return otherwise
}

// Plan returns what a preset measures with these modes.
func (p Preset) Plan(modes []Mode, size Sizes, rate float64) Plan {
	switch p {
	case Quick:
		size.Runs = or(size.Runs, 12)
		return Plan{
			Cells:  Table(modes, quickShapes, size, rate),
			Cliff:  cliff(modes, []int{200, 400}, or(size.Runs/4, 1), rate),
			Trials: trials(BlackHole, modes, or(size.Runs/4, 1)),
		}
	case Reference:
		return Plan{Cells: Table(modes, referenceShapes(), size, rate)}
	case Cliff:
		return Plan{Cliff: cliff(modes, []int{100, 200, 250, 280, 300, 330, 400, 600}, or(size.Runs, 8), rate)}
	case Blackhole:
		return Plan{Trials: trials(BlackHole, modes, or(size.Runs, 12))}
	}
	var plan Plan
	for _, f := range Faults {
		plan.Trials = append(plan.Trials, trials(f, modes, or(size.Runs, 12))...)
	}
	return plan
}

var quickShapes = []Shape{{10, Equal, false}, {50, Zipf, false}, {50, Equal, true}}

func referenceShapes() []Shape {
	var list []Shape
	for _, reuse := range []bool{false, true} {
		for _, weights := range []Weights{Equal, Zipf} {
			for _, n := range []int{3, 10, 50, 200} {
				list = append(list, Shape{n, weights, reuse})
			}
		}
	}
	return list
}

// Table returns the cells of shapes under every arm.
func Table(modes []Mode, shapes []Shape, size Sizes, rate float64) []Cell {
	var cells []Cell
	for _, s := range shapes {
		for _, a := range arms(modes) {
			cells = append(cells, Cell{
				Arm: a, Shape: s, Endpoints: or(size.Endpoints, 3), Queries: or(size.Queries, 600), Rate: rate, Runs: or(size.Runs, 60),
			})
		}
	}
	return cells
}

// cliffFlows is how many flows each client has where lists may overflow.
const cliffFlows = 10

// cliff returns cells with more and more clients under every arm with affinity.
func cliff(modes []Mode, clients []int, runs int, rate float64) []Cell {
	var cells []Cell
	for _, n := range clients {
		for _, a := range arms(modes) {
			if a.Affinity {
				cells = append(cells, Cell{
					Arm: a, Shape: Shape{Clients: n, Weights: Equal}, Endpoints: 3, Queries: n * cliffFlows, Rate: rate, Turns: true, Runs: runs,
				})
			}
		}
	}
	return cells
}

// dnsperfClients is how many instances of dnsperf ask.
const dnsperfClients = 10

// DNSPerf returns the cells with dnsperf as the load: one instance for each client, with one socket.
func DNSPerf(modes []Mode, size Sizes) []Cell {
	var cells []Cell
	for _, a := range arms(modes) {
		cells = append(cells, Cell{
			Arm: a, Shape: Shape{Clients: dnsperfClients, Weights: Equal, Reuse: true}, Endpoints: or(size.Endpoints, 3),
			Queries: dnsperfClients * 100, Turns: true, Runs: or(size.Runs, 20),
		})
	}
	return cells
}

// Check refuses what cannot be measured.
func (p Plan) Check() error {
	for _, cells := range [][]Cell{p.Cells, p.Cliff, p.DNSPerf} {
		for _, c := range cells {
			if err := c.check(); err != nil {
				return err
			}
		}
	}
	return nil
}
