package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/limpet-project/limpet/test/bench/rig"
	"github.com/limpet-project/limpet/test/bench/stats"
)

// A subject is a gateway under measurement. It has a listener for each kind of load.
type subject struct {
	name  string
	pid   int
	kept  side
	fresh side
}

// A side is what was measured with one kind of load.
type side struct {
	address string
	cpu     []float64 // microseconds of processor time for each answer, by round
	rate    []float64 // answers per second, by round
	lost    int
}

// String returns its name.
func (s *subject) String() string { return s.name }

// A bench is the processes of a measurement.
type bench struct {
	*rig.Rig
	o  *options
	to string // the replicas
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
	all := []*subject{{name: "nginx"}, {name: "limpet"}}
	if err := b.start(ctx, all); err != nil {
		return err
	}
	version, err := exec.CommandContext(ctx, o.nginx, "-v").CombinedOutput()
	if err != nil {
		return err
	}
	fmt.Fprintf(out, "seed %d, %d rounds of %d questions over kept sockets and %d over fresh ones, %d bytes, %d clients, %s, %s, %d processors\n",
		o.Seed, o.Rounds, o.kept, o.fresh, o.size, o.clients, runtime.Version(), strings.TrimSpace(string(version)), runtime.NumCPU())
	fmt.Fprintln(out, b.Pinning("load and replicas"))
	rng := o.Rand()
	if err := rig.Play(&o.Options, rng, all, func(s *subject, counts bool) error { return b.round(ctx, s, counts) }); err != nil {
		return err
	}
	return report(out, rng, all[0], all[1])
}

// round lets one subject serve the loads once.
func (b *bench) round(ctx context.Context, s *subject, counts bool) error {
	if err := b.load(ctx, s.pid, &s.kept, counts, "--questions", fmt.Sprint(b.o.kept)); err != nil {
		return err
	}
	return b.load(ctx, s.pid, &s.fresh, counts, "--questions", fmt.Sprint(b.o.fresh), "--fresh")
}

// load lets one subject serve one load.
func (b *bench) load(ctx context.Context, pid int, s *side, counts bool, args ...string) error {
	before, err := stats.CPUTime(pid)
	if err != nil {
		return err
	}
	args = append([]string{"load", "--to", s.address, "--clients", fmt.Sprint(b.o.clients), "--size", fmt.Sprint(b.o.size)}, args...)
	cmd := b.Self(ctx, args...)
	text, err := cmd.Output()
	if err != nil {
		return err
	}
	after, err := stats.CPUTime(pid)
	if err != nil {
		return err
	}
	var r served
	if err := json.Unmarshal(text, &r); err != nil {
		return err
	}
	if r.Answers == 0 {
		return errors.New("no question was answered")
	}
	if counts {
		s.cpu = append(s.cpu, (after-before).Seconds()*1e6/float64(r.Answers))
		s.rate = append(s.rate, float64(r.Answers)/r.Seconds)
		s.lost += r.Lost
	}
	return nil
}

func report(out io.Writer, rng *rand.Rand, nginx, limpet *subject) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "sockets\tgateway\tµs of processor an answer\tits variation\tanswers a second\tlost\tratio of processor to nginx, 95 %")
	for _, kind := range []struct {
		name string
		of   func(*subject) *side
	}{{"kept", func(s *subject) *side { return &s.kept }}, {"fresh", func(s *subject) *side { return &s.fresh }}} {
		for _, s := range []*subject{nginx, limpet} {
			side := kind.of(s)
			ratio := ""
			if s != nginx {
				ratio = stats.Ratio(rng, side.cpu, kind.of(nginx).cpu).String()
			}
			fmt.Fprintf(w, "%s\t%s\t%.2f\t%.0f %%\t%.0f\t%d\t%s\n", kind.name, s.name, stats.Median(side.cpu), 100*stats.Variation(side.cpu),
				stats.Median(side.rate), side.lost, ratio)
		}
	}
	return w.Flush()
}

func (b *bench) start(ctx context.Context, all []*subject) (err error) {
	if _, b.to, err = b.Part(ctx, "1", "answerer"); err != nil {
		return err
	}
	for _, s := range all {
		if err := b.startGateway(ctx, s); err != nil {
			return fmt.Errorf("starting %s: %w", s.name, err)
		}
	}
	return nil
}

// startGateway starts a subject and waits until it answers.
func (b *bench) startGateway(ctx context.Context, s *subject) (err error) {
	for _, side := range []*side{&s.kept, &s.fresh} {
		if side.address, err = rig.FreeAddress(); err != nil {
			return err
		}
	}
	file := filepath.Join(b.Dir, s.name+".conf")
	text, args := b.limpetConfiguration(s), []string{b.Limpet, "serve", "--state", b.Dir, "--config", file}
	if s.name == "nginx" {
		text, args = b.nginxConfiguration(s), []string{b.o.nginx, "-p", b.Dir, "-e", "stderr", "-c", file}
	}
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		return err
	}
	pid, log, err := b.Gateway(ctx, s.name, args...)
	if err != nil {
		return err
	}
	s.pid = pid
	return rig.Await(ctx, s.name, log, func(ctx context.Context) bool { return answers(ctx, s.kept.address) && answers(ctx, s.fresh.address) })
}

func (b *bench) limpetConfiguration(s *subject) string {
	var c strings.Builder
	c.WriteString("listeners:\n")
	fmt.Fprintf(&c, "- {name: kept, address: %q, udp: {service: bench}}\n", s.kept.address)
	fmt.Fprintf(&c, "- {name: fresh, address: %q, udp: {service: bench, responses: 1}}\n", s.fresh.address)
	c.WriteString("admin: {address: \"off\"}\naccessLog: {file: \"off\"}\nservices:\n- name: bench\n")
	c.WriteString("  affinity: {session: {from: [{clientAddress: {}}]}}\n  revisions:\n  - name: bench-00001\n    endpoints:\n")
	for i, to := range strings.Split(b.to, ",") {
		fmt.Fprintf(&c, "    - {name: bench-00001-%d, address: %q}\n", i, to)
	}
	return c.String()
}

func (b *bench) nginxConfiguration(s *subject) string {
	var c strings.Builder
	if b.o.module != "" {
		fmt.Fprintf(&c, "load_module %s;\n", b.o.module)
	}
	fmt.Fprintf(&c, "daemon off;\nmaster_process off;\npid %s/nginx.pid;\nevents { worker_connections 8192; }\n", b.Dir)
	c.WriteString("stream {\n upstream bench {\n  hash $remote_addr consistent;\n")
	for _, to := range strings.Split(b.to, ",") {
		fmt.Fprintf(&c, "  server %s;\n", to)
	}
	c.WriteString(" }\n proxy_timeout 30s;\n")
	fmt.Fprintf(&c, " server { listen %s udp; proxy_pass bench; }\n", s.kept.address)
	fmt.Fprintf(&c, " server { listen %s udp; proxy_pass bench; proxy_responses 1; }\n}\n", s.fresh.address)
	return c.String()
}

// answers reports whether there is an answer.
func answers(ctx context.Context, address string) bool {
	conn, err := new(net.Dialer).DialContext(ctx, "udp", address)
	if err != nil {
		return false
	}
	defer conn.Close()
	if conn.SetDeadline(time.Now().Add(20*time.Millisecond)) != nil {
		return false
	}
	_, _ = conn.Write([]byte("ready?")) // may be refused as yet
	_, err = conn.Read(make([]byte, 16))
	return err == nil
}
