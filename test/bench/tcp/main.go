// Command tcp measures what it costs to carry TCP: processor time of limpet's TCP listener for each gigabyte, and for each short
// connection, beside HAProxy's in TCP mode with splicing.
//
// Both have a session for each client address, in memory. They serve the same load in every round, in an order that is drawn anew for
// each round, and ratios are taken within a round. It promises figures with intervals, not a verdict: its PASS and MISS lines never
// change its exit code.
//
//	go run ./test/bench/tcp --rounds 24 --out tcp-cost.txt
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"
	"time"
)

// options are the flags of the measurement itself.
type options struct {
	rounds, bytes, conns, short int
	seed                        uint64
	limpet, haproxy, out        string
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:], os.Stdout); err != nil && !errors.Is(err, flag.ErrHelp) {
		fmt.Fprintln(os.Stderr, "tcp:", err)
		os.Exit(1)
	}
}

// run measures, or plays one of the parts that the measurement starts as processes of their own.
func run(ctx context.Context, args []string, out io.Writer) error {
	if len(args) > 0 {
		switch args[0] {
		case "upstream":
			return upstream(ctx, out)
		case "load":
			return load(ctx, args[1:], out)
		}
	}
	o, err := parse(args)
	if err != nil {
		return err
	}
	if o.out == "" {
		return measure(ctx, o, out)
	}
	file, err := os.Create(o.out)
	if err != nil {
		return err
	}
	return errors.Join(measure(ctx, o, io.MultiWriter(out, file)), file.Close())
}

func parse(args []string) (*options, error) {
	o := &options{}
	f := flag.NewFlagSet("tcp", flag.ContinueOnError)
	f.IntVar(&o.rounds, "rounds", 24, "`number` of rounds")
	f.IntVar(&o.bytes, "megabytes", 1024, "`number` of megabytes that each subject carries in a round, half of them each way")
	f.IntVar(&o.conns, "connections", 8, "`number` of connections at once")
	f.IntVar(&o.short, "short", 3000, "`number` of short connections that each subject carries in a round")
	f.Uint64Var(&o.seed, "seed", 0, "`seed` of the order and of the intervals; 0 takes one from the clock")
	f.StringVar(&o.limpet, "limpet", "", "the limpet `binary`; built from this tree if left out")
	f.StringVar(&o.haproxy, "haproxy", "haproxy", "the HAProxy `binary`")
	f.StringVar(&o.out, "out", "", "`file` to write the figures to as well")
	if err := f.Parse(args); err != nil {
		return nil, err
	}
	if o.seed == 0 {
		o.seed = uint64(time.Now().UnixNano())
	}
	if f.NArg() > 0 || o.rounds < 2 || o.bytes < 1 || o.conns < 2 || o.short < 100 {
		return nil, errors.New("want no arguments, at least 2 rounds, 1 megabyte, 2 connections and 100 short ones")
	}
	return o, nil
}
