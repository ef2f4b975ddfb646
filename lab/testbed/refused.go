package testbed

import (
	"errors"
	"syscall"
)

// isRefused reports whether sending failed by what an earlier datagram met: its own is then not sent, and has failed.
func isRefused(err error) bool {
	return errors.Is(err, syscall.ECONNREFUSED) || errors.Is(err, syscall.EHOSTUNREACH) || errors.Is(err, syscall.ENETUNREACH)
}
