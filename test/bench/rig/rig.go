// Package rig runs the processes of a measurement: the gateways that are measured, and this program's own parts beside them, each pinned to
// a processor where that is possible.
//
// No process and no file is left when the rig is closed, or when the program ends without that. It measures nothing itself.
//
// Start with [New].
package rig

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
)

// A Rig is the processes of one measurement. It belongs to one goroutine, which is locked to its thread: the kernel ends a child with the
// thread that started it.
type Rig struct {
	Dir    string // for configurations and logs
	Limpet string // the binary

	self     string
	taskset  string // "" if there is none, or one processor only
	children []*exec.Cmd
}

// New makes a rig, and builds limpet from this tree if it is given no binary. Who has the rig closes it.
func New(ctx context.Context, limpet string) (*Rig, error) {
	r := &Rig{Limpet: limpet}
	if err := r.prepare(ctx); err != nil {
		r.Close()
		return nil, err
	}
	return r, nil
}

func (r *Rig) prepare(ctx context.Context) (err error) {
	if r.Dir, err = os.MkdirTemp("", "limpet-bench-"); err != nil {
		return err
	}
	if r.self, err = os.Executable(); err != nil {
		return err
	}
	if runtime.NumCPU() > 1 {
		r.taskset, _ = exec.LookPath("taskset") // without it nothing is pinned, which Pinning says
	}
	if r.Limpet != "" {
		return nil
	}
	r.Limpet = filepath.Join(r.Dir, "limpet")
	const pkg = "github.com/limpet-project/limpet/cmd/limpet"
	if text, err := exec.CommandContext(ctx, "go", "build", "-o", r.Limpet, pkg).CombinedOutput(); err != nil {
		return errors.Join(fmt.Errorf("building limpet: %w", err), errors.New(string(text)))
	}
	return nil
}

// Pinning says which processors processes have, those beside the gateways by that name.
func (r *Rig) Pinning(beside string) string {
	if r.taskset == "" {
		return "not pinned: taskset is missing, or there is one processor"
	}
	return "pinned: gateways to processor 0, " + beside + " to processor 1"
}

// Command makes a command that is pinned to a processor and dies with this process.
func (r *Rig) Command(ctx context.Context, processor, name string, args ...string) *exec.Cmd {
	if r.taskset != "" {
		name, args = r.taskset, append([]string{"-c", processor, name}, args...)
	}
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	return cmd
}

// Self makes a command that plays a part of this program on the processor of the load. Its errors are this program's.
func (r *Rig) Self(ctx context.Context, args ...string) *exec.Cmd {
	cmd := r.Command(ctx, "1", r.self, args...)
	cmd.Stderr = os.Stderr
	return cmd
}

// Start starts a command, which runs until the rig is closed.
func (r *Rig) Start(cmd *exec.Cmd) error {
	if err := cmd.Start(); err != nil {
		return err
	}
	r.children = append(r.children, cmd)
	return nil
}

// Part starts this program in another part and returns its process and the line that it prints first.
func (r *Rig) Part(ctx context.Context, processor string, args ...string) (pid int, line string, err error) {
	cmd := r.Command(ctx, processor, r.self, args...)
	cmd.Stderr = os.Stderr
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return 0, "", err
	}
	if err := r.Start(cmd); err != nil {
		return 0, "", err
	}
	line, err = bufio.NewReader(stdout).ReadString('\n')
	return cmd.Process.Pid, strings.TrimSpace(line), err
}

// Gateway starts what is measured, on a processor of its own. It returns its process and the file that it logs to.
func (r *Rig) Gateway(ctx context.Context, name string, argv ...string) (pid int, log string, err error) {
	file, err := os.Create(filepath.Join(r.Dir, name+".log"))
	if err != nil {
		return 0, "", err
	}
	defer file.Close()
	cmd := r.Command(ctx, "0", argv[0], argv[1:]...)
	cmd.Stdout, cmd.Stderr = file, file
	if err := r.Start(cmd); err != nil {
		return 0, "", err
	}
	return cmd.Process.Pid, file.Name(), nil
}

// FreeAddress returns a loopback address that was free a moment ago.
func FreeAddress() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	defer l.Close()
	return l.Addr().String(), nil
}

// Close ends every process and removes the directory.
func (r *Rig) Close() {
	for _, c := range r.children {
		_ = c.Process.Kill() // fails only if it has ended
		_ = c.Wait()         // it was killed
	}
	if r.Dir != "" {
		_ = os.RemoveAll(r.Dir) // what is left is in the temporary directory
	}
}
