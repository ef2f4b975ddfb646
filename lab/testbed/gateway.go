package testbed

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"
)

// A Gateway is limpet serve on the node of a testbed, in the place of kube-proxy.
type Gateway struct {
	bed    *Testbed
	set    GatewaySettings
	file   *os.File // the configuration, which has no name
	cmd    *exec.Cmd
	log    logTail
	ended  chan struct{} // closed when the process has ended and was waited for
	client *http.Client
}

// GatewaySettings are how a gateway is set up.
type GatewaySettings struct {
	Program   string // limpet
	Endpoints []int
	// Services is how many there are, each on a port of its own and with sessions of its own: 53, 54 and so on.
	Services int
	// Responses ends a flow after so many answers to each datagram, 0 when it has been idle.
	Responses int
	// ProbeInterval is the time between two TCP probes of an endpoint, which is down after one that fails; 0 is no probes.
	ProbeInterval time.Duration
	ProbeTimeout  time.Duration
}

// What bounds the time that a gateway takes until it is ready, until it has read its configuration, and until its address is free again.
const (
	gatewayStart = 30 * time.Second
	gatewaySync  = 10 * time.Second
	gatewayStop  = 5 * time.Second
)

const gatewayAdmin = "127.0.0.1:9901"

// Gateway replaces what the node has by Limpet, and waits until that is ready. Stop ends it.
func (b *Testbed) Gateway(ctx context.Context, set GatewaySettings) (*Gateway, error) {
	if err := b.Clear(ctx); err != nil {
		return nil, err
	}
	if err := b.node.ip(ctx, fmt.Sprintf("addr replace %s/32 dev lo", clusterIP)); err != nil {
		return nil, err
	}
	g := &Gateway{bed: b, set: set, ended: make(chan struct{})}
	g.client = &http.Client{Timeout: time.Second, Transport: &http.Transport{
		DialContext:       func(ctx context.Context, _, to string) (net.Conn, error) { return b.node.connect(ctx, to) },
		DisableKeepAlives: true,
	}}
	if err := g.start(); err != nil {
		return nil, fmt.Errorf("starting limpet: %w", err)
	}
	if err := g.ready(ctx); err != nil {
		g.Stop()
		return nil, err
	}
	return g, nil
}

func (g *Gateway) start() error {
	var err error
	if g.file, err = nameless(g.configuration()); err != nil {
		return err
	}
	g.cmd = exec.Command(g.set.Program, "serve", "--config", fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), g.file.Fd()))
	g.cmd.Stdout, g.cmd.Stderr = &g.log, &g.log
	// What is set for another gateway is not for this one.
	g.cmd.Env = slices.DeleteFunc(os.Environ(), func(v string) bool { return strings.HasPrefix(v, "LIMPET_") })
	if err := g.bed.node.start(g.cmd); err != nil {
		g.file.Close()
		return err
	}
	go func() {
		defer close(g.ended)
		_ = g.cmd.Wait() // how it ended is in its log
	}()
	return nil
}

// nameless returns a file with a content that is gone when nobody has it open.
func nameless(content string) (*os.File, error) {
	file, err := os.CreateTemp("", "limpet-lab-*.yaml")
	if err != nil {
		return nil, err
	}
	_, err = file.WriteString(content)
	if err = errors.Join(err, os.Remove(file.Name())); err != nil {
		file.Close()
		return nil, err
	}
	return file, nil
}

// ready waits until the gateway serves and has found every endpoint ready: sessions that begin before would all be on those that are.
func (g *Gateway) ready(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, gatewayStart)
	defer cancel()
	for {
		if g.allReady(ctx) {
			return nil
		}
		select {
		case <-g.ended:
			return fmt.Errorf("limpet ended while it started: %s", g.log.last())
		case <-ctx.Done():
			return fmt.Errorf("waiting for limpet to be ready: %w: %s", ctx.Err(), g.log.last())
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// allReady reports whether the gateway says that it is ready, and so are all endpoints.
func (g *Gateway) allReady(ctx context.Context) bool {
	var services []struct {
		Revisions []struct{ Endpoints []struct{ State string } }
	}
	if g.fetch(ctx, "/readyz", nil) != nil || g.fetch(ctx, "/services", &services) != nil {
		return false
	}
	for _, s := range services {
		for _, r := range s.Revisions {
			for _, e := range r.Endpoints {
				if e.State != "ready" {
					return false
				}
			}
		}
	}
	return len(services) > 0
}

// fetch asks the gateway's admin API and reads the answer as JSON into something, if that is not nil.
func (g *Gateway) fetch(ctx context.Context, path string, into any) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+gatewayAdmin+path, nil)
	if err != nil {
		return err
	}
	resp, err := g.client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return errors.New(resp.Status)
	}
	if into == nil {
		return nil
	}
	return json.NewDecoder(resp.Body).Decode(into)
}

