package transport

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"

	"github.com/pires/go-proxyproto"
)

const (
	// maxProxyHeader bounds a PROXY header of version 2: addresses take 216 bytes at most, the rest is what proxies add. Version 1 is
	// bounded by its own 107.
	maxProxyHeader = 4096
	// maxProxyLine is the longest header of version 1 (PROXY protocol, 2.1).
	maxProxyLine = 107
)

// proxySignature begins a header of version 2 (PROXY protocol, 2.2).
const proxySignature = "\r\n\r\n\x00\r\nQUIT\n"

// readProxy reads a PROXY header and returns whose connection it says it is, and to whom: zero addresses for a connection of the
// proxy's own. What follows the header stays in r, whose buffer holds maxProxyHeader.
func readProxy(r *bufio.Reader) (client, local netip.AddrPort, err error) {
	if err := awaitProxy(r); err != nil {
		return client, local, fmt.Errorf("reading the PROXY header: %w", err)
	}
	h, err := proxyproto.Read(r)
	if err != nil {
		return client, local, fmt.Errorf("reading the PROXY header: %w", err)
	}
	if h.Command.IsLocal() || h.TransportProtocol.IsUnspec() {
		return client, local, nil
	}
	from, ok := h.SourceAddr.(*net.TCPAddr)
	to, stream := h.DestinationAddr.(*net.TCPAddr)
	if !ok || !stream {
		return client, local, fmt.Errorf("reading the PROXY header: got a connection of another kind, %s", strconv.Itoa(int(h.TransportProtocol)))
	}
	return unmap(from.AddrPort()), unmap(to.AddrPort()), nil
}

// awaitProxy waits until a whole header is in r's buffer, so that one that comes in pieces is read as well, and refuses one that would not
// fit before more of it is read.
func awaitProxy(r *bufio.Reader) error {
	for {
		head, err := r.Peek(max(1, r.Buffered()))
		if err != nil {
			return err
		}
		whole, err := wholeProxy(head)
		if whole || err != nil {
			return err
		}
		if _, err := r.Peek(len(head) + 1); err != nil {
			return err
		}
	}
}

// wholeProxy reports whether b begins with a whole header, or why it never will.
func wholeProxy(b []byte) (bool, error) {
	const line = "PROXY "
	switch {
	case bytes.HasPrefix(b, []byte(line[:min(len(b), len(line))])):
		end := bytes.IndexByte(b, '\n')
		if end >= maxProxyLine || end < 0 && len(b) >= maxProxyLine {
			return false, fmt.Errorf("got a line of more than %d bytes", maxProxyLine)
		}
		return end >= 0, nil
	case !bytes.HasPrefix(b, []byte(proxySignature[:min(len(b), len(proxySignature))])):
		return false, errors.New("got something else")
	case len(b) < 16:
		return false, nil
	}
	size := 16 + int(binary.BigEndian.Uint16(b[14:]))
	if size > maxProxyHeader {
		return false, fmt.Errorf("got %d bytes, expected at most %d", size, maxProxyHeader)
	}
	return len(b) >= size, nil
}

// appendProxy appends a PROXY header of version v for a connection (tcp) or flow (udp) from client to local. It does not allocate if
// b has room for maxProxyLine bytes. Addresses of two families are written as IPv6 both.
func appendProxy(b []byte, v ProxyProtocol, network string, client, local netip.AddrPort) []byte {
	client, local = unmap(client), unmap(local)
	if client.Addr().Is4() != local.Addr().Is4() {
		client = netip.AddrPortFrom(netip.AddrFrom16(client.Addr().As16()), client.Port())
		local = netip.AddrPortFrom(netip.AddrFrom16(local.Addr().As16()), local.Port())
	}
	switch v {
	case ProxyV1:
		return appendProxyLine(b, client, local)
	case ProxyV2:
		return appendProxyBinary(b, network == "udp", client, local)
	}
	return b
}

func appendProxyLine(b []byte, client, local netip.AddrPort) []byte {
	b = append(b, "PROXY TCP6 "...)
	if client.Addr().Is4() {
		b[len(b)-2] = '4'
	}
	b = append(client.Addr().AppendTo(b), ' ')
	b = append(local.Addr().AppendTo(b), ' ')
	b = append(strconv.AppendUint(b, uint64(client.Port()), 10), ' ')
	b = strconv.AppendUint(b, uint64(local.Port()), 10)
	return append(b, "\r\n"...)
}

// The bytes of a binary header that say what follows (PROXY protocol, 2.2).
const (
	proxyCommand  = 0x21 // version 2, PROXY
	proxyIPv4     = 0x10
	proxyIPv6     = 0x20
	proxyStream   = 0x01
	proxyDatagram = 0x02
)

func appendProxyBinary(b []byte, datagram bool, client, local netip.AddrPort) []byte {
	kind, size := byte(proxyIPv6), uint16(2*16+4)
	if client.Addr().Is4() {
		kind, size = proxyIPv4, 2*4+4
	}
	if datagram {
		kind |= proxyDatagram
	} else {
		kind |= proxyStream
	}
	b = append(append(b, proxySignature...), proxyCommand, kind)
	b = binary.BigEndian.AppendUint16(b, size)
	b = appendAddress(appendAddress(b, client.Addr()), local.Addr())
	return binary.BigEndian.AppendUint16(binary.BigEndian.AppendUint16(b, client.Port()), local.Port())
}

func appendAddress(b []byte, a netip.Addr) []byte {
	if a.Is4() {
		four := a.As4()
		return append(b, four[:]...)
	}
	sixteen := a.As16()
	return append(b, sixteen[:]...)
}

// unmap returns an address as policies and logs know it: IPv4 as such, without a zone.
func unmap(a netip.AddrPort) netip.AddrPort {
	return netip.AddrPortFrom(a.Addr().Unmap().WithZone(""), a.Port())
}
