package testbed

import (
	"encoding/binary"
	"errors"
	"net/netip"
)

// The little of DNS (RFC 1035) that is spoken here: one question of type A, and one address as the answer.
const (
	dnsHeader   = 12
	dnsAnswered = 0x8400 // a response, authoritative
	dnsMessage  = 512
	dnsPort     = 53
)

// question is asked: counter.demo.svc.cluster.local, type A, class IN.
var question = []byte("\x07counter\x04demo\x03svc\x07cluster\x05local\x00\x00\x01\x00\x01")

// appendQuery appends a query with an id.
func appendQuery(b []byte, id uint16) []byte {
	b = binary.BigEndian.AppendUint16(b, id)
	b = append(b, 0x01, 0x00, 0, 1, 0, 0, 0, 0, 0, 0) // recursion desired, one question
	return append(b, question...)
}

var errNoQuery = errors.New("no query with one question")

// appendAnswer appends the answer to a query: the endpoint's own address, so that a client learns who answered.
func appendAnswer(b, query []byte, address netip.Addr) ([]byte, error) {
	end, err := questionEnd(query)
	if err != nil || query[2]&0x80 != 0 {
		return b, errNoQuery
	}
	b = append(b, query[:2]...)
	b = binary.BigEndian.AppendUint16(b, dnsAnswered|uint16(query[2]&0x01)<<8)
	b = append(b, 0, 1, 0, 1, 0, 0, 0, 0) // one question, one answer
	b = append(b, query[dnsHeader:end]...)
	b = append(b, 0xc0, dnsHeader, 0, 1, 0, 1, 0, 0, 0, 0, 0, 4) // the question's name, A, IN, not to be cached
	a := address.As4()
	return append(b, a[:]...), nil
}

// questionEnd returns where the first question of a message ends.
func questionEnd(m []byte) (int, error) {
	if len(m) < dnsHeader || binary.BigEndian.Uint16(m[4:]) != 1 {
		return 0, errNoQuery
	}
	at := dnsHeader
	for at < len(m) && m[at] != 0 {
		if m[at] > 63 { // a pointer, which a first name cannot be
			return 0, errNoQuery
		}
		at += 1 + int(m[at])
	}
	if at+5 > len(m) {
		return 0, errNoQuery
	}
	return at + 5, nil
}

// parseAnswer returns the id of an answer and the address in it.
func parseAnswer(m []byte) (id uint16, address netip.Addr, ok bool) {
	end, err := questionEnd(m)
	if err != nil || m[2]&0x80 == 0 || len(m) < end+16 {
		return 0, netip.Addr{}, false
	}
	return binary.BigEndian.Uint16(m), netip.AddrFrom4([4]byte(m[end+12 : end+16])), true
}
