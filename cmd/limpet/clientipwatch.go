package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"time"

	"github.com/limpet-project/limpet/lab/flow"
)

// clientipWatchCommand watches how new connections spread over endpoints.
type clientipWatchCommand struct {
	Service  string        `arg:"" optional:"" help:"Only this Service, as NAMESPACE/NAME[:PORT]; without it, every one with affinity."`
	Protocol string        `help:"Only this protocol of the Service: tcp, udp or sctp." enum:"tcp,udp,sctp," default:""`
	Interval time.Duration `help:"Time between reports." default:"2s"`
	Window   time.Duration `help:"Time over which spread is measured, a whole number of intervals." default:"1m"`
	Reread   time.Duration `help:"How often rules and lists are read." default:"10s"`
	Clients  int           `help:"How many clients are remembered, of all Services together; 65536 take about 25 MiB." default:"65536"`
	Source   string        `help:"Events of the kernel, or poll its table; auto polls where there are no events." enum:"auto,events,poll" default:"auto"`
	Count    int           `help:"End after so many intervals; 0 goes on until it is interrupted."`
	Listen   string        `help:"Serve metrics for Prometheus here, to anybody, at /metrics. They name no client." placeholder:"127.0.0.1:PORT"`
	Output   string        `help:"Output format: text, a screen on a terminal, or json, line by line." enum:"text,json" default:"text" short:"o"`
}

// errEnough ends the watch after the intervals that were asked for.
var errEnough = errors.New("enough intervals")

// Run watches until it is interrupted.
func (c clientipWatchCommand) Run(ctx context.Context) error {
	options, err := c.options()
	if err != nil {
		return usageError{err}
	}
	show := c.show()
	metrics := flow.NewMetrics()
	ended, stop, err := c.serve(metrics)
	if err != nil {
		return err
	}
	seen := 0
	err = flow.Watch(ctx, options, func(v flow.Interval) error {
		metrics.Set(v)
		if err := show(v); err != nil {
			return fmt.Errorf("printing what was seen: %w", err)
		}
		if seen++; seen == c.Count {
			return errEnough
		}
		select {
		case err := <-ended:
			return err
		default:
			return nil
		}
	})
	if errors.Is(err, errEnough) {
		err = nil
	}
	return errors.Join(err, stop())
}

// options reads the flags that say what to watch.
func (c clientipWatchCommand) options() (flow.Options, error) {
	q, err := clientipExplainCommand{Service: c.Service, Protocol: c.Protocol}.question()
	if err != nil {
		return flow.Options{}, err
	}
	o := flow.Options{
		Service: q.Service, Interval: c.Interval, Window: c.Window, Reread: c.Reread, Clients: c.Clients, Source: flow.Source(c.Source),
	}
	if c.Count < 0 {
		return o, fmt.Errorf("--count: got %d, expected 0 or more", c.Count)
	}
	return o, o.Check()
}

// show returns what prints an interval: an object, a screen, or lines where there is no terminal.
func (c clientipWatchCommand) show() func(flow.Interval) error {
	if c.Output == "json" {
		out := json.NewEncoder(os.Stdout)
		return func(v flow.Interval) error { return out.Encode(v) }
	}
	var told []string
	return func(v flow.Interval) (err error) {
		if on, ok := terminal(os.Stdout); ok {
			return drawWatch(os.Stdout, v, on)
		}
		told, err = printWatch(os.Stdout, v, told)
		return err
	}
}

// serve serves metrics if that was asked for. The server's end is sent to ended, and stop waits for it.
func (c clientipWatchCommand) serve(m *flow.Metrics) (ended <-chan error, stop func() error, err error) {
	if c.Listen == "" {
		return nil, func() error { return nil }, nil
	}
	l, err := net.Listen("tcp", c.Listen)
	if err != nil {
		return nil, nil, fmt.Errorf("listening for metrics: %w", err)
	}
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", m.Handler())
	server := &http.Server{Handler: mux, ReadHeaderTimeout: 5 * time.Second, WriteTimeout: 30 * time.Second, IdleTimeout: time.Minute}
	failed, done := make(chan error, 1), make(chan struct{})
	go func() {
		defer close(done)
		if err := server.Serve(l); !errors.Is(err, http.ErrServerClosed) {
			failed <- fmt.Errorf("serving metrics: %w", err)
		}
	}()
	return failed, func() error {
		err := server.Close()
		<-done
		return err
	}, nil
}
