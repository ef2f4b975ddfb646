package redis_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/limpet-project/limpet/affinity"
	"github.com/limpet-project/limpet/binding"
	"github.com/limpet-project/limpet/redis"
	"github.com/limpet-project/limpet/redis/redistest"
)

var (
	pod1 = affinity.Target{Revision: "demo-00001", Endpoint: "demo-00001-deployment-7f9c4-x2x7k"}
	pod2 = affinity.Target{Revision: "demo-00001", Endpoint: "demo-00001-deployment-7f9c4-q8m4d"}

	unbound binding.Version
	hour    = binding.Life{Idle: time.Hour}
	cart    = affinity.ServiceName{Namespace: "shop", Name: "cart"}
)

func session(n int) affinity.Key {
	return affinity.Key{
		Scope:  affinity.Scope{Service: cart, Kind: affinity.KindSession},
		Digest: [16]byte{byte(n), byte(n >> 8), byte(n >> 16), 0x5e, 0x55},
	}
}

// bind makes a binding that must succeed.
func bind(t *testing.T, s *redis.Store, k affinity.Key, to affinity.Target) binding.Binding {
	t.Helper()
	b, err := s.Swap(t.Context(), k, unbound, to, hour)
	if err != nil {
		t.Fatalf("Swap(%v, %v) = %v, want no error", k, to, err)
	}
	return b
}

func wants(t *testing.T, s *redis.Store, k affinity.Key, want binding.Binding) {
	t.Helper()
	if got, err := s.Get(t.Context(), k); err != nil || got != want {
		t.Errorf("Get(%v) = %+v, %v, want %+v", k, got, err, want)
	}
}

// calls makes every kind of call and returns their errors by name; some read, some write.
func calls(ctx context.Context, s *redis.Store) (reads, writes map[string]error) {
	reads, writes = map[string]error{}, map[string]error{}
	_, reads["Get"] = s.Get(ctx, session(1))
	_, _, reads["List"] = s.List(ctx, cart, "", 10)
	_, reads["Drains"] = s.Drains(ctx)
	_, writes["Swap"] = s.Swap(ctx, session(2), unbound, pod1, hour)
	_, writes["Restore"] = s.Restore(ctx, []binding.Entry{{
		Key: session(3), Life: hour,
		Binding: binding.Binding{Target: pod1, Version: binding.Version{Made: 1, Nonce: 1}},
	}})
	writes["CheckFingerprint"] = s.CheckFingerprint(ctx, "5a1e")
	writes["Ping"] = s.Ping(ctx)
	return reads, writes
}

func all(t *testing.T, when string, errs map[string]error, want error, text string) {
	t.Helper()
	for name, err := range errs {
		if !errors.Is(err, want) || err != nil && !strings.Contains(err.Error(), text) {
			t.Errorf("%s of a server that is %s = %v, want %v with %q", name, when, err, want, text)
		}
	}
}

func TestDefect8EveryFailureOfTheServerIsReportedAsUnavailable(t *testing.T) {
	for _, c := range []struct {
		name   string
		config []string
		break_ func(t *testing.T, s *redistest.Server)
		reads  bool // reads fail too
		text   string
	}{
		{name: "a replica", text: "READONLY", break_: func(_ *testing.T, s *redistest.Server) { s.SetReadonly(true) }},
		{name: "a replica without its master", text: "MASTERDOWN", reads: true, break_: func(_ *testing.T, s *redistest.Server) {
			s.SetReadonly(true)
			s.Do("CONFIG", "SET", "replica-serve-stale-data", "no")
		}},
		{name: "without its replicas", text: "NOREPLICAS", break_: func(_ *testing.T, s *redistest.Server) {
			s.Do("CONFIG", "SET", "min-replicas-to-write", "1")
		}},
		{name: "unable to persist", text: "MISCONF", break_: func(t *testing.T, s *redistest.Server) {
			s.Do("CONFIG", "SET", "save", "3600 1")
			failSave(t, s)
		}},
		{name: "without permission", text: "NOPERM", reads: true, break_: func(_ *testing.T, s *redistest.Server) {
			s.Do("ACL", "SETUSER", "default", "resetkeys", "~elsewhere:*")
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			server := redistest.Start(t)
			s := open(t, server)
			bind(t, s, session(1), pod1)
			c.break_(t, server)
			reads, writes := calls(t.Context(), s)
			if c.text == "MASTERDOWN" {
				writes = map[string]error{"Swap": writes["Swap"]} // a plain SET is told READONLY
			}
			all(t, c.name, writes, binding.ErrUnavailable, c.text)
			if c.reads {
				all(t, c.name, reads, binding.ErrUnavailable, c.text)
			} else {
				all(t, c.name, reads, nil, "")
			}
		})
	}
}

// failSave makes the server's last save a failed one, whoever it runs as.
func failSave(t *testing.T, s *redistest.Server) {
	t.Helper()
	s.BreakSaving()
	if _, err := s.Try("SAVE"); err == nil {
		t.Fatal("SAVE of a server that cannot persist = no error, want one")
	}
	_, _ = s.Try("BGSAVE") // its failure is what the server remembers
	eventually(t, "failed save", func() bool { return strings.Contains(s.Do("INFO", "persistence"), "rdb_last_bgsave_status:err") })
}

