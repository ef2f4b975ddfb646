package redistest

import (
	"os/exec"
	"runtime"
	"syscall"
)

// A process is a started program. Every process has one goroutine that started it, waits for it and keeps its thread: Linux
// sends the parent-death signal when the thread that forked ends, not the process.
type process struct {
	cmd  *exec.Cmd
	done chan struct{}
}

func startProcess(path string, args ...string) (*process, error) {
	p := &process{cmd: exec.Command(path, args...), done: make(chan struct{})}
	p.cmd.SysProcAttr = dieWithParent()
	started := make(chan error)
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		defer close(p.done)
		err := p.cmd.Start()
		started <- err
		if err == nil {
			_ = p.cmd.Wait() // how a killed server ends is not of interest
		}
	}()
	return p, <-started
}

func (p *process) ended() bool {
	select {
	case <-p.done:
		return true
	default:
		return false
	}
}

func (p *process) wait() {
	if p != nil {
		<-p.done
	}
}

func (p *process) signal(s syscall.Signal) {
	if p != nil && !p.ended() {
		_ = p.cmd.Process.Signal(s) // it may have ended meanwhile
	}
}

// kill ends the process, frozen or not. It may be called on nil and more than once.
func (p *process) kill() {
	p.signal(syscall.SIGKILL)
	p.wait()
}
