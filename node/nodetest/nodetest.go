// Package nodetest runs nodes inside a test's own process, with replicas behind them and requests through them.
//
// Everything ends with the test. It waits for conditions and never for a time, and nothing in it replaces a part of a node: stores,
// sockets and files are real.
//
// Start with [Start].
package nodetest

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

	"github.com/limpet-project/limpet/node"
)

// Revisions are the revisions of Upstreams, and Letters the last letters of each one's replicas.
var (
	Revisions = [...]string{"demo-00001", "demo-00002"}
	Letters   = [...]string{"a", "b", "c"}
)

// Upstreams are six replicas by name, three of each revision. They name themselves in their answers' headers Replica and Revision.
type Upstreams map[string]*httptest.Server

// StartUpstreams starts the replicas.
func StartUpstreams(t *testing.T) Upstreams {
	all := Upstreams{}
	for _, revision := range Revisions {
		for _, letter := range Letters {
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

// Configuration writes the revisions of a service, with a weight for each, as a configuration lists them.
func (u Upstreams) Configuration(weights ...int) string {
	var b strings.Builder
	for i, revision := range Revisions {
		fmt.Fprintf(&b, "      - name: %s\n        weight: %d\n        endpoints:\n", revision, weights[i])
		for _, letter := range Letters {
			name := revision + "-" + letter
			fmt.Fprintf(&b, "          - {name: %s, address: %q}\n", name, u[name].Listener.Addr())
		}
	}
	return b.String()
}

// A Gateway is a node that runs in this process.
type Gateway struct {
	*node.Node
	File string // its configuration
	// Stop drains the node and returns when it has ended. Another call does nothing.
	Stop func()

	t     *testing.T
	serve func() // runs it in the background, once
	run   sync.WaitGroup
}

// Start runs a node with the configuration until the test ends or it is stopped, and waits until it is ready. The configuration has a
// listener web and an address for admin. The node's log is the test's, unless o has one.
func Start(t *testing.T, configuration string, o node.Options) *Gateway {
	t.Helper()
	g := New(t, configuration, o)
	g.Serve()
	g.AwaitReady()
	return g
}

// New is Start for a node that does not run before Serve is called.
func New(t *testing.T, configuration string, o node.Options) *Gateway {
	t.Helper()
	g := &Gateway{File: filepath.Join(t.TempDir(), "limpet.yaml"), t: t}
	if err := os.WriteFile(g.File, []byte(configuration), 0o600); err != nil {
		t.Fatal(err)
	}
	if o.Log == nil {
		o.Log = slog.New(slog.NewTextHandler(t.Output(), nil))
	}
	loaded, err := o.Load(g.File)
	if err != nil {
		t.Fatalf("Load() = %v", err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	if g.Node, err = node.New(ctx, loaded, o); err != nil {
		cancel()
		t.Fatalf("New() = %v", err)
	}
	g.serve = sync.OnceFunc(func() {
		g.run.Go(func() {
			if err := g.Run(ctx, nil); err != nil {
				t.Errorf("Run() = %v", err)
			}
		})
	})
	g.Stop = sync.OnceFunc(func() { cancel(); g.serve(); g.run.Wait() }) // a node is closed by running it
	t.Cleanup(g.Stop)
	return g
}

// Serve runs the node in the background. Another call does nothing.
func (g *Gateway) Serve() { g.serve() }

// AwaitReady waits until the node says that it is ready.
func (g *Gateway) AwaitReady() {
	g.t.Helper()
	Eventually(g.t, "the gateway is ready", func() bool { return Fetch(g.Admin()+"/readyz") == "200 ready" })
}

// URL is where the listener web takes requests.
func (g *Gateway) URL() string { return "http://" + g.Address("web") }

// Admin is where the admin API is.
func (g *Gateway) Admin() string { return "http://" + g.AdminAddress() }

// Ask sends one request of a session, in the header K-Session, and returns the status and the replica.
func (g *Gateway) Ask(client *http.Client, session string) (int, string, error) {
	status, replica, _, err := g.AskWhy(client, session)
	return status, replica, err
}

// AskWhy is Ask, and returns the decision too, if the configuration lets this test ask for it.
func (g *Gateway) AskWhy(client *http.Client, session string) (status int, replica, decision string, err error) {
	req, err := http.NewRequest(http.MethodGet, g.URL()+"/incr", nil)
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

// Fetch returns status and body of a URL in one line, or the error.
func Fetch(url string) string {
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

// Eventually waits for a condition, and fails the test after a time that no healthy machine needs.
func Eventually(t *testing.T, what string, done func() bool) {
	t.Helper()
	deadline := time.Now().Add(2 * time.Minute)
	for !done() {
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain until %s", what)
		}
		time.Sleep(20 * time.Millisecond)
	}
}
