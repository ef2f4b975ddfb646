// Command counter runs one replica of the counter, the stateful service of the walk-through.
//
// Everything it does is in package replica.
package main

import (
	"context"
	"errors"
	"flag"
	"log"
	"os"
	"os/signal"
	"syscall"

	"github.com/limpet-project/limpet/examples/counter/replica"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	err := replica.Run(ctx, os.Args[1:], os.Getenv, os.Stdout)
	switch {
	case err == nil:
	case errors.Is(err, flag.ErrHelp):
		os.Exit(2)
	default:
		log.SetFlags(0)
		log.Fatalf("counter: %v", err)
	}
}
