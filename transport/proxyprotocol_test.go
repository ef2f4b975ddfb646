package transport

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"syscall"
	"testing"
	"testing/iotest"
	"time"

	"github.com/pires/go-proxyproto"
)

var (
	alice  = netip.MustParseAddrPort("203.0.113.7:40000")
	bob    = netip.MustParseAddrPort("[2001:db8::7]:40000")
	front  = netip.MustParseAddrPort("192.0.2.1:5432")
	front6 = netip.MustParseAddrPort("[2001:db8::1]:5432")
)

// binaryHeader writes a header of version 2 with any bytes in it.
func binaryHeader(command, kind byte, payload []byte) string {
	b := append([]byte(proxySignature), command, kind)
	return string(append(binary.BigEndian.AppendUint16(b, uint16(len(payload))), payload...))
}

func header(v ProxyProtocol, client, local netip.AddrPort) string {
	return string(appendProxy(nil, v, "tcp", client, local))
}

func TestHeadersSayWhoseConnectionItIs(t *testing.T) {
	type ends struct{ client, local netip.AddrPort }
	v2 := header(ProxyV2, alice, front)
	tests := []struct {
		name, header string
		want         ends
	}{
		{"version 1, IPv4", header(ProxyV1, alice, front), ends{alice, front}},
		{"version 1, IPv6", header(ProxyV1, bob, front6), ends{bob, front6}},
		{"version 1, unknown", "PROXY UNKNOWN\r\n", ends{}},
		{"version 1, unknown with addresses", "PROXY UNKNOWN 203.0.113.7 192.0.2.1 40000 5432\r\n", ends{}},
		{"version 2, IPv4", v2, ends{alice, front}},
		{"version 2, IPv6", header(ProxyV2, bob, front6), ends{bob, front6}},
		{"version 2, with additions", binaryHeader(0x21, 0x11, append([]byte(v2[16:]), 0x04, 0, 2, 'h', 'i')), ends{alice, front}},
		{"version 2, of the proxy's own", binaryHeader(0x20, 0, nil), ends{}},
		{"IPv4 within IPv6", header(ProxyV1, alice, front6), ends{alice, front6}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			for _, pieces := range []func(io.Reader) io.Reader{func(r io.Reader) io.Reader { return r }, iotest.OneByteReader} {
				r := bufio.NewReaderSize(pieces(strings.NewReader(tt.header+"SELECT 1")), maxProxyHeader)
				client, local, err := readProxy(r)
				if err != nil || (ends{client, local}) != tt.want {
					t.Errorf("readProxy(%q) = %v, %v, %v, want %v", tt.header, client, local, err, tt.want)
				}
				if rest, _ := io.ReadAll(r); string(rest) != "SELECT 1" {
					t.Errorf("after the header comes %q, want SELECT 1", rest)
				}
			}
		})
	}
}

// wrongHeaders are refused, whoever sends them.
var wrongHeaders = map[string]string{
	"none":                          "SELECT 1 FROM pg_catalog",
	"something alike":               "PROXYING TCP4 203.0.113.7 192.0.2.1 40000 5432\r\n",
	"a line without an end":         "PROXY TCP4 " + strings.Repeat("1", 200),
	"a line that ends too late":     "PROXY UNKNOWN " + strings.Repeat("1", 100) + "\r\n",
	"a line without a return":       "PROXY TCP4 203.0.113.7 192.0.2.1 40000 5432\n",
	"a line with an address wrong":  "PROXY TCP4 203.0.113.777 192.0.2.1 40000 5432\r\n",
	"a line with a port too large":  "PROXY TCP4 203.0.113.7 192.0.2.1 70000 5432\r\n",
	"a line of another family":      "PROXY TCP6 203.0.113.7 192.0.2.1 40000 5432\r\n",
	"a line of UDP":                 "PROXY UDP4 203.0.113.7 192.0.2.1 40000 5432\r\n",
	"another version":               binaryHeader(0x31, 0x11, make([]byte, 12)),
	"datagrams":                     binaryHeader(0x21, 0x12, make([]byte, 12)),
	"a socket of Unix":              binaryHeader(0x21, 0x31, make([]byte, 216)),
	"too short for its addresses":   binaryHeader(0x21, 0x11, make([]byte, 11)),
	"longer than it may be":         binaryHeader(0x21, 0x11, make([]byte, maxProxyHeader)),
	"as long as it can be":          binaryHeader(0x21, 0x11, make([]byte, 65535)),
	"nobody's, but not the proxy's": binaryHeader(0x21, 0, nil),
}

