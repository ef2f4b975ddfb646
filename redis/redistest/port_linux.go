package redistest

import (
	"fmt"
	"syscall"
	"testing"
)

// freePort returns a port that no other process takes as long as the test runs, also while the server that it is for is stopped: a
// socket without a listener keeps it. Linux lets a server listen at the port all the same, as both say that they share it.
func freePort(t testing.TB) int {
	t.Helper()
	fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatalf("choosing a port: %v", err)
	}
	t.Cleanup(func() { syscall.Close(fd) })
	port, err := bindShared(fd)
	if err != nil {
		t.Fatalf("choosing a port: %v", err)
	}
	return port
}

// bindShared binds a socket to a free port of 127.0.0.1 and returns the port.
func bindShared(fd int) (int, error) {
	if err := syscall.SetsockoptInt(fd, syscall.SOL_SOCKET, syscall.SO_REUSEADDR, 1); err != nil {
		return 0, err
	}
	if err := syscall.Bind(fd, &syscall.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}); err != nil {
		return 0, err
	}
	address, err := syscall.Getsockname(fd)
	if err != nil {
		return 0, err
	}
	bound, ok := address.(*syscall.SockaddrInet4)
	if !ok {
		return 0, fmt.Errorf("the socket has the address %v", address)
	}
	return bound.Port, nil
}
