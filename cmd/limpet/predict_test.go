package main

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/limpet-project/limpet/lab/spread"
)

// A bar shows after a moment, and nothing is left of it.
func TestProgressIsDrawnAndRemoved(t *testing.T) {
	tests := []struct {
		name string
		took time.Duration
		want string
	}{
		{"what is quick has no bar", 100 * time.Millisecond, ""},
		{"what takes long has one", 400 * time.Millisecond, "\rsimulating [" + strings.Repeat(".", 40) + "]   0 %\r\x1b[K"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var b strings.Builder
				var p spread.Progress
				stop, stopped := make(chan struct{}), make(chan struct{})
				go func() {
					defer close(stopped)
					drawProgress(&b, &p, stop)
				}()
				time.Sleep(tt.took)
				close(stop)
				<-stopped
				if b.String() != tt.want {
					t.Errorf("drawProgress = %q, want %q", b.String(), tt.want)
				}
			})
		})
	}
}
