package lifecycle

import (
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// An observation is what a cluster must leave as it was. Other programs of the machine may run meanwhile, so it holds only what
// they do not change, or what can be told to be a cluster's.
type observation struct {
	processes  map[string]bool // command lines of processes that a cluster could have started
	namespaces map[string]bool // network and process namespaces of those
	mounts     map[string]bool
	cgroups    map[string]bool
	sysctls    map[string]string
	network    map[string]string // interfaces, addresses, routes and rules
}

func observe(t *testing.T) observation {
	t.Helper()
	o := observation{
		processes: map[string]bool{}, namespaces: map[string]bool{}, mounts: map[string]bool{}, cgroups: map[string]bool{},
		sysctls: map[string]string{}, network: map[string]string{},
	}
	o.observeProcesses(t)
	text, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		o.mounts[line] = true
	}
	err = filepath.WalkDir("/sys/fs/cgroup", func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.IsDir() && strings.Contains(path, "/limpet-") {
			o.cgroups[path] = true
		}
		return nil // another program's cgroup may go meanwhile
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{
		"kernel/panic", "kernel/panic_on_oops", "vm/overcommit_memory", "vm/panic_on_oom", "kernel/keys/root_maxkeys",
		"kernel/keys/root_maxbytes", "net/ipv4/ip_forward", "net/ipv4/conf/all/rp_filter", "net/ipv4/conf/default/rp_filter",
		"net/ipv4/conf/all/route_localnet", "net/netfilter/nf_conntrack_max", "kernel/hostname",
	} {
		if value, err := os.ReadFile("/proc/sys/" + name); err == nil { // some kernels lack some
			o.sysctls[name] = string(value)
		}
	}
	for _, command := range []string{"ip -o link", "ip -o addr", "ip route show table all", "iptables-save"} {
		argv := strings.Fields(command)
		out, err := exec.Command(argv[0], argv[1:]...).Output()
		if err != nil {
			t.Fatalf("%s: %v", command, err)
		}
		o.network[command] = withoutComments(string(out))
	}
	return o
}

// observeProcesses notes the processes in other network namespaces than this one, with their namespaces.
func (o *observation) observeProcesses(t *testing.T) {
	t.Helper()
	own, err := os.Readlink("/proc/self/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	dirs, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		t.Fatal(err)
	}
	for _, dir := range dirs {
		net, err := os.Readlink(dir + "/ns/net")
		if err != nil || net == own {
			continue // ended meanwhile, or not a cluster's
		}
		line, err := os.ReadFile(dir + "/cmdline")
		if err != nil {
			continue
		}
		o.processes[filepath.Base(dir)+" "+string(line)] = true
		o.namespaces[net] = true
		if pid, err := os.Readlink(dir + "/ns/pid"); err == nil {
			o.namespaces[pid] = true
		}
	}
}

// withoutComments drops the times that iptables-save writes, and the counters.
func withoutComments(text string) string {
	var b strings.Builder
	for line := range strings.Lines(text) {
		if !strings.HasPrefix(line, "#") {
			b.WriteString(strings.Split(line, " [")[0])
		}
	}
	return b.String()
}

func compare(t *testing.T, before, after observation) {
	t.Helper()
	if diff := cmp.Diff(before, after, cmp.AllowUnexported(observation{})); diff != "" {
		t.Errorf("the machine is not as it was (-before +after):\n%s", diff)
	}
}

// empty reports whether a cgroup has no processes.
func empty(t *testing.T, dir string) bool {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(dir, "cgroup.procs"))
	return err == nil && len(text) == 0
}
