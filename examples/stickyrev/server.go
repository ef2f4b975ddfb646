package main

import (
	"cmp"
	"context"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"time"

	"github.com/limpet-project/limpet/sticky"
)

// grace is the time that requests in flight are given at the end.
const grace = 10 * time.Second

// answer says which revision processed the request. Knative sets K_REVISION.
func answer(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	fmt.Fprintln(w, cmp.Or(os.Getenv("K_REVISION"), "unknown"))
}

// runServer serves until ctx ends, then lets requests finish.
func runServer(ctx context.Context, f *flag.FlagSet, args []string, out io.Writer) error {
	listen := f.String("listen", ":"+cmp.Or(os.Getenv("PORT"), "8080"), "`address` to listen on; the default is the port in PORT, or 8080")
	if err := parse(f, args, 0); err != nil {
		return err
	}
	var lc net.ListenConfig
	l, err := lc.Listen(ctx, "tcp", *listen)
	if err != nil {
		return fmt.Errorf("listening: %w", err)
	}
	fmt.Fprintf(out, "listening on %s\n", l.Addr())
	server := &http.Server{
		// This is all that a server needs for sticky revisions.
		Handler:           sticky.Handler(http.HandlerFunc(answer)),
		ReadHeaderTimeout: 10 * time.Second,
	}
	return serve(ctx, l, server)
}

func serve(ctx context.Context, l net.Listener, server *http.Server) error {
	served := make(chan error, 1)
	go func() { served <- server.Serve(l) }()
	select {
	case err := <-served:
		return fmt.Errorf("serving: %w", err)
	case <-ctx.Done():
	}
	limit, cancel := context.WithTimeout(context.WithoutCancel(ctx), grace)
	defer cancel()
	err := server.Shutdown(limit)
	<-served
	if err != nil {
		return fmt.Errorf("ending requests in flight: %w", err)
	}
	return nil
}
