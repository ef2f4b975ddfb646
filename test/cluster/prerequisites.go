package cluster

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"

	"github.com/limpet-project/limpet/test/cluster/sandbox"
)

// A need is something that the machine must have.
type need struct {
	what    string
	pkg     string // the Debian package that brings it
	present func() bool
}

func needs() []need {
	tool := func(name, pkg string) need {
		return need{what: "command " + name, pkg: pkg, present: func() bool { return found(name) }}
	}
	all := []need{
		{what: "Linux", present: func() bool { return runtime.GOOS == "linux" }},
		{what: "root (namespaces, mounts and cgroups are made)", present: func() bool { return os.Geteuid() == 0 }},
		tool("go", ""),
		tool("iptables", "iptables"),
		tool("ip", "iproute2"),
		tool("conntrack", "conntrack"),
		tool("nsenter", "util-linux"),
		tool("gcc", "build-essential"),
		tool("pkg-config", "pkg-config"),
		{what: "libseccomp's headers", pkg: "libseccomp-dev", present: seccompHeaders},
		{what: "file system overlay", pkg: "", present: overlay},
		{what: "kernel module br_netfilter", present: bridgeFilter},
	}
	for _, c := range []string{"cpu", "cpuset", "memory", "pids"} {
		all = append(all, need{what: "cgroup controller " + c, present: func() bool { return slices.Contains(sandbox.Controllers(), c) }})
	}
	return all
}

// Missing returns nil if this machine can run a cluster, or one error that lists all it lacks and how to install it.
func Missing() error {
	loadModules()
	var lacking, packages []string
	for _, n := range needs() {
		if n.present() {
			continue
		}
		lacking = append(lacking, "  - "+n.what)
		if n.pkg != "" {
			packages = append(packages, n.pkg)
		}
	}
	if len(lacking) == 0 {
		return nil
	}
	text := "this machine cannot run a test cluster; it lacks\n" + strings.Join(lacking, "\n")
	if len(packages) > 0 {
		text += "\non Debian: apt-get install -y " + strings.Join(packages, " ")
	}
	return errors.New(text)
}

// found looks beyond PATH, which often has no sbin for people who became root.
func found(name string) bool {
	if _, err := exec.LookPath(name); err == nil {
		return true
	}
	for _, dir := range []string{"/usr/local/sbin", "/usr/sbin", "/sbin"} {
		if _, err := os.Stat(filepath.Join(dir, name)); err == nil {
			return true
		}
	}
	return false
}

func seccompHeaders() bool {
	return exec.Command("pkg-config", "--exists", "libseccomp").Run() == nil
}

func overlay() bool {
	text, err := os.ReadFile("/proc/filesystems")
	return err == nil && strings.Contains(string(text), "\toverlay\n")
}

func bridgeFilter() bool {
	_, err := os.Stat("/proc/sys/net/bridge/bridge-nf-call-iptables")
	return err == nil
}

// loadModules loads the kernel modules that are missing, if they are modules. Whether it worked is checked afterwards.
func loadModules() {
	if overlay() && bridgeFilter() {
		return
	}
	for _, m := range []string{"overlay", "br_netfilter"} {
		exec.Command("modprobe", m).Run()
	}
}

// checkout returns the root of the checkout that the working directory is in.
func checkout() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for {
		if _, err := os.Stat(filepath.Join(dir, "test", "cluster", "tools")); err == nil {
			return dir, nil
		}
		parent := filepath.Dir(dir)
		if parent == dir {
			return "", fmt.Errorf("not inside a checkout of Limpet: no folder above has test/cluster/tools")
		}
		dir = parent
	}
}
