package testbed

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"syscall"
	"time"
)

// A Namespace is a network namespace without a name. One thread of this process is in it and keeps it; sockets that were opened there belong
// to it wherever they are used.
type Namespace struct {
	path  string // by which other programs find it
	work  chan func()
	ended chan struct{}
}

// errUnprivileged says what is missing, and how to get it.
var errUnprivileged = errors.New("network namespaces need root")

// newNamespace returns an empty namespace whose loopback is down.
func newNamespace() (*Namespace, error) {
	if os.Geteuid() != 0 {
		return nil, errUnprivileged
	}
	n := &Namespace{work: make(chan func()), ended: make(chan struct{})}
	began := make(chan error)
	go n.keep(began)
	if err := <-began; err != nil {
		return nil, err
	}
	return n, nil
}

// keep enters the namespace and works there until work is closed. The thread ends with the goroutine, which does not unlock it.
func (n *Namespace) keep(began chan<- error) {
	runtime.LockOSThread()
	if syscall.Gettid() == os.Getpid() { // the main thread would not end
		go n.keep(began) // on another thread, as this one is taken
		<-n.ended
		runtime.UnlockOSThread()
		return
	}
	defer close(n.ended)
	if err := syscall.Unshare(syscall.CLONE_NEWNET); err != nil {
		began <- fmt.Errorf("making a network namespace: %w", err)
		return
	}
	n.path = fmt.Sprintf("/proc/%d/task/%d/ns/net", os.Getpid(), syscall.Gettid())
	began <- nil
	for f := range n.work {
		f()
	}
}

// close ends the namespace, once no socket of it is open.
func (n *Namespace) close() {
	close(n.work)
	<-n.ended
}

// do calls f on a thread that is in the namespace.
func (n *Namespace) do(f func()) {
	done := make(chan struct{})
	n.work <- func() { defer close(done); f() }
	<-done
}

// start starts a program in the namespace. It dies with this process, whatever ends that, and signals of the terminal do not reach it.
func (n *Namespace) start(cmd *exec.Cmd) (err error) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
	n.do(func() { err = cmd.Start() })
	return err
}

// run runs a program in the namespace to its end and returns what it wrote.
func (n *Namespace) run(ctx context.Context, stdin string, name string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.WaitDelay = time.Second
	cmd.Stdin = strings.NewReader(stdin)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	err := n.start(cmd)
	if err == nil {
		err = cmd.Wait()
	}
	switch {
	case ctx.Err() != nil:
		return "", ctx.Err()
	case err != nil:
		return out.String(), fmt.Errorf("running %s: %w: %s", strings.Join(append([]string{name}, args...), " "), err, firstLines(out.String()))
	}
	return out.String(), nil
}

// set writes a setting of the namespace's network.
func (n *Namespace) set(name, value string) (err error) {
	n.do(func() { err = os.WriteFile("/proc/sys/net/"+name, []byte(value), 0) })
	return err
}

// dial opens a UDP socket of one address that sends to another.
func (n *Namespace) dial(from netip.Addr, to netip.AddrPort) (conn *net.UDPConn, err error) {
	local, remote := net.UDPAddrFromAddrPort(netip.AddrPortFrom(from, 0)), net.UDPAddrFromAddrPort(to)
	n.do(func() { conn, err = net.DialUDP("udp", local, remote) })
	return conn, err
}

// connect opens a connection to an address of the namespace.
func (n *Namespace) connect(ctx context.Context, to string) (conn net.Conn, err error) {
	n.do(func() { conn, err = (&net.Dialer{Timeout: time.Second}).DialContext(ctx, "tcp", to) })
	return conn, err
}

// listen opens sockets of both protocols at an address of the namespace.
func (n *Namespace) listen(at netip.AddrPort) (packets *net.UDPConn, streams *net.TCPListener, err error) {
	n.do(func() {
		if packets, err = net.ListenUDP("udp", net.UDPAddrFromAddrPort(at)); err != nil {
			return
		}
		if streams, err = net.ListenTCP("tcp", net.TCPAddrFromAddrPort(at)); err != nil {
			packets.Close()
		}
	})
	return packets, streams, err
}

// replace makes a descriptor of this process another file, at once for all who have it.
func replace(descriptor, by uintptr) error {
	return syscall.Dup3(int(by), int(descriptor), syscall.O_CLOEXEC)
}
