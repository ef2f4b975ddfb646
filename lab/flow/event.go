package flow

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"

	"github.com/mdlayher/netlink"

	"github.com/limpet-project/limpet/lab/clientip"
)

// Numbers of the kernel's linux/netfilter/nfnetlink.h and nfnetlink_conntrack.h.
const (
	groupNew     = 1 << 0 // NFNLGRP_CONNTRACK_NEW as a bit
	messageNew   = 1 << 8 // NFNL_SUBSYS_CTNETLINK, IPCTNL_MSG_CT_NEW
	headerLength = 4      // of struct nfgenmsg

	attributeOriginal = 1 // CTA_TUPLE_ORIG
	attributeReply    = 2 // CTA_TUPLE_REPLY

	tupleAddress  = 1 // CTA_TUPLE_IP
	tupleProtocol = 2 // CTA_TUPLE_PROTO

	source4, destination4 = 1, 2 // CTA_IP_V4_SRC, CTA_IP_V4_DST
	source6, destination6 = 3, 4 // CTA_IP_V6_SRC, CTA_IP_V6_DST

	protocolNumber, sourcePort, destinationPort = 1, 2, 3 // CTA_PROTO_NUM, CTA_PROTO_SRC_PORT, CTA_PROTO_DST_PORT
)

var protocols = map[uint8]string{6: "tcp", 17: "udp", 132: "sctp"}

// A tuple is one direction of a connection.
type tuple struct {
	protocol            uint8
	source, destination netip.Addr
	from, to            uint16
}

func (t tuple) start() netip.AddrPort { return netip.AddrPortFrom(t.source, t.from) }
func (t tuple) end() netip.AddrPort   { return netip.AddrPortFrom(t.destination, t.to) }

// parseEvent reads what the kernel tells of a new connection, and reports whether it is one with ports whose address was translated.
func parseEvent(m []byte) (clientip.Flow, bool, error) {
	if len(m) < headerLength {
		return clientip.Flow{}, false, errors.New("an event of connections is cut off")
	}
	var original, reply tuple
	err := decode(m[headerLength:], func(d *netlink.AttributeDecoder) {
		switch d.Type() {
		case attributeOriginal:
			d.Nested(original.decode)
		case attributeReply:
			d.Nested(reply.decode)
		}
	})
	if err != nil {
		return clientip.Flow{}, false, fmt.Errorf("reading an event of connections: %w", err)
	}
	f := clientip.Flow{Protocol: protocols[original.protocol], Client: original.start(), Destination: original.end(), Server: reply.start()}
	whole := f.Protocol != "" && original.source.IsValid() && original.destination.IsValid() && reply.source.IsValid()
	return f, whole && f.Server != f.Destination, nil
}

// decode goes through attributes.
func decode(b []byte, each func(*netlink.AttributeDecoder)) error {
	d, err := netlink.NewAttributeDecoder(b)
	if err != nil {
		return err
	}
	for d.Next() {
		each(d)
	}
	return d.Err()
}

// decode reads a tuple, of which it takes what it knows.
func (t *tuple) decode(d *netlink.AttributeDecoder) error {
	for d.Next() {
		switch d.Type() {
		case tupleAddress:
			d.Nested(t.decodeAddresses)
		case tupleProtocol:
			d.Nested(t.decodePorts)
		}
	}
	return d.Err()
}

func (t *tuple) decodeAddresses(d *netlink.AttributeDecoder) error {
	for d.Next() {
		a, ok := netip.AddrFromSlice(d.Bytes())
		switch kind := d.Type(); {
		case kind < source4 || kind > destination6:
		case !ok:
			return fmt.Errorf("got an address of %d bytes, expected 4 or 16", len(d.Bytes()))
		case kind == source4 || kind == source6:
			t.source = a
		default:
			t.destination = a
		}
	}
	return d.Err()
}

func (t *tuple) decodePorts(d *netlink.AttributeDecoder) error {
	d.ByteOrder = binary.BigEndian
	for d.Next() {
		switch d.Type() {
		case protocolNumber:
			t.protocol = d.Uint8()
		case sourcePort:
			t.from = d.Uint16()
		case destinationPort:
			t.to = d.Uint16()
		}
	}
	return d.Err()
}
