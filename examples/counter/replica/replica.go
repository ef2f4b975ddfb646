// Package replica is one replica of the counter, the stateful service of the walk-through: it counts, for each session, the
// requests that reached it, and says in every answer which replica it is.
//
// Its counts live in its memory and nowhere else, so a client whose requests reach another replica sees its count begin
// again: that is what session affinity prevents. It needs the standard library only, and ends in order when its context does.
// It is an example and a tool of tests, not a service to run in production.
//
// Start with [Run].
package replica

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strconv"
	"time"
)

// options are the flags. Each may also be set by the environment variable in its usage text; a flag goes first.
type options struct {
	listen   string
	service  service
	shutdown time.Duration
}

// Run serves until ctx ends, then lets requests finish. args are the flags (-h prints them), env finds environment variables, as
// os.Getenv does. It writes the address that it listens on to out, as "listening on HOST:PORT". It returns flag.ErrHelp for -h.
func Run(ctx context.Context, args []string, env func(string) string, out io.Writer) error {
	o, err := parse(args, env)
	if err != nil {
		return err
	}
	var lc net.ListenConfig
	l, err := lc.Listen(ctx, "tcp", o.listen)
	if err != nil {
		return fmt.Errorf("listening: %w", err)
	}
	fmt.Fprintf(out, "listening on %s\n", l.Addr())
	return serve(ctx, l, &o.service, o.shutdown)
}

// serve answers on l until ctx ends and then waits up to grace for requests in flight, WebSockets included.
func serve(ctx context.Context, l net.Listener, s *service, grace time.Duration) error {
	server := &http.Server{Handler: s, ReadHeaderTimeout: 10 * time.Second}
	server.RegisterOnShutdown(s.closeSockets)
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
	s.closeSockets()
	s.sockets.Wait()
	<-served
	if err != nil {
		return fmt.Errorf("ending requests in flight: %w", err)
	}
	return nil
}

func parse(args []string, env func(string) string) (*options, error) {
	host, err := os.Hostname()
	if err != nil {
		host = "counter" // only the default of --name
	}
	o := &options{}
	s := &o.service
	f := flag.NewFlagSet("counter", flag.ContinueOnError)
	f.StringVar(&o.listen, "listen", "127.0.0.1:8080", "`address` to listen on; port 0 chooses a free one (COUNTER_LISTEN)")
	f.StringVar(&s.name, "name", host, "`name` of this replica (COUNTER_NAME)")
	f.StringVar(&s.revision, "revision", "", "`revision` that this replica is of (COUNTER_REVISION)")
	f.DurationVar(&s.delay, "delay", 0, "`time` to wait before each answer (COUNTER_DELAY)")
	f.DurationVar(&o.shutdown, "shutdown", 10*time.Second, "`time` that requests in flight are given at the end (COUNTER_SHUTDOWN)")
	f.StringVar(&s.header, "session-header", "K-Session", "`header` that carries the session id, asked first (COUNTER_SESSION_HEADER)")
	f.StringVar(&s.query, "session-query", "session", "query `parameter` that carries it, asked second (COUNTER_SESSION_QUERY)")
	f.IntVar(&s.segment, "session-segment", 0, "path segment `number`, from 1, that carries it, asked third; 0 is none (COUNTER_SESSION_SEGMENT)")
	f.StringVar(&s.cookie, "session-cookie", "session", "`cookie` that carries it, asked last (COUNTER_SESSION_COOKIE)")
	f.IntVar(&s.limit, "sessions", defaultSessions, "`number` of sessions counted; the one longest unused is forgotten first (COUNTER_SESSIONS)")
	if err := fromEnvironment(f, env); err != nil {
		return nil, err
	}
	if err := f.Parse(args); err != nil {
		return nil, err
	}
	switch {
	case f.NArg() > 0:
		return nil, fmt.Errorf("unexpected argument %q", f.Arg(0))
	case s.limit < 1:
		return nil, fmt.Errorf("--sessions %d: want at least 1", s.limit)
	case s.segment < 0:
		return nil, fmt.Errorf("--session-segment %d: want 0 for none, or a segment from 1", s.segment)
	}
	s.instance = strconv.Itoa(os.Getpid()) + "-" + strconv.FormatInt(time.Now().UnixNano(), 36)
	return o, nil
}

// fromEnvironment sets the flags of f whose variables are set.
func fromEnvironment(f *flag.FlagSet, env func(string) string) error {
	var errs []error
	f.VisitAll(func(fl *flag.Flag) {
		variable := variableOf(fl.Name)
		value := env(variable)
		if value == "" {
			return
		}
		if err := f.Set(fl.Name, value); err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", variable, err))
		}
	})
	return errors.Join(errs...)
}

// variableOf returns the environment variable of a flag: COUNTER_SESSION_HEADER for session-header.
func variableOf(name string) string {
	v := []byte("COUNTER_" + name)
	for i, c := range v {
		switch {
		case c == '-':
			v[i] = '_'
		case 'a' <= c && c <= 'z':
			v[i] = c - 'a' + 'A'
		}
	}
	return string(v)
}
