package transport

import (
	"context"
	"errors"
	"io"
	"net"
	"syscall"
	"testing"
	"time"

	"github.com/limpet-project/limpet/affinity"
	"github.com/limpet-project/limpet/endpoint"
)

func TestConnectionThatRestsIsEnded(t *testing.T) {
	w := newWorld(t, nil)
	letters(w, 1)
	g := w.listen(func(l *TCP) { l.IdleTimeout = 200 * time.Millisecond })
	if _, err := io.ReadAll(g.dial(t, "127.0.0.2")); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("the client that rested read %v, want a reset", err)
	}
	if o := w.seen.end(t, 1); o.Ending != EndIdle || o.Duration < 200*time.Millisecond {
		t.Errorf("the connection ended %s after %v, want idle after 200 ms", o.Ending, o.Duration)
	}
}

// Here the time comes from the test, so that a machine that stands still makes nobody rest.
func TestConnectionOnWhichBytesGoDoesNotRest(t *testing.T) {
	w := newWorld(t, nil)
	letters(w, 1)
	g := w.listen(func(l *TCP) { l.IdleTimeout = time.Hour })
	busy, idle := g.dial(t, "127.0.0.2"), g.dial(t, "127.0.0.3")
	busy.line()
	said := int64(len(idle.line()) + 1)
	rests, goes := g.serving(idle), g.serving(busy)
	eventually(t, "all that the idle client was told is counted", func() bool {
		g.look(time.Now())
		rests.mu.Lock()
		defer rests.mu.Unlock()
		return rests.moved == said
	})
	soon := time.Now().Add(40 * time.Minute)
	eventually(t, "it is seen in 40 minutes that bytes went", func() bool {
		busy.say("still here")
		busy.line()
		g.look(soon)
		goes.mu.Lock()
		defer goes.mu.Unlock()
		return goes.since.Equal(soon)
	})
	g.look(soon.Add(30 * time.Minute))
	if _, err := idle.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("the client that rested read %v, want a reset", err)
	}
	if o := w.seen.end(t, 1); o.Ending != EndIdle || o.Client.String() != "127.0.0.3" {
		t.Errorf("the first connection to end = %s of %v, want that of 127.0.0.3, idle", o.Ending, o.Client)
	}
	busy.say("still here")
	if got := busy.line(); got != "still here" {
		t.Errorf("the busy client heard %q, want its words", got)
	}
}

func TestMoreConnectionsThanTheBoundWait(t *testing.T) {
	w := newWorld(t, nil)
	letters(w, 1)
	g := w.listen(func(l *TCP) { l.MaxConnections = 2 })
	first, second := g.dial(t, "127.0.0.2"), g.dial(t, "127.0.0.3")
	first.line()
	second.line()
	third := g.dial(t, "127.0.0.4")
	_ = third.SetReadDeadline(time.Now().Add(200 * time.Millisecond))
	if _, err := third.Peek(1); err == nil {
		t.Error("the third connection is served, want it to wait")
	}
	if n := g.Open(); n != 2 {
		t.Errorf("Open() = %d, want 2", n)
	}
	first.Close()
	_ = third.SetReadDeadline(time.Now().Add(30 * time.Second))
	if got := third.line(); got != "postgres-00001-a" {
		t.Errorf("the third connection heard %q once there was a place", got)
	}
}

func TestShutdownLetsConnectionsEnd(t *testing.T) {
	w := newWorld(t, nil)
	letters(w, 1)
	g := w.listen()
	c := g.dial(t, "127.0.0.2")
	c.line()
	ended := make(chan error, 1)
	go func() { ended <- g.Shutdown(t.Context()) }()
	eventually(t, "nothing is accepted", func() bool {
		nc, err := net.Dial("tcp", g.address)
		if err == nil {
			nc.Close()
		}
		return err != nil
	})
	c.say("still here")
	if got := c.line(); got != "still here" {
		t.Errorf("the client heard %q during the drain, want its words", got)
	}
	c.Close()
	if err := <-ended; err != nil {
		t.Errorf("Shutdown() = %v, want nil", err)
	}
}

// The kernel has told their clients that they are connected.
func TestShutdownServesConnectionsThatWaitToBeAccepted(t *testing.T) {
	w := newWorld(t, nil)
	letters(w, 1)
	g := w.listen(func(l *TCP) { l.MaxConnections, l.acceptFor = 1, time.Hour })
	first, waiting := g.dial(t, "127.0.0.2"), g.dial(t, "127.0.0.3")
	first.line()
	ended := make(chan error, 1)
	go func() { ended <- g.Shutdown(t.Context()) }()
	select {
	case err := <-ended:
		t.Fatalf("Shutdown() = %v while a connection waits", err)
	case <-time.After(50 * time.Millisecond): // if it were refused, it would be now
	}
	first.Close()
	if got := waiting.line(); got != "postgres-00001-a" {
		t.Errorf("the connection that waited heard %q, want its endpoint", got)
	}
	waiting.Close()
	if err := <-ended; err != nil {
		t.Errorf("Shutdown() = %v, want nil", err)
	}
}

