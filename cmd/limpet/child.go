package main

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"os/exec"
	"syscall"
	"time"
)

// stopTimeout is how long a child has to end in order before it is killed.
const stopTimeout = 10 * time.Second

// A child is a process of the demo: this program again, with another command. The zero child was not started.
type child struct {
	cmd   *exec.Cmd
	ended chan struct{} // closed when the process has ended and was waited for
}

// lineWatch passes on the first lines of a child's output while all of it goes to its log.
type lineWatch struct{ lines chan string }

// start runs this program with args. Its output goes to the log file; the first lines are also passed on.
func (c *child) start(log string, args ...string) (*lineWatch, error) {
	exe, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("finding this program: %w", err)
	}
	file, err := os.OpenFile(log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, err
	}
	c.cmd = exec.Command(exe, args...)
	c.cmd.Stderr = file
	c.cmd.SysProcAttr = dieWithParent()
	out, err := c.cmd.StdoutPipe()
	if err == nil {
		err = startProcess(c.cmd)
	}
	if err != nil {
		file.Close()
		return nil, err
	}
	c.ended = make(chan struct{})
	watch := &lineWatch{lines: make(chan string, 16)}
	go c.follow(out, file, watch)
	return watch, nil
}

// follow copies the child's output to its log until it ends, then waits for it.
func (c *child) follow(out io.Reader, file *os.File, watch *lineWatch) {
	defer close(c.ended)
	defer file.Close()
	lines := bufio.NewScanner(out)
	for lines.Scan() {
		fmt.Fprintln(file, lines.Text())
		select {
		case watch.lines <- lines.Text():
		default: // nobody reads any longer
		}
	}
	close(watch.lines)
	_ = c.cmd.Wait() // how it ended is in its log, or it was killed on purpose
}

func (c *child) pid() int { return c.cmd.Process.Pid }

// stop ends the child in order, and kills it if that takes too long.
func (c *child) stop() {
	if c.ended == nil {
		return
	}
	_ = c.cmd.Process.Signal(syscall.SIGTERM) // it may have ended
	select {
	case <-c.ended:
	case <-time.After(stopTimeout):
		c.kill()
	}
}

// kill ends the child as a crash would.
func (c *child) kill() {
	_ = c.cmd.Process.Kill() // it may have ended
	<-c.ended
}
