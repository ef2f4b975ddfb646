package ingress

import (
	"context"
	"log/slog"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

// zapLogger returns a logger for Knative's libraries that writes to log. They say at info what is of use to whoever debugs them, and at
// error that a probe has to be repeated: their lines come one level lower.
func zapLogger(log *slog.Logger) *zap.SugaredLogger {
	return zap.New(slogCore{handler: log.Handler()}).Sugar()
}

// slogCore is a zap core that hands its lines to a slog handler.
type slogCore struct{ handler slog.Handler }

// Enabled implements zapcore.LevelEnabler.
func (c slogCore) Enabled(l zapcore.Level) bool {
	return c.handler.Enabled(context.Background(), lowered(l))
}

// With implements zapcore.Core.
func (c slogCore) With(fields []zapcore.Field) zapcore.Core {
	return slogCore{c.handler.WithAttrs(attrs(fields))}
}

// Check implements zapcore.Core.
func (c slogCore) Check(e zapcore.Entry, checked *zapcore.CheckedEntry) *zapcore.CheckedEntry {
	if c.Enabled(e.Level) {
		return checked.AddCore(e, c)
	}
	return checked
}

// Write implements zapcore.Core.
func (c slogCore) Write(e zapcore.Entry, fields []zapcore.Field) error {
	r := slog.NewRecord(e.Time, lowered(e.Level), e.Message, 0)
	if e.Time.IsZero() {
		r.Time = time.Now()
	}
	r.AddAttrs(attrs(fields)...)
	return c.handler.Handle(context.Background(), r)
}

// Sync implements zapcore.Core; a slog handler keeps nothing back.
func (c slogCore) Sync() error { return nil }

// lowered returns the level at which a line of a library is logged here.
func lowered(l zapcore.Level) slog.Level {
	switch {
	case l <= zapcore.InfoLevel:
		return slog.LevelDebug
	case l <= zapcore.ErrorLevel:
		return slog.LevelInfo
	}
	return slog.LevelError // the process is about to end
}

func attrs(fields []zapcore.Field) []slog.Attr {
	list := make([]slog.Attr, 0, len(fields))
	for _, f := range fields {
		encoder := zapcore.NewMapObjectEncoder()
		f.AddTo(encoder)
		for key, value := range encoder.Fields {
			list = append(list, slog.Any(key, value))
		}
	}
	return list
}
