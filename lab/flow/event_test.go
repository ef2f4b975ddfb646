package flow

import (
	"encoding/binary"
	"net/netip"
	"testing"

	"github.com/mdlayher/netlink"

	"github.com/limpet-project/limpet/lab/clientip"
)

// encode returns an event as the kernel writes one, with a status between the tuples, which is passed over.
func encode(t testing.TB, protocol uint8, original, reply [2]netip.AddrPort) []byte {
	t.Helper()
	e := netlink.NewAttributeEncoder()
	e.ByteOrder = binary.BigEndian
	e.Nested(attributeOriginal, encodeTuple(protocol, original))
	e.Uint32(3, 0x198)
	e.Nested(attributeReply, encodeTuple(protocol, reply))
	b, err := e.Encode()
	if err != nil {
		t.Fatal(err)
	}
	return append([]byte{2, 0, 0, 0}, b...)
}

func encodeTuple(protocol uint8, t [2]netip.AddrPort) func(*netlink.AttributeEncoder) error {
	return func(e *netlink.AttributeEncoder) error {
		e.Nested(tupleAddress, func(e *netlink.AttributeEncoder) error {
			first := uint16(source4)
			if t[0].Addr().Is6() {
				first = source6
			}
			e.Bytes(first, t[0].Addr().AsSlice())
			e.Bytes(first+1, t[1].Addr().AsSlice())
			return nil
		})
		e.Nested(tupleProtocol, func(e *netlink.AttributeEncoder) error {
			e.ByteOrder = binary.BigEndian
			e.Uint8(protocolNumber, protocol)
			e.Uint16(sourcePort, t[0].Port())
			e.Uint16(destinationPort, t[1].Port())
			return nil
		})
		return nil
	}
}

func TestEventsOfTranslatedFlowsAreRead(t *testing.T) {
	pair := func(from, to string) [2]netip.AddrPort {
		return [2]netip.AddrPort{netip.MustParseAddrPort(from), netip.MustParseAddrPort(to)}
	}
	original, reply := pair("10.1.0.1:40000", "10.96.0.10:53"), pair("10.2.0.1:5353", "10.1.0.1:40000")
	original6, reply6 := pair("[fd00:1::1]:40000", "[fd00:96::10]:53"), pair("[fd00:2::1]:5353", "[fd00:1::1]:40000")
	for _, tt := range []struct {
		name            string
		protocol        uint8
		original, reply [2]netip.AddrPort
		want            string // the protocol; empty if it is passed over
	}{
		{"UDP", 17, original, reply, "udp"},
		{"TCP over IPv6", 6, original6, reply6, "tcp"},
		{"a source that is masqueraded", 17, original, pair("10.2.0.1:5353", "10.3.0.1:1024"), "udp"},
		{"one that is not translated", 17, original, pair("10.96.0.10:53", "10.1.0.1:40000"), ""},
		{"one without ports", 1, original, reply, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f, ok, err := parseEvent(encode(t, tt.protocol, tt.original, tt.reply))
			want := clientip.Flow{Protocol: tt.want, Client: tt.original[0], Destination: tt.original[1], Server: tt.reply[0]}
			if err != nil || ok != (tt.want != "") || ok && f != want {
				t.Errorf("parseEvent() = %+v, %t, %v, want %+v", f, ok, err, want)
			}
		})
	}
}

func FuzzEvent(f *testing.F) {
	four, six := netip.MustParseAddrPort("10.1.0.1:40000"), netip.MustParseAddrPort("[fd00::1]:53")
	f.Add(encode(f, 17, [2]netip.AddrPort{four, four}, [2]netip.AddrPort{four, four}))
	f.Add(encode(f, 6, [2]netip.AddrPort{six, six}, [2]netip.AddrPort{four, six}))
	f.Add([]byte{2, 0})
	f.Fuzz(func(t *testing.T, b []byte) {
		flow, ok, err := parseEvent(b)
		if ok && (err != nil || flow.Protocol == "" || !flow.Client.IsValid() || !flow.Server.IsValid() || flow.Server == flow.Destination) {
			t.Errorf("parseEvent(%x) = %+v, %t, %v, want a whole, translated flow or none", b, flow, ok, err)
		}
	})
}
