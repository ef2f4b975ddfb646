package endpoint

import (
	"context"
	"fmt"
	"time"
)

// exchange checks one endpoint by a datagram and its answer. Each probe has a socket of its own, which is connected: an answer from
// another address counts for nothing, and that nobody listens is known at once where the endpoint's host says so.
func (p prober) exchange(ctx context.Context, address, send string) error {
	conn, err := p.dial(ctx, "udp", address)
	if err != nil {
		return err
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() {
		_ = conn.SetDeadline(time.Unix(1, 0)) // fails if the connection is closed, which is as good
	})
	defer stop()
	if _, err := conn.Write([]byte(send)); err != nil {
		return err
	}
	if _, err := conn.Read(make([]byte, 1)); err != nil { // the rest of the answer is not looked at
		if ctx.Err() != nil {
			return fmt.Errorf("waiting for an answer of %s by UDP: %w", address, ctx.Err())
		}
		return err
	}
	return nil
}
