package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"github.com/limpet-project/limpet/test/bench/rig"
	"github.com/limpet-project/limpet/test/bench/stats"
)

// A subject is a gateway under measurement.
type subject struct {
	name     string
	affinity string // in the configuration; of limpet only
	store    string
	address  string
	pid      int
	cpu      []float64 // microseconds of processor time for each request, by round
	rate     []float64 // requests per second, by round
}

// subjects returns what is compared. The first is the standard library's proxy, the second limpet without affinity.
func subjects() []*subject {
	return []*subject{
		{name: "bare"},
		{name: "off"},
		{name: "memory", affinity: "session: {from: [{header: K-Session}]}"},
		{name: "redis", affinity: "session: {from: [{header: K-Session}]}", store: "redis"},
		{name: "hash", affinity: "session: {from: [{header: K-Session}], mode: hash}"},
		{name: "token", affinity: "session: {mode: token}"},
	}
}

// String returns its name.
func (s *subject) String() string { return s.name }

// A bench is the processes of a measurement.
type bench struct {
	*rig.Rig
	o     *options
	to    string // the replicas
	redis string
}

// measure runs all rounds and prints the figures.
func measure(ctx context.Context, o *options, out io.Writer) error {
	// The kernel ends a child with the thread that started it, so this goroutine, which starts all, keeps its own.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	r, err := rig.New(ctx, o.Limpet)
	if err != nil {
		return err
	}
	defer r.Close()
	b := &bench{Rig: r, o: o}
	all := subjects()
	if err := b.start(ctx, all); err != nil {
		return err
	}
	fmt.Fprintf(out, "seed %d, %d rounds of %d requests over %d connections, %d sessions, %s, %d processors\n",
		o.Seed, o.Rounds, o.requests, o.conns, o.sessions, runtime.Version(), runtime.NumCPU())
	fmt.Fprintln(out, b.Pinning("load, replicas and Redis"))
	rng := o.Rand()
	if err := rig.Play(&o.Options, rng, all, func(s *subject, counts bool) error { return b.round(ctx, s, counts) }); err != nil {
		return err
	}
	report(out, rng, all)
	return nil
}

// round lets one subject serve the load once.
func (b *bench) round(ctx context.Context, s *subject, counts bool) error {
	before, err := stats.CPUTime(s.pid)
	if err != nil {
		return err
	}
	cmd := b.Self(ctx, "load", "--to", s.address, "--requests", fmt.Sprint(b.o.requests),
		"--connections", fmt.Sprint(b.o.conns), "--sessions", fmt.Sprint(b.o.sessions))
	text, err := cmd.Output()
	if err != nil {
		return err
	}
	after, err := stats.CPUTime(s.pid)
	if err != nil {
		return err
	}
	var r served
	if err := json.Unmarshal(text, &r); err != nil {
		return err
	}
	if counts {
		s.cpu = append(s.cpu, float64((after-before).Nanoseconds())/1e3/float64(r.Requests))
		s.rate = append(s.rate, float64(r.Requests)/r.Seconds)
	}
	return nil
}

func (b *bench) start(ctx context.Context, all []*subject) (err error) {
	if _, b.to, err = b.Part(ctx, "1", "upstream"); err != nil {
		return err
	}
	if err := b.startRedis(ctx); err != nil {
		return err
	}
	for _, s := range all {
		if s.name == "bare" {
			s.pid, s.address, err = b.Part(ctx, "0", "bare", "--to", b.to)
		} else {
			err = b.startLimpet(ctx, s)
		}
		if err != nil {
			return fmt.Errorf("starting %s: %w", s.name, err)
		}
	}
	return nil
}

func (b *bench) startRedis(ctx context.Context) error {
	var err error
	if b.redis, err = rig.FreeAddress(); err != nil {
		return err
	}
	_, port, _ := strings.Cut(b.redis, ":")
	cmd := b.Command(ctx, "1", b.o.redis, "--port", port, "--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--dir", b.Dir)
	if err := b.Start(cmd); err != nil {
		return fmt.Errorf("starting Redis: %w", err)
	}
	return nil // nobody waits for it: gateways start without their store, and the first round does not count
}

func (b *bench) startLimpet(ctx context.Context, s *subject) error {
	admin, err := rig.FreeAddress()
	if err != nil {
		return err
	}
	if s.address, err = rig.FreeAddress(); err != nil {
		return err
	}
	config := filepath.Join(b.Dir, s.name+".yaml")
	if err := os.WriteFile(config, []byte(b.configuration(s, admin)), 0o600); err != nil {
		return err
	}
	if s.store != "" {
		digest := filepath.Join(b.Dir, s.name+".digest")
		if text, err := exec.CommandContext(ctx, b.Limpet, "keys", "digest", digest).CombinedOutput(); err != nil {
			return errors.Join(err, errors.New(string(text)))
		}
	}
	pid, log, err := b.Gateway(ctx, s.name, b.Limpet, "serve", "--config", config, "--state", filepath.Join(b.Dir, s.name))
	if err != nil {
		return err
	}
	s.pid = pid
	return rig.Await(ctx, s.name, log, func(context.Context) bool { return ready("http://" + admin + "/readyz") })
}

// configuration writes the same service for every subject, but for how it sticks.
func (b *bench) configuration(s *subject, admin string) string {
	var c strings.Builder
	fmt.Fprintf(&c, "listeners: [{name: web, address: %q}]\nadmin: {address: %q}\naccessLog: {file: \"off\"}\n", s.address, admin)
	if s.store != "" {
		fmt.Fprintf(&c, "store: {redis: {addresses: [%q]}}\nsecrets: {digestFile: %q}\n", b.redis, filepath.Join(b.Dir, s.name+".digest"))
	}
	c.WriteString("routes: [{service: bench}]\nservices:\n- name: bench\n")
	if s.affinity != "" {
		fmt.Fprintf(&c, "  affinity: {%s}\n", s.affinity)
	}
	c.WriteString("  revisions:\n  - name: demo-00001\n    endpoints:\n")
	for i, address := range strings.Split(b.to, ",") {
		fmt.Fprintf(&c, "    - {name: demo-00001-%d, address: %q}\n", i, address)
	}
	return c.String()
}

// ready reports whether a gateway says that it is.
func ready(url string) bool {
	client := &http.Client{Timeout: time.Second}
	defer client.CloseIdleConnections()
	resp, err := client.Get(url)
	if err != nil {
		return false
	}
	resp.Body.Close()
	return resp.StatusCode == http.StatusOK
}
