package main

import (
	"context"
	"encoding/json"
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

// The most that carrying may cost, as a ratio of processor time to HAProxy's.
const mostForBytes = 1.10

// A subject is a gateway under measurement.
type subject struct {
	name    string
	address string
	pid     int
	bulk    []float64 // seconds of processor time for each gigabyte, by round
	rate    []float64 // gigabytes per second, by round
	short   []float64 // microseconds of processor time for each short connection, by round
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
	all := []*subject{{name: "haproxy"}, {name: "limpet"}}
	if err := b.start(ctx, all); err != nil {
		return err
	}
	version, err := exec.CommandContext(ctx, o.haproxy, "-v").Output()
	if err != nil {
		return err
	}
	line, _, _ := strings.Cut(string(version), "\n")
	fmt.Fprintf(out, "seed %d, %d rounds of %d MB over %d connections and of %d short ones, %s, %s, %d processors\n",
		o.Seed, o.Rounds, o.bytes, o.conns, o.short, runtime.Version(), line, runtime.NumCPU())
	fmt.Fprintln(out, b.Pinning("load and replicas"))
	rng := o.Rand()
	if err := rig.Play(&o.Options, rng, all, func(s *subject, counts bool) error { return b.round(ctx, s, counts) }); err != nil {
		return err
	}
	report(out, rng, all[0], all[1])
	return nil
}

// round lets one subject serve the loads once.
func (b *bench) round(ctx context.Context, s *subject, counts bool) error {
	cpu, bulk, err := b.load(ctx, s, "--bytes", fmt.Sprint(b.o.bytes*1e6))
	if err != nil {
		return err
	}
	each, short, err := b.load(ctx, s, "--short", fmt.Sprint(b.o.short))
	if err != nil || !counts {
		return err
	}
	gigabytes := float64(bulk.Bytes) / 1e9
	s.bulk = append(s.bulk, cpu.Seconds()/gigabytes)
	s.rate = append(s.rate, gigabytes/bulk.Seconds)
	s.short = append(s.short, each.Seconds()*1e6/float64(short.Connections))
	return nil
}

// load lets one subject serve a load and returns the processor time that it took.
func (b *bench) load(ctx context.Context, s *subject, args ...string) (time.Duration, served, error) {
	var r served
	before, err := stats.CPUTime(s.pid)
	if err != nil {
		return 0, r, err
	}
	args = append([]string{"load", "--to", s.address, "--connections", fmt.Sprint(b.o.conns)}, args...)
	cmd := b.Self(ctx, args...)
	text, err := cmd.Output()
	if err != nil {
		return 0, r, err
	}
	after, err := stats.CPUTime(s.pid)
	if err != nil {
		return 0, r, err
	}
	return after - before, r, json.Unmarshal(text, &r)
}

func (b *bench) start(ctx context.Context, all []*subject) (err error) {
	if _, b.to, err = b.Part(ctx, "1", "upstream"); err != nil {
		return err
	}
	for _, s := range all {
		if err := b.startGateway(ctx, s); err != nil {
			return fmt.Errorf("starting %s: %w", s.name, err)
		}
	}
	return nil
}

// startGateway starts a subject and waits until it takes connections.
func (b *bench) startGateway(ctx context.Context, s *subject) (err error) {
	if s.address, err = rig.FreeAddress(); err != nil {
		return err
	}
	text, args := b.limpetConfiguration(s.address), []string{b.Limpet, "serve", "--state", b.Dir, "--config"}
	if s.name == "haproxy" {
		text, args = b.haproxyConfiguration(s.address), []string{b.o.haproxy, "-db", "-f"}
	}
	file := filepath.Join(b.Dir, s.name+".conf")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		return err
	}
	pid, log, err := b.Gateway(ctx, s.name, append(args, file)...)
	if err != nil {
		return err
	}
	s.pid = pid
	return rig.Await(ctx, s.name, log, func(ctx context.Context) bool { return listening(ctx, s.address) })
}

func (b *bench) limpetConfiguration(address string) string {
	var c strings.Builder
	fmt.Fprintf(&c, "listeners: [{name: bench, address: %q, tcp: {service: bench}}]\n", address)
	c.WriteString("admin: {address: \"off\"}\naccessLog: {file: \"off\"}\nservices:\n- name: bench\n")
	c.WriteString("  affinity: {session: {from: [{clientAddress: {}}]}}\n  revisions:\n  - name: bench-00001\n    endpoints:\n")
	for i, to := range strings.Split(b.to, ",") {
		fmt.Fprintf(&c, "    - {name: bench-00001-%d, address: %q}\n", i, to)
	}
	return c.String()
}

func (b *bench) haproxyConfiguration(address string) string {
	var c strings.Builder
	c.WriteString("global\n  maxconn 2000\ndefaults\n  mode tcp\n  timeout connect 1s\n  timeout client 1h\n  timeout server 1h\n")
	c.WriteString("  option splice-auto\n  option splice-request\n  option splice-response\n")
	fmt.Fprintf(&c, "listen bench\n  bind %s\n  stick-table type ip size 100k expire 1h\n  stick on src\n", address)
	for i, to := range strings.Split(b.to, ",") {
		fmt.Fprintf(&c, "  server bench-00001-%d %s\n", i, to)
	}
	return c.String()
}

// listening reports whether somebody takes connections.
func listening(ctx context.Context, address string) bool {
	c, err := new(net.Dialer).DialContext(ctx, "tcp", address)
	return err == nil && c.Close() == nil
}

// report prints the table and how it compares to what was promised.
func report(out io.Writer, rng *rand.Rand, haproxy, limpet *subject) {
	w := tabwriter.NewWriter(out, 0, 8, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(w, "subject\ts CPU/GB\tCV\tGB/s\tµs CPU/connection\tCV\t")
	for _, s := range []*subject{haproxy, limpet} {
		fmt.Fprintf(w, "%s\t%.4f\t%.1f%%\t%.2f\t%.1f\t%.1f%%\t\n", s.name, stats.Median(s.bulk), 100*stats.Variation(s.bulk),
			stats.Median(s.rate), stats.Median(s.short), 100*stats.Variation(s.short))
	}
	w.Flush()
	fmt.Fprintln(out, "CV is the variation from round to round: the noise of this machine. Ratios are medians of the ratios within rounds.")
	bulk := stats.Ratio(rng, limpet.bulk, haproxy.bulk)
	verdict := "PASS"
	if bulk.High > mostForBytes {
		verdict = "MISS"
	}
	fmt.Fprintf(out, "%s  a gigabyte costs at most %.2f × HAProxy's: %v\n", verdict, mostForBytes, bulk)
	fmt.Fprintf(out, "      a short connection costs, to HAProxy's: %v\n", stats.Ratio(rng, limpet.short, haproxy.short))
}
