package transport

import (
	"context"
	"os"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// A udpLoop is one goroutine that waits for sockets and forwards what they receive.
type udpLoop struct {
	s       *serving
	epoll   int
	file    *os.File        // the epoll, as the runtime knows it
	raw     syscall.RawConn // of file
	wake    int             // an eventfd
	events  [128]unix.EpollEvent
	look    func(uintptr) bool // poll, made once
	found   int                // events that it found
	looking error              // its error
	clients *udpBatch
	answers *udpBatch
	n       int // messages of answers that are to be sent
	ready   []*udpSocket
	done    []*flow // flows that had their responses

	mu      sync.Mutex // nothing is waited for while it is held
	sockets map[int]*udpSocket
}

func newUDPLoop(s *serving) (*udpLoop, error) {
	l := &udpLoop{s: s, epoll: -1, wake: -1, sockets: map[int]*udpSocket{}, answers: newUDPBatch(0)}
	l.look = l.poll
	if err := l.open(); err != nil {
		l.close()
		return nil, err
	}
	return l, nil
}

func (l *udpLoop) open() (err error) {
	if l.epoll, err = unix.EpollCreate1(unix.EPOLL_CLOEXEC); err != nil {
		return os.NewSyscallError("epoll_create1", err)
	}
	_ = unix.SetNonblock(l.epoll, true) // makes the runtime wait for it; if it fails so does what follows
	l.file = os.NewFile(uintptr(l.epoll), "epoll")
	if l.raw, err = l.file.SyscallConn(); err != nil {
		return err
	}
	if l.wake, err = unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK); err != nil {
		return os.NewSyscallError("eventfd", err)
	}
	return l.watch(l.wake)
}

// watch has the loop wait for a descriptor.
func (l *udpLoop) watch(fd int) error {
	event := unix.EpollEvent{Events: unix.EPOLLIN, Fd: int32(fd)}
	return os.NewSyscallError("epoll_ctl", unix.EpollCtl(l.epoll, unix.EPOLL_CTL_ADD, fd, &event))
}

// add has the loop wait for a flow's socket.
func (l *udpLoop) add(k *udpSocket) error {
	l.mu.Lock()
	l.sockets[k.fd] = k
	l.mu.Unlock()
	return l.watch(k.fd)
}

// remove forgets a socket, whose descriptor is closed next. An event that is under way finds none, or at worst the next one that gets the
// descriptor, which then has nothing to read.
func (l *udpLoop) remove(k *udpSocket) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.sockets[k.fd] == k {
		delete(l.sockets, k.fd)
	}
}

func (l *udpLoop) stop() {
	_, _ = unix.Write(l.wake, []byte{1, 0, 0, 0, 0, 0, 0, 0}) // a full counter wakes just as well
}

func (l *udpLoop) close() {
	if l.file != nil {
		l.file.Close()
	}
	if l.wake >= 0 {
		unix.Close(l.wake)
	}
}

// run forwards until stop is called. The first loop also receives from clients.
func (l *udpLoop) run(ctx context.Context, first bool) error {
	if first {
		l.clients = newUDPBatch(room)
	}
	for {
		n, err := l.wait()
		if err != nil {
			return os.NewSyscallError("epoll_wait", err)
		}
		arrived, stopped := l.sort(l.events[:n])
		if stopped {
			return nil
		}
		for _, k := range l.ready {
			l.collect(ctx, k)
		}
		l.flush()
		if arrived {
			if err := l.receive(ctx); err != nil {
				return err
			}
		}
	}
}

// wait waits for events, and returns how many there are. Only while there is none the runtime's poller waits for the epoll as it would for
// a connection: then nobody holds a processor.
func (l *udpLoop) wait() (int, error) {
	if l.look(0) {
		return l.found, l.looking
	}
	if err := l.raw.Read(l.look); err != nil {
		return 0, err
	}
	return l.found, l.looking
}

// poll looks for events and reports whether there is something, be it an error.
func (l *udpLoop) poll(uintptr) bool {
	for {
		l.found, l.looking = unix.EpollWait(l.epoll, l.events[:], 0)
		if l.looking != unix.EINTR {
			return l.found > 0 || l.looking != nil
		}
	}
}

// sort finds the sockets that are ready, each in use, and says whether datagrams of clients arrived or the loop has to stop.
func (l *udpLoop) sort(events []unix.EpollEvent) (arrived, stopped bool) {
	l.ready = l.ready[:0]
	l.mu.Lock()
	defer l.mu.Unlock()
	for i := range events {
		switch fd := int(events[i].Fd); fd {
		case l.s.fd:
			arrived = true
		case l.wake:
			stopped = true
		default:
			if k := l.sockets[fd]; k != nil && k.use() {
				l.ready = append(l.ready, k)
			}
		}
	}
	return arrived, stopped
}

// receive takes a batch of datagrams from clients.
func (l *udpLoop) receive(ctx context.Context) error {
	b := l.clients
	n, err := b.receive(l.s.fd, 0, true)
	switch err {
	case nil:
	case unix.EAGAIN:
		return nil
	case unix.ECONNREFUSED, unix.EHOSTUNREACH, unix.ENETUNREACH, unix.ENOBUFS, unix.ENOMEM:
		return nil // of a datagram that was sent, or it passes
	default:
		return os.NewSyscallError("recvmmsg", err)
	}
	l.s.route = l.s.u.route.Load()
	l.s.snapshot = nil
	if l.s.route != nil {
		l.s.snapshot = l.s.u.Endpoints.Snapshot(l.s.route.Service)
	}
	now := l.s.now()
	for i := range n {
		m := &b.messages[i]
		if m.header.Flags&unix.MSG_TRUNC != 0 {
			l.s.u.drop(CauseTooLong)
			continue
		}
		l.s.take(ctx, b, i, b.slot(i)[:room+int(m.length)], now)
	}
	return nil
}

// collect receives what an endpoint has sent, as far as the batch has room, and notes where it goes.
func (l *udpLoop) collect(ctx context.Context, k *udpSocket) {
	defer k.done()
	if l.n == batchSize {
		l.flush()
	}
	n, err := l.answers.receive(k.fd, l.n, false)
	if err != nil {
		if err != unix.EAGAIN && sendCause(err) == CauseRefused {
			k.flow.refused(ctx, l.s, k, os.NewSyscallError("recvmmsg", err))
		}
		return
	}
	var bytes int64
	for i := l.n; i < l.n+n; i++ {
		bytes += int64(l.answers.messages[i].length)
	}
	mine, done := k.flow.heard(k, n, bytes, l.s.now())
	if !mine {
		return
	}
	for i := l.n; i < l.n+n; i++ {
		l.answers.answer(i, k.flow, int(l.answers.messages[i].length))
	}
	l.n += n
	if done {
		l.done = append(l.done, k.flow)
	}
}

// flush sends the answers, and ends the flows that are done with them.
func (l *udpLoop) flush() {
	l.answers.sendAll(l.s.fd, l.n, func(err error) { l.s.u.drop(answerCause(err)) })
	l.n = 0
	for i, f := range l.done {
		f.complete()
		l.done[i] = nil
	}
	l.done = l.done[:0]
}

// answerCause says why an answer could not be sent.
func answerCause(err error) Cause {
	if sendCause(err) == CauseTooLong {
		return CauseTooLong
	}
	return CauseSend
}
