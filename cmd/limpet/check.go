package main

import (
	"fmt"

	"github.com/limpet-project/limpet/node"
)

// checkCommand checks a configuration as serve would.
type checkCommand struct {
	File string `arg:"" help:"The configuration file."`
}

// Run prints every problem, or what the file configures.
func (c checkCommand) Run() error {
	var serve node.Options
	loaded, err := serve.Load(c.File)
	if err != nil {
		return err
	}
	if err := serve.Check(loaded); err != nil {
		return err
	}
	endpoints := 0
	for _, s := range loaded.Services {
		for _, r := range s.Revisions {
			endpoints += len(r.Endpoints)
		}
	}
	fmt.Printf("%s is right: %d listeners, %d routes, %d services, %d endpoints\n",
		c.File, len(loaded.Listeners), len(loaded.Routes), len(loaded.Services), endpoints)
	return nil
}
