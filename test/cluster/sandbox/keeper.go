package sandbox

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"syscall"

	"github.com/limpet-project/limpet/test/cluster/slot"
)

// A Spec is what PID 1 of a sandbox is told.
type Spec struct {
	Slot slot.Slot
	// Path is where commands are looked for, the components' folders first.
	Path string
	// Boot is passed on to the function that starts the components.
	Boot json.RawMessage
}

// A Report is a line of progress from inside.
type Report struct {
	// Step is what has been done.
	Step string `json:",omitempty"`
	// Ready says that the start is complete.
	Ready bool `json:",omitempty"`
	// Error says that the start has failed, and why.
	Error string `json:",omitempty"`
}

// A Sandbox is a running set of namespaces. Its keeper is this process.
type Sandbox struct {
	slot   slot.Slot
	lock   *slot.Lock
	cmd    *exec.Cmd
	exited chan struct{} // closed when all processes inside have ended
}

const (
	roleVariable = "LIMPET_CLUSTER_ROLE"
	dirVariable  = "LIMPET_CLUSTER_STATE"
)

// Start makes a sandbox in a slot that this process has taken, and returns when the supervisor says that it is ready. It takes
// over the lock. Progress goes to step.
func Start(ctx context.Context, lock *slot.Lock, spec Spec, step func(string)) (*Sandbox, error) {
	b := &Sandbox{slot: spec.Slot, lock: lock, exited: make(chan struct{})}
	err := b.prepare(spec)
	if err != nil {
		lock.Release()
		return nil, err
	}
	reports, err := b.launch()
	if err != nil {
		return nil, errors.Join(err, b.Stop())
	}
	defer reports.Close()
	stop := context.AfterFunc(ctx, func() { reports.Close() })
	defer stop()
	err = follow(reports, step)
	if ctx.Err() != nil { // also if it came up all the same
		err = ctx.Err()
	}
	if err != nil {
		return nil, errors.Join(err, b.stop())
	}
	return b, nil
}

// prepare makes the slot as if new.
func (b *Sandbox) prepare(spec Spec) error {
	s := b.slot
	if err := Sweep(s); err != nil {
		return err
	}
	if err := os.RemoveAll(s.Dir() + "/logs"); err != nil {
		return fmt.Errorf("removing old logs: %w", err)
	}
	for _, dir := range []string{s.State(), s.Dir() + "/logs", s.State("log")} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return fmt.Errorf("making the slot's folders: %w", err)
		}
	}
	text, err := json.Marshal(spec)
	if err != nil {
		return err
	}
	if err := os.WriteFile(s.State("spec.json"), text, 0o644); err != nil {
		return err
	}
	return makeCgroups(s)
}

// launch starts PID 1 and returns the pipe of its reports. The kernel binds a child's life to the thread that started it, so
// one goroutine keeps its thread until the child has ended.
func (b *Sandbox) launch() (io.ReadCloser, error) {
	r, w, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer w.Close()
	log, err := os.Create(b.slot.Log("init"))
	if err != nil {
		return nil, errors.Join(err, r.Close())
	}
	defer log.Close()
	b.cmd = role("init", b.slot)
	b.cmd.Stdout, b.cmd.Stderr, b.cmd.ExtraFiles = log, log, []*os.File{w}
	b.cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: syscall.CLONE_NEWNET | syscall.CLONE_NEWNS | syscall.CLONE_NEWPID | syscall.CLONE_NEWUTS | syscall.CLONE_NEWIPC,
		Pdeathsig:  syscall.SIGKILL,
		Setsid:     true, // an interrupt from the terminal is the keeper's to handle
	}
	started := make(chan error)
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := b.cmd.Start()
		started <- err
		if err == nil {
			b.cmd.Wait() // how it ended does not matter: nothing is left then
			close(b.exited)
		}
	}()
	if err := <-started; err != nil {
		b.cmd = nil
		return nil, errors.Join(fmt.Errorf("making namespaces: %w", err), r.Close())
	}
	pid := []byte(fmt.Sprint(b.cmd.Process.Pid))
	return r, os.WriteFile(b.slot.State("init.pid"), pid, 0o644)
}

// role returns a command that runs this executable in a role. It works when the file has been deleted, as after go run.
func role(name string, s slot.Slot, args ...string) *exec.Cmd {
	cmd := exec.Command("/proc/self/exe", args...)
	cmd.Args[0] = "limpet-cluster-" + name
	cmd.Env = append(os.Environ(), roleVariable+"="+name, dirVariable+"="+s.State())
	return cmd
}

// follow reads reports until one says ready.
func follow(reports io.Reader, step func(string)) error {
	lines := bufio.NewScanner(reports)
	for lines.Scan() {
		var r Report
		if err := json.Unmarshal(lines.Bytes(), &r); err != nil {
			return fmt.Errorf("reading progress %q: %w", lines.Text(), err)
		}
		switch {
		case r.Error != "":
			return errors.New(r.Error)
		case r.Ready:
			return nil
		}
		step(r.Step)
	}
	return errors.New("the supervisor ended before the cluster was ready; its log is init.log")
}

// Pid returns the process id of PID 1 as this process sees it.
func (b *Sandbox) Pid() int { return b.cmd.Process.Pid }

// Wait returns when ctx has ended or everything inside has, and removes what is left, as Stop does.
func (b *Sandbox) Wait(ctx context.Context) error {
	select {
	case <-ctx.Done():
	case <-b.exited:
	}
	return b.stop()
}

// Stop ends everything inside, removes what is left of it, and gives the slot back.
func (b *Sandbox) Stop() error { return b.stop() }

func (b *Sandbox) stop() error {
	defer b.lock.Release()
	if b.cmd != nil {
		b.cmd.Process.Kill() // fails only if it has ended
		<-b.exited
	}
	return Sweep(b.slot)
}

// Sweep removes what a sandbox of the slot left: cgroups and the state folder. No process may run in it.
func Sweep(s slot.Slot) error {
	if err := removeCgroups(s); err != nil {
		return err
	}
	if err := os.RemoveAll(s.State()); err != nil {
		return fmt.Errorf("removing the state of slot %d: %w", s.Number, err)
	}
	return nil
}
