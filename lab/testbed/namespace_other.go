//go:build !linux

package testbed

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"os/exec"
)

// A Namespace is a network namespace, which only Linux has.
type Namespace struct{ path string }

var errUnprivileged = errors.New("network namespaces need Linux")

func newNamespace() (*Namespace, error)  { return nil, errUnprivileged }
func (*Namespace) close()                {}
func (*Namespace) start(*exec.Cmd) error { return errUnprivileged }
func (*Namespace) run(context.Context, string, string, ...string) (string, error) {
	return "", errUnprivileged
}
func (*Namespace) set(string, string) error                              { return errUnprivileged }
func (*Namespace) dial(netip.Addr, netip.AddrPort) (*net.UDPConn, error) { return nil, errUnprivileged }

func (*Namespace) connect(context.Context, string) (net.Conn, error) { return nil, errUnprivileged }

func (*Namespace) listen(netip.AddrPort) (*net.UDPConn, *net.TCPListener, error) {
	return nil, nil, errUnprivileged
}
func replace(_, _ uintptr) error { return errUnprivileged }
