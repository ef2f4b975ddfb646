package testbed

import (
	"encoding/binary"
	"io"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"
)

// A responder answers DNS at an endpoint, over UDP and TCP, until it is closed.
type responder struct {
	address  netip.Addr
	packets  *net.UDPConn
	streams  *net.TCPListener
	answered atomic.Int64 // over UDP
	parts    sync.WaitGroup
}

func newResponder(n *Namespace, address netip.Addr) (*responder, error) {
	packets, streams, err := n.listen(netip.AddrPortFrom(address, dnsPort))
	if err != nil {
		return nil, err
	}
	r := &responder{address: address, packets: packets, streams: streams}
	r.parts.Go(r.servePackets)
	r.parts.Go(r.serveStreams)
	return r, nil
}

func (r *responder) close() {
	r.packets.Close()
	r.streams.Close()
	r.parts.Wait()
}

func (r *responder) servePackets() {
	in, out := make([]byte, dnsMessage), make([]byte, 0, dnsMessage)
	for {
		n, from, err := r.packets.ReadFromUDPAddrPort(in)
		if err != nil {
			return // closed
		}
		answer, err := appendAnswer(out, in[:n], r.address)
		if err != nil {
			continue // something else was sent here
		}
		r.answered.Add(1)
		_, _ = r.packets.WriteToUDPAddrPort(answer, from) // a client that left is no matter
	}
}

func (r *responder) serveStreams() {
	var open sync.WaitGroup
	defer open.Wait()
	for {
		conn, err := r.streams.Accept()
		if err != nil {
			return // closed
		}
		open.Go(func() { r.serveStream(conn) })
	}
}

// serveStream answers the queries of one connection, each behind its length.
func (r *responder) serveStream(conn net.Conn) {
	defer conn.Close()
	var in [2 + dnsMessage]byte
	for {
		_ = conn.SetDeadline(time.Now().Add(time.Second)) // it is open
		if _, err := io.ReadFull(conn, in[:2]); err != nil {
			return
		}
		n := int(binary.BigEndian.Uint16(in[:]))
		if n > dnsMessage {
			return
		}
		if _, err := io.ReadFull(conn, in[2:2+n]); err != nil {
			return
		}
		answer, err := appendAnswer(make([]byte, 2, dnsMessage), in[2:2+n], r.address)
		if err != nil {
			return
		}
		binary.BigEndian.PutUint16(answer, uint16(len(answer)-2))
		if _, err := conn.Write(answer); err != nil {
			return
		}
	}
}
