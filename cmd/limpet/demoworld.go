package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/limpet-project/limpet/node"
)

// A world is everything that the demo runs: replicas, gateways, and the configuration that they read.
type world struct {
	dir      string
	redis    *url.URL // nil without
	weights  map[string]int
	removed  map[string]bool
	replicas []*demoReplica
	gateways []*demoGateway
	clients  []*http.Client
	turn     int // the gateway of the next request

	address, admin string // of the first gateway; "" is any
}

// A demoReplica is one process of the counter service.
type demoReplica struct {
	child
	name, revision, address string
}

// A demoGateway is one process of limpet serve.
type demoGateway struct {
	child
	address, admin, config string
}

// The demo's revisions, and the last letters of their replicas.
var (
	demoRevisions = [...]string{"demo-00001", "demo-00002"}
	demoLetters   = [...]string{"a", "b", "c"}
)

// startTimeout bounds the start of one process.
const startTimeout = 30 * time.Second

// askTimeout bounds one question to a gateway: another program that took its port may never answer.
const askTimeout = 5 * time.Second

func newWorld(dir, redis string) (*world, error) {
	w := &world{dir: dir, weights: map[string]int{"demo-00001": 50, "demo-00002": 50}, removed: map[string]bool{}}
	if redis == "" {
		return w, nil
	}
	u, err := url.Parse(redis)
	if err != nil || u.Scheme != "redis" || u.Port() == "" {
		return nil, usageError{fmt.Errorf("--redis: got %q, expected redis://[USER:PASSWORD@]HOST:PORT[/DB]", redactURL(redis))}
	}
	w.redis = u
	return w, nil
}

// redactURL keeps a password out of an error.
func redactURL(s string) string {
	if _, host, ok := strings.Cut(s, "@"); ok {
		return "redis://…@" + host
	}
	return s
}

// start starts six replicas and one gateway, or with Redis two, and waits until they answer.
func (w *world) start(ctx context.Context) error {
	for _, revision := range demoRevisions {
		for _, letter := range demoLetters {
			r := &demoReplica{name: revision + "-" + letter, revision: revision}
			w.replicas = append(w.replicas, r)
			if err := w.startReplica(ctx, r); err != nil {
				return fmt.Errorf("starting %s: %w", r.name, err)
			}
		}
	}
	n := 1
	if w.redis != nil {
		n = 2
	}
	for i := range n {
		if err := w.startGateway(ctx, i); err != nil {
			return fmt.Errorf("starting gateway %d: %w", i+1, err)
		}
	}
	return nil
}

// startReplica starts the counter on a port that it chooses, or on the one that it had.
func (w *world) startReplica(ctx context.Context, r *demoReplica) error {
	listen := r.address
	if listen == "" {
		listen = "127.0.0.1:0"
	}
	out, err := r.start(filepath.Join(w.dir, r.name+".log"),
		"counter", "--listen", listen, "--name", r.name, "--revision", r.revision, "--session-segment", "2")
	if err != nil {
		return err
	}
	r.address, err = announced(ctx, out, "listening on ")
	return err
}

// announced reads the address that a child says it listens on.
func announced(ctx context.Context, out *lineWatch, prefix string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	for {
		select {
		case line, ok := <-out.lines:
			if !ok {
				return "", errors.New("it ended at once; see its log")
			}
			if address, found := strings.CutPrefix(line, prefix); found {
				return address, nil
			}
		case <-ctx.Done():
			return "", ctx.Err()
		}
	}
}

// startGateway starts the i-th gateway, on other ports if it ends at once: another program may take one between its choice and its use.
func (w *world) startGateway(ctx context.Context, i int) error {
	g := &demoGateway{config: filepath.Join(w.dir, fmt.Sprintf("gateway-%d.yaml", i+1))}
	if i == 0 {
		g.address, g.admin = w.address, w.admin
	}
	w.gateways = append(w.gateways, g)
	w.clients = append(w.clients, &http.Client{Timeout: 10 * time.Second})
	var err error
	for range 3 {
		if err = w.tryGateway(ctx, i, g); !errors.Is(err, errEnded) {
			return err
		}
		g.address, g.admin = "", ""
	}
	return err
}

func (w *world) tryGateway(ctx context.Context, i int, g *demoGateway) error {
	for _, address := range []*string{&g.address, &g.admin} {
		if *address != "" {
			continue
		}
		var err error
		if *address, err = freeAddress(); err != nil {
			return err
		}
	}
	if err := w.configure(g); err != nil {
		return err
	}
	logFile := filepath.Join(w.dir, fmt.Sprintf("gateway-%d.log", i+1))
	if _, err := g.start(logFile, "serve", "--config", g.config, "--state", w.dir); err != nil {
		return err
	}
	return g.await(ctx, "/readyz", func(status int, _ []byte) bool { return status == http.StatusOK })
}

