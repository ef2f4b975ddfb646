package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"syscall"

	"github.com/limpet-project/limpet/config"
	"github.com/limpet-project/limpet/node"
)

// serveCommand runs the gateway.
type serveCommand struct {
	Config       string `help:"The configuration file; it is read again when it changes and on SIGHUP." placeholder:"FILE" type:"path" default:""`
	State        string `help:"Folder for secrets that this gateway makes itself." placeholder:"DIR" type:"path" default:""`
	LogLevel     string `help:"debug, info, warn or error." enum:"debug,info,warn,error" default:"info"`
	LogFormat    string `help:"text or json." enum:"text,json" default:"text"`
	PrintDefault bool   `help:"Print a configuration with every field at its default, with comments, and exit."`
}

// Run serves until ctx ends, then drains.
func (c serveCommand) Run(ctx context.Context) error {
	if c.PrintDefault {
		_, err := os.Stdout.Write(config.Default())
		return err
	}
	if c.Config == "" {
		return usageError{errors.New("--config: expected a file; limpet serve --print-default shows one, limpet demo needs none")}
	}
	hup := make(chan os.Signal, 1)
	signal.Notify(hup, syscall.SIGHUP) // first: a gateway that starts would end by it
	defer signal.Stop(hup)
	o := node.Options{State: c.State, Log: c.logger()}
	loaded, err := o.Load(c.Config)
	if err != nil {
		return err
	}
	n, err := node.New(ctx, loaded, o)
	if err != nil {
		return fmt.Errorf("starting the gateway: %w", err)
	}
	return n.Run(ctx, hup)
}

// logger writes to the standard error: the standard output may be the access log.
func (c serveCommand) logger() *slog.Logger {
	var level slog.Level
	_ = level.UnmarshalText([]byte(c.LogLevel)) // kong allows only levels
	o := &slog.HandlerOptions{Level: level}
	if c.LogFormat == "json" {
		return slog.New(slog.NewJSONHandler(os.Stderr, o))
	}
	return slog.New(slog.NewTextHandler(os.Stderr, o))
}