func TestWrongHeadersAreRefused(t *testing.T) {
	for name, header := range wrongHeaders {
		t.Run(name, func(t *testing.T) {
			r := bufio.NewReaderSize(strings.NewReader(header), maxProxyHeader)
			if client, _, err := readProxy(r); err == nil {
				t.Errorf("readProxy(%.60q) = %v, want an error", header, client)
			}
		})
	}
}

func TestHeadersAreWrittenAsOthersReadThem(t *testing.T) {
	for _, v := range []ProxyProtocol{ProxyV1, ProxyV2} {
		for _, ends := range [][2]netip.AddrPort{{alice, front}, {bob, front6}, {alice, front6}, {bob, front}} {
			h, err := proxyproto.Read(bufio.NewReader(strings.NewReader(header(v, ends[0], ends[1]))))
			if err != nil {
				t.Errorf("%s header of %v = %v", v, ends, err)
				continue
			}
			from, to := h.SourceAddr.(*net.TCPAddr).AddrPort(), h.DestinationAddr.(*net.TCPAddr).AddrPort()
			if unmap(from) != ends[0] || unmap(to) != ends[1] {
				t.Errorf("%s header of %v = %v, %v", v, ends, from, to)
			}
		}
	}
	h, err := proxyproto.Read(bufio.NewReader(bytes.NewReader(appendProxy(nil, ProxyV2, "udp", alice, front))))
	if err != nil || !h.TransportProtocol.IsDatagram() || h.SourceAddr.(*net.UDPAddr).AddrPort().Port() != alice.Port() {
		t.Errorf("header of a flow = %+v, %v, want one of datagrams from %v", h, err, alice)
	}
}

func TestHeadersAreWrittenWithoutAllocation(t *testing.T) {
	b := make([]byte, 0, maxProxyLine)
	for _, v := range []ProxyProtocol{ProxyV1, ProxyV2} {
		if n := testing.AllocsPerRun(100, func() { b = appendProxy(b[:0], v, "udp", bob, front) }); n != 0 {
			t.Errorf("appendProxy(%s) allocates %v times, want none", v, n)
		}
	}
}

func FuzzReadProxy(f *testing.F) {
	for _, text := range wrongHeaders {
		f.Add([]byte(text))
	}
	f.Add([]byte(header(ProxyV1, alice, front) + "rest"))
	f.Add([]byte(header(ProxyV2, bob, front6) + "rest"))
	f.Add([]byte(binaryHeader(0x20, 0, nil)))
	f.Fuzz(func(t *testing.T, b []byte) {
		r := bufio.NewReaderSize(bytes.NewReader(b), maxProxyHeader)
		client, local, err := readProxy(r)
		rest, _ := io.ReadAll(r)
		if err != nil {
			return
		}
		if client.IsValid() != local.IsValid() || client.Addr().Zone() != "" {
			t.Errorf("readProxy(%q) = %v, %v, want both or neither, without a zone", b, client, local)
		}
		if !bytes.HasSuffix(b, rest) || len(b)-len(rest) > maxProxyHeader {
			t.Errorf("readProxy(%q) left %q", b, rest)
		}
	})
}

// behind makes a listener require headers of 127.0.0.1.
func behind(l *TCP) {
	l.AcceptProxy, l.Trusted = true, []netip.Prefix{netip.MustParsePrefix("127.0.0.1/32")}
	l.headerTime = 30 * time.Second
}

