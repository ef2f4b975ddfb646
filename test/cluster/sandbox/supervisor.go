package sandbox

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"
)

// A Supervisor starts the components of a sandbox from inside. It restarts none: a component that ends is a finding. It is
// safe for concurrent use.
type Supervisor struct {
	spec    Spec
	reports *os.File

	mu         sync.Mutex
	components []*component
}

// A component is a process that may be stopped and started again. Its fields are guarded by mu of the supervisor, but for done,
// which is closed when the process ends.
type component struct {
	name string
	argv []string
	role string // not empty for a role of this executable

	process *os.Process
	done    chan struct{}
	ended   string // how, once it has
}

// A Component is the state of one, as the control socket tells it.
type Component struct {
	Name string
	// Pid is its process inside, or 0.
	Pid int
	// Ended says how it ended, if it is not running.
	Ended string `json:",omitempty"`
}

// supervise prepares the namespaces, boots, and serves the control socket until it is killed.
func supervise(spec Spec, boot func(context.Context, *Supervisor) error) error {
	v := &Supervisor{spec: spec, reports: os.NewFile(3, "reports")}
	syscall.CloseOnExec(3)
	os.Setenv("PATH", spec.Path)
	err := furnish(spec.Slot)
	if err == nil {
		err = v.listen()
	}
	if err == nil {
		err = boot(context.Background(), v)
	}
	if err != nil {
		v.report(Report{Error: err.Error()})
		return err
	}
	v.report(Report{Ready: true})
	v.reports.Close()
	select {}
}

// Spec returns what the sandbox was made with.
func (v *Supervisor) Spec() Spec { return v.spec }

// Step tells the keeper about progress.
func (v *Supervisor) Step(format string, args ...any) {
	v.report(Report{Step: fmt.Sprintf(format, args...)})
}

func (v *Supervisor) report(r Report) {
	text, err := json.Marshal(r)
	if err == nil {
		v.reports.Write(append(text, '\n')) // without a keeper this process does not exist either
	}
}

// Run starts a component for the first time. Its output goes to its log.
func (v *Supervisor) Run(name string, argv ...string) error {
	return v.add(&component{name: name, argv: argv})
}

// RunRole starts a component that is a role of this executable.
func (v *Supervisor) RunRole(name string) error { return v.add(&component{name: name, role: name}) }

func (v *Supervisor) add(c *component) error {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.components = append(v.components, c)
	return v.start(c)
}

// start is called with mu held.
func (v *Supervisor) start(c *component) error {
	log, err := os.OpenFile(v.spec.Slot.Log(c.name), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return fmt.Errorf("opening the log of %s: %w", c.name, err)
	}
	defer log.Close()
	var cmd *exec.Cmd
	if c.role != "" {
		cmd = role(c.role, v.spec.Slot)
	} else {
		cmd = exec.Command(c.argv[0], c.argv[1:]...)
	}
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("starting %s: %w", c.name, err)
	}
	c.process, c.done, c.ended = cmd.Process, make(chan struct{}), ""
	done := c.done
	go func() { // ends with the process
		cmd.Wait()
		v.mu.Lock()
		c.process, c.ended = nil, cmd.ProcessState.String()
		v.mu.Unlock()
		close(done)
	}()
	return nil
}

// Ended returns an error that names the components which are not running.
func (v *Supervisor) Ended() error {
	v.mu.Lock()
	defer v.mu.Unlock()
	var errs []error
	for _, c := range v.components {
		if c.process == nil {
			errs = append(errs, fmt.Errorf("%s ended (%s); the end of its log:\n%s", c.name, c.ended, Tail(v.spec.Slot.Log(c.name), 2000)))
		}
	}
	return errors.Join(errs...)
}

// Tail returns the end of a file, from the beginning of a line.
func Tail(path string, most int) string {
	text, err := os.ReadFile(path)
	if err != nil {
		return err.Error()
	}
	if len(text) > most {
		text = text[len(text)-most:]
		if _, rest, ok := strings.Cut(string(text), "\n"); ok {
			return rest
		}
	}
	return string(text)
}

func (v *Supervisor) listen() error {
	l, err := net.Listen("unix", v.spec.Slot.State(controlSocket))
	if err != nil {
		return fmt.Errorf("opening the control socket: %w", err)
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /components", func(w http.ResponseWriter, _ *http.Request) {
		json.NewEncoder(w).Encode(v.list())
	})
	mux.HandleFunc("POST /{action}/{name}", func(w http.ResponseWriter, r *http.Request) {
		if err := v.act(r.PathValue("action"), r.PathValue("name")); err != nil {
			http.Error(w, err.Error(), http.StatusConflict)
		}
	})
	go http.Serve(l, mux) // ends with the process
	return nil
}

func (v *Supervisor) list() []Component {
	v.mu.Lock()
	defer v.mu.Unlock()
	var all []Component
	for _, c := range v.components {
		shown := Component{Name: c.name, Ended: c.ended}
		if c.process != nil {
			shown.Pid = c.process.Pid
		}
		all = append(all, shown)
	}
	return all
}

// grace is how long a component may take to end in order.
const grace = 10 * time.Second

func (v *Supervisor) act(action, name string) error {
	v.mu.Lock()
	defer v.mu.Unlock()
	i := slices.IndexFunc(v.components, func(c *component) bool { return c.name == name })
	if i < 0 {
		return fmt.Errorf("no component %q", name)
	}
	c := v.components[i]
	if action == "start" {
		if c.process != nil {
			return fmt.Errorf("%s is running", name)
		}
		return v.start(c)
	}
	if c.process == nil {
		return fmt.Errorf("%s is not running (%s)", name, c.ended)
	}
	switch action {
	case "freeze":
		return c.process.Signal(syscall.SIGSTOP)
	case "thaw":
		return c.process.Signal(syscall.SIGCONT)
	case "stop":
		return v.end(c, syscall.SIGTERM)
	case "kill":
		return v.end(c, syscall.SIGKILL)
	}
	return fmt.Errorf("no action %q", action)
}

// end signals a component and waits for its end, with mu released meanwhile.
func (v *Supervisor) end(c *component, s syscall.Signal) error {
	p, done := c.process, c.done
	if err := p.Signal(s); err != nil {
		return fmt.Errorf("stopping %s: %w", c.name, err)
	}
	v.mu.Unlock()
	defer v.mu.Lock()
	select {
	case <-done:
	case <-time.After(grace):
		p.Kill() // fails only if it has ended
		<-done
	}
	return nil
}
