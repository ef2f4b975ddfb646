package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// upstreams is the number of replicas.
const upstreams = 3

// answer is what every replica answers.
const answer = "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 6\r\n\r\ncount\n"

// upstream listens on three ports, which it prints, and answers every request at once. It reads heads only: there are no bodies.
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
				go respond(ctx, c)
			}
		})
	}
	fmt.Fprintln(out, strings.Join(addresses, ","))
	serving.Wait()
	return nil
}

func respond(ctx context.Context, c net.Conn) {
	defer c.Close()
	defer context.AfterFunc(ctx, func() { c.Close() })()
	r := bufio.NewReader(c)
	for {
		line, err := r.ReadSlice('\n')
		if err != nil {
			return
		}
		if len(bytes.TrimRight(line, "\r\n")) > 0 {
			continue
		}
		if _, err := io.WriteString(c, answer); err != nil {
			return
		}
	}
}

// bare is the least that the standard library offers as a gateway: ReverseProxy over the replicas in turn.
func bare(ctx context.Context, args []string, out io.Writer) error {
	f := flag.NewFlagSet("bare", flag.ContinueOnError)
	to := f.String("to", "", "the replicas' addresses")
	if err := f.Parse(args); err != nil {
		return err
	}
	var targets []*url.URL
	for a := range strings.SplitSeq(*to, ",") {
		targets = append(targets, &url.URL{Scheme: "http", Host: a})
	}
	var turn atomic.Uint64
	proxy := &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(targets[turn.Add(1)%uint64(len(targets))])
			r.Out.Host = r.In.Host
			r.SetXForwarded()
		},
		Transport: &http.Transport{MaxIdleConnsPerHost: 256, MaxIdleConns: 0},
		ErrorLog:  log.New(io.Discard, "", 0),
	}
	var lc net.ListenConfig
	l, err := lc.Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	fmt.Fprintln(out, l.Addr())
	server := &http.Server{Handler: proxy, ReadHeaderTimeout: 10 * time.Second}
	defer context.AfterFunc(ctx, func() { server.Close() })()
	if err := server.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}
