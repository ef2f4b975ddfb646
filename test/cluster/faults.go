package cluster

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/util/retry"

	"github.com/limpet-project/limpet/test/cluster/plane"
)

// KillContainer ends the processes of a container at once, as a crash does, and returns when they are gone: on a busy machine a killed process
// answers for a moment. The kubelet starts the container again.
func (e *Env) KillContainer(pod, container string) {
	e.t.Helper()
	pids := e.signal(pod, container, syscall.SIGKILL)
	e.WaitFor(time.Minute, "the end of the processes of "+pod, func(context.Context) error {
		for _, pid := range pids {
			if err := syscall.Kill(pid, 0); !errors.Is(err, syscall.ESRCH) {
				return fmt.Errorf("process %d is there (%v)", pid, err)
			}
		}
		return nil
	})
}

// FreezeContainer stops the processes of a container where they are: connections stay open and nothing answers. It returns
// what lets them go on, which also happens at the end of the test.
func (e *Env) FreezeContainer(pod, container string) (thaw func()) {
	e.t.Helper()
	pids := e.signal(pod, container, syscall.SIGSTOP)
	return e.undo(func() error {
		for _, pid := range pids {
			if err := syscall.Kill(pid, syscall.SIGCONT); err != nil && !errors.Is(err, syscall.ESRCH) {
				return fmt.Errorf("letting process %d go on: %w", pid, err)
			}
		}
		return nil
	})
}

func (e *Env) signal(pod, container string, s syscall.Signal) []int {
	e.t.Helper()
	pids, err := e.processes(e.t.Context(), pod, container)
	if err != nil {
		e.t.Fatal(err)
	}
	for _, pid := range pids {
		if err := syscall.Kill(pid, s); err != nil && !errors.Is(err, syscall.ESRCH) {
			e.t.Fatalf("signalling process %d of %s: %v", pid, pod, err)
		}
	}
	return pids
}

// processes returns the processes of a running container, which are those in the cgroup of its id.
func (e *Env) processes(ctx context.Context, pod, container string) ([]int, error) {
	p, err := e.CoreV1().Pods(e.Namespace).Get(ctx, pod, metav1.GetOptions{})
	if err != nil {
		return nil, err
	}
	id := ""
	for _, s := range p.Status.ContainerStatuses {
		if s.Name == container && s.State.Running != nil {
			_, id, _ = strings.Cut(s.ContainerID, "://")
		}
	}
	if id == "" {
		return nil, fmt.Errorf("container %s of pod %s does not run", container, pod)
	}
	files, err := filepath.Glob("/proc/[0-9]*/cgroup")
	if err != nil {
		return nil, err
	}
	var pids []int
	for _, f := range files {
		text, err := os.ReadFile(f)
		if err != nil || !strings.Contains(string(text), "/"+id) {
			continue // ended meanwhile, or another's
		}
		if pid, err := strconv.Atoi(strings.Split(f, "/")[2]); err == nil {
			pids = append(pids, pid)
		}
	}
	if len(pids) == 0 {
		return nil, fmt.Errorf("container %s of pod %s has no process", container, pod)
	}
	return pids, nil
}

// StopKubelet ends the kubelet in order; pods go on without it. It returns what starts it again, which also happens at the end of the test.
func (e *Env) StopKubelet() (start func()) {
	e.t.Helper()
	return e.stopComponent(plane.Kubelet)
}

// StopComponent ends a component in order ("kube-controller-manager"). It returns what starts it again, which also happens at the
// end of the test.
func (e *Env) StopComponent(name string) (start func()) {
	e.t.Helper()
	return e.stopComponent(name)
}

func (e *Env) stopComponent(name string) func() {
	e.t.Helper()
	if err := e.control.Stop(name); err != nil {
		e.t.Fatal(err)
	}
	return e.undo(func() error { return e.control.Start(name) })
}

// FreezeComponent stops a component's process where it is. It returns what lets it go on, which also happens at the end of the test.
func (e *Env) FreezeComponent(name string) (thaw func()) {
	e.t.Helper()
	if err := e.control.Freeze(name); err != nil {
		e.t.Fatal(err)
	}
	return e.undo(func() error { return e.control.Thaw(name) })
}

// RestartAPIServer kills the API server, starts it again and waits until it is ready. All watches break.
func (e *Env) RestartAPIServer() {
	e.t.Helper()
	if err := errors.Join(e.control.Kill(plane.APIServer), e.control.Start(plane.APIServer)); err != nil {
		e.t.Fatal(err)
	}
	e.WaitFor(3*time.Minute, "the restarted API server", e.Ready)
}

