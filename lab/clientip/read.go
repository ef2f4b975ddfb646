package clientip

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"strconv"
	"strings"
)

// Files names what was copied from a node. Each is optional, as long as rules of kube-proxy are among them.
type Files struct {
	IPTables       []string // output of iptables-save and ip6tables-save
	NFTables       []string // output of nft -j list ruleset
	Recent         string   // a copy of the directory /proc/net/xt_recent
	TimerList      string   // a copy of /proc/timer_list, of the same moment
	Uptime         string   // a copy of /proc/uptime, of the same moment
	Conntrack      []string // output of conntrack -L
	EndpointSlices []string // output of kubectl get endpointslices -o json or yaml; it may be given for a live node too

	Jiffies   uint64 // instead of TimerList
	HZ        int    // instead of Uptime
	ListTotal int    // ip_list_tot of xt_recent; 0 is DefaultListTotal
	NoFlows   bool   // leaves this machine's table of connections alone, so that stale flows are not known
}

// live reports whether no file of a node is named.
func (f Files) live() bool {
	return len(f.IPTables)+len(f.NFTables)+len(f.Conntrack) == 0 && f.Recent == ""
}

// An input is something to read, once.
type input struct {
	name string
	open func() (io.ReadCloser, error)
}

func (in input) read(parse func(name string, r io.Reader) error) error {
	r, err := in.open()
	if err != nil {
		return fmt.Errorf("reading %s: %w", in.name, err)
	}
	err = parse(in.name, r)
	return errors.Join(err, r.Close())
}

func files(names []string) []input {
	var all []input
	for _, name := range names {
		all = append(all, file(name))
	}
	return all
}

func file(name string) input {
	return input{name, func() (io.ReadCloser, error) { return os.Open(name) }}
}

// command is what a program prints. It ends with the context, and its Close reports how it ended.
func command(ctx context.Context, name string, args ...string) input {
	return input{strings.Join(append([]string{name}, args...), " "), func() (io.ReadCloser, error) {
		cmd := exec.CommandContext(ctx, name, args...)
		p := &process{cmd: cmd}
		cmd.Stderr = &p.stderr
		out, err := cmd.StdoutPipe()
		if err != nil {
			return nil, err
		}
		p.Reader = out
		return p, cmd.Start()
	}}
}

type process struct {
	io.Reader
	cmd    *exec.Cmd
	stderr head
}

// Close reads what is left, so that the program can end, and waits for it.
func (p *process) Close() error {
	_, err := io.Copy(io.Discard, p.Reader)
	if ended := p.cmd.Wait(); ended != nil {
		return fmt.Errorf("%s: %w: %s", p.cmd, ended, clip(strings.TrimSpace(string(p.stderr))))
	}
	return err
}

// A head keeps the beginning of what is written to it: a program's first complaint is the cause of the others.
type head []byte

func (h *head) Write(p []byte) (int, error) {
	*h = append(*h, p[:min(len(p), 1024-len(*h))]...)
	return len(p), nil
}

// A reader puts a Node together.
type reader struct {
	node                     *Node
	iptables, nft, conntrack []input
	recent                   string
	timerList, uptime        input
	files                    Files
}

// Read reads a Node from the files, or from the machine that it runs on if they name none of a node's, for which it has to be root. In
// a network namespace it reads that one's rules. The context ends the programs that it runs.
func (f Files) Read(ctx context.Context) (*Node, error) {
	r := &reader{node: &Node{Lists: map[string]List{}}, files: f}
	if f.live() {
		r.liveInputs(ctx)
	} else {
		r.iptables, r.nft, r.conntrack, r.recent = files(f.IPTables), files(f.NFTables), files(f.Conntrack), f.Recent
		r.timerList, r.uptime = file(f.TimerList), file(f.Uptime)
	}
	for _, step := range []func() error{r.readRules, r.readLists, r.readClock, r.readSlices, r.readFlows} {
		if err := step(); err != nil {
			return nil, err
		}
	}
	return r.node, nil
}

// procRecent has the lists of the network namespace of this thread; /proc/net has those of the process.
const procRecent = "/proc/thread-self/net/xt_recent"

// liveInputs are the programs that this machine has, and its /proc.
func (r *reader) liveInputs(ctx context.Context) {
	have := func(name string, why string) bool {
		_, err := exec.LookPath(name)
		if err != nil {
			r.node.Notes = append(r.node.Notes, name+" is not installed: "+why)
		}
		return err == nil
	}
	for _, name := range []string{"iptables-save", "ip6tables-save"} {
		if have(name, "rules of kube-proxy's iptables mode are not seen") {
			r.iptables = append(r.iptables, command(ctx, name))
		}
	}
	if have("nft", "rules of kube-proxy's nftables mode are not seen") {
		r.nft = append(r.nft, command(ctx, "nft", "-j", "list", "ruleset"))
	}
	if !r.files.NoFlows && have("conntrack", "stale flows are not seen") {
		for _, family := range []string{"ipv4", "ipv6"} {
			r.conntrack = append(r.conntrack, command(ctx, "conntrack", "-L", "-f", family))
		}
	}
	r.recent, r.timerList, r.uptime = procRecent, file("/proc/timer_list"), file("/proc/uptime")
	r.files.TimerList, r.files.Uptime = r.timerList.name, r.uptime.name
	if r.files.ListTotal == 0 {
		r.files.ListTotal = readParameter("/sys/module/xt_recent/parameters/ip_list_tot")
	}
}

