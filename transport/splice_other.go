//go:build !linux

package transport

import (
	"errors"
	"io"
)

// splicing is nothing where there is no splice(2).
type splicing struct{}

func (p *pump) begin() {}

// copy waits for bytes and sends them on.
func (p *pump) copy() (int, pumpResult) {
	b := buffers.Get().(*[bufferSize]byte)
	defer buffers.Put(b)
	n, err := p.src.Read(b[:])
	if n > 0 {
		return 0, p.write(b[:n])
	}
	if errors.Is(err, io.EOF) {
		return 0, pumpEnded
	}
	return 0, p.unread(err)
}

func (p *pump) splice() pumpResult { return pumpOn }

func (p *pump) nudge() {}

// pipes are nothing either.
type pipes struct{}

func (s *pipes) close() {}
