package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
)

// demoCommand runs the walk-through with nothing installed.
type demoCommand struct {
	Script bool   `help:"Run the walk-through and compare what is seen with what is expected; exit code 1 if anything differs."`
	Redis  string `help:"Run two gateways that share this Redis or Valkey." placeholder:"redis://[USER:PASSWORD@]HOST:PORT[/DB]"`
	Listen string `help:"Address of the first gateway; another port is taken if it is in use." default:"127.0.0.1:8080"`
	Logs   bool   `help:"Keep the logs of all processes and say where they are."`
}

// Run starts everything, then runs the script or waits for Ctrl-C.
func (c demoCommand) Run(ctx context.Context) (err error) {
	dir, err := os.MkdirTemp("", "limpet-demo-")
	if err != nil {
		return fmt.Errorf("making a folder for the demo: %w", err)
	}
	defer func() {
		if c.Logs || err != nil && !errors.Is(err, errDiffers) {
			fmt.Println("The configuration and the logs are in", dir)
			return
		}
		os.RemoveAll(dir)
	}()
	w, err := newWorld(dir, c.Redis)
	if err != nil {
		return err
	}
	defer w.close()
	if !c.Script { // the script never minds which
		w.address, w.admin = ifFree(c.Listen), ifFree(strings.TrimPrefix(defaultAdmin, "http://"))
	}
	if err := w.start(ctx); err != nil {
		return err
	}
	if c.Script {
		return w.script(ctx)
	}
	w.invite()
	<-ctx.Done()
	fmt.Println("\nStopping.")
	return nil
}

// ifFree returns the address if it can be listened on, else "".
func ifFree(address string) string {
	l, err := net.Listen("tcp", address)
	if err != nil {
		return ""
	}
	l.Close()
	return address
}

// invite prints what to try.
func (w *world) invite() {
	_, port, _ := net.SplitHostPort(w.gateways[0].address)
	at := func(host, path string) string { return fmt.Sprintf("http://%s.localhost:%s%s", host, port, path) }
	fmt.Println("Running: two revisions, demo-00001 and demo-00002, of three replicas each, split 50/50.")
	for i, g := range w.gateways {
		fmt.Printf("Gateway %d on http://%s, its admin page and API on http://%s\n", i+1, g.address, g.admin)
	}
	fmt.Println("\nTry, several times each:")
	for _, line := range []struct{ what, curl string }{
		{"no affinity", "curl " + at("plain", "/incr?session=abc")},
		{"session by header", "curl -H 'K-Session: abc' " + at("session", "/incr")},
		{"session by query", "curl '" + at("session", "/incr?session=abc") + "'"},
		{"session by path", "curl " + at("session", "/s/abc/incr")},
		{"session by cookie", "curl -b session=abc " + at("session", "/incr")},
		{"session by token", "curl -b jar -c jar " + at("token", "/incr")},
		{"revision by header", "curl -H 'K-Revision: abc' " + at("revision", "/incr")},
		{"revision by query", "curl '" + at("revision", "/incr?flow=abc") + "'"},
		{"revision by path", "curl " + at("revision", "/r/abc/incr")},
	} {
		fmt.Printf("  %-19s %s\n", line.what, line.curl)
	}
	fmt.Println("\nAsk why:")
	explain := "limpet explain"
	if admin := "http://" + w.gateways[0].admin; admin != defaultAdmin {
		explain += " --admin " + admin
	}
	if exe := os.Args[0]; strings.Contains(exe, "go-build") {
		explain = "go run ./cmd/limpet" + strings.TrimPrefix(explain, "limpet")
	}
	fmt.Printf("  %s -H 'K-Session: abc' %s\n", explain, at("session", "/incr"))
	fmt.Println("\nBreak something: kill a replica, or change weights in the file; it is read again when it changes.")
	for _, r := range w.replicas {
		fmt.Printf("  %s is process %d\n", r.name, r.pid())
	}
	fmt.Printf("  %s\n\nCtrl-C ends everything.\n", w.gateways[0].config)
}
