package main

import (
	"bufio"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// upstreams is the number of replicas.
	upstreams = 3
	// clients is the number of addresses from which short connections come.
	clients = 100
	// chunk is what replicas and clients write and read at once.
	chunk = 256 << 10
	// word is what a short connection carries each way, with the line that asks for it.
	word = 64
)

// upstream listens on three ports, which it prints. A connection says in a line what it wants: to be sent so many bytes (down), or
// to send so many (up).
func upstream(ctx context.Context, _ []string, out io.Writer) error {
	var serving sync.WaitGroup
	var addresses []string
	for range upstreams {
		var lc net.ListenConfig
		l, err := lc.Listen(ctx, "tcp", "127.0.0.1:0")
		if err != nil {
			return err
		}
		defer context.AfterFunc(ctx, func() { l.Close() })()
		addresses = append(addresses, l.Addr().String())
		serving.Go(func() {
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				serving.Go(func() { answer(ctx, c) })
			}
		})
	}
	fmt.Fprintln(out, strings.Join(addresses, ","))
	serving.Wait()
	return nil
}

// answer serves one connection. Who asked finds out if it was not served whole.
func answer(ctx context.Context, c net.Conn) {
	defer c.Close()
	defer context.AfterFunc(ctx, func() { c.Close() })()
	r := bufio.NewReaderSize(c, word)
	var way string
	var n int
	line, err := r.ReadString('\n')
	if err != nil {
		return
	}
	if _, err := fmt.Sscan(line, &way, &n); err != nil {
		return
	}
	if way == "up" {
		if take(r, n) == nil {
			_, _ = io.WriteString(c, "ok\n")
		}
		return
	}
	_ = give(c, n)
}

// give writes n bytes.
func give(w io.Writer, n int) error {
	b := make([]byte, min(n, chunk))
	for n > 0 {
		written, err := w.Write(b[:min(n, len(b))])
		if err != nil {
			return err
		}
		n -= written
	}
	return nil
}

// take reads n bytes.
func take(r io.Reader, n int) error {
	b := make([]byte, min(n, chunk))
	for n > 0 {
		read, err := r.Read(b[:min(n, len(b))])
		if n -= read; err != nil && n > 0 {
			return err
		}
	}
	return nil
}

// A served is what the load says of one round.
type served struct {
	Bytes       int
	Connections int
	Seconds     float64
}

// load carries bytes over a number of connections at once, or makes a number of short ones, and prints a served. Whatever goes wrong is
// an error.
func load(ctx context.Context, args []string, out io.Writer) error {
	f := flag.NewFlagSet("load", flag.ContinueOnError)
	to := f.String("to", "", "the gateway's address")
	conns := f.Int("connections", 2, "how many at once")
	bytes := f.Int("bytes", 0, "how many")
	short := f.Int("short", 0, "how many short connections")
	if err := f.Parse(args); err != nil {
		return err
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var working sync.WaitGroup
	var next atomic.Int64
	began := time.Now()
	for i := range *conns {
		working.Go(func() {
			var err error
			if *bytes > 0 {
				err = carry(ctx, *to, client(i), []string{"down", "up"}[i%2], *bytes / *conns)
			}
			for n := next.Add(1); *short > 0 && err == nil && n <= int64(*short); n = next.Add(1) {
				err = carry(ctx, *to, client(int(n)), "down", word)
			}
			if err != nil {
				cancel(err)
			}
		})
	}
	working.Wait()
	if err := context.Cause(ctx); err != nil {
		return err
	}
	return json.NewEncoder(out).Encode(served{*bytes, *short, time.Since(began).Seconds()})
}

// client returns one of the addresses of this machine.
func client(n int) netip.Addr {
	return netip.AddrFrom4([4]byte{127, 0, 1, byte(1 + n%clients)})
}

// carry is one connection.
func carry(ctx context.Context, to string, from netip.Addr, way string, n int) error {
	d := net.Dialer{LocalAddr: net.TCPAddrFromAddrPort(netip.AddrPortFrom(from, 0))}
	c, err := d.DialContext(ctx, "tcp", to)
	if err != nil {
		return err
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(2 * time.Minute)); err != nil {
		return err
	}
	// The line is filled up so that a short connection carries as much each way.
	if _, err := fmt.Fprintf(c, "%-*s\n", word-1, fmt.Sprintf("%s %d", way, n)); err != nil {
		return err
	}
	if way == "down" {
		return take(c, n)
	}
	if err := give(c, n); err != nil {
		return err
	}
	return take(c, len("ok\n"))
}
