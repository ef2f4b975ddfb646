package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"syscall"
	"time"
)

// A spawner starts processes that die with this one. The kernel ties a child's life to the thread that started it, so all are
// started by one goroutine that keeps its thread until close.
type spawner struct {
	jobs chan func()
	done chan struct{}
}

func newSpawner() *spawner {
	s := &spawner{jobs: make(chan func()), done: make(chan struct{})}
	go func() {
		defer close(s.done)
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		for job := range s.jobs {
			job()
		}
	}()
	return s
}

// close ends the goroutine. No process may be running.
func (s *spawner) close() {
	close(s.jobs)
	<-s.done
}

// A process is a child with its log.
type process struct {
	cmd    *exec.Cmd
	log    string
	exited chan struct{} // closed when it has been waited for
}

// spawn starts a command whose output goes to a log file, which it may go on with. If first is given, the first line of its
// standard output is passed to it before the rest follows the log.
func (s *spawner) spawn(log string, first func(line string), name string, args ...string) (*process, error) {
	w, err := os.OpenFile(log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, err
	}
	defer w.Close()
	p := &process{cmd: exec.Command(name, args...), log: log, exited: make(chan struct{})}
	p.cmd.Stdout, p.cmd.Stderr = w, w
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
	var stdout io.ReadCloser
	if first != nil {
		p.cmd.Stdout = nil
		if stdout, err = p.cmd.StdoutPipe(); err != nil {
			return nil, err
		}
	}
	started := make(chan error)
	s.jobs <- func() { started <- p.cmd.Start() }
	if err := <-started; err != nil {
		return nil, fmt.Errorf("starting %s: %w", name, err)
	}
	if first != nil {
		line, err := bufio.NewReader(stdout).ReadString('\n')
		if err != nil {
			p.wait()
			return nil, fmt.Errorf("%s ended before its first line: %s", name, tail(log))
		}
		first(strings.TrimSpace(line))
	}
	go func() { p.wait(); close(p.exited) }()
	return p, nil
}

// wait waits for the process. How it ended does not matter: it was told to, or its silence is noticed elsewhere.
func (p *process) wait() { _ = p.cmd.Wait() }

// kill ends the process at once and waits for it.
func (p *process) kill() {
	_ = p.cmd.Process.Kill() // fails only if it has ended
	<-p.exited
}

// stop asks the process to end, waits, and kills it when patience ends. It reports whether it ended by itself.
func (p *process) stop(patience time.Duration) bool {
	_ = p.cmd.Process.Signal(syscall.SIGTERM) // fails only if it has ended
	timer := time.NewTimer(patience)
	defer timer.Stop()
	select {
	case <-p.exited:
		return true
	case <-timer.C:
		p.kill()
		return false
	}
}

// tail returns the end of a log for an error.
func tail(log string) string {
	b, err := os.ReadFile(log)
	if err != nil {
		return err.Error()
	}
	const most = 2000
	return strings.TrimSpace(string(b[max(0, len(b)-most):]))
}

// await polls until ok, ctx's end, or the end of p.
func await(ctx context.Context, p *process, what string, ok func() bool) error {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-ctx.Done():
			return fmt.Errorf("waiting for %s: %w: %s", what, context.Cause(ctx), tail(p.log))
		case <-p.exited:
			return fmt.Errorf("%s ended: %s", what, tail(p.log))
		case <-tick.C:
		}
	}
	return nil
}

// build compiles a package of this module.
func build(ctx context.Context, output, pkg string) error {
	text, err := exec.CommandContext(ctx, "go", "build", "-o", output, pkg).CombinedOutput()
	if err != nil {
		return errors.Join(fmt.Errorf("building %s: %w", pkg, err), errors.New(string(text)))
	}
	return nil
}

// pause waits; false if ctx ended first.
func pause(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}
