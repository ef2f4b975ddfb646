package socket

import (
	"syscall"

	"golang.org/x/sys/unix"
)

func hungUp(c syscall.RawConn) bool {
	events, err := poll(c, unix.POLLRDHUP)
	return err != nil || events != 0
}

func waits(c syscall.RawConn) bool {
	events, err := poll(c, unix.POLLIN)
	return err == nil && events&unix.POLLIN != 0
}

// poll returns what of the events wanted there is now, and errors of the socket as events. It never waits.
func poll(c syscall.RawConn, wanted int16) (events int16, err error) {
	err = c.Control(func(fd uintptr) {
		look := [1]unix.PollFd{{Fd: int32(fd), Events: wanted}}
		if n, err := unix.Poll(look[:], 0); err == nil && n == 1 {
			events = look[0].Revents
		}
	})
	return events, err
}