func TestOutOfMemoryFailsNewBindingsOnly(t *testing.T) {
	server := redistest.Start(t)
	s := open(t, server)
	b := bind(t, s, session(1), pod1)
	before := server.Do("PTTL", bindingKey(t, server))
	server.FillMemory(true)

	_, err := s.Swap(t.Context(), session(2), unbound, pod1, hour)
	if !errors.Is(err, binding.ErrFull) || errors.Is(err, binding.ErrUnavailable) {
		t.Errorf("Swap out of memory = %v, want ErrFull alone", err)
	}
	wants(t, s, session(1), b)
	longer := binding.Life{Idle: 10 * time.Hour}
	if err := s.Touch(t.Context(), []binding.Renewal{{Key: session(1), Version: b.Version, Life: longer}}); err != nil {
		t.Errorf("Touch out of memory = %v, want no error", err)
	}
	if after := server.Do("PTTL", bindingKey(t, server)); len(after) <= len(before) {
		t.Errorf("PTTL after a Touch of %v out of memory = %s, want ten times %s", longer.Idle, after, before)
	}
	if err := s.Delete(t.Context(), session(1), b.Version); err != nil {
		t.Errorf("Delete out of memory = %v, want no error", err)
	}
	wants(t, s, session(1), binding.Binding{})
}

// bindingKey returns the name of the only binding in the server.
func bindingKey(t *testing.T, server *redistest.Server) string {
	t.Helper()
	names := server.Do("KEYS", "limpet:1:b:*")
	if names == "" || strings.Contains(names, "\n") {
		t.Fatalf("KEYS limpet:1:b:* = %q, want one", names)
	}
	return names
}

func TestPasswordsThatAreMissingOrWrongAreReported(t *testing.T) {
	server := redistest.Start(t, redistest.Password("correct-horse"))
	for password, text := range map[string]string{"": "NOAUTH", "battery-staple": "WRONGPASS"} {
		s := disconnected(t, server, func(o *redis.Options) { o.Password = password })
		eventually(t, text, func() bool {
			err := s.Ping(t.Context())
			if err == nil || !errors.Is(err, binding.ErrUnavailable) {
				t.Fatalf("Ping with password %q = %v, want ErrUnavailable", password, err)
			}
			return strings.Contains(err.Error(), text)
		})
	}
}

func TestLoadingServersAreUnavailable(t *testing.T) {
	server := redistest.Start(t)
	s := open(t, server)
	server.Do("DEBUG", "POPULATE", "20000")
	server.Do("CONFIG", "SET", "key-load-delay", "200")
	server.Do("CONFIG", "SET", "loading-process-events-interval-bytes", "1024")
	var seen atomic.Bool
	done := make(chan struct{})
	go func() {
		defer close(done)
		for !seen.Load() { // a test that stands still may miss one
			_, _ = server.Try("DEBUG", "RELOAD")
		}
	}()
	defer func() { seen.Store(true); <-done }()
	eventually(t, "LOADING", func() bool {
		_, err := s.Get(t.Context(), session(1))
		if err != nil && !errors.Is(err, binding.ErrUnavailable) {
			t.Fatalf("Get while loading = %v, want ErrUnavailable", err)
		}
		return err != nil && strings.Contains(err.Error(), "LOADING")
	})
	seen.Store(true)
	eventually(t, "end of loading", func() bool { return s.Ping(t.Context()) == nil })
}

func TestDefect5AStoreOpensWithoutItsServerAndConnectsLater(t *testing.T) {
	server := redistest.Start(t)
	server.Kill()
	s := disconnected(t, server)
	reads, writes := calls(t.Context(), s)
	all(t, "not there", reads, binding.ErrUnavailable, "")
	all(t, "not there", writes, binding.ErrUnavailable, "")
	server.Restart()
	eventually(t, "connection", func() bool { return s.Ping(t.Context()) == nil })
	wants(t, s, session(1), binding.Binding{})
}

