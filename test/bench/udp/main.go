// Command udp measures what it costs to carry UDP: processor time of limpet's UDP listener for each question and its answer, over sockets
// that clients keep and over one for each question, beside that of nginx' stream module.
//
// Both send a client's datagrams to the endpoint that belongs to its address: limpet by a session in memory, nginx by a hash. They serve
// the same load in every round, in an order that is drawn anew for each round, and ratios are taken within a round. It promises figures
// with intervals, not a verdict. Questions without an answer are counted, and printed.
//
//	go run ./test/bench/udp --rounds 12 --out udp-cost.txt
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
	rounds, kept, fresh, clients, size int
	seed                               uint64
	limpet, nginx, module, out         string
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:], os.Stdout); err != nil && !errors.Is(err, flag.ErrHelp) {
		fmt.Fprintln(os.Stderr, "udp:", err)
		os.Exit(1)
	}
}

// run measures, or plays one of the parts that the measurement starts as processes of their own.
func run(ctx context.Context, args []string, out io.Writer) error {
	if len(args) > 0 {
		switch args[0] {
		case "answerer":
			return answerer(ctx, out)
		case "load":
			return load(args[1:], out)
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
	f := flag.NewFlagSet("udp", flag.ContinueOnError)
	f.IntVar(&o.rounds, "rounds", 12, "`number` of rounds")
	f.IntVar(&o.kept, "questions", 40_000, "`number` of questions that each subject carries in a round, over sockets that are kept")
	f.IntVar(&o.fresh, "fresh", 10_000, "`number` of questions that each subject carries in a round, each from a socket of its own")
	f.IntVar(&o.clients, "clients", 16, "`number` of clients, each with one question under way")
	f.IntVar(&o.size, "size", 64, "`bytes` of a question, and of its answer")
	f.Uint64Var(&o.seed, "seed", 0, "`seed` of the order and of the intervals; 0 takes one from the clock")
	f.StringVar(&o.limpet, "limpet", "", "the limpet `binary`; built from this tree if left out")
	f.StringVar(&o.nginx, "nginx", "nginx", "the nginx `binary`")
	f.StringVar(&o.module, "stream-module", "/usr/lib/nginx/modules/ngx_stream_module.so", "the `file` of nginx' stream module; \"\" if it is built in")
	f.StringVar(&o.out, "out", "", "`file` to write the figures to as well")
	if err := f.Parse(args); err != nil {
		return nil, err
	}
	if o.seed == 0 {
		o.seed = uint64(time.Now().UnixNano())
	}
	if f.NArg() > 0 || o.rounds < 2 || o.clients < 1 || o.clients > 1000 || o.kept < o.clients || o.fresh < o.clients || o.size > 65507 {
		return nil, errors.New("want no arguments, at least 2 rounds, 1 to 1000 clients, a question for each, and datagrams of at most 65507 bytes")
	}
	return o, nil
}
