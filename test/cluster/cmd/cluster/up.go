package main

import (
	"bufio"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"syscall"
	"time"

	"github.com/limpet-project/limpet/test/cluster"
	"github.com/limpet-project/limpet/test/cluster/build"
	"github.com/limpet-project/limpet/test/cluster/sandbox"
	"github.com/limpet-project/limpet/test/cluster/slot"
)

// upLine is what the keeper writes when the cluster is up.
const upLine = "up\n"

// flags are those of most commands.
type flags struct {
	*flag.FlagSet
	number *int
}

func newFlags(name string) flags {
	f := flag.NewFlagSet("cluster "+name, flag.ContinueOnError)
	return flags{f, f.Int("slot", 0, "`number` of the cluster, if several run side by side")}
}

func (f flags) slot() (slot.Slot, error) {
	dir, err := build.DefaultDir()
	if err != nil {
		return slot.Slot{}, err
	}
	return slot.New(dir, *f.number)
}

func buildAll(ctx context.Context, args []string) error {
	f := newFlags("build")
	if err := f.Parse(args); err != nil {
		return err
	}
	if err := cluster.Missing(); err != nil {
		return err
	}
	a, err := cluster.NewArtifacts()
	if err != nil {
		return err
	}
	return a.BuildAll(ctx, os.Stdout)
}

// up starts a keeper in the background and shows its progress until the cluster is up.
func up(ctx context.Context, args []string) error {
	f := newFlags("up")
	tier := f.String("tier", "knative", "`tier`: control, node or knative")
	class := f.String("ingress", "none", "`ingress` to install: limpet or none")
	how := f.ingress()
	if err := f.Parse(args); err != nil {
		return err
	}
	want, err := cluster.ParseTier(*tier)
	if err == nil && *class != "limpet" && *class != "none" {
		err = fmt.Errorf("ingress %q: want limpet or none", *class)
	}
	if err != nil {
		return err
	}
	s, err := f.slot()
	if err != nil {
		return err
	}
	if err := upTier(ctx, s, want); err != nil || *class == "none" {
		return err
	}
	return install(ctx, s, how)
}

// upTier starts the cluster unless it runs.
func upTier(ctx context.Context, s slot.Slot, want cluster.Tier) error {
	if running, err := cluster.RunningTier(s); err == nil {
		if running < want {
			return fmt.Errorf("slot %d is up with tier %s only: cluster down first", s.Number, running)
		}
		fmt.Printf("slot %d is up already, tier %s\n", s.Number, running)
		return nil
	}
	return background(ctx, "keep", "-slot", strconv.Itoa(s.Number), "-tier", want.String())
}

func background(ctx context.Context, args ...string) error {
	r, w, err := os.Pipe()
	if err != nil {
		return err
	}
	defer r.Close()
	cmd := exec.Command("/proc/self/exe", args...) // the file is deleted after go run
	cmd.Args[0] = os.Args[0]
	cmd.Stdout, cmd.Stderr = w, w
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true} // it goes on without this terminal
	if err := cmd.Start(); err != nil {
		return errors.Join(fmt.Errorf("starting the keeper: %w", err), w.Close())
	}
	w.Close()
	stop := context.AfterFunc(ctx, func() { cmd.Process.Signal(syscall.SIGTERM) }) // fails only if it has ended
	defer stop()
	lines := bufio.NewReader(r)
	for {
		line, err := lines.ReadString('\n')
		if line == upLine {
			return nil
		}
		fmt.Print(line)
		if err != nil {
			break
		}
	}
	if err := cmd.Wait(); err != nil {
		return err // the keeper said what was wrong
	}
	return errors.New("the keeper ended")
}

// keep is the keeper: the cluster ends with this process.
func keep(ctx context.Context, args []string) error {
	f := newFlags("keep")
	tier := f.String("tier", "knative", "`tier`: control, node or knative")
	if err := f.Parse(args); err != nil {
		return err
	}
	t, err := cluster.ParseTier(*tier)
	if err != nil {
		return err
	}
	running, err := cluster.Keep(ctx, cluster.Options{Tier: t, Slot: f.number, Progress: os.Stdout})
	if err != nil {
		return err
	}
	if _, err := io.WriteString(os.Stdout, upLine); err != nil {
		return errors.Join(err, running.Stop())
	}
	if err := silence(); err != nil {
		return errors.Join(err, running.Stop())
	}
	return running.Wait(ctx)
}

// silence lets go of the output, whose reader ends now.
func silence() error {
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer null.Close()
	for _, fd := range []int{1, 2} {
		if err := syscall.Dup3(int(null.Fd()), fd, 0); err != nil {
			return err
		}
	}
	return nil
}

func down(_ context.Context, args []string) error {
	f := newFlags("down")
	all := f.Bool("all", false, "end the clusters of all slots")
	if err := f.Parse(args); err != nil {
		return err
	}
	s, err := f.slot()
	if err != nil {
		return err
	}
	if !*all {
		return sandbox.Down(s, time.Minute)
	}
	for n := range slot.Count {
		other, err := slot.New(s.Cache, n)
		if err != nil {
			return err
		}
		if _, err := os.Stat(other.Dir()); err != nil {
			continue // never used
		}
		if err := sandbox.Down(other, time.Minute); err != nil {
			return err
		}
	}
	return nil
}
