package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/limpet-project/limpet/test/soak/checker"
)

// A fleet is every process of a run, what the configuration says of them, and the log of what was done to them.
// Its methods are called by one goroutine at a time, except for clock, address and running.
type fleet struct {
	o       *options
	dir     string
	spawner *spawner
	rng     *rand.Rand // of ports and names
	began   time.Time

	redis     *process
	redisPort int
	gateways  []*gateway
	revisions []*revision
	made      int // replicas so far, for their names

	events   []checker.Event
	ending   sync.WaitGroup // replicas that are stopped in the background
	deployed bool           // the gateways run
	written  time.Time      // when the configuration was last written
}

type gateway struct {
	name, address, admin, config string
	process                      *process
	ended                        atomic.Int64 // processes so far: connections from before are dead
}

type revision struct {
	name     string
	weight   int
	replicas []*replica // those that are listed
}

type replica struct {
	name, revision, address string
	process                 *process
	draining                bool
	until                   time.Time
}

// newFleet makes the directory, the binaries and the secrets. What it returns has to be closed.
func newFleet(ctx context.Context, o *options) (*fleet, error) {
	dir, err := os.MkdirTemp("", "limpet-soak-")
	if err != nil {
		return nil, err
	}
	f := &fleet{o: o, dir: dir, spawner: newSpawner(), rng: rand.New(rand.NewPCG(o.seed, 2)), began: time.Now()}
	if err := f.prepare(ctx); err != nil {
		f.close(io.Discard)
		return nil, err
	}
	return f, nil
}

func (f *fleet) prepare(ctx context.Context) error {
	for binary, pkg := range map[*string]string{
		&f.o.limpet:  "github.com/limpet-project/limpet/cmd/limpet",
		&f.o.counter: "github.com/limpet-project/limpet/examples/counter",
	} {
		if *binary != "" {
			continue
		}
		*binary = filepath.Join(f.dir, filepath.Base(pkg))
		if err := build(ctx, *binary, pkg); err != nil {
			return err
		}
	}
	p, err := f.spawner.spawn(filepath.Join(f.dir, "keys.log"), nil, f.o.limpet, "keys", "digest", filepath.Join(f.dir, "digest"))
	if err != nil {
		return err
	}
	<-p.exited
	if code := p.cmd.ProcessState.ExitCode(); code != 0 {
		return fmt.Errorf("limpet keys ended with %d: %s", code, tail(p.log))
	}
	return nil
}

// start starts Redis, the replicas and two gateways, in that order, and waits until all answer.
func (f *fleet) start(ctx context.Context) error {
	f.redisPort = f.port()
	if err := f.startRedis(ctx); err != nil {
		return err
	}
	for i := range f.o.revision {
		r := &revision{name: fmt.Sprintf("demo-%05d", i+1), weight: 100 / f.o.revision}
		f.revisions = append(f.revisions, r)
		f.events = append(f.events, checker.Event{From: before, To: before, Kind: checker.Weighted, Revision: r.name, Weight: r.weight})
		for range f.o.replicas {
			if _, err := f.addReplica(r); err != nil {
				return err
			}
		}
	}
	for i := range 2 {
		g := &gateway{name: fmt.Sprintf("gateway-%d", i+1), address: f.address(), admin: f.address()}
		g.config = filepath.Join(f.dir, g.name+".yaml")
		f.gateways = append(f.gateways, g)
	}
	if err := f.configure(); err != nil {
		return err
	}
	for _, g := range f.gateways {
		if err := f.startGateway(ctx, g); err != nil {
			return err
		}
		f.events = append(f.events, checker.Event{From: before, To: before, Kind: checker.GatewayUp, Gateway: g.name})
	}
	f.deployed = true
	return nil
}

// before is the time of what was so when the clients began.
const before = -time.Hour

// clock is the time of events and observations.
func (f *fleet) clock() time.Duration { return time.Since(f.began) }

// do performs a deed and logs it with the times at which it began and ended.
func (f *fleet) do(e checker.Event, deed func() error) error {
	e.From = f.clock()
	err := deed()
	e.To = f.clock()
	f.events = append(f.events, e)
	return err
}

// port returns a port that is free and below those that the kernel gives to outgoing connections, so that it stays free while
// whoever listens on it is away.
func (f *fleet) port() int {
	for {
		port := 10000 + f.rng.IntN(20000)
		if l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port)); err == nil {
			l.Close()
			return port
		}
	}
}

func (f *fleet) address() string { return fmt.Sprintf("127.0.0.1:%d", f.port()) }

// startRedis starts an empty Redis and waits for it to answer.
func (f *fleet) startRedis(ctx context.Context) error {
	port := fmt.Sprint(f.redisPort)
	p, err := f.spawner.spawn(filepath.Join(f.dir, "redis.log"), nil, f.o.redis,
		"--port", port, "--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--dir", f.dir)
	if err != nil {
		return err
	}
	f.redis = p
	return await(ctx, p, "redis", func() bool { return answersPing("127.0.0.1:" + port) })
}

// answersPing asks a Redis whether it serves commands.
func answersPing(address string) bool {
	c, err := net.DialTimeout("tcp", address, time.Second)
	if err != nil {
		return false
	}
	defer c.Close()
	answer := make([]byte, 5)
	if c.SetDeadline(time.Now().Add(time.Second)) != nil {
		return false
	}
	if _, err := io.WriteString(c, "PING\r\n"); err != nil {
		return false
	}
	_, err = io.ReadFull(c, answer)
	return err == nil && string(answer) == "+PONG"
}

