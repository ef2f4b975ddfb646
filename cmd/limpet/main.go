// Command limpet is sticky routing that runs alone: a gateway that keeps requests that belong together on the same place, a
// demonstration of it, and the tools to check, watch and steer one that runs.
//
// It promises that a wrong command line or configuration ends with exit code 2 and a sentence that says what was expected, and
// any other failure with exit code 1.
//
// Start with "limpet demo", then "limpet serve --config FILE".
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/alecthomas/kong"

	"github.com/limpet-project/limpet/node"
)

// commands is the whole command line; every field is a command with its flags.
type commands struct {
	Serve    serveCommand    `cmd:"" help:"Run the gateway."`
	Check    checkCommand    `cmd:"" help:"Check a configuration file and exit."`
	Demo     demoCommand     `cmd:"" help:"Start a gateway and six replicas on this machine and show how sessions stick."`
	Explain  explainCommand  `cmd:"" help:"Say where a running gateway would send a request, and why."`
	Services servicesCommand `cmd:"" help:"Show the endpoints of a running gateway and how they are."`
	Bindings bindingsCommand `cmd:"" help:"List the bindings of a service."`
	Forget   forgetCommand   `cmd:"" help:"Forget one binding."`
	Drain    drainCommand    `cmd:"" help:"Take an endpoint out of service, keeping its sessions until a deadline."`
	Keys     keysCommand     `cmd:"" help:"Make and rotate the secrets that gateways share."`
	Version  versionCommand  `cmd:"" help:"Print the version."`
	Clientip clientipCommand `cmd:"" name:"clientip" help:"Read, predict and explain kube-proxy's affinity to client addresses."`
	Counter  counterCommand  `cmd:"" hidden:"" passthrough:"" help:"Run one replica of the demonstration service."`
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second signal ends the process at once
	os.Exit(run(ctx, os.Args[1:]))
}

// Exit codes.
const (
	exitFailed = 1
	exitUsage  = 2
)

// usageError is an error in the command line; what is wrong with a configuration is a node.UsageError.
type usageError struct{ error }

func (e usageError) Unwrap() error { return e.error }

// run executes one command line and returns the exit code.
func run(ctx context.Context, args []string) int {
	var c commands
	parser, err := kong.New(&c,
		kong.Name("limpet"),
		kong.Description("Sticky routing: keeps requests that belong together on the same place."),
		kong.UsageOnError(),
		kong.BindTo(ctx, (*context.Context)(nil)),
		kong.DefaultEnvars("LIMPET"),
		kong.Vars{"admin": defaultAdmin},
	)
	if err != nil {
		panic(err) // our own command line is wrong
	}
	k, err := parser.Parse(args)
	if err != nil {
		fmt.Fprintln(os.Stderr, "limpet:", err)
		return exitUsage
	}
	if err := k.Run(); err != nil {
		fmt.Fprintln(os.Stderr, "limpet:", err)
		if errors.As(err, new(usageError)) || errors.As(err, new(node.UsageError)) {
			return exitUsage
		}
		return exitFailed
	}
	return 0
}
