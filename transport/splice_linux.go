package transport

import (
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// largePipe and smallPipe are the sizes that the kernel is asked for; the first largePipes of a listener are large. An unprivileged user
	// has 64 MiB for all pipes (pipe-user-pages-soft), and then gets pipes of two pages. A pipe has a place for each page of its size, and
	// each place holds what one packet brought, so that a large one takes more at once.
	largePipe  = 1 << 20
	smallPipe  = 256 << 10
	largePipes = 32
	// maxFreePipes bounds the pipes that a listener keeps for reuse.
	maxFreePipes = 64
	// smallSplice is what is cheaper to copy, and maxSmall how many of them in a row end splicing.
	smallSplice = 4 << 10
	maxSmall    = 8
)

// splicing is what a pump needs to wait for its sockets without holding memory, and to move bytes through a pipe.
type splicing struct {
	from, to syscall.RawConn
	holds    atomic.Bool // a pipe
	plain    bool        // the sockets cannot be spliced

	// What the callbacks below share with those who wait for them.
	buffer              *[bufferSize]byte
	pipe                *pipe
	n                   int
	err                 error
	receive, fill, pour func(fd uintptr) bool
}

// begin prepares the pump to run.
func (p *pump) begin() {
	// TCP sockets have raw ones, which fail where they are used if the socket is closed.
	p.from, _ = p.src.SyscallConn()
	p.to, _ = p.dst.SyscallConn()
	p.receive = p.receiveFrom
}

// copy waits for bytes and sends them on. It returns how many were read.
func (p *pump) copy() (int, pumpResult) {
	err := p.from.Read(p.receive)
	if err == nil {
		err = p.err
	}
	switch {
	case err != nil:
		return 0, p.unread(err)
	case p.n == 0:
		return 0, pumpEnded
	}
	result := p.write(p.buffer[:p.n])
	buffers.Put(p.buffer)
	p.buffer = nil
	if p.plain {
		return 0, result
	}
	return p.n, result
}

// receiveFrom reads once. It keeps the buffer if there is something in it.
func (p *pump) receiveFrom(fd uintptr) bool {
	p.buffer = buffers.Get().(*[bufferSize]byte)
	p.n, p.err = ignoringInterrupts(func() (int, error) { return unix.Read(int(fd), p.buffer[:]) })
	if p.n > 0 && p.err == nil {
		return true
	}
	buffers.Put(p.buffer)
	p.buffer = nil
	return p.err != unix.EAGAIN
}

// splice moves bytes through a pipe until src ends, rests, or has only little at a time. The kernel copies nothing.
func (p *pump) splice() pumpResult {
	var err error
	if p.pipe, err = p.pipes.take(); err != nil {
		return pumpOn // too many open files: it can be copied
	}
	if p.fill == nil {
		p.fill, p.pour = p.fillPipe, p.pourPipe
	}
	p.holds.Store(true)
	result := p.spliceOn()
	p.holds.Store(false)
	p.pipes.give(p.pipe, p.n == 0)
	p.pipe = nil
	return result
}

// spliceOn splices with a pipe. It leaves p.n bytes in it.
func (p *pump) spliceOn() pumpResult {
	for small := 0; small < maxSmall; small++ {
		p.n = 0
		err := p.from.Read(p.fill)
		if err == nil {
			err = p.err
		}
		switch {
		case err == unix.EINVAL:
			p.plain = true
			return pumpOn
		case err != nil:
			p.n = 0
			return p.unread(err)
		case p.n == 0:
			return pumpEnded
		}
		if p.n >= smallSplice {
			small = -1
		}
		for p.n > 0 {
			if p.to.Write(p.pour) != nil || p.err != nil {
				return pumpRefused
			}
		}
	}
	return pumpOn
}

// fillPipe moves bytes from src into the pipe, which is empty: if nothing moves src has nothing.
func (p *pump) fillPipe(fd uintptr) bool {
	p.n, p.err = ignoringInterrupts(func() (int, error) { return spliceOnce(int(fd), p.pipe.w, largePipe) })
	if p.err != nil {
		p.n = 0
	}
	return p.err != unix.EAGAIN
}

// pourPipe moves bytes from the pipe to dst.
func (p *pump) pourPipe(fd uintptr) bool {
	var n int
	n, p.err = ignoringInterrupts(func() (int, error) { return spliceOnce(p.pipe.r, int(fd), p.n) })
	if p.err == unix.EAGAIN {
		return false
	}
	if p.err == nil {
		p.n -= n
		p.moved.Add(int64(n))
	}
	return true
}

func spliceOnce(from, to, most int) (int, error) {
	n, err := unix.Splice(from, nil, to, nil, most, unix.SPLICE_F_NONBLOCK)
	return int(n), err
}

func ignoringInterrupts(call func() (int, error)) (int, error) {
	for {
		if n, err := call(); err != unix.EINTR {
			return n, err
		}
	}
}

// nudge has a pump that rests give its pipe back.
func (p *pump) nudge() {
	if p.holds.Load() {
		_ = p.src.SetReadDeadline(time.Unix(1, 0)) // fails if it is closed, which is as good
	}
}

// A pipe is a pair of file descriptors.
type pipe struct{ r, w int }

func (p *pipe) close() {
	_ = unix.Close(p.r)
	_ = unix.Close(p.w)
}

// pipes are those of one listener that no pump holds. The zero pipes has none.
type pipes struct {
	mu     sync.Mutex
	free   []*pipe
	open   int // free or not
	closed bool
}

// take returns an empty pipe.
func (s *pipes) take() (*pipe, error) {
	s.mu.Lock()
	if last := len(s.free) - 1; last >= 0 {
		p := s.free[last]
		s.free = s.free[:last]
		s.mu.Unlock()
		return p, nil
	}
	s.open++
	size := largePipe
	if s.open > largePipes {
		size = smallPipe
	}
	s.mu.Unlock()
	var ends [2]int
	if err := unix.Pipe2(ends[:], unix.O_CLOEXEC|unix.O_NONBLOCK); err != nil {
		s.forget()
		return nil, err
	}
	_, _ = unix.FcntlInt(uintptr(ends[0]), unix.F_SETPIPE_SZ, size) // any size does
	return &pipe{ends[0], ends[1]}, nil
}

// give takes a pipe back. One with bytes in it is closed.
func (s *pipes) give(p *pipe, empty bool) {
	s.mu.Lock()
	keep := empty && !s.closed && len(s.free) < maxFreePipes
	if keep {
		s.free = append(s.free, p)
	}
	s.mu.Unlock()
	if !keep {
		p.close()
		s.forget()
	}
}

// forget counts a pipe less.
func (s *pipes) forget() {
	s.mu.Lock()
	s.open--
	s.mu.Unlock()
}

// close closes the pipes that are free, and those that come back later.
func (s *pipes) close() {
	s.mu.Lock()
	free := s.free
	s.free, s.closed = nil, true
	s.mu.Unlock()
	for _, p := range free {
		p.close()
	}
}