// startGateway starts a gateway and waits until it says that it is ready.
func (f *fleet) startGateway(ctx context.Context, g *gateway) error {
	p, err := f.spawner.spawn(filepath.Join(f.dir, g.name+".log"), nil, f.o.limpet,
		"serve", "--config", g.config, "--state", filepath.Join(f.dir, g.name))
	if err != nil {
		return err
	}
	g.process = p
	client := &http.Client{Timeout: 5 * time.Second}
	defer client.CloseIdleConnections()
	return await(ctx, p, g.name, func() bool {
		resp, err := client.Get("http://" + g.admin + "/readyz")
		if err != nil {
			return false
		}
		resp.Body.Close()
		return resp.StatusCode == http.StatusOK
	})
}

// addReplica starts a new replica and lists it; it counts once the configuration is written.
func (f *fleet) addReplica(r *revision) (*replica, error) {
	f.made++
	n := &replica{name: fmt.Sprintf("%s-%03d", r.name, f.made), revision: r.name, address: f.address()}
	if err := f.startReplica(n); err != nil {
		return nil, err
	}
	r.replicas = append(r.replicas, n)
	if !f.deployed {
		f.events = append(f.events, checker.Event{From: before, To: before, Kind: checker.Added, Endpoint: n.name, Revision: r.name})
	}
	return n, nil
}

func (f *fleet) startReplica(n *replica) error {
	var listening string
	p, err := f.spawner.spawn(filepath.Join(f.dir, n.name+".log"), func(line string) { listening = line }, f.o.counter,
		"--listen", n.address, "--name", n.name, "--revision", n.revision)
	if err != nil {
		return err
	}
	n.process = p
	if listening != "listening on "+n.address {
		p.kill()
		return fmt.Errorf("%s says %q, want that it listens on %s", n.name, listening, n.address)
	}
	return nil
}

// stopLater ends a replica that is no longer listed, as soon as every gateway must have learnt that.
func (f *fleet) stopLater(ctx context.Context, n *replica) {
	f.ending.Go(func() {
		pause(ctx, f.o.allow.Reload)
		n.process.stop(10 * time.Second)
	})
}

// calmness is the least time between deeds that change the configuration: a gateway polls each second and takes a content that it
// read the same twice, so it would never take one that changes more often.
const calmness = 2200 * time.Millisecond

// calm waits until every gateway can have taken the last configuration.
func (f *fleet) calm(ctx context.Context) { pause(ctx, calmness-time.Since(f.written)) }

// configure writes what the gateways poll. Each file is replaced whole.
func (f *fleet) configure() error {
	f.written = time.Now()
	for _, g := range f.gateways {
		next := g.config + ".next"
		if err := os.WriteFile(next, []byte(f.configuration(g)), 0o600); err != nil {
			return err
		}
		if err := os.Rename(next, g.config); err != nil {
			return err
		}
	}
	return nil
}

func (f *fleet) configuration(g *gateway) string {
	var b strings.Builder
	fmt.Fprintf(&b, "listeners:\n- {name: web, address: %q}\nadmin: {address: %q}\naccessLog: {file: \"off\"}\n", g.address, g.admin)
	// The store's timeout is longer than its default: this machine, which is busy with everything at once, may stop for 50ms by
	// itself, and a store that is late is a store that is lost, of which the log knows nothing.
	fmt.Fprintf(&b, "store: {redis: {addresses: [\"127.0.0.1:%d\"], timeout: 1s}}\nsecrets: {digestFile: %q}\n",
		f.redisPort, filepath.Join(f.dir, "digest"))
	b.WriteString("routes:\n- service: soak\nservices:\n- name: soak\n")
	if f.o.affinity {
		b.WriteString("  affinity: {session: {from: [{header: K-Session}]}, revision: {from: [{header: K-Revision}]}}\n")
	}
	b.WriteString("  probe: {http: {path: /healthz}, interval: 1s, timeout: 1s, unhealthyThreshold: 5}\n  revisions:\n")
	for _, r := range f.revisions {
		fmt.Fprintf(&b, "  - name: %s\n    weight: %d\n    endpoints:\n", r.name, r.weight)
		for _, n := range r.replicas {
			fmt.Fprintf(&b, "    - {name: %s, address: %q", n.name, n.address)
			if n.draining {
				fmt.Fprintf(&b, ", draining: true, drainUntil: %s", n.until.UTC().Format(time.RFC3339Nano))
			}
			b.WriteString("}\n")
		}
	}
	return b.String()
}

// close ends every process, replicas last, and removes the directory.
func (f *fleet) close(out io.Writer) {
	for _, g := range f.gateways {
		if g.process != nil {
			g.process.stop(10 * time.Second)
		}
	}
	f.ending.Wait()
	for _, r := range f.revisions {
		for _, n := range r.replicas {
			n.process.kill()
		}
	}
	if f.redis != nil {
		f.redis.kill()
	}
	f.spawner.close()
	if f.o.keep {
		fmt.Fprintln(out, "kept", f.dir)
		return
	}
	if err := os.RemoveAll(f.dir); err != nil && !errors.Is(err, os.ErrNotExist) {
		fmt.Fprintln(out, "removing", f.dir+":", err)
	}
}