// CutPod drops every packet from and to a pod: nothing is refused, nothing answers. The kubelet's probes fail too. It returns what
// ends the cut, which also happens at the end of the test.
func (e *Env) CutPod(pod string) (heal func()) {
	e.t.Helper()
	p, err := e.CoreV1().Pods(e.Namespace).Get(e.t.Context(), pod, metav1.GetOptions{})
	if err != nil {
		e.t.Fatal(err)
	}
	if p.Status.PodIP == "" {
		e.t.Fatalf("CutPod(%s): the pod has no address", pod)
	}
	return e.Partition(p.Status.PodIP)
}

// Partition drops every packet from and to an address ("10.250.16.7"), or the TCP packets of a port of it ("10.250.0.1:6379"):
// a Redis, say, as a pod or as a process on the node. It returns what ends the partition, which also happens at the end of the test.
func (e *Env) Partition(address string) (heal func()) {
	e.t.Helper()
	host, port := address, ""
	if h, p, err := net.SplitHostPort(address); err == nil {
		host, port = h, p
	}
	rules := partitionRules(host, port)
	for _, r := range rules {
		if err := iptables("-I", r); err != nil {
			e.t.Fatal(err)
		}
	}
	return e.undo(func() error {
		var errs []error
		for _, r := range rules {
			errs = append(errs, iptables("-D", r))
		}
		return errors.Join(errs...)
	})
}

// partitionRules drop what goes to a place after addresses of Services have been replaced by those of pods, and what comes
// from it before that.
func partitionRules(host, port string) [][]string {
	to, from := []string{"-d", host}, []string{"-s", host}
	if port != "" {
		to = append(to, "-p", "tcp", "--dport", port)
		from = append(from, "-p", "tcp", "--sport", port)
	}
	var rules [][]string
	for _, r := range []struct {
		chain string
		match []string
	}{{"INPUT", to}, {"POSTROUTING", to}, {"PREROUTING", from}, {"OUTPUT", from}} {
		rules = append(rules, append(append([]string{r.chain}, r.match...), "-j", "DROP"))
	}
	return rules
}

func iptables(action string, rule []string) error {
	args := append([]string{"-w", "60", "-t", "mangle", action}, rule...)
	if out, err := exec.Command("iptables", args...).CombinedOutput(); err != nil {
		return fmt.Errorf("iptables %s: %w: %s", strings.Join(args, " "), err, out)
	}
	return nil
}

// DeleteEndpoints deletes the EndpointSlices of the test's namespace that have endpoints on the node, as when they are lost, and
// returns how many. The controller makes them anew.
func (e *Env) DeleteEndpoints() int {
	e.t.Helper()
	slices := e.DiscoveryV1().EndpointSlices(e.Namespace)
	list, err := slices.List(e.t.Context(), metav1.ListOptions{})
	if err != nil {
		e.t.Fatal(err)
	}
	deleted := 0
	for _, s := range list.Items {
		if len(s.Endpoints) == 0 {
			continue
		}
		if err := slices.Delete(e.t.Context(), s.Name, metav1.DeleteOptions{}); err != nil {
			e.t.Fatal(err)
		}
		deleted++
	}
	return deleted
}

// Cordon keeps new pods from the node. It returns what ends that, which also happens at the end of the test.
func (e *Env) Cordon() (uncordon func()) {
	e.t.Helper()
	if err := e.setUnschedulable(true); err != nil {
		e.t.Fatal(err)
	}
	return e.undo(func() error { return e.setUnschedulable(false) })
}

func (e *Env) setUnschedulable(value bool) error {
	ctx := context.WithoutCancel(e.t.Context())
	return retry.RetryOnConflict(retry.DefaultRetry, func() error {
		nodes, err := e.CoreV1().Nodes().List(ctx, metav1.ListOptions{})
		if err != nil {
			return err
		}
		for i := range nodes.Items {
			var n *corev1.Node = &nodes.Items[i]
			n.Spec.Unschedulable = value
			if _, err := e.CoreV1().Nodes().Update(ctx, n, metav1.UpdateOptions{}); err != nil {
				return err
			}
		}
		return nil
	})
}

// undo returns a function that runs f once, and runs it at the end of the test if it has not been called. A fault that cannot be
// undone fails the test, because the tests after it share the cluster.
func (e *Env) undo(f func() error) func() {
	done := false
	once := func() {
		if done {
			return
		}
		done = true
		if err := f(); err != nil {
			e.t.Errorf("undoing a fault: %v", err)
		}
	}
	e.t.Cleanup(once)
	return once
}
