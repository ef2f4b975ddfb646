package sandbox

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/limpet-project/limpet/test/cluster/slot"
)

// NodeName is the name of the cluster's node.
const NodeName = "node-00001"

// tunables are sysctls of the whole machine that a kubelet sets. Files with the values it wants hide them from it.
var tunables = map[string]string{
	"kernel/panic": "10", "kernel/panic_on_oops": "1", "vm/overcommit_memory": "1", "vm/panic_on_oom": "0",
	"kernel/keys/root_maxkeys": "1000000", "kernel/keys/root_maxbytes": "25000000",
}

// furnish prepares mounts and network of the new namespaces.
func furnish(s slot.Slot) error {
	if err := unix.Sethostname([]byte(NodeName)); err != nil {
		return fmt.Errorf("setting the host name: %w", err)
	}
	mounts := []struct {
		source, target, kind string
		flags                uintptr
	}{
		{"", "/", "", unix.MS_REC | unix.MS_PRIVATE}, // nothing mounted here is seen outside
		{"proc", "/proc", "proc", unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC},
		{"tmpfs", "/run", "tmpfs", unix.MS_NOSUID},
		{s.State("log"), "/var/log", "", unix.MS_BIND},
	}
	for _, m := range mounts {
		if err := unix.Mount(m.source, m.target, m.kind, m.flags, ""); err != nil {
			return fmt.Errorf("mounting %s: %w", m.target, err)
		}
	}
	for _, dir := range []string{"/run/lock", "/run/netns", "/run/containerd"} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
	}
	if err := hideTunables(); err != nil {
		return err
	}
	return connect(s)
}

func hideTunables() error {
	const dir = "/run/sysctl"
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	for name, value := range tunables {
		file := filepath.Join(dir, strings.ReplaceAll(name, "/", "."))
		if err := os.WriteFile(file, []byte(value+"\n"), 0o644); err != nil {
			return err
		}
		if err := unix.Mount(file, "/proc/sys/"+name, "", unix.MS_BIND, ""); err != nil {
			return fmt.Errorf("hiding sysctl %s: %w", name, err)
		}
	}
	return nil
}

// connect gives the node its address, on a pair of interfaces that both stay inside. The default route leads to nowhere: it
// exists because pods and Services are routed only if one does.
func connect(s slot.Slot) error {
	commands := [][]string{
		{"link", "set", "lo", "up"},
		{"link", "add", "eth0", "type", "veth", "peer", "name", "eth0p"},
		{"link", "set", "eth0p", "up"},
		{"addr", "add", s.Node() + "/24", "dev", "eth0"},
		{"link", "set", "eth0", "up"},
		{"route", "add", "default", "via", s.Gateway()},
	}
	for _, args := range commands {
		if out, err := exec.Command("ip", args...).CombinedOutput(); err != nil {
			return fmt.Errorf("ip %s: %w: %s", strings.Join(args, " "), err, out)
		}
	}
	for name, value := range map[string]string{ // all of them belong to the network namespace
		"ipv4/ip_forward": "1", "ipv4/conf/all/rp_filter": "0", "ipv4/conf/default/rp_filter": "0", "bridge/bridge-nf-call-iptables": "1",
	} {
		if err := os.WriteFile("/proc/sys/net/"+name, []byte(value), 0o644); err != nil {
			return fmt.Errorf("setting a network option (is the module br_netfilter loaded?): %w", err)
		}
	}
	return nil
}
