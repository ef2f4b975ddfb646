package telemetry

import (
	"bufio"
	"cmp"
	"context"
	"encoding/hex"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/limpet-project/limpet/proxy"
)

const (
	// logQueue bounds the lines that wait to be written: about two seconds of a busy gateway.
	logQueue = 16384
	// logDelay is how long a line may wait for others to be written with. A system call for each line, and waking up for it, costs
	// more than the line.
	logDelay = 50 * time.Millisecond
)

// AccessLogOptions say what an access log is.
type AccessLogOptions struct {
	// Output is written by one goroutine. It is not closed.
	Output io.Writer
	// Text writes key=value lines instead of JSON.
	Text bool
	// Peer writes the address of the connection's other end. Where a policy takes the client's address as an id, that is an id in a log.
	Peer bool
	// Metrics counts the lines that were dropped; nil counts nowhere.
	Metrics *Metrics
}

// An AccessLog writes one line for each request, with the key that decided and without anything else that a client sent. A line that
// finds the queue full is dropped and counted, so that a slow disk holds no request up. Make one with [NewAccessLog].
type AccessLog struct {
	handler slog.Handler
	peer    bool
	lines   chan []byte
	dropped atomic.Uint64
	metrics *Metrics
	closing sync.Once
	done    chan struct{}

	err error // of the first write that went wrong; read after done is closed
}

// NewAccessLog returns an access log whose goroutine writes until Close.
func NewAccessLog(o AccessLogOptions) *AccessLog {
	l := &AccessLog{peer: o.Peer, lines: make(chan []byte, logQueue), metrics: o.Metrics, done: make(chan struct{})}
	if o.Text {
		l.handler = slog.NewTextHandler(queueWriter{l}, nil)
	} else {
		l.handler = slog.NewJSONHandler(queueWriter{l}, nil)
	}
	go func() {
		defer close(l.done)
		l.err = l.write(o.Output)
	}()
	return l
}

// Close writes what is waiting and ends the log's goroutine. No request may end after that. It returns the first error of
// writing.
func (l *AccessLog) Close() error {
	l.closing.Do(func() { close(l.lines) })
	<-l.done
	return l.err
}

// Dropped returns the number of lines that found the queue full.
func (l *AccessLog) Dropped() uint64 { return l.dropped.Load() }

// write writes lines together that come within logDelay. After an error it goes on, because a full disk may have room again.
func (l *AccessLog) write(output io.Writer) (first error) {
	b := bufio.NewWriterSize(output, 64<<10)
	var due <-chan time.Time // nil while nothing waits to be flushed
	for open := true; open; {
		var line []byte
		var err error
		select {
		case line, open = <-l.lines:
			_, err = b.Write(line)
		case <-due:
		}
		switch {
		case err == nil && (!open || line == nil):
			due, err = nil, b.Flush()
		case err == nil && due == nil:
			due = time.After(logDelay)
		}
		if err != nil {
			first = cmp.Or(first, fmt.Errorf("writing the access log: %w", err))
			b.Reset(output)
			due = nil
			l.drop()
		}
	}
	return first
}

func (l *AccessLog) drop() {
	l.dropped.Add(1)
	if l.metrics != nil {
		l.metrics.logDrops.Inc()
	}
}

// A queueWriter takes one line with each Write, as slog's handlers write.
type queueWriter struct{ l *AccessLog }

func (w queueWriter) Write(line []byte) (int, error) {
	select {
	case w.l.lines <- append([]byte(nil), line...): // the handler uses its buffer again
	default:
		w.l.drop()
	}
	return len(line), nil
}

// Start implements proxy.Observer.
func (l *AccessLog) Start(ctx context.Context, _ *http.Request) context.Context { return ctx }

// Forward implements proxy.Observer.
func (l *AccessLog) Forward(context.Context, http.Header) {}

// End implements proxy.Observer: it writes the line.
func (l *AccessLog) End(ctx context.Context, o *proxy.Observed) {
	r := slog.NewRecord(o.Begin, slog.LevelInfo, "request", 0)
	r.AddAttrs(
		slog.String("method", o.Method),
		slog.String("protocol", o.Protocol),
		slog.Int("status", o.Status),
		slog.String("service", o.Service.String()),
		slog.String("route", o.Route),
	)
	if o.Tag != "" {
		r.AddAttrs(slog.String("tag", o.Tag))
	}
	if o.Picked {
		r.AddAttrs(slog.String("revision", o.Target.Revision), slog.String("endpoint", o.Target.Endpoint),
			slog.String("address", o.Address), slog.String("reason", o.Reason.String()))
	}
	if o.Key != [8]byte{} {
		r.AddAttrs(slog.String("key", hex.EncodeToString(o.Key[:])))
	}
	r.AddAttrs(slog.Int64("bytesIn", o.BytesIn), slog.Int64("bytesOut", o.BytesOut), slog.Float64("duration", seconds(o.Duration)))
	l.addRare(&r, o)
	_ = l.handler.Handle(ctx, r) // the queue's Write has no errors
}

// addRare adds what most requests do not have.
func (l *AccessLog) addRare(r *slog.Record, o *proxy.Observed) {
	if o.Upstream > 0 {
		r.AddAttrs(slog.Float64("upstream", seconds(o.Upstream)))
	}
	if o.Attempts > 1 {
		r.AddAttrs(slog.Int("attempts", o.Attempts))
	}
	if o.Upgraded {
		r.AddAttrs(slog.Bool("upgraded", true))
	}
	if l.peer {
		r.AddAttrs(slog.String("peer", o.Peer.String()))
	}
	if o.Cause != "" {
		r.AddAttrs(slog.String("cause", o.Cause))
	}
	if o.Err != nil {
		r.AddAttrs(slog.String("error", o.Err.Error()))
	}
}

// seconds keeps microseconds and no digits after them.
func seconds(d time.Duration) float64 { return float64(d.Microseconds()) / 1e6 }

// OpenAccessLog opens the file of an access log for appending; "-" is the standard output, which close leaves open.
func OpenAccessLog(file string) (io.WriteCloser, error) {
	if file == "-" {
		return standardOutput{os.Stdout}, nil
	}
	f, err := os.OpenFile(file, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o640)
	if err != nil {
		return nil, fmt.Errorf("opening the access log: %w", err)
	}
	return f, nil
}

type standardOutput struct{ io.Writer }

func (standardOutput) Close() error { return nil }
