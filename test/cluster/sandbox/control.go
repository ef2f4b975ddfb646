package sandbox

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"time"

	"github.com/limpet-project/limpet/test/cluster/slot"
)

const controlSocket = "control.sock"

// A Control acts on the components of a running sandbox, from inside or outside. It needs no closing.
type Control struct{ client http.Client }

// NewControl returns the control of the sandbox in a slot.
func NewControl(s slot.Slot) *Control {
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "unix", s.State(controlSocket))
	}
	return &Control{http.Client{Transport: &http.Transport{DialContext: dial, DisableKeepAlives: true}, Timeout: 12 * grace}}
}

// Components returns the state of all components.
func (c *Control) Components() ([]Component, error) {
	resp, err := c.client.Get("http://control/components")
	if err != nil {
		return nil, fmt.Errorf("asking the supervisor: %w", err)
	}
	defer resp.Body.Close()
	var all []Component
	return all, json.NewDecoder(resp.Body).Decode(&all)
}

// Stop ends a component in order and returns when it has ended.
func (c *Control) Stop(name string) error { return c.act("stop", name) }

// Kill ends a component at once.
func (c *Control) Kill(name string) error { return c.act("kill", name) }

// Start starts a component that was stopped.
func (c *Control) Start(name string) error { return c.act("start", name) }

// Freeze stops a component's process where it is, Thaw lets it go on.
func (c *Control) Freeze(name string) error { return c.act("freeze", name) }

// Thaw ends a Freeze.
func (c *Control) Thaw(name string) error { return c.act("thaw", name) }

func (c *Control) act(action, name string) error {
	resp, err := c.client.Post("http://control/"+action+"/"+name, "", nil)
	if err != nil {
		return fmt.Errorf("asking the supervisor to %s %s: %w", action, name, err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		why, _ := io.ReadAll(io.LimitReader(resp.Body, 4096)) // an empty reason is still an error
		return fmt.Errorf("asking the supervisor to %s %s: %s", action, name, strings.TrimSpace(string(why)))
	}
	return nil
}

// Enter returns a command that runs inside the sandbox of a slot, in folder dir, with the components' folders in PATH.
func Enter(s slot.Slot, dir string, argv ...string) (*exec.Cmd, error) {
	spec, err := readSpec(s.State())
	if err != nil {
		return nil, fmt.Errorf("slot %d is not up: %w", s.Number, err)
	}
	pid, err := PID1(s)
	if err != nil {
		return nil, err
	}
	args := []string{"-t", strconv.Itoa(pid), "-n", "-m", "-p", "-u", "-i", "--wdns=" + dir, "--"}
	cmd := exec.Command("nsenter", append(args, argv...)...)
	cmd.Env = append(os.Environ(), "PATH="+spec.Path, "KUBECONFIG="+s.State("admin.conf"))
	return cmd, nil
}

// PID1 returns the first process of a slot's sandbox as the host sees it, or an error if none runs.
func PID1(s slot.Slot) (int, error) {
	text, err := os.ReadFile(s.State("init.pid"))
	if err != nil {
		return 0, fmt.Errorf("slot %d is not up", s.Number)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil {
		return 0, fmt.Errorf("reading init.pid of slot %d: %w", s.Number, err)
	}
	line, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	if err != nil || !strings.HasPrefix(string(line), "limpet-cluster-init") {
		return 0, fmt.Errorf("slot %d is not up: its first process has ended", s.Number)
	}
	return pid, nil
}

// Down ends the sandbox of a slot, whoever keeps it, and removes what is left. It is no error if there is none.
func Down(s slot.Slot, limit time.Duration) error {
	lock, err := s.Take()
	if err != nil {
		if pid, err := PID1(s); err == nil {
			if p, err := os.FindProcess(pid); err == nil {
				p.Kill() // the keeper sees it, cleans up and releases the slot
			}
		}
		if lock, err = s.TakeWithin(limit); err != nil {
			return err
		}
	}
	defer lock.Release()
	return Sweep(s)
}