// errEnded says that a gateway ended where it was to serve.
var errEnded = errors.New("it ended; see its log")

// await polls a path of the admin API until it is as wanted.
func (g *demoGateway) await(ctx context.Context, path string, wanted func(status int, body []byte) bool) error {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		asked, done := context.WithTimeout(ctx, askTimeout)
		status, body, err := get(asked, "http://"+g.admin+path)
		done()
		if err == nil && wanted(status, body) {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("waiting for %s of the gateway: %w", path, ctx.Err())
		case <-g.ended:
			return errEnded
		case <-tick.C:
		}
	}
}

func get(ctx context.Context, url string) (int, []byte, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return 0, nil, err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, nil, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	return resp.StatusCode, body, err
}

// freeAddress returns a loopback address that was free a moment ago.
func freeAddress() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", fmt.Errorf("looking for a free port: %w", err)
	}
	defer l.Close()
	return l.Addr().String(), nil
}

// close ends every process and waits for it.
func (w *world) close() {
	for _, g := range w.gateways {
		g.stop()
	}
	for _, r := range w.replicas {
		r.stop()
	}
}

// configure writes the gateway's configuration from the world as it is. The file is replaced whole.
func (w *world) configure(g *demoGateway) error {
	var b strings.Builder
	fmt.Fprintf(&b, "listeners:\n  - name: web\n    address: %s\nadmin:\n  address: %s\n", g.address, g.admin)
	fmt.Fprintf(&b, "debuggers: [127.0.0.0/8]\naccessLog:\n  file: \"off\"\n")
	if err := w.configureStore(&b); err != nil {
		return err
	}
	b.WriteString("services:\n")
	for _, s := range demoServices {
		fmt.Fprintf(&b, "  - name: %s\n%s", s.name, s.affinity)
		b.WriteString("    probe: {http: {path: /healthz}, interval: 500ms, timeout: 500ms, unhealthyThreshold: 2}\n    revisions:\n")
		w.configureRevisions(&b)
	}
	b.WriteString("routes:\n")
	for _, s := range demoServices {
		fmt.Fprintf(&b, "  - hosts: [%s.localhost]\n    service: %s\n", s.name, s.name)
	}
	return replaceFile(g.config, []byte(b.String()))
}

func (w *world) configureRevisions(b *strings.Builder) {
	for _, revision := range demoRevisions {
		if w.removed[revision] {
			continue
		}
		fmt.Fprintf(b, "      - name: %s\n        weight: %d\n        endpoints:\n", revision, w.weights[revision])
		for _, r := range w.replicas {
			if r.revision == revision {
				fmt.Fprintf(b, "          - {name: %s, address: %s}\n", r.name, r.address)
			}
		}
	}
}

// configureStore points the gateways at the Redis given, with a prefix of this demo's own.
func (w *world) configureStore(b *strings.Builder) error {
	if w.redis == nil {
		return nil
	}
	digest := filepath.Join(w.dir, "digest.key")
	tokens := filepath.Join(w.dir, "tokens.keys")
	if _, err := os.Stat(digest); errors.Is(err, os.ErrNotExist) {
		if err := errors.Join(node.WriteDigestSecret(digest), node.WriteTokenKeys(tokens)); err != nil {
			return fmt.Errorf("making the demo's secrets: %w", err)
		}
	}
	fmt.Fprintf(b, "secrets:\n  digestFile: %s\n  tokenKeysFile: %s\nstore:\n  redis:\n    addresses: [%q]\n", digest, tokens, w.redis.Host)
	fmt.Fprintf(b, "    prefix: %q\n    timeout: 1s\n", "limpet-demo-"+strconv.Itoa(os.Getpid())+":")
	if db := strings.Trim(w.redis.Path, "/"); db != "" {
		fmt.Fprintf(b, "    database: %s\n", db)
	}
	if password, ok := w.redis.User.Password(); ok {
		file := filepath.Join(w.dir, "redis.password")
		if err := os.WriteFile(file, []byte(password), 0o600); err != nil {
			return fmt.Errorf("writing the password of Redis: %w", err)
		}
		fmt.Fprintf(b, "    passwordFile: %s\n", file)
	}
	if user := w.redis.User.Username(); user != "" {
		fmt.Fprintf(b, "    username: %q\n", user)
	}
	return nil
}

// demoServices are the ways to stick that the demo shows, a host each; all of them have the same replicas.
var demoServices = [...]struct{ name, affinity string }{
	{"plain", ""},
	{"session", `    affinity:
      session:
        from: [{header: K-Session}, {queryParameter: session}, {pathSegment: 2}, {cookie: session}]
`},
	{"token", "    affinity: {session: {mode: token}}\n"},
	{"revision", `    affinity:
      revision:
        from: [{header: K-Revision}, {queryParameter: flow}, {pathSegment: 2}]
`},
	{"canary", "    affinity: {revision: {mode: proportional}}\n"},
}
