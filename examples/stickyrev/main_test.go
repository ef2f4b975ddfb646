package main

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"
)

// TestMain is the program itself where a test starts it as one.
func TestMain(m *testing.M) {
	if os.Getenv("STICKYREV_MAIN") != "" {
		main()
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// start runs a server of a revision as a process of its own, and returns its URL.
func start(t *testing.T, revision string) *url.URL {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), os.Args[0], "server", "--listen", "127.0.0.1:0")
	cmd.Env = append(os.Environ(), "STICKYREV_MAIN=1", "K_REVISION="+revision)
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { // t.Context has ended, and with it the process
		if err := cmd.Wait(); err != nil && !errors.Is(err, context.Canceled) {
			t.Errorf("the server of %s ended with %v, want in order", revision, err)
		}
	})
	line := make([]byte, 256)
	n, err := out.Read(line)
	address, ok := strings.CutPrefix(strings.TrimSpace(string(line[:n])), "listening on ")
	if err != nil || !ok {
		t.Fatalf("the server of %s says %q, %v, want its address", revision, line[:n], err)
	}
	return &url.URL{Scheme: "http", Host: address}
}

// ingress is what Knative's does: a known tag goes to its revision, anything else to the split, here one after the other.
func ingress(t *testing.T, host string, revisions ...string) *httptest.Server {
	t.Helper()
	tagged, split := make(map[string]http.Handler), make([]http.Handler, len(revisions))
	for n, revision := range revisions {
		split[n] = httputil.NewSingleHostReverseProxy(start(t, revision))
		tagged[revision] = split[n]
	}
	turn := make(chan int, 1)
	turn <- 0
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if host != "" && r.Host != host {
			http.Error(w, "no such host", http.StatusNotFound)
			return
		}
		to, ok := tagged[r.Header.Get("Knative-Serving-Tag")]
		if !ok {
			n := <-turn
			turn <- n + 1
			to = split[n%len(split)]
		}
		to.ServeHTTP(w, r)
	}))
	t.Cleanup(server.Close)
	return server
}

func TestBothRequestsGoToOneRevision(t *testing.T) {
	server := ingress(t, "demo.default.example.com", "demo-rev1", "demo-rev2")
	for turn := range 6 {
		var out bytes.Buffer
		if err := run(t.Context(), []string{"client", "--host", "demo.default.example.com", server.URL}, &out, io.Discard); err != nil {
			t.Fatal(err)
		}
		revision := []string{"demo-rev1", "demo-rev2"}[turn%2]
		want := "request 1 was processed by revision " + revision + "\nrequest 2 was processed by revision " + revision + "\n"
		if got := out.String(); got != want {
			t.Errorf("turn %d: client prints\n%swant\n%s", turn, got, want)
		}
	}
}

func TestClientSendsAsManyAsAsked(t *testing.T) {
	server := ingress(t, "", "demo-rev1", "demo-rev2")
	var out bytes.Buffer
	if err := run(t.Context(), []string{"client", "--requests", "5", server.URL}, &out, io.Discard); err != nil {
		t.Fatal(err)
	}
	for n, line := range strings.Split(strings.TrimSpace(out.String()), "\n") {
		if want := "request " + strconv.Itoa(n+1) + " was processed by revision demo-rev1"; line != want {
			t.Errorf("line %d is %q, want %q", n+1, line, want)
		}
	}
	if got := strings.Count(out.String(), "\n"); got != 5 {
		t.Errorf("%d lines, want 5", got)
	}
}

func TestClientSaysWhatWentWrong(t *testing.T) {
	server := ingress(t, "demo.default.example.com", "demo-rev1")
	err := run(t.Context(), []string{"client", server.URL}, io.Discard, io.Discard)
	if want := "request 1: answered 404 Not Found: no such host"; err == nil || err.Error() != want {
		t.Errorf("run = %v, want %s", err, want)
	}
}

func TestClientSendsAtLeastOne(t *testing.T) {
	err := run(t.Context(), []string{"client", "--requests", "0", "http://demo.default.example.com"}, io.Discard, io.Discard)
	if want := "--requests 0: want at least 1"; err == nil || err.Error() != want {
		t.Errorf("run = %v, want %s", err, want)
	}
}

func TestServerListensOnPort(t *testing.T) {
	t.Setenv("PORT", "notaport")
	if err := run(t.Context(), []string{"server"}, io.Discard, io.Discard); err == nil || !strings.Contains(err.Error(), "notaport") {
		t.Errorf("run = %v, want that it cannot listen on the port in PORT", err)
	}
}

func TestCommandLines(t *testing.T) {
	tests := []struct {
		name string
		args []string
		want error
	}{
		{"nothing", nil, errUsage},
		{"an unknown subcommand", []string{"proxy"}, errUsage},
		{"a client without a URL", []string{"client"}, errUsage},
		{"an unknown flag", []string{"client", "--tag", "demo-rev2"}, errUsage},
		{"a server with an argument", []string{"server", "here"}, errUsage},
		{"help", []string{"--help"}, flag.ErrHelp},
		{"help of a subcommand", []string{"client", "-h"}, flag.ErrHelp},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var said bytes.Buffer
			if err := run(t.Context(), tt.args, io.Discard, &said); !errors.Is(err, tt.want) {
				t.Errorf("run(%q) = %v, want %v", tt.args, err, tt.want)
			}
			if said.Len() == 0 {
				t.Errorf("run(%q) says nothing, want what is right", tt.args)
			}
		})
	}
}
