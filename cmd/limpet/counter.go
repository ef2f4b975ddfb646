package main

import (
	"context"
	"errors"
	"flag"
	"os"

	"github.com/limpet-project/limpet/examples/counter/replica"
)

// counterCommand is one replica of the demo's service, so that the demo needs no other program.
type counterCommand struct {
	Args []string `arg:"" optional:"" help:"The counter's own flags; limpet counter -h lists them."`
}

// Run serves until ctx ends.
func (c counterCommand) Run(ctx context.Context) error {
	err := replica.Run(ctx, c.Args, os.Getenv, os.Stdout)
	if errors.Is(err, flag.ErrHelp) {
		return nil
	}
	return err
}