func TestShutdownResetsWhatIsLeft(t *testing.T) {
	w := newWorld(t, nil)
	letters(w, 1)
	g := w.listen()
	c := g.dial(t, "127.0.0.2")
	c.line()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := g.Shutdown(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("Shutdown() = %v, want that it was broken off", err)
	}
	if _, err := c.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("the client read %v, want a reset", err)
	}
	if o := w.seen.end(t, 1); o.Ending != EndShutdown {
		t.Errorf("the connection ended %s, want shutdown", o.Ending)
	}
	if err := g.Shutdown(t.Context()); err != nil {
		t.Errorf("another Shutdown() = %v, want nil", err)
	}
}

func TestEndOfContextBreaksOff(t *testing.T) {
	w := newWorld(t, nil)
	w.serve("postgres-00001-a", echo)
	g := w.listen()
	c := g.dial(t, "127.0.0.2")
	c.line()
	g.stop()
	if _, err := c.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("the client read %v, want a reset", err)
	}
}

func TestListenerThatIsShutDownFirstServesNothing(t *testing.T) {
	w := newWorld(t, nil)
	l := &TCP{Name: "db", Router: w.router, Endpoints: w.table}
	if err := l.Shutdown(t.Context()); err != nil {
		t.Fatalf("Shutdown() = %v", err)
	}
	ln, err := net.ListenTCP("tcp", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	if err := l.Serve(t.Context(), ln); err != nil {
		t.Errorf("Serve() = %v, want nil", err)
	}
	if c, err := net.Dial("tcp", ln.Addr().String()); err == nil {
		c.Close()
		t.Error("the address is open, want it closed")
	}
}

func TestConnectionsToAnEndpointThatIsDown(t *testing.T) {
	down := func(m *endpoint.Member) { m.NotReady = true }
	t.Run("are kept", func(t *testing.T) {
		w := newWorld(t, nil)
		letters(w, 2)
		g := w.listen()
		c := g.dial(t, "127.0.0.2")
		home := c.line()
		w.edit(home, down)
		g.look(time.Now().Add(time.Hour))
		c.say("still here")
		if got := c.line(); got != "still here" {
			t.Errorf("the client heard %q, want its words", got)
		}
	})
	t.Run("are closed where that is wanted", func(t *testing.T) {
		w := newWorld(t, nil)
		letters(w, 2)
		g := w.listen(func(l *TCP) { l.CloseDown = true })
		c := g.dial(t, "127.0.0.2")
		home := c.line()
		w.edit(home, down)
		if _, err := c.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("the client read %v, want a reset", err)
		}
		if o := w.seen.end(t, 1); o.Ending != EndDown {
			t.Errorf("the connection ended %s, want endpoint-down", o.Ending)
		}
		if at := g.visit(t, "127.0.0.2"); at == home {
			t.Errorf("the client came back to %s, which is down", at)
		}
	})
	t.Run("end with the drain", func(t *testing.T) {
		w := newWorld(t, nil)
		letters(w, 2)
		g := w.listen()
		c := g.dial(t, "127.0.0.2")
		home := c.line()
		w.edit(home, func(m *endpoint.Member) { m.Draining = true })
		at := g.visit(t, "127.0.0.2")
		w.seen.end(t, 1)
		if at != home {
			t.Errorf("the bound client went to %s, want %s, which drains", at, home)
		}
		w.edit(home, func(m *endpoint.Member) { m.DrainUntil = time.Now().Add(100 * time.Millisecond) })
		if _, err := c.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("the client read %v, want a reset at the deadline", err)
		}
		if o := w.seen.end(t, 2); o.Ending != EndDrained {
			t.Errorf("the connection ended %s, want drain-deadline", o.Ending)
		}
	})
}

func TestSwappedRouteHoldsForNewConnections(t *testing.T) {
	w := newWorld(t, nil)
	letters(w, 1)
	g := w.listen()
	c := g.dial(t, "127.0.0.2")
	c.line()
	g.Swap(Route{Service: affinity.ServiceName{Name: "mysql"}})
	if err := g.try(t, "127.0.0.2", ""); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("a new connection read %v, want a reset: there is no such service", err)
	}
	c.say("still here")
	if got := c.line(); got != "still here" {
		t.Errorf("the old connection heard %q, want its words", got)
	}
}
