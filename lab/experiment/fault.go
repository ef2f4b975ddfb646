package experiment

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/limpet-project/limpet/lab/testbed"
)

// A Fault is what goes wrong, or changes, while clients ask.
type Fault string

// The faults.
const (
	BlackHole  Fault = "black hole"     // an endpoint drops everything and stays listed
	Removed    Fault = "removed"        // an endpoint ends and is taken from the list; clients keep their sockets
	StaleFlows Fault = "stale flows"    // the same, but kube-proxy does not clean up after itself
	Rollout    Fault = "rolling update" // all pods are replaced with maxSurge 1 and maxUnavailable 0
	ZoneHints  Fault = "zone hints"     // the list shrinks to the endpoints of the clients' zone, and grows again
	AtOnce     Fault = "two at once"    // the first two queries of a client are sent together, as of A and AAAA records
)

// Faults lists all faults in the order in which they are measured.
var Faults = [...]Fault{BlackHole, Removed, StaleFlows, Rollout, ZoneHints, AtOnce}

// A Trial is a fault under one arm.
type Trial struct {
	Fault Fault `json:"fault"`
	Arm   `json:"arm"`
	Runs  int `json:"runs"`
}

// String returns the fault and the arm.
func (t Trial) String() string { return fmt.Sprintf("%s: %s", t.Fault, t.Arm) }

// A TrialResult is what a fault did.
type TrialResult struct {
	Trial
	Figures []Figure `json:"figures"`
}

// trials returns a fault under every arm that it means something to.
func trials(f Fault, modes []Mode, runs int) []Trial {
	var list []Trial
	for _, a := range arms(modes) {
		if f == StaleFlows && a.Mode == Limpet { // it leaves no flows to the kernel
			continue
		}
		list = append(list, Trial{f, a, runs})
	}
	return list
}

// trial measures a fault under one arm.
func (l *lab) trial(ctx context.Context, t Trial) (TrialResult, error) {
	var figures []Figure
	var err error
	switch t.Fault {
	case BlackHole:
		figures, err = l.blackHole(ctx, t)
	case Removed, StaleFlows:
		figures, err = l.removed(ctx, t)
	case Rollout:
		figures, err = l.rollout(ctx, t)
	case ZoneHints:
		figures, err = l.zoneHints(ctx, t)
	default:
		figures, err = l.atOnce(ctx, t)
	}
	return TrialResult{t, figures}, err
}

// Clients of the faults, as in the experiment that the project's reference tells of.
const (
	faultClients   = 30
	faultEndpoints = 3
	faultRate      = 300 // queries a second: few enough that those without an answer do not pile up
	faultTimeout   = 500 * time.Millisecond
	faultWarmUp    = 300 * time.Millisecond
	faultWindow    = 2 * time.Second // that is looked at, from the fault on
	faultInFlight  = 4096
)

// Limpet's probes in the faults. One that fails is enough: a lab's network loses nothing.
const (
	probeInterval = time.Second
	probeTimeout  = 500 * time.Millisecond
)

// faultLoad returns the load of one run of a fault.
func (l *lab) faultLoad(s server, run int, reuse bool) testbed.Load {
	return testbed.Load{
		Clients: addresses(run*faultClients, faultClients), Reuse: reuse, Turns: true, Rate: faultRate, Timeout: faultTimeout,
		Queries: testbed.MaxQueries, InFlight: faultInFlight, Seed: l.nextSeed(), Port: s.port(0),
	}
}

// during sends a load, lets something happen in the middle, and returns the queries that were sent in the window after it, and when that began.
func (l *lab) during(ctx context.Context, load testbed.Load, window time.Duration, happen func() error) ([]testbed.Query, time.Time, error) {
	var at time.Time
	stop, happened := make(chan struct{}), make(chan error, 1)
	load.Stop = stop
	go func() {
		defer close(stop)
		rest(ctx, faultWarmUp)
		err := happen()
		at = time.Now()
		happened <- err
		if err == nil {
			rest(ctx, window)
		}
	}()
	queries, err := l.bed.Send(ctx, load)
	<-stop
	if err = errors.Join(err, <-happened); err != nil {
		return nil, at, err
	}
	after := since(queries, at)
	if len(after) < faultClients {
		return nil, at, fmt.Errorf("%d clients sent %d queries in %s: this machine is too slow", faultClients, len(after), window)
	}
	return after, at, nil
}

// rest waits.
func rest(ctx context.Context, d time.Duration) {
	select {
	case <-time.After(d):
	case <-ctx.Done():
	}
}

// since returns the queries that were sent after a moment.
func since(queries []testbed.Query, at time.Time) []testbed.Query {
	return slices.DeleteFunc(slices.Clone(queries), func(q testbed.Query) bool { return !q.Sent.After(at) })
}

// failures sums up queries: the share that failed, the share of clients none of whose queries was answered, and when the last failed.
func failures(queries []testbed.Query) (failed, out float64, last time.Time) {
	asked, answered := map[int]bool{}, map[int]bool{}
	for _, q := range queries {
		asked[q.Client] = true
		if q.Endpoint >= 0 {
			answered[q.Client] = true
			continue
		}
		failed += 1 / float64(len(queries))
		if q.Sent.After(last) {
			last = q.Sent
		}
	}
	return failed, 1 - float64(len(answered))/float64(max(1, len(asked))), last
}
