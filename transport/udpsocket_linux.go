package transport

import (
	"fmt"
	"net/netip"
	"os"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// A udpSocket is a flow's socket, connected to its endpoint: the kernel passes only what comes from there. The descriptor is closed when
// nobody uses it any longer, so that nothing is ever sent by one that belongs to another flow by then.
type udpSocket struct {
	fd   int
	flow *flow
	loop *udpLoop
	refs atomic.Int32 // the owner's, and one of each who uses it now
}

// connect returns a socket of f to an endpoint. An error about the endpoint is an *endpointError; errNoSocket is about this machine.
func (s *serving) connect(f *flow, to netip.AddrPort) (*udpSocket, error) {
	family, address := sockaddr(to)
	fd, err := unix.Socket(family, unix.SOCK_DGRAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("%w: socket: %w", errNoSocket, err)
	}
	switch err := unix.Connect(fd, address); err {
	case nil:
	case unix.EAGAIN: // every port is taken (ip_local_port_range)
		unix.Close(fd)
		return nil, fmt.Errorf("%w: taking a port: %w", errNoSocket, err)
	default:
		unix.Close(fd)
		return nil, &endpointError{os.NewSyscallError("connect", err)}
	}
	socket := &udpSocket{fd: fd, flow: f, loop: s.nextLoop()}
	socket.refs.Store(1)
	return socket, nil
}

func sockaddr(a netip.AddrPort) (family int, address unix.Sockaddr) {
	if ip := a.Addr().Unmap(); ip.Is4() {
		return unix.AF_INET, &unix.SockaddrInet4{Port: int(a.Port()), Addr: ip.As4()}
	}
	return unix.AF_INET6, &unix.SockaddrInet6{Port: int(a.Port()), Addr: a.Addr().As16()}
}

// listen has the socket's loop take what arrives.
func (k *udpSocket) listen() error { return k.loop.add(k) }

// send sends one datagram. It does not wait.
func (k *udpSocket) send(datagram []byte) error {
	for {
		if err := unix.Send(k.fd, datagram, unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL); err != unix.EINTR {
			return err
		}
	}
}

// use keeps the descriptor open until done is called. It reports whether it was open.
func (k *udpSocket) use() bool {
	for {
		n := k.refs.Load()
		if n == 0 {
			return false
		}
		if k.refs.CompareAndSwap(n, n+1) {
			return true
		}
	}
}

// done is the opposite of use.
func (k *udpSocket) done() {
	if k.refs.Add(-1) == 0 {
		k.loop.remove(k)
		unix.Close(k.fd) // nothing is left to be written
	}
}

// close gives up the owner's part of the socket, once. A nil socket is none.
func (k *udpSocket) close() {
	if k != nil {
		k.done()
	}
}