func TestClientIsWhomTheTrustedProxyNames(t *testing.T) {
	w := newWorld(t, nil)
	letters(w, 3)
	g := w.listen(behind)
	home := map[string]string{}
	for i := range 60 {
		client := fmt.Sprintf("203.0.113.%d", i%20)
		v := []ProxyProtocol{ProxyV1, ProxyV2}[i/20%2]
		c := g.dial(t, "127.0.0.1")
		if _, err := io.WriteString(c, header(v, netip.MustParseAddrPort(client+":40000"), front)+"hello\n"); err != nil {
			t.Fatal(err)
		}
		at := c.line()
		if home[client] != "" && home[client] != at {
			t.Errorf("%s went to %s, want %s", client, at, home[client])
		}
		home[client] = at
		if got := c.line(); got != "hello" {
			t.Errorf("what came with the header came back as %q, want hello", got)
		}
		c.Close()
	}
	if o := w.seen.end(t, 1); !strings.HasPrefix(o.Client.String(), "203.0.113.") || o.BytesIn != 6 {
		t.Errorf("the first connection was one of %v with %d bytes, want a client of 203.0.113.0/24 with 6: the header does not count", o.Client, o.BytesIn)
	}
}

func TestConnectionOfTheProxysOwnIsThatOfItsAddress(t *testing.T) {
	w := newWorld(t, nil)
	letters(w, 1)
	c := w.listen(behind).dial(t, "127.0.0.1")
	if _, err := io.WriteString(c, "PROXY UNKNOWN\r\n"); err != nil {
		t.Fatal(err)
	}
	c.line()
	c.Close()
	if o := w.seen.end(t, 1); o.Client.String() != "127.0.0.1" {
		t.Errorf("the connection was one of %v, want 127.0.0.1", o.Client)
	}
}

func TestForgedLateAndOversizedHeadersReachNoEndpoint(t *testing.T) {
	w := newWorld(t, nil)
	s := w.serve("postgres-00001-a", echo)
	g := w.listen(behind, func(l *TCP) { l.headerTime = 100 * time.Millisecond })
	refused := 0
	refuse := func(name, from, text string, want Cause) {
		t.Helper()
		if err := g.try(t, from, text); !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("%s: the client read %v, want a reset", name, err)
		}
		refused++
		o := w.seen.end(t, refused)
		if o.Cause != want || o.Err == nil || strings.Contains(o.Err.Error(), "127.0.0") {
			t.Errorf("%s was refused because %s, %v, want %s and no address", name, o.Cause, o.Err, want)
		}
	}
	for name, text := range wrongHeaders {
		refuse(name, "127.0.0.1", text, CauseProxyHeader)
	}
	refuse("a header that does not come", "127.0.0.1", "", CauseProxyHeader)
	refuse("a header that comes in part", "127.0.0.1", header(ProxyV2, alice, front)[:20], CauseProxyHeader)
	refuse("a header of somebody else", "127.0.0.2", header(ProxyV2, alice, front), CauseUntrusted)
	refuse("no header of somebody else", "127.0.0.2", "SELECT 1", CauseUntrusted)
	if n := s.accepted.Load(); n != 0 {
		t.Errorf("the endpoint took %d connections, want none", n)
	}
}

func TestEndpointsAreToldTheClient(t *testing.T) {
	for _, v := range []ProxyProtocol{ProxyV1, ProxyV2} {
		t.Run(string(v), func(t *testing.T) {
			w := newWorld(t, nil)
			w.serve("postgres-00001-a", func(_ *server, c *net.TCPConn) {
				r := bufio.NewReader(c)
				h, err := proxyproto.Read(r)
				if err != nil {
					w.t.Errorf("the endpoint read %v", err)
					return
				}
				fmt.Fprintln(c, h.Version, h.SourceAddr, h.DestinationAddr)
				_, _ = io.Copy(c, r)
			})
			direct := w.listen(func(l *TCP) { l.SendProxy = v })
			c := direct.dial(t, "127.0.0.9")
			want := fmt.Sprintf("%c %v %v", v[1], c.LocalAddr(), c.RemoteAddr())
			if got := c.line(); got != want {
				t.Errorf("the endpoint was told %q, want %q", got, want)
			}
			proxied := w.listen(behind, func(l *TCP) { l.SendProxy = v }).dial(t, "127.0.0.1")
			if _, err := io.WriteString(proxied, header(ProxyV2, bob, front6)+"hello\n"); err != nil {
				t.Fatal(err)
			}
			if got, want := proxied.line(), fmt.Sprintf("%c %v %v", v[1], bob, front6); got != want {
				t.Errorf("behind a proxy the endpoint was told %q, want %q", got, want)
			}
			if got := proxied.line(); got != "hello" {
				t.Errorf("after the header came %q, want hello", got)
			}
		})
	}
}