// Stop ends the gateway at once, and gives its address back.
func (g *Gateway) Stop() {
	_ = g.cmd.Process.Kill() // it may have ended; in order it would wait for its flows
	<-g.ended
	g.file.Close()
	ctx, cancel := context.WithTimeout(context.Background(), gatewayStop)
	defer cancel()
	_ = g.bed.node.ip(ctx, fmt.Sprintf("addr del %s/32 dev lo", clusterIP)) // the next use of the node sets it anew
}

// Ended says with what words the gateway ended by itself, or nil while it runs.
func (g *Gateway) Ended() error {
	select {
	case <-g.ended:
		return fmt.Errorf("limpet ended: %s", g.log.last())
	default:
		return nil
	}
}

// Sync gives the gateway other endpoints. Their names, to which sessions are bound, are those of the testbed's.
func (g *Gateway) Sync(ctx context.Context, endpoints ...int) error {
	g.set.Endpoints = endpoints
	file, err := nameless(g.configuration())
	if err != nil {
		return err
	}
	defer file.Close()
	if err := replace(g.file.Fd(), file.Fd()); err != nil {
		return fmt.Errorf("replacing the configuration: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, gatewaySync)
	defer cancel()
	before := g.log.count(reloaded)
	if err := g.cmd.Process.Signal(syscall.SIGHUP); err != nil {
		return errors.Join(err, g.Ended())
	}
	for g.log.count(reloaded) == before {
		select {
		case <-g.ended:
			return g.Ended()
		case <-ctx.Done():
			return fmt.Errorf("waiting for limpet to read its configuration: %w: %s", ctx.Err(), g.log.last())
		case <-time.After(2 * time.Millisecond):
		}
	}
	return nil
}

// reloaded is what the gateway logs when a configuration is in force.
const reloaded = `msg="configuration read"`

// configuration writes what the gateway reads.
func (g *Gateway) configuration() string {
	var b strings.Builder
	add := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	add("admin: {address: %q}", gatewayAdmin)
	add("accessLog: {file: \"off\"}")
	add("listeners:")
	services := max(1, g.set.Services)
	for i := range services {
		add("- {name: dns-%05d, address: \"%s:%d\", udp: {service: counter-%05d, responses: %d, idleTimeout: 10s}}",
			i+1, clusterIP, dnsPort+i, i+1, g.set.Responses)
	}
	add("services:")
	for i := range services {
		add("- name: counter-%05d", i+1)
		add("  affinity: {session: {from: [{clientAddress: {}}]}}")
		if g.set.ProbeInterval > 0 {
			add("  probe: {interval: %s, timeout: %s, unhealthyThreshold: 1}", g.set.ProbeInterval, g.set.ProbeTimeout)
		}
		add("  revisions:")
		add("  - name: counter-%05d", i+1)
		add("    endpoints:")
		for _, e := range g.set.Endpoints {
			add("    - {name: %s, address: %q}", fmt.Sprintf("counter-%05d-%02d", i+1, e), g.bed.Endpoint(e).String())
		}
	}
	return b.String()
}

// A logTail keeps the end of what a program writes.
type logTail struct {
	mu  sync.Mutex
	all bytes.Buffer
}

// mostLog is how much of it is kept.
const mostLog = 1 << 20

// Write keeps what was written.
func (l *logTail) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.all.Len() < mostLog {
		l.all.Write(p)
	}
	return len(p), nil
}

func (l *logTail) count(text string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return bytes.Count(l.all.Bytes(), []byte(text))
}

// last returns the last lines.
func (l *logTail) last() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	lines := strings.Split(strings.TrimSpace(l.all.String()), "\n")
	return strings.Join(lines[max(0, len(lines)-3):], "; ")
}

// Port returns where the nth service is, counted from 0.
func (g *Gateway) Port(n int) uint16 { return uint16(dnsPort + n) }
