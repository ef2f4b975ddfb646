package transport

import (
	"errors"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

// A pump carries bytes one way, from src to dst. It counts them as they go, so that somebody else can see whether they do.
type pump struct {
	src, dst *net.TCPConn
	pipes    *pipes
	moved    atomic.Int64
	result   pumpResult // of run; read after it
	splicing
}

// A pumpResult says how a pump ended.
type pumpResult uint8

const (
	pumpOn      pumpResult = iota // it has not
	pumpEnded                     // src ended what it had to say
	pumpUnread                    // src cannot be read any longer
	pumpRefused                   // dst takes nothing more
)

// bufferSize is what is read at once. A read that fills it is taken for the beginning of more, which is spliced where that is possible.
const bufferSize = 32 << 10

// buffers are those that no pump holds: one holds a buffer only while there are bytes in it.
var buffers = sync.Pool{New: func() any { return new([bufferSize]byte) }}

// run carries until one side ends. Whoever wants it to end earlier closes both.
func (p *pump) run() pumpResult {
	p.begin()
	for p.result == pumpOn {
		n := 0
		if n, p.result = p.copy(); n == bufferSize && p.result == pumpOn {
			p.result = p.splice()
		}
	}
	return p.result
}

// write sends bytes on.
func (p *pump) write(b []byte) pumpResult {
	n, err := p.dst.Write(b)
	p.moved.Add(int64(n))
	if err != nil {
		return pumpRefused
	}
	return pumpOn
}

// unread says what an error of reading means. A deadline is a nudge: nobody else sets one while a pump runs.
func (p *pump) unread(err error) pumpResult {
	if errors.Is(err, os.ErrDeadlineExceeded) && p.src.SetReadDeadline(time.Time{}) == nil {
		return pumpOn
	}
	return pumpUnread
}
