package sandbox

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"syscall"
)

// Roles runs this process in the role that it was started for, and then does not return. It returns at once in a process that was
// started in the ordinary way. boot is what the supervisor runs once mounts and network are there; others are roles of the caller,
// which run as components.
func Roles(boot func(context.Context, *Supervisor) error, others map[string]func(Spec) error) {
	name := os.Getenv(roleVariable)
	if name == "" {
		return
	}
	spec, err := readSpec(os.Getenv(dirVariable))
	os.Unsetenv(roleVariable) // what this process starts is in no role
	if err == nil {
		switch name {
		case "init":
			err = initialise(spec)
		case "supervisor":
			err = supervise(spec, boot)
		default:
			run, ok := others[name]
			if !ok {
				err = fmt.Errorf("this executable has no role %q", name)
				break
			}
			err = run(spec)
		}
	}
	if err != nil {
		fmt.Fprintf(os.Stderr, "cluster %s: %v\n", name, err)
		os.Exit(1)
	}
	os.Exit(0)
}

func readSpec(state string) (Spec, error) {
	var spec Spec
	text, err := os.ReadFile(filepath.Join(state, "spec.json"))
	if err == nil {
		err = json.Unmarshal(text, &spec)
	}
	if err != nil {
		return Spec{}, fmt.Errorf("reading what to run: %w", err)
	}
	return spec, nil
}

// initialise is PID 1: it starts the supervisor, reaps what is orphaned, and ends with the supervisor. A process with children
// of its own to wait for cannot reap all.
func initialise(spec Spec) error {
	runtime.LockOSThread()
	cmd := role("supervisor", spec.Slot)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	cmd.ExtraFiles = []*os.File{os.NewFile(3, "reports")}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("starting the supervisor: %w", err)
	}
	cmd.ExtraFiles[0].Close()
	for {
		pid, err := syscall.Wait4(-1, nil, 0, nil)
		if err == syscall.EINTR {
			continue
		}
		if err != nil || pid == cmd.Process.Pid {
			return err
		}
	}
}
