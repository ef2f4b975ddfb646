package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"strconv"
	"sync"
	"sync/atomic"
	"time"
)

// A served is what the load says of one round.
type served struct {
	Requests int
	Seconds  float64
}

// load sends a fixed number of requests over a fixed number of connections, one at a time on each, and prints a served. Any
// answer but 200 is an error.
func load(ctx context.Context, args []string, out io.Writer) error {
	f := flag.NewFlagSet("load", flag.ContinueOnError)
	to := f.String("to", "", "the gateway's address")
	requests := f.Int("requests", 0, "how many")
	conns := f.Int("connections", 1, "how many")
	sessions := f.Int("sessions", 1, "how many")
	if err := f.Parse(args); err != nil {
		return err
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var next atomic.Int64
	var working sync.WaitGroup
	began := time.Now()
	for range *conns {
		working.Go(func() {
			if err := ask(ctx, *to, &next, *requests, *sessions); err != nil {
				cancel(err)
			}
		})
	}
	working.Wait()
	took := time.Since(began)
	if err := context.Cause(ctx); err != nil {
		return err
	}
	return json.NewEncoder(out).Encode(served{*requests, took.Seconds()})
}

// ask is one connection. It repeats a cookie that it is given, as a browser does.
func ask(ctx context.Context, to string, next *atomic.Int64, requests, sessions int) error {
	var d net.Dialer
	c, err := d.DialContext(ctx, "tcp", to)
	if err != nil {
		return err
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(2 * time.Minute)); err != nil {
		return err
	}
	r := bufio.NewReader(c)
	var request, cookie []byte
	for ctx.Err() == nil {
		n := int(next.Add(1))
		if n > requests {
			return nil
		}
		request = append(request[:0], "GET /incr HTTP/1.1\r\nHost: bench.localhost\r\nK-Session: session-"...)
		request = strconv.AppendInt(request, int64(n%sessions), 10)
		request = append(request, "\r\n"...)
		if len(cookie) > 0 {
			request = append(append(append(request, "Cookie: "...), cookie...), "\r\n"...)
		}
		if _, err := c.Write(append(request, "\r\n"...)); err != nil {
			return err
		}
		if cookie, err = read(r, cookie); err != nil {
			return fmt.Errorf("request %d: %w", n, err)
		}
	}
	return nil
}

// read reads one answer and returns the cookie to repeat. Answers have a Content-Length.
func read(r *bufio.Reader, cookie []byte) ([]byte, error) {
	length, status := -1, []byte(nil)
	for {
		line, err := r.ReadSlice('\n')
		if err != nil {
			return nil, err
		}
		line = bytes.TrimRight(line, "\r\n")
		if status == nil {
			status = bytes.Clone(line)
			continue
		}
		if len(line) == 0 {
			break
		}
		name, value, _ := bytes.Cut(line, []byte(": "))
		switch {
		case bytes.EqualFold(name, []byte("Content-Length")):
			if length, err = strconv.Atoi(string(value)); err != nil {
				return nil, err
			}
		case bytes.EqualFold(name, []byte("Set-Cookie")):
			pair, _, _ := bytes.Cut(value, []byte(";"))
			cookie = bytes.Clone(pair)
		}
	}
	if !bytes.HasPrefix(status, []byte("HTTP/1.1 200 ")) {
		return nil, errors.New("answered " + string(status))
	}
	if length < 0 {
		return nil, errors.New("answer has no Content-Length")
	}
	_, err := r.Discard(length)
	return cookie, err
}
