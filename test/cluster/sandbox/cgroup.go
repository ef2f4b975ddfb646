package sandbox

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/limpet-project/limpet/test/cluster/slot"
)

const cgroupMount = "/sys/fs/cgroup"

// Unified reports whether the machine has cgroup version 2 only.
func Unified() bool {
	_, err := os.Stat(filepath.Join(cgroupMount, "cgroup.controllers"))
	return err == nil
}

// Controllers returns the names of the machine's cgroup controllers.
func Controllers() []string {
	if Unified() {
		text, err := os.ReadFile(filepath.Join(cgroupMount, "cgroup.controllers"))
		if err != nil {
			return nil
		}
		return strings.Fields(string(text))
	}
	var names []string
	for _, dir := range hierarchies() {
		names = append(names, strings.Split(filepath.Base(dir), ",")...)
	}
	return names
}

// hierarchies returns the mounted trees of cgroups: one of version 2, or one for each controller of version 1 and perhaps
// a tree of version 2 without controllers.
func hierarchies() []string {
	if Unified() {
		return []string{cgroupMount}
	}
	entries, err := os.ReadDir(cgroupMount)
	if err != nil {
		return nil
	}
	var all []string
	for _, e := range entries {
		dir := filepath.Join(cgroupMount, e.Name())
		if _, err := os.Stat(filepath.Join(dir, "cgroup.procs")); err == nil && e.IsDir() { // not the links cpu and cpuacct
			all = append(all, dir)
		}
	}
	return all
}

// makeCgroups makes the cgroup under which the kubelet keeps its pods.
func makeCgroups(s slot.Slot) error {
	if Unified() {
		control := filepath.Join(cgroupMount, "cgroup.subtree_control")
		for _, c := range Controllers() {
			// Some controllers cannot be given to children on some machines; the kubelet names those that it lacks.
			os.WriteFile(control, []byte("+"+c), 0)
		}
	}
	for _, dir := range hierarchies() {
		own := filepath.Join(dir, s.Cgroup())
		if err := os.Mkdir(own, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
			return fmt.Errorf("making a cgroup: %w", err)
		}
		for _, file := range []string{"cpuset.cpus", "cpuset.mems"} { // empty in a new cgroup of version 1
			text, err := os.ReadFile(filepath.Join(dir, file))
			if err != nil || Unified() {
				continue
			}
			if err := os.WriteFile(filepath.Join(own, file), text, 0o644); err != nil {
				return fmt.Errorf("preparing a cgroup: %w", err)
			}
		}
	}
	return nil
}

// removeCgroups removes the slot's cgroups. Their processes have been killed, but the kernel may take a moment to forget them.
func removeCgroups(s slot.Slot) error {
	deadline := time.Now().Add(time.Minute)
	for _, dir := range hierarchies() {
		own := filepath.Join(dir, s.Cgroup())
		for {
			err := removeTree(own)
			if err == nil {
				break
			}
			if !errors.Is(err, syscall.EBUSY) || time.Now().After(deadline) {
				return fmt.Errorf("removing a cgroup: %w", err)
			}
			time.Sleep(10 * time.Millisecond)
		}
	}
	return nil
}

// removeTree removes cgroups, the innermost first. Files of a cgroup go with it.
func removeTree(dir string) error {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, e := range entries {
		if e.IsDir() {
			if err := removeTree(filepath.Join(dir, e.Name())); err != nil {
				return err
			}
		}
	}
	if err := syscall.Rmdir(dir); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return &os.PathError{Op: "rmdir", Path: dir, Err: err}
	}
	return nil
}
