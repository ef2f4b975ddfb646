package ingress

import (
	"bytes"
	"errors"
	"log/slog"
	"strings"
	"testing"

	"go.uber.org/zap"
)

func TestLibrariesLogOneLevelLower(t *testing.T) {
	var out bytes.Buffer
	handler := slog.NewTextHandler(&out, &slog.HandlerOptions{Level: slog.LevelInfo, ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
		if a.Key == slog.TimeKey {
			return slog.Attr{}
		}
		return a
	}})
	log := zapLogger(slog.New(handler)).With("controller", "ingress")
	log.Infow("Reconcile succeeded", "key", "default/demo")
	log.Errorw("Reconcile error", zap.Error(errors.New("no such host")), "key", "default/demo")
	want := `level=INFO msg="Reconcile error" controller=ingress error="no such host" key=default/demo`
	if got := strings.TrimSpace(out.String()); got != want {
		t.Errorf("logged %q, want %q", got, want)
	}
}
