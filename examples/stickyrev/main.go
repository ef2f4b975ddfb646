// Command stickyrev shows sticky revisions without a proxy, with package sticky: a server that names its revision, and a client whose
// requests all go to the revision that processed the first.
//
// It is an example to copy from: server.go is the whole of a server, client.go the whole of a client. README.md runs both on Knative.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log"
	"os"
	"os/signal"
	"syscall"
)

const usage = `usage:
  stickyrev server [--listen ADDRESS]
  stickyrev client [--host HOST] [--requests NUMBER] URL
`

// errUsage means that the command line is wrong, and that what it should be was printed.
var errUsage = errors.New("wrong command line")

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	log.SetFlags(0)
	log.SetPrefix("stickyrev: ")
	err := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	switch {
	case err == nil:
	case errors.Is(err, flag.ErrHelp):
	case errors.Is(err, errUsage):
		os.Exit(2)
	default:
		log.Fatal(err)
	}
}

// run is a subcommand, until it is done or ctx ends.
func run(ctx context.Context, args []string, out, errOut io.Writer) error {
	name := ""
	if len(args) > 0 {
		name, args = args[0], args[1:]
	}
	f := flag.NewFlagSet("stickyrev "+name, flag.ContinueOnError)
	f.SetOutput(errOut)
	switch name {
	case "server":
		return runServer(ctx, f, args, out)
	case "client":
		return runClient(ctx, f, args, out)
	}
	fmt.Fprint(errOut, usage)
	if name == "-h" || name == "--help" {
		return flag.ErrHelp
	}
	return errUsage
}

// parse reads flags and exactly n arguments; what is wrong is printed.
func parse(f *flag.FlagSet, args []string, n int) error {
	err := f.Parse(args)
	switch {
	case errors.Is(err, flag.ErrHelp):
		return err
	case err != nil:
		return errUsage
	case f.NArg() != n:
		fmt.Fprint(f.Output(), usage)
		return errUsage
	}
	return nil
}
