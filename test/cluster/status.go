package cluster

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/limpet-project/limpet/test/cluster/image"
	"github.com/limpet-project/limpet/test/cluster/sandbox"
	"github.com/limpet-project/limpet/test/cluster/slot"
)

// Status is how the cluster of a slot is.
type Status struct {
	Slot       slot.Slot
	Tier       Tier
	Keeper     int // the process that it ends with
	Processes  int
	Memory     int64 // bytes, shared pages counted once
	Components []sandbox.Component
}

// StatusOf returns the status of a running cluster.
func StatusOf(s slot.Slot) (Status, error) {
	tier, err := RunningTier(s)
	if err != nil {
		return Status{}, err
	}
	st := Status{Slot: s, Tier: tier, Keeper: s.Holder()}
	if st.Components, err = sandbox.NewControl(s).Components(); err != nil {
		return Status{}, err
	}
	pid, err := sandbox.PID1(s)
	if err != nil {
		return Status{}, err
	}
	st.Processes, st.Memory = usage(pid)
	return st, nil
}

// usage counts the processes that share the cluster's network or process namespace, those of pods included.
func usage(pid1 int) (processes int, memory int64) {
	inside := descendants(pid1)
	for pid := range inside {
		processes++
		memory += proportional(pid)
	}
	return processes, memory
}

// descendants returns a process and all below it. Pods have process namespaces of their own, but their processes descend from PID 1.
func descendants(root int) map[int]bool {
	parents := map[int]int{}
	files, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil {
		return nil
	}
	for _, f := range files {
		text, err := os.ReadFile(f)
		if err != nil {
			continue // ended meanwhile
		}
		_, rest, _ := strings.Cut(string(text), ") ") // the name in brackets may hold spaces
		if fields := strings.Fields(rest); len(fields) > 1 {
			pid, _ := strconv.Atoi(strings.Split(f, "/")[2]) // matched by the pattern
			parents[pid], _ = strconv.Atoi(fields[1])
		}
	}
	inside := map[int]bool{root: true}
	for pid := range parents {
		for p := pid; p > 0; p = parents[p] {
			if p == root {
				inside[pid] = true
				break
			}
		}
	}
	return inside
}

// proportional returns the memory of a process, its share of what it shares.
func proportional(pid int) int64 {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", pid))
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(text)) {
		if f := strings.Fields(line); len(f) > 1 && f[0] == "Pss:" {
			kib, err := strconv.ParseInt(f[1], 10, 64)
			if err != nil {
				return 0
			}
			return kib << 10
		}
	}
	return 0
}

// Load imports images into the node of a running cluster, from outside.
func Load(ctx context.Context, s slot.Slot, images ...image.Image) error {
	for _, i := range images {
		cmd, err := sandbox.Enter(s, "/", "ctr", "-n", "k8s.io", "images", "import", "--local", i.Archive)
		if err != nil {
			return err
		}
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("importing %s: %w: %s", i.Reference, err, out)
		}
	}
	return ctx.Err()
}