func TestDefect2AStoreReconnectsAfterEveryKindOfLoss(t *testing.T) {
	server := redistest.Start(t)
	proxy := redistest.StartProxy(t, server.Addr())
	s := open(t, server, func(o *redis.Options) { o.Addresses, o.CallTimeout = []string{proxy.Addr()}, time.Second })
	b := bind(t, open(t, server), session(1), pod1) // a second may be too short for the one call that has to succeed
	back := func(after string) {
		t.Helper()
		eventually(t, "recovery after "+after, func() bool { return s.Ping(t.Context()) == nil })
		eventually(t, "Get after "+after, func() bool { got, err := s.Get(t.Context(), session(1)); return err == nil && got == b })
	}
	fails := func(when string) {
		t.Helper()
		eventually(t, "failure when "+when, func() bool { return errors.Is(s.Ping(t.Context()), binding.ErrUnavailable) })
	}
	proxy.Reset()
	back("a reset")
	proxy.Cut()
	fails("cut off")
	proxy.Pass()
	back("a cut")
	server.Freeze()
	fails("frozen")
	server.Thaw()
	back("a freeze")
	server.Do("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
	back("a killed connection")
	server.RestartKeeping()
	back("a restart")
}

func TestDefect7ACallEndsInTimeWhateverTheServerDoes(t *testing.T) {
	server := redistest.Start(t)
	s := open(t, server)
	fast := open(t, server, func(o *redis.Options) { o.CallTimeout = 50 * time.Millisecond })
	server.Freeze()
	defer server.Thaw()

	// Without any bound of its own s would wait for ten seconds: its caller's deadline ends the wait.
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	_, err := s.Get(ctx, session(1))
	if !errors.Is(err, binding.ErrUnavailable) || !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Get beyond its deadline = %v, want ErrUnavailable and DeadlineExceeded", err)
	}
	cancelled, cancel := context.WithCancel(t.Context())
	go cancel()
	if _, err = s.Get(cancelled, session(1)); !errors.Is(err, context.Canceled) || errors.Is(err, binding.ErrUnavailable) {
		t.Errorf("Get whose caller went away = %v, want context.Canceled alone", err)
	}
	// A pipeline of a thousand unanswered commands is full; the calls end all the same, and long before the test does.
	var group sync.WaitGroup
	for range 3000 {
		group.Go(func() {
			if _, err := fast.Get(t.Context(), session(1)); !errors.Is(err, binding.ErrUnavailable) {
				t.Errorf("Get of a frozen server = %v, want ErrUnavailable", err)
			}
		})
	}
	group.Wait()
}

func TestNoCallWaitsForAConnectionToBeMade(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0") // accepts and never answers
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	s, err := redis.Open(redis.Options{Addresses: []string{l.Addr().String()}, CallTimeout: time.Hour, ConnectTimeout: time.Second})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	// With a call timeout of an hour this test would not end if a call waited.
	for range 100 {
		if _, err := s.Get(t.Context(), session(1)); !errors.Is(err, binding.ErrUnavailable) {
			t.Errorf("Get while connecting = %v, want ErrUnavailable", err)
		}
	}
}

func TestDefect1ConcurrentCallsGetTheirOwnAnswers(t *testing.T) {
	server := redistest.Start(t)
	s := open(t, server)
	var group sync.WaitGroup
	for worker := range 16 {
		group.Go(func() {
			for i := range 100 {
				n := worker*1000 + i
				to := affinity.Target{Revision: "demo-00001", Endpoint: fmt.Sprintf("pod-%d", n)}
				b, err := s.Swap(t.Context(), session(n), unbound, to, hour)
				if err != nil || b.Target != to {
					t.Errorf("Swap(%d) = %+v, %v, want %v", n, b, err, to)
				}
				if got, err := s.Get(t.Context(), session(n)); err != nil || got != b {
					t.Errorf("Get(%d) = %+v, %v, want %+v", n, got, err, b)
				}
			}
		})
	}
	group.Wait()
}

func TestClosedStoresRefuseCallsAndLeaveNoGoroutine(t *testing.T) {
	server := redistest.Start(t)
	before := runtime.NumGoroutine()
	s := open(t, server)
	watching := make(chan error, 1)
	go func() { watching <- s.Watch(t.Context(), newWatcher()) }()
	bind(t, s, session(1), pod1)
	if err := s.Close(); err != nil {
		t.Errorf("Close() = %v, want no error", err)
	}
	if _, err := s.Get(t.Context(), session(1)); !errors.Is(err, redis.ErrClosed) || !errors.Is(err, binding.ErrUnavailable) {
		t.Errorf("Get of a closed store = %v, want ErrClosed, which is ErrUnavailable", err)
	}
	if err := <-watching; !errors.Is(err, redis.ErrClosed) {
		t.Errorf("Watch of a closed store = %v, want ErrClosed", err)
	}
	eventually(t, "end of the goroutines", func() bool { return runtime.NumGoroutine() <= before })
}

func TestWrongOptionsAreRefused(t *testing.T) {
	for text, o := range map[string]redis.Options{
		"at least one":          {},
		"want host:port":        {Addresses: []string{"redis"}},
		"one server":            {Addresses: []string{"redis-0:6379", "redis-1:6379"}},
		"master name":           {Addresses: []string{"redis-0:26379"}, Mode: redis.ModeSentinel},
		"database 0 only":       {Addresses: []string{"redis-0:6379"}, Mode: redis.ModeCluster, DB: 2},
		`redis mode "sentinal"`: {Addresses: []string{"redis-0:6379"}, Mode: "sentinal"},
		"positive":              {Addresses: []string{"redis-0:6379"}, CallTimeout: -1},
	} {
		s, err := redis.Open(o)
		if err == nil {
			_ = s.Close()
		}
		if err == nil || !strings.Contains(err.Error(), text) {
			t.Errorf("Open(%+v) = %v, want an error with %q", o, err, text)
		}
	}
}
