package activator

import (
	"context"
	"testing"
	"time"

	"go.uber.org/zap"
	"knative.dev/pkg/logging"

	"github.com/limpet-project/limpet/token"
)

func newTokens(t testing.TB) *token.Keys {
	t.Helper()
	ring, err := token.Generate(time.Now())
	if err != nil {
		t.Fatal(err)
	}
	keys := &token.Keys{}
	keys.Swap(ring)
	return keys
}

func withLogger(ctx context.Context, l *zap.SugaredLogger) context.Context {
	return logging.WithLogger(ctx, l)
}