// readParameter returns a parameter of a kernel module, or 0 if the module is not loaded.
func readParameter(name string) int {
	text, err := os.ReadFile(name)
	if err != nil {
		return 0
	}
	n, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil {
		return 0
	}
	return n
}

func (r *reader) readRules() error {
	n := r.node
	for _, in := range r.iptables {
		if err := in.read(func(name string, from io.Reader) error {
			services, err := ParseIPTables(name, from)
			n.Services = append(n.Services, services...)
			return err
		}); err != nil {
			return err
		}
	}
	for _, in := range r.nft {
		if err := in.read(func(name string, from io.Reader) error {
			services, lists, err := ParseNFTables(name, from)
			n.Services = append(n.Services, services...)
			n.addLists(lists)
			return err
		}); err != nil {
			return err
		}
	}
	if len(n.Services) == 0 {
		return errors.New("looking for kube-proxy's rules: there are none, expected chains KUBE-SVC-… or tables kube-proxy with Services")
	}
	return nil
}

// readLists reads the lists of xt_recent that the rules name. A name cannot lead out of the directory.
func (r *reader) readLists() error {
	names := r.node.recentNames()
	if len(names) == 0 {
		return nil
	}
	if r.recent == "" {
		r.node.Notes = append(r.node.Notes, "no copy of /proc/net/xt_recent was given: which clients are stuck is not seen")
		return nil
	}
	dir, err := os.OpenRoot(r.recent)
	if err != nil {
		return fmt.Errorf("reading the lists of clients: %w", err)
	}
	defer dir.Close()
	limit := r.files.ListTotal
	if limit == 0 {
		limit = DefaultListTotal
	}
	missing := 0
	for _, name := range names {
		l := List{Limit: limit}
		err := input{r.recent + "/" + name, func() (io.ReadCloser, error) { return dir.Open(name) }}.read(
			func(name string, from io.Reader) (err error) {
				l.Entries, err = ParseRecent(name, from)
				return err
			})
		switch {
		case errors.Is(err, fs.ErrNotExist):
			missing++
			continue
		case err != nil:
			return err
		}
		r.node.Lists[name] = l
	}
	if missing > 0 {
		r.node.Notes = append(r.node.Notes,
			fmt.Sprintf("%d of %d lists that rules name are not in %s: their clients are not seen", missing, len(names), r.recent))
	}
	return nil
}

// readClock finds out what time the kernel's lists had when they were read, which is now when this machine is read.
func (r *reader) readClock() error {
	clock := Clock{Jiffies: r.files.Jiffies, HZ: r.files.HZ}
	if clock.Jiffies == 0 && r.files.TimerList != "" {
		if err := r.timerList.read(func(name string, from io.Reader) (err error) {
			clock.Jiffies, err = ParseTimerList(name, from)
			return err
		}); err != nil && (!r.files.live() || !errors.Is(err, fs.ErrNotExist)) {
			return err
		}
	}
	if clock.HZ == 0 && clock.Jiffies != 0 && r.files.Uptime != "" {
		if err := r.uptime.read(func(name string, from io.Reader) error {
			uptime, err := ParseUptime(name, from)
			clock.HZ = FindHZ(clock.Jiffies, uptime)
			return err
		}); err != nil {
			return err
		}
	}
	if clock.Jiffies != 0 && clock.HZ != 0 {
		r.node.Clock = clock
	} else if r.node.hasRecent() {
		r.node.Notes = append(r.node.Notes, "the node's jiffies or their rate are not known, so neither is which entries of lists "+
			"have expired: give /proc/timer_list and /proc/uptime, copied with the lists, or the rate (CONFIG_HZ)")
	}
	return nil
}

func (r *reader) readSlices() error {
	for _, in := range files(r.files.EndpointSlices) {
		if r.node.Slices == nil {
			r.node.Slices = Slices{}
		}
		if err := in.read(r.node.Slices.ParseSlices); err != nil {
			return err
		}
	}
	return nil
}

func (r *reader) readFlows() error {
	index := r.node.indexFlows()
	for _, in := range r.conntrack {
		if err := in.read(func(name string, from io.Reader) error { return ReadFlows(name, from, index.add) }); err != nil {
			return err
		}
	}
	return nil
}
