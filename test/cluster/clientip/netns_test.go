package clientip

import (
	"bytes"
	"fmt"
	"os/exec"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// A netns is a network namespace, by its name in /run/netns.
type netns struct {
	t    testing.TB
	name string
}

// newNetns makes a network namespace that ends with the test.
func newNetns(t testing.TB, name string) netns {
	t.Helper()
	n := netns{t, name}
	run(t, "", "ip", "netns", "add", name)
	t.Cleanup(func() { run(t, "", "ip", "netns", "del", name) })
	n.run("ip", "link", "set", "lo", "up")
	return n
}

// run runs a program and returns what it printed.
func run(t testing.TB, stdin string, argv ...string) string {
	t.Helper()
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Stdin = strings.NewReader(stdin)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		t.Fatalf("%s: %v\n%s\n%s", cmd, err, stderr.String(), stdin)
	}
	return stdout.String()
}

// enter returns the command line of a program in the namespace.
func (n netns) enter(argv ...string) []string {
	return append([]string{"ip", "netns", "exec", n.name}, argv...)
}

// run runs a program in the namespace and returns what it printed.
func (n netns) run(argv ...string) string {
	n.t.Helper()
	return run(n.t, "", n.enter(argv...)...)
}

// link joins two namespaces by a pair of interfaces, with an address on each side. A peer with the empty name is the namespace of the test.
func (n netns) link(peer netns, name, address, peerAddress string) {
	n.t.Helper()
	run(n.t, "", "ip", "link", "add", name, "netns", n.name, "type", "veth", "peer", "name", name+"p")
	inPeer := peer.run
	if peer.name == "" {
		inPeer = func(argv ...string) string { return run(n.t, "", argv...) }
	} else {
		run(n.t, "", "ip", "link", "set", name+"p", "netns", peer.name)
	}
	inPeer("ip", "addr", "add", peerAddress, "dev", name+"p")
	inPeer("ip", "link", "set", name+"p", "up")
	n.run("ip", "addr", "add", address, "dev", name)
	n.run("ip", "link", "set", name, "up")
}

// do calls f on a thread of the namespace. Sockets that f opens belong to the namespace wherever they are used later.
func (n netns) do(f func() error) error {
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread ends with the goroutine
		done <- n.doHere(f)
	}()
	return <-done
}

func (n netns) doHere(f func() error) error {
	fd, err := unix.Open("/run/netns/"+n.name, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("opening namespace %s: %w", n.name, err)
	}
	defer unix.Close(fd)
	if err := unix.Setns(fd, unix.CLONE_NEWNET); err != nil {
		return fmt.Errorf("entering namespace %s: %w", n.name, err)
	}
	return f()
}
