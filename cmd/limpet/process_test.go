package main

import (
	"bytes"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/limpet-project/limpet/node/nodetest"
)

// A process is limpet serve as a process of its own.
type process struct {
	t      *testing.T
	cmd    *exec.Cmd
	file   string // its configuration
	log    lockedBuffer
	ended  chan struct{}
	client *http.Client
}

// lockedBuffer keeps what a process writes.
type lockedBuffer struct {
	mu  sync.Mutex
	all bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.all.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.all.String()
}

// limpet returns a command that runs this test binary as limpet, which TestMain put first in the path. It dies with the test.
func limpet(args ...string) *exec.Cmd {
	cmd := exec.Command("limpet", args...)
	cmd.SysProcAttr = dieWithParent()
	return cmd
}

// serve starts limpet serve and waits until it is ready. The configuration needs no listener and no admin address: it gets one of
// each, on free ports.
func serve(t *testing.T, configuration string, args ...string) *process {
	t.Helper()
	p := serveUnready(t, configuration, args...)
	nodetest.Eventually(t, "the gateway is ready", func() bool { return p.over() || nodetest.Fetch(p.admin()+"/readyz") == "200 ready" })
	return p
}

// serveUnready is serve for a gateway that need not be ready: it waits until it listens.
func serveUnready(t *testing.T, configuration string, args ...string) *process {
	t.Helper()
	p := &process{t: t, file: filepath.Join(t.TempDir(), "limpet.yaml"), ended: make(chan struct{})}
	p.client = &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 64}}
	t.Cleanup(p.client.CloseIdleConnections)
	p.configure(configuration)
	p.cmd = limpet(append([]string{"serve", "--config", p.file}, args...)...)
	p.cmd.Stderr, p.cmd.Stdout = &p.log, &p.log
	if err := startProcess(p.cmd); err != nil {
		t.Fatal(err)
	}
	go func() { defer close(p.ended); _ = p.cmd.Wait() }() // its exit code is looked at where it matters
	t.Cleanup(func() {
		_ = p.cmd.Process.Kill() // it may have ended
		<-p.ended
		if t.Failed() {
			t.Logf("%s wrote:\n%s", p.cmd, &p.log)
		}
	})
	nodetest.Eventually(t, "the gateway listens", func() bool { return p.over() || webAddress.MatchString(p.log.String()) })
	return p
}

// over reports whether the process has ended.
func (p *process) over() bool {
	select {
	case <-p.ended:
		return true
	default:
		return false
	}
}

// configure writes the configuration file whole.
func (p *process) configure(configuration string) {
	p.t.Helper()
	if !strings.Contains(configuration, "listeners:") {
		configuration = "listeners: [{name: web, address: \"127.0.0.1:0\"}]\n" + configuration
	}
	configuration = "admin: {address: \"127.0.0.1:0\"}\naccessLog: {file: \"off\"}\n" + configuration
	if err := replaceFile(p.file, []byte(configuration)); err != nil {
		p.t.Fatal(err)
	}
}

var (
	webAddress   = regexp.MustCompile(`msg=listening name=\S+ address=(\S+)`)
	adminAddress = regexp.MustCompile(`msg="admin API" address=(\S+)`)
)

func (p *process) address() string { return p.logged(webAddress) }
func (p *process) url() string     { return "http://" + p.address() }
func (p *process) admin() string   { return "http://" + p.logged(adminAddress) }

func (p *process) logged(pattern *regexp.Regexp) string {
	if m := pattern.FindStringSubmatch(p.log.String()); m != nil {
		return m[1]
	}
	return "not-listening.invalid"
}

// logs waits until the process has written something n times.
func (p *process) logs(n int, text string) {
	p.t.Helper()
	nodetest.Eventually(p.t, fmt.Sprintf("%q is logged %d times", text, n), func() bool { return strings.Count(p.log.String(), text) >= n })
}

func (p *process) signal(s syscall.Signal) {
	p.t.Helper()
	if err := p.cmd.Process.Signal(s); err != nil {
		p.t.Fatal(err)
	}
}

// exit waits until the process has ended and returns its code.
func (p *process) exit() int {
	<-p.ended
	return p.cmd.ProcessState.ExitCode()
}

// get sends a request with one header and returns the status and the replica.
func (p *process) get(header string) (status int, replica string, err error) {
	req, err := http.NewRequest(http.MethodGet, p.url()+"/incr", nil)
	if err != nil {
		return 0, "", err
	}
	if name, value, ok := strings.Cut(header, ": "); ok {
		req.Header.Set(name, value)
	}
	resp, err := p.client.Do(req)
	if err != nil {
		return 0, "", err
	}
	defer resp.Body.Close()
	_, err = io.Copy(io.Discard, resp.Body)
	return resp.StatusCode, resp.Header.Get("Replica"), err
}

// load sends requests of many sessions from several clients while during runs; every one has to be answered 200.
func (p *process) load(during func()) {
	p.t.Helper()
	var stop atomic.Bool
	var requests atomic.Int64
	var workers sync.WaitGroup
	for w := range 8 {
		workers.Go(func() {
			rng := rand.New(rand.NewPCG(uint64(w), 3))
			for !stop.Load() {
				session := fmt.Sprintf("K-Session: session-%d", rng.IntN(100))
				if status, _, err := p.get(session); err != nil || status != http.StatusOK {
					p.t.Errorf("under load %s = %d, %v, want 200", session, status, err)
					return
				}
				requests.Add(1)
			}
		})
	}
	defer func() {
		stop.Store(true)
		workers.Wait()
		p.t.Logf("%d requests", requests.Load())
	}()
	during()
}

// held is a replica whose answers wait until they are let go.
type held struct {
	*httptest.Server
	arrived chan struct{}
	release chan struct{}
}

func startHeld(t *testing.T) *held {
	h := &held{arrived: make(chan struct{}, 100), release: make(chan struct{})}
	h.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/slow" {
			h.arrived <- struct{}{}
			select {
			case <-h.release:
			case <-r.Context().Done():
			}
		}
		io.WriteString(w, "done")
	}))
	t.Cleanup(h.Close)
	return h
}

func (h *held) service() string {
	return fmt.Sprintf(`
services: [{name: demo, affinity: {}, revisions: [{name: demo-00001, endpoints: [{name: demo-00001-a, address: "%s"}]}]}]
routes: [{service: demo}]
`, h.Listener.Addr())
}

// limpetRun runs one limpet command to its end and returns what it wrote.
func limpetRun(t *testing.T, args ...string) string {
	t.Helper()
	out, err := limpet(args...).CombinedOutput()
	if err != nil {
		t.Fatalf("limpet %s = %v\n%s", strings.Join(args, " "), err, out)
	}
	return string(out)
}

func readFile(t *testing.T, file string) string {
	t.Helper()
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}
