// Command limpet-knative-ingress is a Knative ingress that keeps sessions: it serves the Ingress objects of the class
// limpet.ingress.networking.knative.dev, and requests that belong together reach the same pod.
//
// It promises that a wrong command line or configuration ends with exit code 2 and a sentence that says what was expected, any
// other failure with exit code 1, and that on SIGTERM it serves what is under way to its end.
//
// Start with --help; the configuration file is that of limpet serve without services and routes.
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

// Exit codes.
const (
	exitFailed = 1
	exitUsage  = 2
)

func main() {
	signal.Ignore(syscall.SIGHUP) // the file is read at the start only; whoever asks limpet serve to read it again must not end this one
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second signal ends the process at once
	os.Exit(run(ctx, os.Args[1:]))
}

// run executes one command line and returns the exit code.
func run(ctx context.Context, args []string) int {
	var c command
	parser, err := kong.New(&c,
		kong.Name("limpet-knative-ingress"),
		kong.Description("A Knative ingress that keeps requests that belong together on the same pod."),
		kong.UsageOnError(),
		kong.DefaultEnvars("LIMPET"),
	)
	if err != nil {
		panic(err) // our own command line is wrong
	}
	if _, err := parser.Parse(args); err != nil {
		fmt.Fprintln(os.Stderr, "limpet-knative-ingress:", err)
		return exitUsage
	}
	if err := c.run(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "limpet-knative-ingress:", err)
		if errors.As(err, new(node.UsageError)) {
			return exitUsage
		}
		return exitFailed
	}
	return 0
}
