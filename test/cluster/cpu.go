package cluster

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// CPU returns the processor time that a container of the namespace has used, as the kernel counts it for the container's cgroup.
func (e *Env) CPU(ctx context.Context, pod, container string) (time.Duration, error) {
	pids, err := e.processes(ctx, pod, container)
	if err != nil {
		return 0, err
	}
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", pids[0]))
	if err != nil {
		return 0, err
	}
	used, err := usedBy(string(text))
	if err != nil {
		return 0, fmt.Errorf("reading the processor time of %s in pod %s: %w", container, pod, err)
	}
	return used, nil
}

const cgroups = "/sys/fs/cgroup"

// usedBy returns the processor time of a process' cgroup, given the text of its /proc/PID/cgroup. It knows both versions of cgroups.
func usedBy(text string) (time.Duration, error) {
	for line := range strings.Lines(text) {
		parts := strings.SplitN(strings.TrimSpace(line), ":", 3)
		if len(parts) == 3 && strings.Contains(","+parts[1]+",", ",cpuacct,") {
			return number(filepath.Join(cgroups, "cpuacct", parts[2], "cpuacct.usage"), "", time.Nanosecond)
		}
	}
	_, path, found := strings.Cut(text, "0::")
	if !found {
		return 0, fmt.Errorf("no cgroup in %q", text)
	}
	path, _, _ = strings.Cut(path, "\n")
	return number(filepath.Join(cgroups, path, "cpu.stat"), "usage_usec", time.Microsecond)
}

// number reads a number of units from a file: its only word, or the one after a name.
func number(file, name string, unit time.Duration) (time.Duration, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return 0, err
	}
	fields := strings.Fields(string(text))
	for i, f := range fields {
		if name == "" || i > 0 && fields[i-1] == name {
			n, err := strconv.ParseInt(f, 10, 64)
			return time.Duration(n) * unit, err
		}
	}
	return 0, fmt.Errorf("%s has no %s", file, name)
}
