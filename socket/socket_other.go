//go:build !linux

package socket

import "syscall"

func hungUp(syscall.RawConn) bool { return false }

func waits(syscall.RawConn) bool { return false }
