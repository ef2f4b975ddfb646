package sandbox

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/limpet-project/limpet/test/cluster/slot"
)

// The tests run real namespaces, with a component that sleeps. They need root.
func TestMain(m *testing.M) {
	Roles(func(_ context.Context, v *Supervisor) error {
		if string(v.Spec().Boot) == `"fail"` {
			return errors.New("the counter did not come")
		}
		v.Step("starting")
		return v.Run("counter", "sleep", "1000")
	}, nil)
	os.Exit(m.Run())
}

func startSleeping(t *testing.T, boot string) (*Sandbox, slot.Slot, error) {
	t.Helper()
	s, lock, err := slot.TakeFree(t.TempDir(), 90) // far from the slots of other clusters, whose cgroups have these names
	if err != nil {
		t.Fatal(err)
	}
	b, err := Start(t.Context(), lock, Spec{Slot: s, Path: os.Getenv("PATH") + ":/usr/sbin:/sbin", Boot: []byte(boot)}, func(string) {})
	if err == nil {
		t.Cleanup(func() {
			if err := b.Stop(); err != nil {
				t.Error(err)
			}
		})
	}
	return b, s, err
}

func TestComponentsAreStoppedFrozenAndStartedThroughTheSocket(t *testing.T) {
	_, s, err := startSleeping(t, `""`)
	if err != nil {
		t.Fatal(err)
	}
	c := NewControl(s)
	state := func() Component {
		t.Helper()
		all, err := c.Components()
		if err != nil || len(all) != 1 {
			t.Fatalf("Components() = %v, %v, want one", all, err)
		}
		return all[0]
	}
	first := state().Pid
	for _, step := range []struct {
		name string
		act  func(string) error
		runs bool
	}{{"freeze", c.Freeze, true}, {"thaw", c.Thaw, true}, {"stop", c.Stop, false}, {"start", c.Start, true}, {"kill", c.Kill, false}} {
		if err := step.act("counter"); err != nil {
			t.Errorf("%s: %v", step.name, err)
		}
		if got := state(); (got.Pid != 0) != step.runs || (got.Ended == "") != step.runs {
			t.Errorf("after %s: %+v, want running %v", step.name, got, step.runs)
		}
	}
	if err := c.Stop("counter"); err == nil || !strings.Contains(err.Error(), "not running") {
		t.Errorf("Stop of a stopped component = %v, want that it is not running", err)
	}
	if err := c.Start("counter"); err != nil || state().Pid == first {
		t.Errorf("Start = %v with process %d, want a process other than %d", err, state().Pid, first)
	}
	if err := c.Stop("gateway"); err == nil || !strings.Contains(err.Error(), `no component "gateway"`) {
		t.Errorf("Stop(gateway) = %v, want that there is none", err)
	}
}

func TestTheHostsNetworkAndSysctlsAreOutOfReach(t *testing.T) {
	_, s, err := startSleeping(t, `""`)
	if err != nil {
		t.Fatal(err)
	}
	inside := func(argv ...string) string {
		t.Helper()
		cmd, err := Enter(s, "/", argv...)
		if err != nil {
			t.Fatal(err)
		}
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("%v: %v: %s", argv, err, out)
		}
		return strings.TrimSpace(string(out))
	}
	if got := inside("hostname"); got != NodeName {
		t.Errorf("hostname inside = %q, want %q", got, NodeName)
	}
	if got, want := inside("sh", "-c", "ls /sys/class/net >/dev/null; ip -o -4 addr show dev eth0"), s.Node()+"/24"; !strings.Contains(got, want) {
		t.Errorf("addresses inside = %q, want %s", got, want)
	}
	before, err := os.ReadFile("/proc/sys/kernel/panic")
	if err != nil {
		t.Fatal(err)
	}
	inside("sh", "-c", "echo 77 > /proc/sys/kernel/panic")
	if after, err := os.ReadFile("/proc/sys/kernel/panic"); err != nil || string(after) != string(before) {
		t.Errorf("kernel.panic = %q, %v after a process inside set it, want %q", after, err, before)
	}
}

func TestAFailedBootSaysWhyAndFreesTheSlot(t *testing.T) {
	_, s, err := startSleeping(t, `"fail"`)
	if err == nil || !strings.Contains(err.Error(), "the counter did not come") {
		t.Fatalf("Start = %v, want why it failed", err)
	}
	lock, err := s.Take()
	if err != nil {
		t.Fatalf("Take() after a failed start: %v", err)
	}
	lock.Release()
	if _, err := os.Stat(fmt.Sprintf("/sys/fs/cgroup/memory/%s", s.Cgroup())); !os.IsNotExist(err) {
		t.Errorf("the slot's cgroup is left (%v)", err)
	}
}
