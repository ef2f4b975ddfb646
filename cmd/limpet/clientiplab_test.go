package main

import (
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/limpet-project/limpet/lab/experiment"
	"github.com/limpet-project/limpet/lab/testbed"
	"github.com/limpet-project/limpet/node/nodetest"
)

// A labProcess is limpet clientip lab as a process of its own.
type labProcess struct {
	*exec.Cmd
	out, log lockedBuffer
	ended    chan struct{}
}

func startLab(t *testing.T, args ...string) *labProcess {
	t.Helper()
	if err := testbed.Missing(); err != nil {
		t.Skip(err)
	}
	p := &labProcess{Cmd: limpet(append([]string{"clientip", "lab"}, args...)...), ended: make(chan struct{})}
	p.Stdout, p.Stderr = &p.out, &p.log
	p.Dir = t.TempDir()
	// The state is another gateway's: the lab's own keeps nothing. Files for a moment are those of this lab alone.
	p.Env = append(os.Environ(), "LIMPET_STATE="+p.Dir, "TMPDIR="+p.Dir)
	if err := startProcess(p.Cmd); err != nil {
		t.Fatal(err)
	}
	go func() { defer close(p.ended); _ = p.Wait() }() // its exit code is looked at where it matters
	t.Cleanup(func() {
		_ = p.Process.Kill() // it may have ended
		<-p.ended
	})
	return p
}

// children returns the processes that a process has started and that run.
func children(pid int) []int {
	var list []int
	stats, _ := filepath.Glob("/proc/[0-9]*/stat") // the pattern is right
	for _, name := range stats {
		child, _ := strconv.Atoi(filepath.Base(filepath.Dir(name)))
		if parent, state := parentOf(child); parent == pid && state != "Z" {
			list = append(list, child)
		}
	}
	return list
}

// parentOf returns the parent of a process and its state, or 0 if it has ended.
func parentOf(pid int) (parent int, state string) {
	text, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return 0, ""
	}
	fields := strings.Fields(string(text[strings.LastIndexByte(string(text), ')')+1:])) // state, parent, …
	parent, _ = strconv.Atoi(fields[1])
	return parent, fields[0]
}

