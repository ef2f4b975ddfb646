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
	"io"

	"github.com/limpet-project/limpet/test/bench/rig"
)

// options are the flags of the measurement itself.
type options struct {
	rig.Options
	requests, conns, sessions int
	redis                     string
}

func main() { rig.Main("bench", run) }

// run measures, or plays one of the parts that the measurement starts as processes of their own.
func run(ctx context.Context, args []string, out io.Writer) error {
	part, args := rig.Choose(args, map[string]rig.Part{"upstream": upstream, "bare": bare, "load": load}, measureAll)
	return part(ctx, args, out)
}

func measureAll(ctx context.Context, args []string, out io.Writer) error {
	o, err := parse(args)
	if err != nil {
		return err
	}
	return o.Tell(out, func(out io.Writer) error { return measure(ctx, o, out) })
}

func parse(args []string) (*options, error) {
	o := &options{}
	f := flag.NewFlagSet("bench", flag.ContinueOnError)
	o.Define(f, 12)
	f.IntVar(&o.requests, "requests", 15_000, "`number` of requests that each subject serves in a round")
	f.IntVar(&o.conns, "connections", 16, "`number` of connections, each with one request under way")
	f.IntVar(&o.sessions, "sessions", 1000, "`number` of sessions")
	f.StringVar(&o.redis, "redis-server", "redis-server", "the Redis or Valkey `binary`")
	if err := o.Parse(f, args); err != nil {
		return nil, err
	}
	if o.requests < 100 || o.conns < 1 || o.sessions < 1 {
		return nil, errors.New("want at least 100 requests, 1 connection and 1 session")
	}
	return o, nil
}
