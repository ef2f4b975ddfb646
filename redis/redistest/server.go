// Package redistest starts real Redis servers for tests: one alone, a sentinel set, a cluster, and a proxy that loses connections
// the way networks do.
//
// Every server listens on a free port of 127.0.0.1, keeps its files in the test's own directory, and dies with the test, also when
// the test binary is killed. A test that needs a server and has none fails; it is never skipped.
//
// Start with [Start].
package redistest

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// patience bounds every wait of this package; nothing takes nearly so long unless it is broken.
const patience = 30 * time.Second

// A Server is a running redis-server. Its methods fail the test when they cannot do what they say.
type Server struct {
	t       testing.TB
	dir     string
	port    int
	options options
	process *process
}

type options struct {
	binary   string
	password string
	user     string // who Do speaks as, "" for the default user
	tls      bool
	config   []string
}

// An Option configures a server.
type Option func(*options)

// Binary starts another program than redis-server, such as valkey-server. The environment variable LIMPET_REDIS_SERVER does
// the same for all tests.
func Binary(name string) Option { return func(o *options) { o.binary = name } }

// Password asks for a password from the default user.
func Password(p string) Option { return func(o *options) { o.password = p } }

// User adds a user with a password and ACL rules such as "~limpet:*" and "+@all".
func User(name, password string, rules ...string) Option {
	line := fmt.Sprintf("user %s on >%s %s", name, password, strings.Join(rules, " "))
	return func(o *options) { o.config = append(o.config, line) }
}

// TLS makes the server speak TLS only; see [Server.TLSConfig].
func TLS() Option { return func(o *options) { o.tls = true } }

// Config adds a line to redis.conf.
func Config(line string) Option { return func(o *options) { o.config = append(o.config, line) } }

// Start starts a server without persistence and waits until it answers. It is stopped when the test ends.
func Start(t testing.TB, opts ...Option) *Server {
	t.Helper()
	o := options{binary: os.Getenv("LIMPET_REDIS_SERVER")}
	for _, opt := range opts {
		opt(&o)
	}
	s := &Server{t: t, dir: t.TempDir(), options: o}
	t.Cleanup(func() { s.process.kill() })
	for range 5 { // another process may take the port between its choice and its use
		s.port = freePort(t)
		if s.launch() == nil {
			return s
		}
	}
	t.Fatalf("starting redis-server: %s", s.log())
	return nil
}

// Addr returns the server's host:port.
func (s *Server) Addr() string { return fmt.Sprintf("127.0.0.1:%d", s.port) }

// URL returns the server's address as redis:// or rediss:// with the password.
func (s *Server) URL() string {
	u := url.URL{Scheme: "redis", Host: s.Addr()}
	if s.options.tls {
		u.Scheme = "rediss"
	}
	if s.options.password != "" {
		u.User = url.UserPassword("", s.options.password)
	}
	return u.String()
}

// TLSConfig returns what a client needs to trust the server, nil unless the server speaks TLS.
func (s *Server) TLSConfig() *tls.Config {
	if !s.options.tls {
		return nil
	}
	return clientTLS(s.t, s.dir)
}

// Stop asks the server to end and waits for it. [Server.Restart] starts it again.
func (s *Server) Stop() {
	s.process.signal(syscall.SIGTERM)
	s.process.wait()
}

// Kill ends the server without warning and waits for it.
func (s *Server) Kill() { s.process.kill() }

// Restart starts the server again on the same port, empty. A running one is killed first.
func (s *Server) Restart() {
	s.t.Helper()
	s.process.kill()
	_ = os.Remove(filepath.Join(s.dir, "dump.rdb")) // there is none unless RestartKeeping wrote it
	s.relaunch()
}

// RestartKeeping starts the running server again on the same port with the data that it holds.
func (s *Server) RestartKeeping() {
	s.t.Helper()
	s.Do("SAVE")
	s.process.kill()
	s.relaunch()
}

func (s *Server) relaunch() {
	s.t.Helper()
	if err := s.launch(); err != nil {
		s.t.Fatalf("restarting redis-server: %v\n%s", err, s.log())
	}
}

// Freeze stops the process without closing its connections: it accepts, and never answers.
func (s *Server) Freeze() { s.process.signal(syscall.SIGSTOP) }

// Thaw lets a frozen server go on.
func (s *Server) Thaw() { s.process.signal(syscall.SIGCONT) }

// Flush empties the server.
func (s *Server) Flush() { s.t.Helper(); s.Do("FLUSHALL") }

