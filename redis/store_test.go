package redis_test

import (
	"testing"
	"time"

	"github.com/limpet-project/limpet/binding"
	"github.com/limpet-project/limpet/binding/bindingtest"
	"github.com/limpet-project/limpet/redis"
	"github.com/limpet-project/limpet/redis/redistest"
)

func TestRealServerPassesTheConformanceSuite(t *testing.T) {
	server := redistest.Start(t)
	bindingtest.RunWith(t, bindingtest.Options{
		New:  func(t *testing.T) binding.Store { return open(t, server) },
		Pair: func(t *testing.T) (a, b binding.Store) { return open(t, server), open(t, server) },
	})
}

// open returns a connected store that is closed when the test ends. Its calls may take long, so that a busy machine fails no test.
func open(t *testing.T, server *redistest.Server, edits ...func(*redis.Options)) *redis.Store {
	t.Helper()
	s := disconnected(t, server, edits...)
	eventually(t, "connection", func() bool { return s.Ping(t.Context()) == nil })
	return s
}

func disconnected(t *testing.T, server *redistest.Server, edits ...func(*redis.Options)) *redis.Store {
	t.Helper()
	o := redis.Options{Addresses: []string{server.Addr()}, TLS: server.TLSConfig(), CallTimeout: 10 * time.Second}
	for _, edit := range edits {
		edit(&o)
	}
	s, err := redis.Open(o)
	if err != nil {
		t.Fatalf("Open(%v) = %v, want no error", o.Addresses, err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Errorf("Close() = %v, want no error", err)
		}
	})
	return s
}

// patience bounds the wait for something that must happen; it is only used up by code that is wrong.
const patience = 3 * time.Minute

func eventually(t *testing.T, what string, done func() bool) {
	t.Helper()
	limit := time.NewTimer(patience)
	defer limit.Stop()
	poll := time.NewTicker(5 * time.Millisecond)
	defer poll.Stop()
	for !done() {
		select {
		case <-poll.C:
		case <-limit.C:
			t.Fatalf("%s: not so within %v", what, patience)
		}
	}
}
