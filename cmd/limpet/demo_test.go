package main

import (
	"bufio"
	"errors"
	"net"
	"net/url"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/limpet-project/limpet/node/nodetest"
	"github.com/limpet-project/limpet/redis/redistest"
)

func TestDemoWithTwoGatewaysOnOneRedis(t *testing.T) {
	server := redistest.Start(t, redistest.Password("secret-4711"))
	u, err := url.Parse(server.URL())
	if err != nil {
		t.Fatal(err)
	}
	u.Host = net.JoinHostPort(u.Hostname(), u.Port())
	out := limpetRun(t, "demo", "--script", "--redis", u.String())
	for _, want := range []string{"behind 2 gateway(s), bindings in Redis at " + u.Host, "13 of 13 steps as expected."} {
		if !strings.Contains(out, want) {
			t.Errorf("the demo does not say %q:\n%s", want, out)
		}
	}
	if strings.Contains(out, "secret-4711") {
		t.Errorf("the demo tells the password:\n%s", out)
	}
}

// startDemo starts the demo and returns its replicas' processes. end waits for its end.
func startDemo(t *testing.T) (pid int, replicas []int, end func()) {
	t.Helper()
	cmd := limpet("demo", "--listen", "127.0.0.1:0")
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := startProcess(cmd); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() }) // it may have ended
	is := regexp.MustCompile(`^  (demo-0000\S+) is process (\d+)$`)
	lines := bufio.NewScanner(out)
	for lines.Scan() && !strings.Contains(lines.Text(), "Ctrl-C ends everything") {
		if m := is.FindStringSubmatch(lines.Text()); m != nil {
			n, _ := strconv.Atoi(m[2]) // the pattern allows digits only
			replicas = append(replicas, n)
		}
	}
	if len(replicas) != 6 {
		t.Fatalf("the demo names processes %v, want six", replicas)
	}
	return cmd.Process.Pid, replicas, func() {
		for lines.Scan() {
		}
		_ = cmd.Wait() // killed or ended in order, as the test wants
	}
}

func gone(pids []int) bool {
	for _, pid := range pids {
		if !errors.Is(syscall.Kill(pid, 0), syscall.ESRCH) {
			return false
		}
	}
	return true
}

func TestDemoLeavesNoProcess(t *testing.T) {
	for name, signal := range map[string]syscall.Signal{
		"after Ctrl-C": syscall.SIGINT, "after a kill that it cannot notice": syscall.SIGKILL,
	} {
		t.Run(name, func(t *testing.T) {
			t.Setenv("TMPDIR", t.TempDir())
			pid, replicas, end := startDemo(t)
			if err := syscall.Kill(pid, signal); err != nil {
				t.Fatal(err)
			}
			end()
			nodetest.Eventually(t, "all replicas have ended", func() bool { return gone(replicas) })
		})
	}
}
