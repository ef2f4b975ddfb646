package node

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"time"

	"github.com/limpet-project/limpet/config"
	"github.com/limpet-project/limpet/telemetry"
)

// observing is what is told of every request besides the metrics. Members that are nil are off.
type observing struct {
	log     *telemetry.AccessLog
	file    io.Closer
	tracing *telemetry.Tracing
}

// flushTimeout bounds the sending of the last spans.
const flushTimeout = 5 * time.Second

func openObserving(ctx context.Context, c *config.Config, m *telemetry.Metrics) (o observing, err error) {
	if c.AccessLog.File != "off" {
		out, err := telemetry.OpenAccessLog(string(c.AccessLog.File))
		if err != nil {
			return o, err
		}
		o.file = out
		o.log = telemetry.NewAccessLog(telemetry.AccessLogOptions{
			Output: out, Text: c.AccessLog.Format == "text", Peer: c.AccessLog.Peer, Metrics: m,
		})
	}
	if c.Tracing != nil {
		if o.tracing, err = telemetry.NewTracing(ctx, c.Tracing.Endpoint, c.Tracing.SampleRatio); err != nil {
			return o, fmt.Errorf("tracing: %w", err)
		}
	}
	return o, nil
}

// close writes what is waiting. No request may end after it.
func (o observing) close(log *slog.Logger) {
	if o.log != nil {
		if err := o.log.Close(); err != nil {
			log.Error("writing the access log", "error", err)
		}
		o.file.Close()
	}
	if o.tracing != nil {
		ctx, cancel := context.WithTimeout(context.Background(), flushTimeout)
		defer cancel()
		if err := o.tracing.Close(ctx); err != nil {
			log.Error("sending the last spans", "error", err)
		}
	}
}
