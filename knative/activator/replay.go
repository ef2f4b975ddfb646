package activator

import (
	"errors"
	"io"
	"sync"
)

// maxReplay is how much of a body is kept to be sent once more. net/http has written something of a request whose body it has read this
// far: its own buffer has 4 KiB.
const maxReplay = 8 << 10

// A replay is a body that can be read again from its beginning as long as little of it was read. Only the last opened reader of it reads;
// what it reads from is closed by Serving's proxy, not by an attempt, for there may be another one.
type replay struct {
	mu      sync.Mutex // held while the body is read, so that two attempts never read at once
	from    io.Reader
	kept    []byte
	reading *attempted
	lost    bool // more was read than is kept
}

// An attempted body is what one attempt reads.
type attempted struct {
	of *replay
	at int // in what is kept
}

// Errors of reading a body.
var (
	errReplaced = errors.New("the request is sent once more")
	errLost     = errors.New("the connection broke, and too much of the body was read to send the request once more")
)

// open returns the body for one attempt.
func (b *replay) open() io.ReadCloser {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.reading = &attempted{of: b}
	return b.reading
}

// again returns the body for one more attempt, if it can be read again.
func (b *replay) again() (io.ReadCloser, error) {
	if !b.rewind() {
		return nil, errLost
	}
	return b.open(), nil
}

// rewind reports whether the body can be read from its beginning again, and nobody waits for more of it. There is nothing to read of a nil
// body.
func (b *replay) rewind() bool {
	if b == nil {
		return true
	}
	if !b.mu.TryLock() {
		return false
	}
	defer b.mu.Unlock()
	return !b.lost
}

// Read implements io.Reader.
func (a *attempted) Read(p []byte) (int, error) {
	b := a.of
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.reading != a {
		return 0, errReplaced
	}
	if a.at < len(b.kept) {
		n := copy(p, b.kept[a.at:])
		a.at += n
		return n, nil
	}
	n, err := b.from.Read(p)
	if !b.lost && len(b.kept)+n <= maxReplay {
		b.kept = append(b.kept, p[:n]...)
		a.at += n
	} else {
		b.lost, b.kept, a.at = true, nil, 0
	}
	return n, err
}

// Close implements io.Closer.
func (a *attempted) Close() error { return nil }
