// Package lifecycle tests the test cluster from outside: how fast it comes, that several run side by side, and that nothing of one
// is left. Its tests run in the machine's own namespaces, as root.
package lifecycle

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/limpet-project/limpet/test/cluster"
	"github.com/limpet-project/limpet/test/cluster/sandbox"
	"github.com/limpet-project/limpet/test/cluster/slot"
)

// keeperVariable makes this test binary a keeper of the tier that it names.
const keeperVariable = "LIMPET_TEST_KEEPER"

// patience is how long the end of a cluster may take on a slow or busy machine.
const patience = 3 * time.Minute

func TestMain(m *testing.M) {
	cluster.Reexec()
	if tier := os.Getenv(keeperVariable); tier != "" {
		if err := keep(tier); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	if err := cluster.Missing(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(m.Run())
}

// keep starts a cluster, says in which slot, and ends it on a signal.
func keep(name string) error {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	tier, err := cluster.ParseTier(name)
	if err != nil {
		return err
	}
	c, err := cluster.Keep(ctx, cluster.Options{Tier: tier, Progress: os.Stderr})
	if err != nil {
		return err
	}
	fmt.Println(c.Slot.Number)
	return c.Wait(ctx)
}

// A keeper is a process of this test binary that keeps a cluster.
type keeper struct {
	cmd  *exec.Cmd
	slot slot.Slot
}

// startKeeper returns when the cluster is up. Whatever the test does, the cluster is gone after it.
func startKeeper(t *testing.T, tier cluster.Tier) *keeper {
	t.Helper()
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), keeperVariable+"="+tier.String())
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Signal(syscall.SIGTERM) // fails only if it has ended
		cmd.Wait()
	})
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatalf("the keeper of tier %s ended before its cluster was up", tier)
	}
	number, err := strconv.Atoi(strings.TrimSpace(line))
	if err != nil {
		t.Fatal(err)
	}
	a, err := cluster.NewArtifacts()
	if err != nil {
		t.Fatal(err)
	}
	s, err := slot.New(a.Dir(), number)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { sandbox.Down(s, patience) })
	return &keeper{cmd, s}
}

func (k *keeper) kubectl(t *testing.T, args ...string) string {
	t.Helper()
	cmd, err := sandbox.Enter(k.slot, "/", append([]string{"kubectl"}, args...)...)
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("kubectl %s: %v: %s", strings.Join(args, " "), err, out)
	}
	return strings.TrimSpace(string(out))
}

func TestTheControlTierIsUpWithinFiveSeconds(t *testing.T) {
	if err := build(); err != nil {
		t.Fatal(err)
	}
	const limit = 5 * time.Second
	var times []time.Duration
	for range 15 { // a busy machine may be slow for a minute; a slow start is slow each time
		began := time.Now()
		c, err := cluster.Keep(t.Context(), cluster.Options{Tier: cluster.Control})
		if err != nil {
			t.Fatal(err)
		}
		took := time.Since(began)
		if err := c.Stop(); err != nil {
			t.Fatal(err)
		}
		times = append(times, took.Round(time.Millisecond))
		if took <= limit {
			t.Logf("up after %v", times)
			return
		}
	}
	t.Errorf("tier control was up after %v, want one within %v", times, limit)
}

func build() error {
	a, err := cluster.NewArtifacts()
	if err != nil {
		return err
	}
	return a.BuildAll(context.Background(), os.Stderr)
}

func TestDownLeavesTheMachineAsItWas(t *testing.T) {
	if err := build(); err != nil { // files of the cache are to stay
		t.Fatal(err)
	}
	before := observe(t)
	k := startKeeper(t, cluster.Node)
	k.kubectl(t, "wait", "--for=condition=Available", "deployment/coredns", "-n", "kube-system", "--timeout=180s")
	if during := observe(t).of(k.slot); len(during.cgroups) == 0 || len(during.processes) == 0 {
		t.Fatal("observe sees no cgroup or no process of a running cluster, so this test could not fail")
	}
	if err := sandbox.Down(k.slot, patience); err != nil {
		t.Fatal(err)
	}
	k.cmd.Wait()
	compare(t, k.slot, before, observe(t))
	if _, err := os.Stat(k.slot.State()); !os.IsNotExist(err) {
		t.Errorf("the state folder of the slot is left (%v)", err)
	}
}

