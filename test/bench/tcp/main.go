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
	"io"

	"github.com/limpet-project/limpet/test/bench/rig"
)

// options are the flags of the measurement itself.
type options struct {
	rig.Options
	bytes, conns, short int
	haproxy             string
}

func main() { rig.Main("tcp", run) }

// run measures, or plays one of the parts that the measurement starts as processes of their own.
func run(ctx context.Context, args []string, out io.Writer) error {
	part, args := rig.Choose(args, map[string]rig.Part{"upstream": upstream, "load": load}, measureAll)
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
	f := flag.NewFlagSet("tcp", flag.ContinueOnError)
	o.Define(f, 24)
	f.IntVar(&o.bytes, "megabytes", 1024, "`number` of megabytes that each subject carries in a round, half of them each way")
	f.IntVar(&o.conns, "connections", 8, "`number` of connections at once")
	f.IntVar(&o.short, "short", 3000, "`number` of short connections that each subject carries in a round")
	f.StringVar(&o.haproxy, "haproxy", "haproxy", "the HAProxy `binary`")
	if err := o.Parse(f, args); err != nil {
		return nil, err
	}
	if o.bytes < 1 || o.conns < 2 || o.short < 100 {
		return nil, errors.New("want at least 1 megabyte, 2 connections and 100 short ones")
	}
	return o, nil
}
