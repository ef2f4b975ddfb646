//go:build race

package affinity

// raceEnabled says that the race detector is on: a sync.Pool then drops what it is given at random, so that allocations cannot
// be counted.
const raceEnabled = true
