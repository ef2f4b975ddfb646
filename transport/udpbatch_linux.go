package transport

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

const (
	batchSize   = 32      // datagrams that one system call receives or sends
	maxDatagram = 1 << 16 // more than any datagram has
)

// A udpMessage is one message of recvmmsg and sendmmsg (struct mmsghdr).
type udpMessage struct {
	header unix.Msghdr
	length uint32
}

// A udpBatch is room for datagrams that one system call receives or sends. The messages point into the batch itself, so it must not be copied.
type udpBatch struct {
	messages [batchSize]udpMessage
	vectors  [batchSize]unix.Iovec
	names    [batchSize]unix.RawSockaddrAny
	controls [batchSize][controlSize]byte
	bytes    []byte
	ahead    int // bytes left free before each datagram
}

// controlSize is room for the address at which a datagram arrived.
const controlSize = 64

func newUDPBatch(ahead int) *udpBatch {
	b := &udpBatch{bytes: make([]byte, batchSize*(ahead+maxDatagram)), ahead: ahead}
	for i := range b.messages {
		h := &b.messages[i].header
		h.Iov = &b.vectors[i]
		h.SetIovlen(1)
		b.vectors[i].Base = &b.slot(i)[ahead]
	}
	return b
}

// slot returns the room of the i-th datagram with what is ahead of it.
func (b *udpBatch) slot(i int) []byte {
	size := b.ahead + maxDatagram
	return b.bytes[i*size : (i+1)*size]
}

// receive receives datagrams into the slots from the given one on, as many as there are without waiting. With names it also takes their
// senders' addresses and control messages.
func (b *udpBatch) receive(fd, from int, names bool) (n int, err error) {
	for i := from; i < batchSize; i++ {
		h := &b.messages[i].header
		h.Flags = 0
		b.vectors[i].SetLen(maxDatagram)
		h.Name, h.Namelen, h.Control = nil, 0, nil
		h.SetControllen(0)
		if names {
			h.Name, h.Namelen = (*byte)(unsafe.Pointer(&b.names[i])), unix.SizeofSockaddrAny
			h.Control = &b.controls[i][0]
			h.SetControllen(controlSize)
		}
	}
	return transfer(unix.SYS_RECVMMSG, fd, b.messages[from:])
}

// answer has the i-th message, which holds n bytes, go to f's client.
func (b *udpBatch) answer(i int, f *flow, n int) {
	h := &b.messages[i].header
	h.Name, h.Namelen = &f.name[0], f.nameLen
	h.Control = nil
	h.SetControllen(len(f.control))
	if len(f.control) > 0 {
		h.Control = &f.control[0]
	}
	b.vectors[i].SetLen(n)
}

// transfer calls recvmmsg or sendmmsg, which have the same parameters but for a timeout.
func transfer(trap uintptr, fd int, messages []udpMessage) (int, error) {
	for {
		n, _, errno := unix.Syscall6(trap, uintptr(fd), uintptr(unsafe.Pointer(&messages[0])), uintptr(len(messages)),
			unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL, 0, 0)
		switch errno {
		case 0:
			return int(n), nil
		case unix.EINTR:
			continue
		}
		return 0, errno
	}
}

// sendAll sends the first n messages, passing over those that cannot be sent, for which failed is called.
func (b *udpBatch) sendAll(fd, n int, failed func(error)) {
	for from := 0; from < n; {
		sent, err := transfer(unix.SYS_SENDMMSG, fd, b.messages[from:n])
		if from += sent; err != nil {
			failed(err)
			from++
		}
	}
}

// arrival reads where the i-th datagram came from and to which address it went, zero if the kernel did not say.
func (b *udpBatch) arrival(i int) (key flowKey, link int32) {
	switch name := &b.names[i]; name.Addr.Family {
	case unix.AF_INET:
		a := (*unix.RawSockaddrInet4)(unsafe.Pointer(name))
		key.client, key.port = mapped(a.Addr), networkOrder(a.Port)
	case unix.AF_INET6:
		a := (*unix.RawSockaddrInet6)(unsafe.Pointer(name))
		key.client, key.port, key.scope = a.Addr, networkOrder(a.Port), a.Scope_id
	}
	control := b.controls[i][:b.messages[i].header.Controllen]
	for len(control) >= unix.SizeofCmsghdr {
		h, data, rest, err := unix.ParseOneSocketControlMessage(control)
		if err != nil {
			break
		}
		switch {
		case h.Level == unix.IPPROTO_IP && h.Type == unix.IP_PKTINFO && len(data) >= unix.SizeofInet4Pktinfo:
			key.local = mapped((*unix.Inet4Pktinfo)(unsafe.Pointer(&data[0])).Spec_dst)
		case h.Level == unix.IPPROTO_IPV6 && h.Type == unix.IPV6_PKTINFO && len(data) >= unix.SizeofInet6Pktinfo:
			to := (*unix.Inet6Pktinfo)(unsafe.Pointer(&data[0]))
			key.local, link = to.Addr, int32(to.Ifindex)
		}
		control = rest
	}
	return key, link
}

// mapped returns an address of IPv4 as one of IPv6.
func mapped(four [4]byte) (a [16]byte) {
	a[10], a[11] = 0xff, 0xff
	copy(a[12:], four[:])
	return a
}

// networkOrder returns the port of a raw socket address.
func networkOrder(port uint16) uint16 {
	b := (*[2]byte)(unsafe.Pointer(&port))
	return uint16(b[0])<<8 | uint16(b[1])
}

// name returns the raw address from which the i-th datagram came.
func (b *udpBatch) name(i int) []byte {
	return unsafe.Slice((*byte)(unsafe.Pointer(&b.names[i])), unix.SizeofSockaddrAny)[:b.messages[i].header.Namelen]
}
