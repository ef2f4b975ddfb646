package lifecycle

import (
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/limpet-project/limpet/test/cluster/slot"
)

// An observation is what a cluster must leave as it was. Other programs of the machine may run meanwhile, other clusters too, so it holds
// only what they do not change, or what can be told to be a slot's.
type observation struct {
	running []process // in other network namespaces than this one
	cgroups map[string]bool
	machine machine
}

// A machine is what all clusters leave as it is at all times.
type machine struct {
	mounts  map[string]bool
	sysctls map[string]string
	network map[string]string // interfaces, addresses, routes and rules
}

// A process is one that a cluster could have started.
type process struct {
	name  string // id, command line, and its network and process namespaces
	marks string // its environment and cgroups, which say of which slot it is
}

// A remainder is what there is of a slot.
type remainder struct{ processes, cgroups []string }

// of returns what belongs to a slot.
func (o observation) of(s slot.Slot) remainder {
	var r remainder
	for _, p := range o.running {
		if strings.Contains(p.marks, s.State()+"\x00") || strings.Contains(p.marks, s.Cgroup()) {
			r.processes = append(r.processes, p.name)
		}
	}
	for dir := range o.cgroups {
		if strings.Contains(dir+"/", "/"+s.Cgroup()+"/") {
			r.cgroups = append(r.cgroups, dir)
		}
	}
	return r
}

func observe(t *testing.T) observation {
	t.Helper()
	m := machine{mounts: map[string]bool{}, sysctls: map[string]string{}, network: map[string]string{}}
	o := observation{cgroups: map[string]bool{}, machine: m}
	o.observeProcesses(t)
	text, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		m.mounts[line] = true
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
			m.sysctls[name] = string(value)
		}
	}
	for _, command := range []string{"ip -o link", "ip -o addr", "ip route show table all", "iptables-save"} {
		argv := strings.Fields(command)
		out, err := exec.Command(argv[0], argv[1:]...).Output()
		if err != nil {
			t.Fatalf("%s: %v", command, err)
		}
		m.network[command] = withoutComments(string(out))
	}
	return o
}

// observeProcesses notes the processes in other network namespaces than this one.
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
		name, marks := filepath.Base(dir)+" "+net, ""
		if pid, err := os.Readlink(dir + "/ns/pid"); err == nil {
			name += " " + pid
		}
		if line, err := os.ReadFile(dir + "/cmdline"); err == nil {
			name += " " + strings.ReplaceAll(string(line), "\x00", " ")
		}
		for _, file := range []string{"/environ", "/cgroup"} { // what has ended meanwhile has none
			text, _ := os.ReadFile(dir + file)
			marks += string(text) + "\x00"
		}
		o.running = append(o.running, process{name, marks})
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

// compare checks that the machine is as it was and that nothing of a slot is left.
func compare(t *testing.T, s slot.Slot, before, after observation) {
	t.Helper()
	if diff := cmp.Diff(before.machine, after.machine, cmp.AllowUnexported(machine{})); diff != "" {
		t.Errorf("the machine is not as it was (-before +after):\n%s", diff)
	}
	if left := after.of(s); len(left.processes)+len(left.cgroups) > 0 {
		t.Errorf("of slot %d there are still processes %q and cgroups %q", s.Number, left.processes, left.cgroups)
	}
}

// empty reports whether a cgroup has no processes.
func empty(t *testing.T, dir string) bool {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(dir, "cgroup.procs"))
	return err == nil && len(text) == 0
}
