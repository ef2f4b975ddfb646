package cluster

import (
	"context"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"slices"
	"strconv"
	"syscall"
	"testing"
	"time"

	"github.com/limpet-project/limpet/test/cluster/build"
	"github.com/limpet-project/limpet/test/cluster/plane"
	"github.com/limpet-project/limpet/test/cluster/sandbox"
	"github.com/limpet-project/limpet/test/cluster/slot"
)

// insideVariable holds the number of the slot in a test binary that runs inside a cluster.
const insideVariable = "LIMPET_CLUSTER_INSIDE"

// Needs are what the tests of a binary need. All of it is built outside the cluster, where modules can be downloaded.
type Needs struct {
	Tier Tier
	// Images are the main packages that tests use with [Env.Image].
	Images []string
	// Programs are main packages or files of the project that tests run beside the cluster, with [Env.Program].
	Programs []string
	// Tests are the test packages of Knative that tests use with [Env.TestBinary].
	Tests []string
	// Ingress says that tests use [Env.InstallIngress].
	Ingress bool
	// Activator says that tests use [Env.InstallActivator].
	Activator bool
}

// Main is for TestMain: os.Exit(cluster.Main(m, cluster.Knative)). It is [MainWith] for tests that need a tier and images.
func Main(m *testing.M, tier Tier, images ...string) int {
	return MainWith(m, Needs{Tier: tier, Images: images})
}

// MainWith is for TestMain. It starts a cluster, runs this test binary again inside it with the same arguments, and ends the cluster.
// With LIMPET_CLUSTER_SLOT set it uses the cluster that runs in that slot, and leaves it running, which spares the start. It
// returns an exit code; a machine that lacks something is told what, and fails.
func MainWith(m *testing.M, needs Needs) int {
	Reexec()
	if os.Getenv(insideVariable) != "" {
		return m.Run()
	}
	flag.Parse()
	if list := flag.Lookup("test.list"); list != nil && list.Value.String() != "" {
		return m.Run() // only names are wanted
	}
	code, err := RunAgain(needs, os.Stderr)
	if err != nil {
		fmt.Fprintln(os.Stderr, "cluster:", err)
		return 1
	}
	return code
}

// Inside reports whether this process was started by [RunAgain] and runs inside a cluster.
func Inside() bool { return os.Getenv(insideVariable) != "" }

// RunAgain runs this executable again with its arguments, inside a cluster that it starts and ends, or inside the one that
// LIMPET_CLUSTER_SLOT names. It returns the exit code. Progress of the build and the start is written to progress.
func RunAgain(needs Needs, progress io.Writer) (int, error) {
	ctx, cancel := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer cancel()
	if err := prepare(ctx, needs, progress); err != nil {
		return 0, err
	}
	if number := os.Getenv("LIMPET_CLUSTER_SLOT"); number != "" {
		s, err := runningSlot(number, needs.Tier)
		if err != nil {
			return 0, err
		}
		return again(ctx, s)
	}
	running, err := Keep(ctx, Options{Tier: needs.Tier, Progress: progress})
	if err != nil {
		return 0, err
	}
	code, err := again(ctx, running.Slot)
	if stopErr := running.Stop(); err == nil {
		err = stopErr
	}
	return code, err
}

// prepare builds what is needed.
func prepare(ctx context.Context, needs Needs, progress io.Writer) error {
	a, err := NewArtifacts()
	if err != nil {
		return err
	}
	packages, programs := slices.Clone(needs.Images), slices.Clone(needs.Programs)
	if needs.Ingress {
		packages = append(packages, IngressPackage)
	}
	if needs.Activator {
		packages = append(packages, ActivatorPackage)
	}
	if needs.Ingress || needs.Activator {
		programs = append(programs, limpetPackage)
		if _, err := a.Redis(); err != nil {
			return err
		}
	}
	for _, pkg := range packages {
		began := time.Now()
		if _, err := a.Image(ctx, pkg); err != nil {
			return err
		}
		if took := time.Since(began); took > tellAfter {
			fmt.Fprintf(progress, "  built the image of %s in %.0fs\n", pkg, took.Seconds())
		}
	}
	for _, pkg := range programs {
		if _, err := a.Program(ctx, pkg); err != nil {
			return err
		}
	}
	for _, pkg := range needs.Tests {
		if _, err := a.TestBinary(ctx, pkg, progress); err != nil {
			return err
		}
	}
	return nil
}

// tellAfter is how long a build takes that is worth a line.
const tellAfter = 3 * time.Second

// runningSlot returns a slot in which a cluster of at least a tier runs.
func runningSlot(number string, tier Tier) (slot.Slot, error) {
	n, err := strconv.Atoi(number)
	if err != nil {
		return slot.Slot{}, fmt.Errorf("LIMPET_CLUSTER_SLOT=%s: want a number", number)
	}
	dir, err := build.DefaultDir()
	if err != nil {
		return slot.Slot{}, err
	}
	s, err := slot.New(dir, n)
	if err != nil {
		return s, err
	}
	running, err := RunningTier(s)
	if err != nil {
		return s, err
	}
	if running < tier {
		return s, fmt.Errorf("slot %d runs tier %s, these tests need %s", n, running, tier)
	}
	return s, nil
}

// RunningTier returns the tier of the cluster in a slot, or an error if none runs.
func RunningTier(s slot.Slot) (Tier, error) {
	if _, err := sandbox.PID1(s); err != nil {
		return 0, err
	}
	c, err := readConfig(s)
	return c.Tier, err
}

// again runs this test binary inside and returns its exit code.
func again(ctx context.Context, s slot.Slot) (int, error) {
	dir, err := os.Getwd()
	if err != nil {
		return 0, err
	}
	self, err := os.Executable()
	if err != nil {
		return 0, err
	}
	cmd, err := sandbox.Enter(s, dir, append([]string{self}, os.Args[1:]...)...)
	if err != nil {
		return 0, err
	}
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.Env = append(cmd.Env, insideVariable+"="+strconv.Itoa(s.Number), "LIMPET_CLUSTER="+s.Cache)
	if err := cmd.Start(); err != nil {
		return 0, fmt.Errorf("entering the cluster: %w", err)
	}
	stop := context.AfterFunc(ctx, func() { cmd.Process.Signal(syscall.SIGTERM) }) // fails only if it has ended
	defer stop()
	err = cmd.Wait()
	if _, exited := err.(*exec.ExitError); exited || err == nil {
		code := cmd.ProcessState.ExitCode()
		if code < 0 || ctx.Err() != nil { // ended by a signal
			code = 1
		}
		return code, nil
	}
	return 0, fmt.Errorf("running the tests inside the cluster: %w", err)
}

// readConfig returns what the cluster of a slot was booted with.
func readConfig(s slot.Slot) (plane.Config, error) { return plane.ReadConfig(s) }
