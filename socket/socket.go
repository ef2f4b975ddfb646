// Package socket asks the kernel what it knows of a socket that nobody has read yet: that its peer has hung up, or that a connection
// waits to be accepted. A read would find out as well, but its goroutine may have had no processor time since.
package socket

import (
	"context"
	"syscall"
	"time"
)

// A Socket is what the kernel can be asked about. The zero Socket is one of which nothing is known. It may be used concurrently, also
// while others read from it.
type Socket struct{ raw syscall.RawConn }

// Of returns the socket of a connection or listener of package net, and the zero Socket for what has none, such as a TLS connection.
func Of(c any) Socket {
	if has, ok := c.(syscall.Conn); ok {
		if raw, err := has.SyscallConn(); err == nil {
			return Socket{raw}
		}
	}
	return Socket{}
}

// HungUp reports whether the end of what the peer sends has arrived, the connection was reset, or it is closed at this end. There may
// still be something to read before that end. False does not mean that the peer is there: only that no more is known. On systems other than
// Linux it is always false.
func (s Socket) HungUp() bool { return s.raw != nil && hungUp(s.raw) }

// Waits reports whether a connection waits to be accepted by a listener. On systems other than Linux it is always false.
func (s Socket) Waits() bool { return s.raw != nil && waits(s.raw) }

// acceptTick is how often a listener is looked at while connections wait.
const acceptTick = time.Millisecond

// Accepted returns when no connection waits to be accepted, or ctx ends, or limit is over. A listener that is closed before that resets
// those that wait, though their clients have been told that they are connected. Somebody else has to accept meanwhile.
func (s Socket) Accepted(ctx context.Context, limit time.Duration) {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	tick := time.NewTicker(acceptTick)
	defer tick.Stop()
	for s.Waits() {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}
