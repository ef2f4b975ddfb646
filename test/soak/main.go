// Command soak drives real gateways, replicas and a real Redis through everything that happens to them in a year, within minutes,
// and has an independent checker say whether any session was moved without reason.
//
// It promises to end by itself, to leave no process and no file behind, and to fail on any misroute and on any 5xx that no killed
// replica explains. All its traffic stays on the loopback interface. What the checker excuses is counted and printed; see package
// checker. It does not measure speed: it shares the machine with what it drives.
//
//	go run ./test/soak --requests 1000000 --sessions 10000
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/limpet-project/limpet/test/soak/checker"
)

// options are the flags.
type options struct {
	requests int
	sessions int
	workers  int
	duration time.Duration
	revision int
	replicas int
	affinity bool
	seed     uint64
	limpet   string
	counter  string
	redis    string
	keep     bool
	allow    checker.Allowances
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	o, err := parse(os.Args[1:], os.Stderr)
	if err != nil {
		if !errors.Is(err, flag.ErrHelp) {
			fmt.Fprintln(os.Stderr, "soak:", err)
		}
		os.Exit(2)
	}
	outcome, err := soak(ctx, o, os.Stdout)
	if err != nil {
		fmt.Fprintln(os.Stderr, "soak:", err)
		os.Exit(1)
	}
	if !outcome.ok() {
		os.Exit(1)
	}
}

func parse(args []string, usage io.Writer) (*options, error) {
	o := &options{}
	f := flag.NewFlagSet("soak", flag.ContinueOnError)
	f.SetOutput(usage)
	f.IntVar(&o.requests, "requests", 1_000_000, "`number` of requests")
	f.IntVar(&o.sessions, "sessions", 10_000, "`number` of sessions")
	f.IntVar(&o.workers, "workers", 48, "`number` of clients, at most 64; each asks one thing at a time, over one connection to each gateway")
	f.DurationVar(&o.duration, "duration", 0, "`time` to spread the requests over; 0 sends them as fast as they are answered")
	f.IntVar(&o.revision, "revisions", 3, "`number` of revisions")
	f.IntVar(&o.replicas, "replicas", 3, "`number` of replicas that each revision begins with")
	affinity := f.String("affinity", "on", "on, or off to see that the checker notices")
	f.Uint64Var(&o.seed, "seed", 0, "`seed` of everything chosen at random; 0 takes one from the clock")
	f.StringVar(&o.limpet, "limpet", "", "the limpet `binary`; built from this tree if left out")
	f.StringVar(&o.counter, "counter", "", "the counter `binary`; built from this tree if left out")
	f.StringVar(&o.redis, "redis-server", "redis-server", "the Redis or Valkey `binary`")
	f.BoolVar(&o.keep, "keep", false, "keep the directory with configurations and logs")
	f.DurationVar(&o.allow.Reload, "allow-reload", 4*time.Second,
		"`time` in which a gateway learns of a changed configuration: it polls each second and takes a file that it read the same twice")
	f.DurationVar(&o.allow.Detect, "allow-detect", 5*time.Second, "`time` in which a killed replica is found dead")
	f.DurationVar(&o.allow.Recover, "allow-recover", 3*time.Second,
		"`time` in which a replica that runs again is found healthy: probes each second")
	f.DurationVar(&o.allow.Settle, "allow-settle", 4*time.Second, "`time` in which gateways notice that the store is back and agree again")
	f.DurationVar(&o.allow.Cache, "allow-cache", 250*time.Millisecond,
		"`time` in which a session's move reaches the near caches of other gateways")
	if err := f.Parse(args); err != nil {
		return nil, err
	}
	if o.seed == 0 {
		o.seed = uint64(time.Now().UnixNano())
	}
	o.affinity = *affinity == "on"
	switch {
	case f.NArg() > 0:
		return nil, fmt.Errorf("unexpected argument %q", f.Arg(0))
	case *affinity != "on" && *affinity != "off":
		return nil, fmt.Errorf("--affinity %q: want on or off", *affinity)
	case o.workers < 1 || o.workers > 64:
		return nil, fmt.Errorf("--workers %d: want 1 to 64", o.workers)
	case o.requests < 1 || o.sessions < 10 || o.revision < 2 || o.replicas < 2:
		return nil, errors.New("want at least 1 request, 10 sessions, 2 revisions and 2 replicas of each")
	}
	return o, nil
}

// soak runs everything once and returns what came of it. Progress and figures go to out.
func soak(ctx context.Context, o *options, out io.Writer) (*outcome, error) {
	fmt.Fprintf(out, "soak: seed %d, %d requests, %d sessions, %d clients, affinity %t\nallowances: %v\n",
		o.seed, o.requests, o.sessions, o.workers, o.affinity, o.allow)
	f, err := newFleet(ctx, o)
	if err != nil {
		return nil, err
	}
	defer f.close(out)
	if err := f.start(ctx); err != nil {
		return nil, fmt.Errorf("starting: %w", err)
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	l := newLoad(o, f)
	acting := make(chan struct{})
	go func() {
		defer close(acting)
		s := &schedule{fleet: f, rng: rand.New(rand.NewPCG(o.seed, 1))}
		if err := s.run(ctx); err != nil {
			cancel(fmt.Errorf("acting: %w", err))
		}
	}()
	took := l.run(ctx, out)
	failure := context.Cause(ctx)
	cancel(nil)
	<-acting
	if failure != nil {
		return nil, failure
	}
	return judge(o, f, l, took, out), nil
}
