// Command limpet-activator is Knative's activator with affinity: it takes the place of Serving's own, behind the same Service, and keeps
// sessions of the revisions that it is in the path of.
//
// It takes the environment that Serving's activator takes, and its flags for the API server. With --config it has affinity; without it is
// Serving's activator. It promises that a wrong command line or configuration ends with exit code 2 and a sentence that says what was
// expected, any other failure with exit code 1, and that on SIGTERM it serves what is under way to its end.
//
// Start with --help; the configuration file is that of limpet serve, of which listeners, services and routes are not used.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/alecthomas/kong"
	"knative.dev/pkg/signals"

	"github.com/limpet-project/limpet/node"
)

// Exit codes.
const (
	exitFailed = 1
	exitUsage  = 2
)

func main() {
	signal.Ignore(syscall.SIGHUP) // the file is read at the start only
	os.Exit(run(signals.NewContext(), os.Args[1:]))
}

// run executes one command line and returns the exit code.
func run(ctx context.Context, args []string) int {
	var c command
	parser, err := kong.New(&c,
		kong.Name("limpet-activator"),
		kong.Description("Knative's activator, which keeps requests that belong together on the same pod."),
		kong.UsageOnError(),
	)
	if err != nil {
		panic(err) // our own command line is wrong
	}
	if _, err := parser.Parse(args); err != nil {
		fmt.Fprintln(os.Stderr, "limpet-activator:", err)
		return exitUsage
	}
	if err := c.run(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "limpet-activator:", err)
		if errors.As(err, new(node.UsageError)) {
			return exitUsage
		}
		return exitFailed
	}
	return 0
}