// SetReadonly makes the server a replica of a master that does not exist, or a master again: a replica refuses writes.
func (s *Server) SetReadonly(on bool) {
	s.t.Helper()
	if on {
		s.Do("CONFIG", "SET", "replica-serve-stale-data", "yes")
		s.Do("REPLICAOF", "127.0.0.1", "1")
		return
	}
	s.Do("REPLICAOF", "NO", "ONE")
}

// FillMemory puts the server above its memory limit, with no eviction: it refuses commands that need memory. Off lifts the limit.
func (s *Server) FillMemory(on bool) {
	s.t.Helper()
	limit := "0"
	if on {
		limit = "1" // byte: every server already uses more
	}
	s.Do("CONFIG", "SET", "maxmemory", limit)
}

// BreakSaving makes every later save of the server fail: a directory is in the place of its file.
func (s *Server) BreakSaving() {
	s.t.Helper()
	if err := os.MkdirAll(filepath.Join(s.dir, "dump.rdb", "in-the-way"), 0o700); err != nil {
		s.t.Fatalf("breaking saves: %v", err)
	}
}

// launch starts the process and waits until it answers.
func (s *Server) launch() error {
	s.t.Helper()
	conf := filepath.Join(s.dir, "redis.conf")
	if err := os.WriteFile(conf, []byte(s.configuration()), 0o600); err != nil {
		return fmt.Errorf("writing redis.conf: %w", err)
	}
	name := s.options.binary
	if name == "" {
		name = "redis-server"
	}
	p, err := startProcess(s.program(name), conf)
	if err != nil {
		return fmt.Errorf("starting %s: %w", name, err)
	}
	s.process = p
	return s.await()
}

// program returns the path of a program or fails the test with what to install.
func (s *Server) program(name string) string {
	s.t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		s.t.Fatalf("this test needs %s: apt-get install -y redis-server (%v)", name, err)
	}
	return path
}

func (s *Server) configuration() string {
	port, tlsPort := s.port, 0
	if s.options.tls {
		port, tlsPort = 0, s.port
	}
	lines := []string{
		"bind 127.0.0.1", "protected-mode no", "daemonize no", "appendonly no", `save ""`,
		"dir " + s.dir, "logfile " + filepath.Join(s.dir, "redis.log"), fmt.Sprintf("port %d", port),
		"repl-diskless-sync-delay 0", "enable-debug-command yes",
	}
	if tlsPort != 0 {
		cert, key, ca := serverTLS(s.t, s.dir)
		lines = append(lines, fmt.Sprintf("tls-port %d", tlsPort), "tls-cert-file "+cert, "tls-key-file "+key,
			"tls-ca-cert-file "+ca, "tls-auth-clients no")
	}
	if s.options.password != "" {
		lines = append(lines, "requirepass "+s.options.password, "masterauth "+s.options.password)
	}
	return strings.Join(append(lines, s.options.config...), "\n") + "\n"
}

// await returns when the server answers or its process has ended.
func (s *Server) await() error {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	return poll(ctx, func() bool { return s.answers() || s.process.ended() }, func() error {
		if s.process.ended() {
			return fmt.Errorf("the process ended: %s", s.log())
		}
		return nil
	})
}

// answers reports whether the server replies to PING with anything but LOADING; NOAUTH is a reply too.
func (s *Server) answers() bool {
	conn, err := s.dial()
	if err != nil {
		return false
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(time.Second))
	if _, err := conn.Write([]byte("PING\r\n")); err != nil {
		return false
	}
	reply := make([]byte, 64)
	n, err := conn.Read(reply)
	return err == nil && !strings.HasPrefix(string(reply[:n]), "-LOADING")
}

func (s *Server) dial() (net.Conn, error) {
	d := &net.Dialer{Timeout: time.Second}
	if c := s.TLSConfig(); c != nil {
		return tls.DialWithDialer(d, "tcp", s.Addr(), c)
	}
	return d.Dial("tcp", s.Addr())
}

func (s *Server) log() string {
	b, err := os.ReadFile(filepath.Join(s.dir, "redis.log"))
	if err != nil {
		return err.Error()
	}
	return string(b)
}

// Eventually waits until done is true, or fails the test after a long time.
func Eventually(t testing.TB, what string, done func() bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 3*patience)
	defer cancel()
	if err := poll(ctx, done, func() error { return nil }); err != nil {
		t.Fatalf("%s: not so within %v", what, 3*patience)
	}
}

// poll asks done until it is true, then returns what result says, or the error of ctx.
func poll(ctx context.Context, done func() bool, result func() error) error {
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for !done() {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
	}
	return result()
}
