package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// upstreams are six replicas of demo, three of each revision, that name themselves.
type upstreams map[string]*httptest.Server

func startUpstreams(t *testing.T) upstreams {
	all := upstreams{}
	for _, revision := range demoRevisions {
		for _, letter := range demoLetters {
			name := revision + "-" + letter
			all[name] = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("Replica", name)
				w.Header().Set("Revision", revision)
				io.WriteString(w, name)
			}))
			t.Cleanup(all[name].Close)
		}
	}
	return all
}

// revisions writes the services' part of a configuration.
func (u upstreams) revisions(weights ...int) string {
	var b strings.Builder
	for i, revision := range demoRevisions {
		fmt.Fprintf(&b, "      - name: %s\n        weight: %d\n        endpoints:\n", revision, weights[i])
		for _, letter := range demoLetters {
			name := revision + "-" + letter
			fmt.Fprintf(&b, "          - {name: %s, address: %s}\n", name, u[name].Listener.Addr())
		}
	}
	return b.String()
}

// testGateway is a node that runs in this process.
type testGateway struct {
	*node
	file string
	stop func()
}

func (g *testGateway) url() string   { return "http://" + g.listeners[0].socket.Addr().String() }
func (g *testGateway) admin() string { return "http://" + g.node.admin.Addr().String() }

// startNode runs a node with the configuration until the test ends or it is stopped.
func startNode(t *testing.T, configuration string) *testGateway {
	t.Helper()
	file := filepath.Join(t.TempDir(), "limpet.yaml")
	if err := os.WriteFile(file, []byte(configuration), 0o600); err != nil {
		t.Fatal(err)
	}
	loaded, err := loadConfig(file)
	if err != nil {
		t.Fatalf("loadConfig() = %v", err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	n, err := newNode(ctx, loaded, "", slog.New(slog.NewTextHandler(testWriter{t}, nil)))
	if err != nil {
		cancel()
		t.Fatalf("newNode() = %v", err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := n.run(ctx, nil); err != nil {
			t.Errorf("run() = %v", err)
		}
	})
	g := &testGateway{node: n, file: file, stop: sync.OnceFunc(func() { cancel(); wg.Wait() })}
	t.Cleanup(g.stop)
	eventually(t, "the gateway is ready", func() bool { return fetch(g.admin()+"/readyz") == "200 ready" })
	return g
}

// testWriter logs to the test.
type testWriter struct{ t *testing.T }

func (w testWriter) Write(line []byte) (int, error) {
	w.t.Logf("%s", strings.TrimSpace(string(line)))
	return len(line), nil
}

// fetch returns status and body in one line, or the error.
func fetch(url string) string {
	resp, err := http.Get(url)
	if err != nil {
		return err.Error()
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return err.Error()
	}
	return fmt.Sprintf("%d %s", resp.StatusCode, strings.TrimSpace(string(body)))
}

// eventually waits for a condition, and fails the test after a time that no healthy machine needs.
func eventually(t *testing.T, what string, done func() bool) {
	t.Helper()
	deadline := time.Now().Add(30 * time.Second)
	for !done() {
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain until %s", what)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// ask sends one request of a session and returns the status and the replica.
func (g *testGateway) ask(client *http.Client, session string) (int, string, error) {
	status, replica, _, err := g.askWhy(client, session)
	return status, replica, err
}

// askWhy is ask, and returns the decision too.
func (g *testGateway) askWhy(client *http.Client, session string) (status int, replica, decision string, err error) {
	req, err := http.NewRequest(http.MethodGet, g.url()+"/incr", nil)
	if err != nil {
		return 0, "", "", err
	}
	req.Header.Set("K-Session", session)
	req.Header.Set("Limpet-Debug", "1")
	resp, err := client.Do(req)
	if err != nil {
		return 0, "", "", err
	}
	defer resp.Body.Close()
	_, err = io.Copy(io.Discard, resp.Body)
	return resp.StatusCode, resp.Header.Get("Replica"), resp.Header.Get("Limpet-Decision"), err
}

func readFile(t *testing.T, file string) string {
	t.Helper()
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}
