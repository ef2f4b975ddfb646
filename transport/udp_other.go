//go:build !linux

package transport

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"time"

	"github.com/limpet-project/limpet/affinity"
)

// A serving does not exist here: a UDP listener needs epoll, recvmmsg and sendmmsg.
type serving struct {
	pickers  pickers
	route    *Route
	snapshot *affinity.Snapshot
}

func newServing(_ *UDP, conn *net.UDPConn) (*serving, error) {
	conn.Close()
	return nil, errors.New("it needs Linux")
}

func (s *serving) now() time.Duration                 { return 0 }
func (s *serving) start(context.Context) <-chan error { return nil }
func (s *serving) stop()                              {}
func (s *serving) close()                             {}

func (s *serving) connect(*flow, netip.AddrPort) (*udpSocket, error) {
	return nil, errors.New("it needs Linux")
}

// A udpSocket does not exist here either.
type udpSocket struct{}

func (k *udpSocket) listen() error     { return nil }
func (k *udpSocket) send([]byte) error { return nil }
func (k *udpSocket) use() bool         { return false }
func (k *udpSocket) done()             {}
func (k *udpSocket) close()            {}
