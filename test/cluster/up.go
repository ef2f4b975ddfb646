package cluster

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/limpet-project/limpet/test/cluster/plane"
	"github.com/limpet-project/limpet/test/cluster/sandbox"
	"github.com/limpet-project/limpet/test/cluster/slot"
)

// Tier is how much of a cluster runs.
type Tier = plane.Tier

// The tiers; each holds the ones before it.
const (
	Control = plane.Control // etcd, API server, controller manager, scheduler
	Node    = plane.Node    // and containerd, kubelet, kube-proxy, CNI, CoreDNS, registry
	Knative = plane.Knative // and Knative Serving
)

// Options say which cluster to keep. The zero Options are tier Control in the first free slot from 1 on.
type Options struct {
	Tier Tier
	// Slot is the slot, or nil for the first free one from 1 on.
	Slot *int
	// Progress receives a line for each part of the build and each step of the start. Nil is nowhere.
	Progress io.Writer
}

// A Running cluster ends with this process, or earlier by Stop.
type Running struct {
	*sandbox.Sandbox
	// Slot is where it runs.
	Slot slot.Slot
}

// Reexec runs this process in the role that it was started for, if it was started for one, and then does not return. A program
// that calls [Keep] calls it at the start of main; [Main] does.
func Reexec() {
	sandbox.Roles(plane.Boot, map[string]func(sandbox.Spec) error{plane.Registry: plane.ServeRegistry})
}

// Keep builds what is missing, starts a cluster and returns when everything of its tier answers. The cluster ends with this process.
func Keep(ctx context.Context, o Options) (*Running, error) {
	if o.Progress == nil {
		o.Progress = io.Discard
	}
	if err := Missing(); err != nil {
		return nil, err
	}
	a, err := NewArtifacts()
	if err != nil {
		return nil, err
	}
	if err := a.Build(ctx, o.Progress); err != nil {
		return nil, err
	}
	config, err := a.config(ctx, o.Tier)
	if err != nil {
		return nil, err
	}
	s, lock, err := take(a.Dir(), o.Slot)
	if err != nil {
		return nil, err
	}
	return start(ctx, s, lock, config, o.Progress)
}

func take(cache string, number *int) (slot.Slot, *slot.Lock, error) {
	if number == nil {
		return slot.TakeFree(cache, 1)
	}
	s, err := slot.New(cache, *number)
	if err != nil {
		return s, nil, err
	}
	lock, err := s.Take()
	return s, lock, err
}

func start(ctx context.Context, s slot.Slot, lock *slot.Lock, config plane.Config, progress io.Writer) (*Running, error) {
	boot, err := json.Marshal(config)
	if err != nil {
		lock.Release()
		return nil, err
	}
	path := append(config.Binaries.Path, strings.Split(os.Getenv("PATH"), ":")...)
	path = append(path, "/usr/local/sbin", "/usr/sbin", "/sbin")
	began := time.Now()
	step := func(what string) { fmt.Fprintf(progress, "  [%4.1fs] %s\n", time.Since(began).Seconds(), what) }
	b, err := sandbox.Start(ctx, lock, sandbox.Spec{Slot: s, Path: strings.Join(path, ":"), Boot: boot}, step)
	if err != nil {
		return nil, fmt.Errorf("starting a cluster in slot %d: %w", s.Number, err)
	}
	fmt.Fprintf(progress, "  [%4.1fs] tier %s is up in slot %d\n", time.Since(began).Seconds(), config.Tier, s.Number)
	return &Running{Sandbox: b, Slot: s}, nil
}

// ParseTier returns the tier of a name: control, node or knative.
func ParseTier(name string) (Tier, error) { return plane.ParseTier(name) }