func TestKillingTheKeeperLeavesNothing(t *testing.T) {
	before := observe(t)
	k := startKeeper(t, cluster.Node)
	if err := k.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	k.cmd.Wait()
	// The keeper's death is told at once; the kernel ends the processes inside and their mounts a moment later.
	lock, err := k.slot.TakeWithin(patience)
	if err != nil {
		t.Fatal(err)
	}
	lock.Release()
	running := func() (all []string) {
		left := observe(t).of(k.slot)
		return append(left.processes, slices.DeleteFunc(left.cgroups, func(dir string) bool { return empty(t, dir) })...)
	}
	deadline := time.Now().Add(patience)
	for len(running()) > 0 && time.Now().Before(deadline) {
		time.Sleep(20 * time.Millisecond) // waits for a condition of the kernel, which nothing announces
	}
	if left := running(); len(left) > 0 {
		t.Errorf("processes, or cgroups with processes, are left: %q", left)
	}
	if err := sandbox.Down(k.slot, patience); err != nil { // removes the empty cgroups
		t.Fatal(err)
	}
	compare(t, k.slot, before, observe(t))
}

func TestTwoSlotsRunAtOnce(t *testing.T) {
	one, two := startKeeper(t, cluster.Node), startKeeper(t, cluster.Node)
	if one.slot.Number == two.slot.Number {
		t.Fatalf("both clusters are in slot %d", one.slot.Number)
	}
	addresses := map[string]bool{}
	for _, k := range []*keeper{one, two} {
		name := fmt.Sprintf("only-in-%d", k.slot.Number)
		k.kubectl(t, "create", "namespace", name)
		pods := strings.Fields(k.kubectl(t, "get", "pods", "-A", "-o", "jsonpath={.items[*].status.podIP}"))
		if len(pods) == 0 {
			t.Errorf("slot %d runs no pod", k.slot.Number)
		}
		for _, ip := range append(pods, k.slot.Node()) {
			if addresses[ip] {
				t.Errorf("both clusters have address %s", ip)
			}
			addresses[ip] = true
		}
	}
	if got := one.kubectl(t, "get", "namespaces", "-o", "name"); strings.Contains(got, fmt.Sprintf("only-in-%d", two.slot.Number)) {
		t.Errorf("slot %d sees a namespace of slot %d: %s", one.slot.Number, two.slot.Number, got)
	}
	if err := sandbox.Down(one.slot, patience); err != nil {
		t.Fatal(err)
	}
	if got := two.kubectl(t, "get", "--raw", "/readyz"); got != "ok" {
		t.Errorf("readyz of slot %d after the end of slot %d = %q, want ok", two.slot.Number, one.slot.Number, got)
	}
}

func TestASlotIsTakenOnce(t *testing.T) {
	k := startKeeper(t, cluster.Control)
	_, err := cluster.Keep(t.Context(), cluster.Options{Slot: &k.slot.Number})
	if err == nil || !strings.Contains(err.Error(), "in use by process "+strconv.Itoa(k.cmd.Process.Pid)) {
		t.Errorf("Keep(slot %d) = %v, want that it is in use by process %d", k.slot.Number, err, k.cmd.Process.Pid)
	}
}

func TestAFailedStartSaysWhyAndLeavesNothing(t *testing.T) {
	a, err := cluster.NewArtifacts()
	if err != nil {
		t.Fatal(err)
	}
	s, lock, err := slot.TakeFree(a.Dir(), 50) // where clusters that look for a place find one before
	if err != nil {
		t.Fatal(err)
	}
	lock.Release()
	before := observe(t)
	ctx, cancel := context.WithCancel(t.Context())
	_, err = cluster.Keep(ctx, cluster.Options{Tier: cluster.Control, Slot: &s.Number, Progress: cancelAfterFirst{cancel}})
	if err == nil || !strings.Contains(err.Error(), context.Canceled.Error()) {
		t.Errorf("Keep with a cancelled context = %v, want that it was cancelled", err)
	}
	compare(t, s, before, observe(t))
}

// cancelAfterFirst cancels when the first progress is written.
type cancelAfterFirst struct{ cancel func() }

func (c cancelAfterFirst) Write(b []byte) (int, error) {
	c.cancel()
	return io.Discard.Write(b)
}