// namespaces returns the network namespaces that a process is in, but for this one's.
func namespaces(t *testing.T, pid int) []string {
	t.Helper()
	mine, err := os.Readlink("/proc/self/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	tasks, _ := filepath.Glob("/proc/" + strconv.Itoa(pid) + "/task/*/ns/net") // the pattern is right
	var list []string
	for _, task := range tasks {
		if n, err := os.Readlink(task); err == nil && n != mine && !slices.Contains(list, n) {
			list = append(list, n)
		}
	}
	return list
}

// whoIsIn returns the tasks and mounts of this machine that keep one of the namespaces.
func whoIsIn(namespaces []string) []string {
	tasks, _ := filepath.Glob("/proc/[0-9]*/task/*/ns/net") // the pattern is right
	var list []string
	for _, task := range tasks {
		if n, err := os.Readlink(task); err == nil && slices.Contains(namespaces, n) {
			list = append(list, task)
		}
	}
	mounts, _ := os.ReadFile("/proc/self/mountinfo") // what cannot be read has no mounts to find
	for _, n := range namespaces {
		if strings.Contains(string(mounts), n) {
			list = append(list, "a mount of "+n)
		}
	}
	return list
}

// running waits until the lab measures with a gateway, and returns that and the namespaces.
func (p *labProcess) running(t *testing.T) (gateway int, in []string) {
	t.Helper()
	nodetest.Eventually(t, "the lab measures with limpet", func() bool {
		all := children(p.Process.Pid)
		i := slices.IndexFunc(all, func(pid int) bool {
			line, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/cmdline")
			return err == nil && strings.Contains(string(line), "\x00serve\x00")
		})
		if i >= 0 {
			gateway = all[i]
		}
		return gateway > 0
	})
	if in = namespaces(t, p.Process.Pid); len(in) < 8 { // clients, node, six endpoints
		t.Fatalf("the lab is in the namespaces %v, want 8", in)
	}
	return gateway, in
}

// checkNothingIsLeft waits until a lab and all that it made have ended.
func (p *labProcess) checkNothingIsLeft(t *testing.T, gateway int, in []string) {
	t.Helper()
	nodetest.Eventually(t, "the lab ends", func() bool {
		select {
		case <-p.ended:
			return true
		default:
			return false
		}
	})
	nodetest.Eventually(t, "nothing is in the lab's namespaces", func() bool { return len(whoIsIn(in)) == 0 })
	nodetest.Eventually(t, "the gateway ends", func() bool { // one whose parent was killed waits as a zombie for whoever takes over
		parent, state := parentOf(gateway)
		return parent == 0 || state == "Z"
	})
	if left, _ := filepath.Glob(filepath.Join(p.Dir, "*")); len(left) > 0 { // the pattern is right
		t.Errorf("files are left: %v", left)
	}
}

func TestTheLabLeavesNothingBehind(t *testing.T) {
	for _, tt := range []struct {
		signal syscall.Signal
		code   int // -1 is ended by a signal
		says   string
	}{
		{syscall.SIGINT, exitFailed, "interrupted; nothing is left of the testbed"},
		{syscall.SIGTERM, exitFailed, "interrupted; nothing is left of the testbed"},
		{syscall.SIGKILL, -1, ""},
	} {
		t.Run(tt.signal.String(), func(t *testing.T) {
			p := startLab(t, "--preset", "blackhole", "--mode", "limpet")
			gateway, in := p.running(t)
			if err := p.Process.Signal(tt.signal); err != nil {
				t.Fatal(err)
			}
			p.checkNothingIsLeft(t, gateway, in)
			if code := p.ProcessState.ExitCode(); code != tt.code || !strings.Contains(p.log.String(), tt.says) {
				t.Errorf("exit code = %d after %q, want %d and %q", code, p.log.String(), tt.code, tt.says)
			}
		})
	}
	t.Run("the gateway is killed", func(t *testing.T) {
		p := startLab(t, "--preset", "blackhole", "--mode", "limpet")
		gateway, in := p.running(t)
		if err := syscall.Kill(gateway, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		p.checkNothingIsLeft(t, gateway, in)
		if code := p.ProcessState.ExitCode(); code != exitFailed || !strings.Contains(p.log.String(), "limpet ended") {
			t.Errorf("exit code = %d after %q, want 1 and what ended", code, p.log.String())
		}
	})
}

func TestALabThatCannotStartLeavesNothingBehind(t *testing.T) {
	if err := testbed.Missing(); err != nil {
		t.Skip(err)
	}
	// Everything but nft: the namespaces are made, and loading rules into them is what goes wrong.
	dir := t.TempDir()
	for _, name := range []string{"ip", "iptables-restore", "conntrack"} {
		path, err := exec.LookPath(name)
		if err == nil {
			err = os.Symlink(path, filepath.Join(dir, name))
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "nft"), []byte("#!/bin/sh\necho no rules today >&2\nexit 3\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	program, err := exec.LookPath("limpet")
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(program, "clientip", "lab", "--cells", "10", "--mode", "iptables")
	cmd.Env = append(os.Environ(), "PATH="+dir)
	out, err := cmd.CombinedOutput()
	if err == nil || !strings.Contains(string(out), "no rules today") {
		t.Errorf("limpet clientip lab without rules: %v, %q, want an error with what nft says", err, out)
	}
}

// Every arm once, with so little that it takes seconds.
func TestTheLabMeasures(t *testing.T) {
	page := filepath.Join(t.TempDir(), "lab.html")
	p := startLab(t, "--cells", "10,20", "--runs", "8", "--queries", "200", "--seed", "4711", "--out", page, "-o", "json")
	<-p.ended
	if code := p.ProcessState.ExitCode(); code != 0 {
		t.Fatalf("exit code = %d, want 0\n%s", code, p.log.String())
	}
	var r experiment.Result
	if err := json.Unmarshal([]byte(p.out.String()), &r); err != nil {
		t.Fatal(err)
	}
	if len(r.Cells) != 10 || len(r.Verdicts) != 2 {
		t.Errorf("%d cells, %d verdicts, want 10 and 2", len(r.Cells), len(r.Verdicts))
	}
	// Of kube-proxy's 8 figures 6 lie outside with a chance of 4e-7 if all agree; were there 4, all would with one of 6e-6.
	for _, v := range r.Verdicts {
		if !v.Given || v.Invalid > 0 || len(v.Broken) > 0 || v.Chance < 1e-6 {
			t.Errorf("verdict %+v, want one that is given, no query lost and nothing that is no chance", v)
		}
	}
	if !regexp.MustCompile(`(?m)^\[10/10, about \S+ left\] Limpet: 20 clients, equal, fresh$`).MatchString(p.log.String()) {
		t.Errorf("progress = %q, want a line for each cell", p.log.String())
	}
	if text, err := os.ReadFile(page); err != nil || !strings.Contains(string(text), "<svg") {
		t.Errorf("the report has no plot, or is none: %v", err)
	}
}

func TestWrongLabsAreRefused(t *testing.T) {
	for _, tt := range []struct {
		args []string
		want string
	}{
		{[]string{"--preset", "all"}, "must be one of"},
		{[]string{"--preset", "quick", "--cells", "10"}, "expected no --preset with it"},
		{[]string{"--cells", "10:even"}, "expected CLIENTS"},
		{[]string{"--mode", "ipvs"}, "expected iptables, nftables, limpet or all"},
		{[]string{"--runs=-1"}, "--runs: got -1, expected 0 to 200"},
		{[]string{"--queries", "0"}, "--queries: got 0"},
		{[]string{"--qps", "0"}, "--qps: got 0"},
		{[]string{"--endpoints", "40", "--cells", "3"}, "1 to 32 endpoints"},
	} {
		out, err := limpet(append([]string{"clientip", "lab"}, tt.args...)...).CombinedOutput()
		var ended *exec.ExitError
		if !errors.As(err, &ended) || ended.ExitCode() != exitUsage || !strings.Contains(string(out), tt.want) {
			t.Errorf("limpet clientip lab %v = %v, %q, want exit code 2 and %q", tt.args, err, out, tt.want)
		}
	}
}
