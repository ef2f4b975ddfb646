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
	"io"

	"github.com/limpet-project/limpet/test/bench/rig"
)

// options are the flags of the measurement itself.
type options struct {
	rig.Options
	kept, fresh, clients, size int
	nginx, module              string
}

func main() { rig.Main("udp", run) }

// run measures, or plays one of the parts that the measurement starts as processes of their own.
func run(ctx context.Context, args []string, out io.Writer) error {
	part, args := rig.Choose(args, map[string]rig.Part{"answerer": answerer, "load": load}, measureAll)
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
	f := flag.NewFlagSet("udp", flag.ContinueOnError)
	o.Define(f, 12)
	f.IntVar(&o.kept, "questions", 40_000, "`number` of questions that each subject carries in a round, over sockets that are kept")
	f.IntVar(&o.fresh, "fresh", 10_000, "`number` of questions that each subject carries in a round, each from a socket of its own")
	f.IntVar(&o.clients, "clients", 16, "`number` of clients, each with one question under way")
	f.IntVar(&o.size, "size", 64, "`bytes` of a question, and of its answer")
	f.StringVar(&o.nginx, "nginx", "nginx", "the nginx `binary`")
	f.StringVar(&o.module, "stream-module", "/usr/lib/nginx/modules/ngx_stream_module.so", "the `file` of nginx' stream module; \"\" if it is built in")
	if err := o.Parse(f, args); err != nil {
		return nil, err
	}
	if o.clients < 1 || o.clients > 1000 || o.kept < o.clients || o.fresh < o.clients || o.size > 65507 {
		return nil, errors.New("want 1 to 1000 clients, a question for each, and datagrams of at most 65507 bytes")
	}
	return o, nil
}
