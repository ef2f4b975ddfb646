// Command bench measures what stickiness costs: processor time of the gateway and requests per second, for the standard
// library's ReverseProxy, for limpet without affinity, and for limpet with each way to stick.
//
// Every subject serves the same load in every round, in an order that is drawn anew for each round, so that what the machine does
// beside falls on all alike; ratios are taken within a round. It promises figures with intervals, not a verdict: its PASS and MISS
// lines never change its exit code. It does not find the most that a gateway can serve: load and upstream share the machine.
//
//	go run ./test/bench --rounds 12 --out bench.txt
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
	rounds, requests, conns, sessions int
	seed                              uint64
	limpet, redis, out                string
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:], os.Stdout); err != nil && !errors.Is(err, flag.ErrHelp) {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// run measures, or plays one of the parts that the measurement starts as processes of their own.
func run(ctx context.Context, args []string, out io.Writer) error {
	if len(args) > 0 {
		switch args[0] {
		case "upstream":
			return upstream(ctx, args[1:], out)
		case "bare":
			return bare(ctx, args[1:], out)
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
	f := flag.NewFlagSet("bench", flag.ContinueOnError)
	f.IntVar(&o.rounds, "rounds", 12, "`number` of rounds")
	f.IntVar(&o.requests, "requests", 15_000, "`number` of requests that each subject serves in a round")
	f.IntVar(&o.conns, "connections", 16, "`number` of connections, each with one request under way")
	f.IntVar(&o.sessions, "sessions", 1000, "`number` of sessions")
	f.Uint64Var(&o.seed, "seed", 0, "`seed` of the order and of the intervals; 0 takes one from the clock")
	f.StringVar(&o.limpet, "limpet", "", "the limpet `binary`; built from this tree if left out")
	f.StringVar(&o.redis, "redis-server", "redis-server", "the Redis or Valkey `binary`")
	f.StringVar(&o.out, "out", "", "`file` to write the figures to as well")
	if err := f.Parse(args); err != nil {
		return nil, err
	}
	if o.seed == 0 {
		o.seed = uint64(time.Now().UnixNano())
	}
	if f.NArg() > 0 || o.rounds < 2 || o.requests < 100 || o.conns < 1 || o.sessions < 1 {
		return nil, errors.New("want no arguments, at least 2 rounds, 100 requests, 1 connection and 1 session")
	}
	return o, nil
}
