package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"strings"
	"sync"
	"time"
)

// upstreams is the number of replicas.
const upstreams = 3

// answerer listens on sockets, whose addresses it prints, and answers each datagram with the same bytes.
func answerer(ctx context.Context, _ []string, out io.Writer) error {
	var serving sync.WaitGroup
	var addresses []string
	for range upstreams {
		conn, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
		if err != nil {
			return err
		}
		_ = conn.SetReadBuffer(4 << 20) // as much as the system allows
		defer context.AfterFunc(ctx, func() { conn.Close() })()
		addresses = append(addresses, conn.LocalAddr().String())
		serving.Go(func() {
			buffer := make([]byte, 1<<16)
			for {
				n, from, err := conn.ReadFromUDPAddrPort(buffer)
				if errors.Is(err, net.ErrClosed) {
					return
				}
				if err == nil {
					_, _ = conn.WriteToUDPAddrPort(buffer[:n], from) // what is lost is counted by who asked
				}
			}
		})
	}
	fmt.Fprintln(out, strings.Join(addresses, ","))
	serving.Wait()
	return nil
}

// served is what a load prints.
type served struct {
	Answers int     `json:"answers"`
	Lost    int     `json:"lost"` // questions without one
	Seconds float64 `json:"seconds"`
}

// A loadPart is one run of clients, each of which asks and waits for the answer.
type loadPart struct {
	to                       netip.AddrPort
	questions, clients, size int
	fresh                    bool // a socket for each question
	wait                     time.Duration
}

func load(_ context.Context, args []string, out io.Writer) error {
	f := flag.NewFlagSet("load", flag.ContinueOnError)
	p := loadPart{}
	to := f.String("to", "", "the gateway's `address`")
	f.IntVar(&p.questions, "questions", 1000, "`number` of questions")
	f.IntVar(&p.clients, "clients", 1, "`number` of clients")
	f.IntVar(&p.size, "size", 64, "`bytes` of a question")
	f.DurationVar(&p.wait, "wait", time.Second, "after this `time` without an answer a question is lost")
	f.BoolVar(&p.fresh, "fresh", false, "a socket for each question")
	if err := f.Parse(args); err != nil {
		return err
	}
	var err error
	if p.to, err = netip.ParseAddrPort(*to); err != nil {
		return err
	}
	begin := time.Now()
	var running sync.WaitGroup
	var mu sync.Mutex
	total := served{}
	errs := make([]error, p.clients)
	for i := range p.clients {
		running.Go(func() {
			answered, lost, err := p.client(i)
			mu.Lock()
			defer mu.Unlock()
			total.Answers += answered
			total.Lost += lost
			errs[i] = err
		})
	}
	running.Wait()
	total.Seconds = time.Since(begin).Seconds()
	return errors.Join(errors.Join(errs...), json.NewEncoder(out).Encode(total))
}

// client asks its share of the questions from an address of its own.
func (p *loadPart) client(i int) (answered, lost int, err error) {
	local := &net.UDPAddr{IP: net.IPv4(127, 1, byte(i>>8), byte(i))}
	remote := net.UDPAddrFromAddrPort(p.to)
	question, buffer := make([]byte, p.size), make([]byte, 1<<16)
	var conn *net.UDPConn
	defer func() {
		if conn != nil {
			conn.Close()
		}
	}()
	for range p.questions / p.clients {
		if conn == nil || p.fresh {
			if conn != nil {
				conn.Close()
			}
			if conn, err = net.DialUDP("udp", local, remote); err != nil {
				return answered, lost, err
			}
		}
		if _, err := conn.Write(question); err != nil {
			return answered, lost, err
		}
		if err := conn.SetReadDeadline(time.Now().Add(p.wait)); err != nil {
			return answered, lost, err
		}
		switch _, err := conn.Read(buffer); {
		case err == nil:
			answered++
		case errors.Is(err, os.ErrDeadlineExceeded):
			lost++
		default:
			return answered, lost, err
		}
	}
	return answered, lost, nil
}
