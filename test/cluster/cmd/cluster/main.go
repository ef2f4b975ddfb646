// Command cluster starts a real Kubernetes with Knative Serving on this machine, in namespaces of its own, and looks inside.
//
//	cluster build                        build all binaries and images into the cache
//	cluster up [-tier T] [-slot N]       start a cluster (tier control, node or knative); -ingress limpet installs the ingress too
//	cluster down [-slot N | -all]        end it; nothing is left
//	cluster status                       the clusters of this machine
//	cluster images [-slot N] [PACKAGE…]  build images of main packages and load them; without packages list what is loaded
//	cluster ingress [-slot N]            install the ingress in a running cluster, or change how it is installed
//	cluster archive [-to DIR] PACKAGE…   write images of main packages as OCI archives; needs neither root nor cluster
//	cluster kubectl [-slot N] ARGUMENT…  kubectl
//	cluster enter [-slot N] [COMMAND…]   run a command, or a shell, in its network
//	cluster logs [-slot N] [-f] [NAME]   the log of a component, or the names of all
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"syscall"

	"github.com/limpet-project/limpet/test/cluster"
)

const usage = `usage: cluster COMMAND [flags] [arguments]
  build                        build all binaries and images into the cache
  up [-tier T] [-slot N]       start a cluster (tier control, node or knative); -ingress limpet installs the ingress too
  down [-slot N | -all]        end it; nothing is left
  status                       the clusters of this machine
  images [-slot N] [PACKAGE…]  build images of main packages and load them; without packages list what is loaded
  ingress [-slot N]            install the ingress in a running cluster, or change how it is installed
  archive [-to DIR] PACKAGE…   write images of main packages as OCI archives; needs neither root nor cluster
  kubectl [-slot N] ARGUMENT…  kubectl
  enter [-slot N] [COMMAND…]   run a command, or a shell, in its network
  logs [-slot N] [-f] [NAME]   the log of a component, or the names of all
The cache is $LIMPET_CLUSTER, by default limpet-cluster in the user's cache directory.
`

func main() {
	cluster.Reexec()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	err := run(ctx, os.Args[1:])
	var exit *exec.ExitError
	switch {
	case err == nil:
	case errors.Is(err, flag.ErrHelp):
		os.Exit(2)
	case errors.As(err, &exit): // of a command that was run inside and said itself what was wrong
		os.Exit(max(exit.ExitCode(), 1))
	default:
		fmt.Fprintln(os.Stderr, "cluster:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) error {
	commands := map[string]func(context.Context, []string) error{
		"build": buildAll, "up": up, "keep": keep, "down": down, "status": status,
		"images": images, "archive": archive, "ingress": ingressCommand, "install": installInside, "kubectl": kubectl, "enter": enter, "logs": logs,
	}
	if len(args) == 0 || commands[args[0]] == nil {
		fmt.Fprint(os.Stderr, usage)
		return flag.ErrHelp
	}
	return commands[args[0]](ctx, args[1:])
}
