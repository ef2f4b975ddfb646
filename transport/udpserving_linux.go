package transport

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/limpet-project/limpet/affinity"
)

// A serving is what one call of Serve has: the listener's socket and the loops. Its sockets are apart from the runtime's poller: each loop waits for
// its sockets by an epoll of its own, so that one goroutine receives and sends on without waking another.
type serving struct {
	u        *UDP
	fd       int // the listener's socket
	local    netip.AddrPort
	wildcard bool // it has several addresses: answers leave from the one that was asked
	begun    time.Time
	loops    []*udpLoop
	turn     atomic.Uint32
	running  sync.WaitGroup // loops and the sweeper
	pickers  pickers

	// The first loop's, for the datagrams that it has received.
	route    *Route
	snapshot *affinity.Snapshot
}

// receiveBuffer is what is asked for as the listener's buffer; the kernel gives as much as net.core.rmem_max allows.
const receiveBuffer = 4 << 20

// newServing takes conn over: it closes it, and keeps its socket apart from the runtime's poller.
func newServing(u *UDP, conn *net.UDPConn) (*serving, error) {
	defer conn.Close()
	s := &serving{u: u, fd: -1, local: localAddress(conn), begun: time.Now()}
	s.pickers.next = make(chan picking)
	s.wildcard = s.local.Addr().IsUnspecified()
	_ = conn.SetReadBuffer(receiveBuffer) // it may be refused: then it is the default
	raw, err := conn.SyscallConn()
	if err != nil {
		return nil, err
	}
	var duplicating error
	if err := raw.Control(func(fd uintptr) { s.fd, duplicating = unix.FcntlInt(fd, unix.F_DUPFD_CLOEXEC, 0) }); err != nil {
		return nil, err
	}
	if duplicating != nil {
		s.fd = -1
		return nil, os.NewSyscallError("fcntl", duplicating)
	}
	if err := s.open(); err != nil {
		s.close()
		return nil, err
	}
	return s, nil
}

// open makes what a new serving needs beside the socket.
func (s *serving) open() error {
	if s.wildcard {
		if err := askForAddresses(s.fd); err != nil {
			return fmt.Errorf("asking to which address datagrams come: %w", err)
		}
	}
	for range s.u.Loops {
		l, err := newUDPLoop(s)
		if err != nil {
			return err
		}
		s.loops = append(s.loops, l)
	}
	return s.loops[0].watch(s.fd)
}

// askForAddresses has the kernel say to which address each datagram came. A socket of IPv6 says so for IPv4 too, in mapped form.
func askForAddresses(fd int) error {
	family, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_DOMAIN)
	if err != nil {
		return err
	}
	if family == unix.AF_INET6 {
		return unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_RECVPKTINFO, 1)
	}
	return unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_PKTINFO, 1)
}

// now is the listener's clock. It is above 0.
func (s *serving) now() time.Duration { return time.Since(s.begun) + 1 }

// start starts the loops and the sweeper. What they end of comes by the channel.
func (s *serving) start(ctx context.Context) <-chan error {
	failed := make(chan error, len(s.loops))
	for i, l := range s.loops {
		s.running.Go(func() {
			if err := l.run(ctx, i == 0); err != nil {
				failed <- err
			}
		})
	}
	s.running.Go(func() { s.u.sweep(ctx, s.now) })
	return failed
}

// stop ends the loops and waits for them and for the sweeper, whose context has to have ended.
func (s *serving) stop() {
	for _, l := range s.loops {
		l.stop()
	}
	s.running.Wait()
}

// close closes what is left. No flow has a socket any longer.
func (s *serving) close() {
	for _, l := range s.loops {
		l.close()
	}
	if s.fd >= 0 {
		unix.Close(s.fd)
	}
}

// nextLoop returns the loop for another flow.
func (s *serving) nextLoop() *udpLoop {
	if len(s.loops) == 1 {
		return s.loops[0]
	}
	return s.loops[1+int(s.turn.Add(1))%(len(s.loops)-1)]
}

// take forwards the i-th datagram of a batch with its flow, or with a new one.
func (s *serving) take(ctx context.Context, b *udpBatch, i int, buffer []byte, now time.Duration) {
	key, link := b.arrival(i)
	if !s.wildcard {
		key.local = [16]byte{}
	}
	if s.route == nil {
		s.u.drop(CauseNoService)
		return
	}
	if f := s.u.flows.find(key); f != nil && f.take(ctx, s, buffer, now) {
		return
	}
	f := s.newFlow(key, b, i, link, now)
	if cause := s.admit(f, now); cause != "" {
		s.u.drop(cause)
		return
	}
	f.begin(ctx, s, buffer, now)
}

// newFlow returns a flow for the i-th datagram of a batch.
func (s *serving) newFlow(key flowKey, b *udpBatch, i int, link int32, now time.Duration) *flow {
	client := netip.AddrPortFrom(netip.AddrFrom16(key.client).Unmap(), key.port)
	f := &flow{u: s.u, key: key, client: client, route: s.route, last: now, place: -1, nameLen: b.messages[i].header.Namelen}
	copy(f.name[:], b.name(i))
	local := s.local
	if to := netip.AddrFrom16(key.local).Unmap(); s.wildcard && !to.IsUnspecified() && !to.IsMulticast() {
		local = netip.AddrPortFrom(to, s.local.Port())
		f.control = sourceControl(b.names[i].Addr.Family, key.local, link)
	}
	if s.u.SendProxy == ProxyV2 {
		f.header = appendProxy(make([]byte, 0, room), ProxyV2, "udp", client, local)
	}
	f.o = Observed{
		Listener: s.u.Name, Protocol: "udp", Service: s.route.Service, Client: client.Addr(), Begin: time.Now(),
	}
	return f
}

// sourceControl returns the control message by which a datagram leaves from an address. A link is named only for addresses that mean
// nothing without: a route may well lead out by another one than that by which the question came.
func sourceControl(family uint16, local [16]byte, link int32) []byte {
	if family == unix.AF_INET {
		return unix.PktInfo4(&unix.Inet4Pktinfo{Spec_dst: [4]byte(local[12:])})
	}
	to := unix.Inet6Pktinfo{Addr: local}
	if netip.AddrFrom16(local).IsLinkLocalUnicast() {
		to.Ifindex = uint32(link)
	}
	return unix.PktInfo6(&to)
}
