package proxy

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"
)

// watched starts a watch whose exchange begins now.
func watched(t *testing.T, limits waits) (*watch, context.Context) {
	ctx, cancel := context.WithCancelCause(t.Context())
	w := &watch{begin: time.Now(), cancel: cancel}
	w.bound(limits)
	w.start()
	t.Cleanup(w.end)
	return w, ctx
}

func TestLimitsMayChangeWhileAnExchangeIsWatched(t *testing.T) {
	for _, c := range []struct {
		name          string
		before, after waits
		ends          time.Duration // 0 is never
		cause         error
	}{
		{"none, then one", waits{}, waits{request: time.Minute}, time.Minute, errRequestTimeout},
		{"one, then none", waits{request: time.Minute}, waits{}, 0, nil},
		{"short, then long", waits{idle: 15 * time.Second}, waits{idle: time.Minute}, time.Minute, errIdle},
		{"long, then short", waits{request: time.Hour}, waits{request: time.Minute}, time.Minute, errRequestTimeout},
		{"long, then over already", waits{request: time.Hour}, waits{request: time.Second}, 10 * time.Second, errRequestTimeout},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w, ctx := watched(t, c.before)
				time.Sleep(10 * time.Second)
				w.bound(c.after)
				select {
				case <-ctx.Done():
				case <-time.After(24 * time.Hour):
				}
				if got := context.Cause(ctx); !errors.Is(got, c.cause) || c.ends > 0 && time.Since(w.begin).Round(time.Second) != c.ends {
					t.Errorf("ended after %s by %v, want %s, %v", time.Since(w.begin), got, c.ends, c.cause)
				}
			})
		})
	}
}

func TestAnUpgradedConnectionWithoutLimitsIsLeftAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, ctx := watched(t, waits{readStall: time.Minute, writeStall: time.Minute})
		w.upgraded(func() { t.Error("hung up, want it left alone") })
		time.Sleep(24 * time.Hour) // a timer that is set to nothing would not let it pass
		if err := context.Cause(ctx); err != nil {
			t.Errorf("ended by %v, want no end", err)
		}
	})
}

func TestAConnectionThatIsUpgradedTooLateIsHungUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, ctx := watched(t, waits{idle: time.Minute})
		<-ctx.Done()
		hungUp := false
		w.upgraded(func() { hungUp = true })
		if !hungUp {
			t.Error("a limit was exceeded before the upgrade and the connections stay, want them hung up")
		}
	})
}
