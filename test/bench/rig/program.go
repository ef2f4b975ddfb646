package rig

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
)

// A Part is what a measurement's program does: it measures, or is one of the processes that the measurement needs.
type Part func(ctx context.Context, args []string, out io.Writer) error

// Main is the main function of a measurement's program. SIGINT and SIGTERM end the context of what it runs.
func Main(name string, run Part) {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, os.Args[1:], os.Stdout)
	stop()
	if err != nil && !errors.Is(err, flag.ErrHelp) {
		fmt.Fprintf(os.Stderr, "%s: %v\n", name, err)
		os.Exit(1)
	}
}

// Choose returns the part that the first argument names and the arguments after it, or else measure and all of them.
func Choose(args []string, parts map[string]Part, measure Part) (Part, []string) {
	if len(args) > 0 && parts[args[0]] != nil {
		return parts[args[0]], args[1:]
	}
	return measure, args
}

// Options are what every measurement can be told.
type Options struct {
	Rounds int    // that count; one more is before them
	Seed   uint64 // of the order and of the intervals; never 0 once Parse has returned
	Limpet string // the binary; "" builds it
	Out    string // a file for the figures; "" for none
}

// Define adds the flags of the options, with that default for the number of rounds.
func (o *Options) Define(f *flag.FlagSet, rounds int) {
	f.IntVar(&o.Rounds, "rounds", rounds, "`number` of rounds")
	f.Uint64Var(&o.Seed, "seed", 0, "`seed` of the order and of the intervals; 0 takes one from the clock")
	f.StringVar(&o.Limpet, "limpet", "", "the limpet `binary`; built from this tree if left out")
	f.StringVar(&o.Out, "out", "", "`file` to write the figures to as well")
}

// Parse takes over the arguments, and draws a seed if they give none.
func (o *Options) Parse(f *flag.FlagSet, args []string) error {
	if err := f.Parse(args); err != nil {
		return err
	}
	if o.Seed == 0 {
		o.Seed = uint64(time.Now().UnixNano())
	}
	if f.NArg() > 0 || o.Rounds < 2 {
		return errors.New("want no arguments and at least 2 rounds")
	}
	return nil
}

// Tell calls measure with where figures go: to out, and to the file that the options name.
func (o *Options) Tell(out io.Writer, measure func(io.Writer) error) error {
	if o.Out == "" {
		return measure(out)
	}
	file, err := os.Create(o.Out)
	if err != nil {
		return err
	}
	return errors.Join(measure(io.MultiWriter(out, file)), file.Close())
}

// Rand returns what draws orders and intervals.
func (o *Options) Rand() *rand.Rand { return rand.New(rand.NewPCG(o.Seed, 1)) }

// Play calls round for every subject in every round, in an order that is drawn anew for each, so that what the machine does beside falls on
// all alike. The first round warms up and does not count. Progress goes to the standard error.
func Play[S fmt.Stringer](o *Options, rng *rand.Rand, subjects []S, round func(s S, counts bool) error) error {
	for n := range o.Rounds + 1 {
		for _, i := range rng.Perm(len(subjects)) {
			if err := round(subjects[i], n > 0); err != nil {
				return fmt.Errorf("round %d of %s: %w", n, subjects[i], err)
			}
		}
		fmt.Fprintf(os.Stderr, "round %d of %d\n", n, o.Rounds)
	}
	return nil
}

// Await calls up until it reports true, for 30 seconds at most. Its error has what the file log says.
func Await(ctx context.Context, what, log string, up func(context.Context) bool) error {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for !up(ctx) {
		select {
		case <-tick.C:
		case <-ctx.Done():
			text, _ := os.ReadFile(log) // only to explain the error
			return fmt.Errorf("waiting for %s: %w: %s", what, ctx.Err(), text)
		}
	}
	return nil
}
