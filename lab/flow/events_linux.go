package flow

import (
	"context"
	"errors"
	"fmt"
	"syscall"

	"github.com/mdlayher/netlink"

	"github.com/limpet-project/limpet/lab/clientip"
)

// eventBuffer is how many bytes of events the kernel may hold that were not read yet: some ten thousand flows.
const eventBuffer = 16 << 20

// eventSize is more than one event has.
const eventSize = 32 << 10

// An eventReader hears of new flows, from the moment when it is made.
type eventReader struct{ conn *netlink.Conn }

// openEvents joins the kernel's group of new connections, in the network namespace of this thread.
func openEvents() (*eventReader, error) {
	conn, err := netlink.Dial(syscall.NETLINK_NETFILTER, &netlink.Config{Groups: groupNew, MessageBufferSize: eventSize})
	if err != nil {
		return nil, fmt.Errorf("watching new connections: %w", err)
	}
	if err := conn.SetReadBuffer(eventBuffer); err != nil {
		return nil, errors.Join(fmt.Errorf("making room for new connections: %w", err), conn.Close())
	}
	return &eventReader{conn}, nil
}

// read calls keep for each new flow whose address is translated, and lost each time when the kernel had more of them than it could hold. It
// returns nil when the context ends, and closes the reader.
func (r *eventReader) read(ctx context.Context, keep func(clientip.Flow), lost func()) error {
	stop := context.AfterFunc(ctx, func() { r.conn.Close() }) // which ends Receive
	defer func() {
		if stop() {
			r.conn.Close() // nothing was written
		}
	}()
	for {
		messages, err := r.conn.Receive()
		switch {
		case ctx.Err() != nil:
			return nil
		case errors.Is(err, syscall.ENOBUFS):
			lost()
			continue
		case err != nil:
			return fmt.Errorf("watching new connections: %w", err)
		}
		for _, m := range messages {
			if m.Header.Type != messageNew {
				continue
			}
			f, ok, err := parseEvent(m.Data)
			if err != nil {
				return err
			}
			if ok {
				keep(f)
			}
		}
	}
}
