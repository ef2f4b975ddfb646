package transport

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/limpet-project/limpet/affinity"
	"github.com/limpet-project/limpet/endpoint"
)

func letters(w *world, n int) {
	for i := range n {
		w.serve("postgres-00001-"+string(rune('a'+i)), echo)
	}
}

func TestConnectionsOfOneClientGoToOneEndpoint(t *testing.T) {
	w := newWorld(t, nil)
	letters(w, 3)
	g := w.listen()
	home, seen := map[string]string{}, map[string]bool{}
	for i := range 90 {
		from := fmt.Sprintf("127.0.0.%d", 2+i%30)
		at := g.visit(t, from)
		if home[from] != "" && home[from] != at {
			t.Errorf("%s went to %s, want %s", from, at, home[from])
		}
		home[from], seen[at] = at, true
	}
	if len(seen) != 3 {
		t.Errorf("30 clients went to %v, want all three endpoints", seen)
	}
}

func TestClientsOfOnePrefixGoToOneEndpoint(t *testing.T) {
	w := newWorld(t, nil)
	letters(w, 3)
	g := w.listen(func(l *TCP) { l.Swap(Route{Service: postgres, Policy: byAddress(24)}) })
	for net := range 6 {
		first := g.visit(t, fmt.Sprintf("127.0.%d.1", net))
		for host := 2; host < 6; host++ {
			if at := g.visit(t, fmt.Sprintf("127.0.%d.%d", net, host)); at != first {
				t.Errorf("127.0.%d.%d went to %s, want %s as its neighbour", net, host, at, first)
			}
		}
	}
}

func TestClientsSpreadWithinTheBound(t *testing.T) {
	const clients, endpoints = 200, 4
	w := newWorld(t, nil)
	letters(w, endpoints)
	g := w.listen()
	count := map[string]int{}
	for i := range clients {
		count[g.visit(t, fmt.Sprintf("127.1.%d.%d", i/100, 1+i%100))]++
	}
	// No endpoint takes a session that would lift it above 1.25 of the mean, rounded up.
	for at, n := range count {
		if n > clients*5/4/endpoints+1 {
			t.Errorf("%s has %d of %d clients, want at most %d", at, n, clients, clients*5/4/endpoints+1)
		}
	}
}

func TestBytesArriveWholeBothWays(t *testing.T) {
	w := newWorld(t, nil)
	w.serve("postgres-00001-a", func(_ *server, c *net.TCPConn) {
		_, _ = io.Copy(c, c)
		_ = c.CloseWrite()
	})
	g := w.listen()
	var last Observed
	for i, size := range []int{0, 1, bufferSize - 1, bufferSize, bufferSize + 1, 50 << 20} {
		sent := make([]byte, size)
		for i := 0; i < size; i += 1 << 10 {
			sent[i] = byte(rand.Uint32())
		}
		c := g.dial(t, "127.0.0.2")
		var sending sync.WaitGroup
		sending.Go(func() {
			if _, err := c.Write(sent); err != nil {
				t.Errorf("writing %d bytes = %v", size, err)
			}
			_ = c.CloseWrite()
		})
		got, err := io.ReadAll(c)
		sending.Wait()
		if err != nil || sha256.Sum256(got) != sha256.Sum256(sent) {
			t.Errorf("%d bytes came back as %d, %v, want them as they were", size, len(got), err)
		}
		c.Close()
		last = w.seen.end(t, i+1)
	}
	if last.BytesIn != 50<<20 || last.BytesOut != 50<<20 || last.Ending != EndClosed || w.seen.in != w.seen.out {
		t.Errorf("the observer was told %d and %d bytes, %s, carried %d and %d, want 50 MiB both ways, closed", last.BytesIn, last.BytesOut,
			last.Ending, w.seen.in, w.seen.out)
	}
}

func TestHalfCloseIsPassedOnBothWays(t *testing.T) {
	w := newWorld(t, nil)
	w.serve("postgres-00001-a", func(_ *server, c *net.TCPConn) {
		_, _ = io.WriteString(c, "hello\n")
		_ = c.CloseWrite()
		heard, _ := io.ReadAll(c)
		w.t.Logf("the endpoint heard %d bytes after it had ended its own", len(heard))
		if string(heard) != "farewell" {
			w.t.Errorf("the endpoint heard %q, want farewell", heard)
		}
	})
	g := w.listen()
	c := g.dial(t, "127.0.0.2")
	if got, err := io.ReadAll(c); err != nil || string(got) != "hello\n" {
		t.Fatalf("reading until the endpoint's end = %q, %v, want hello", got, err)
	}
	if _, err := io.WriteString(c, "farewell"); err != nil {
		t.Fatal(err)
	}
	_ = c.CloseWrite()
	if o := w.seen.end(t, 1); o.Ending != EndClosed || o.Outcome != endpoint.OutcomeOK {
		t.Errorf("the connection ended %s, %v, want closed, ok", o.Ending, o.Outcome)
	}
}

func TestResetOfOneSideResetsTheOther(t *testing.T) {
	t.Run("of the client", func(t *testing.T) {
		w := newWorld(t, nil)
		heard := make(chan error, 1)
		w.serve("postgres-00001-a", func(s *server, c *net.TCPConn) {
			fmt.Fprintln(c, s.name)
			_, err := io.Copy(io.Discard, c)
			heard <- err
		})
		c := w.listen().dial(t, "127.0.0.2")
		c.line()
		reset(c.TCPConn)
		if err := <-heard; !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("the endpoint read %v, want a reset", err)
		}
		if o := w.seen.end(t, 1); o.Ending != EndClientReset || o.Outcome != endpoint.OutcomeOK {
			t.Errorf("the connection ended %s, %v, want client-reset, ok", o.Ending, o.Outcome)
		}
	})
	t.Run("of the endpoint", func(t *testing.T) {
		w := newWorld(t, nil)
		w.serve("postgres-00001-a", func(s *server, c *net.TCPConn) {
			fmt.Fprintln(c, s.name)
			_, _ = c.Read(make([]byte, 1))
			reset(c)
		})
		c := w.listen().dial(t, "127.0.0.2")
		c.line()
		c.say("x")
		if _, err := c.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("the client read %v, want a reset", err)
		}
		if o := w.seen.end(t, 1); o.Ending != EndEndpointReset || o.Outcome != endpoint.OutcomeOK {
			t.Errorf("the connection ended %s, %v, want endpoint-reset, ok", o.Ending, o.Outcome)
		}
	})
}

func TestLastWordsOfAnEndpointThatTakesNoMoreArrive(t *testing.T) {
	w := newWorld(t, nil)
	w.serve("postgres-00001-a", func(_ *server, c *net.TCPConn) {
		_, _ = c.Read(make([]byte, 10))
		_, _ = io.WriteString(c, strings.Repeat("no\n", 10000)) // and closes, with bytes unread
	})
	c := w.listen().dial(t, "127.0.0.2")
	var sending sync.WaitGroup
	sending.Go(func() { _, _ = c.TCPConn.ReadFrom(bytes.NewReader(make([]byte, 10<<20))) }) // is broken off
	got, _ := io.ReadAll(c)
	c.Close()
	sending.Wait()
	if len(got) == 0 || !strings.HasPrefix(string(got), "no\n") {
		t.Errorf("the client read %d bytes, want the endpoint's answer", len(got))
	}
}

func TestFailureToConnectTriesAnotherEndpointAndBindsAgain(t *testing.T) {
	w := newWorld(t, nil)
	letters(w, 3)
	g := w.listen()
	home := g.visit(t, "127.0.0.2")
	w.seen.end(t, 1)
	for _, s := range w.members {
		if s.Name == home {
			w.edit(home, func(m *endpoint.Member) { m.Address = closedPort(t) })
		}
	}
	moved := g.visit(t, "127.0.0.2")
	if moved == home {
		t.Fatalf("the client went to %s, where nobody listens", moved)
	}
	o := w.seen.end(t, 2)
	if o.Attempts != 2 || o.Target.Endpoint != moved || o.Reason != affinity.ReasonEndpointGone {
		t.Errorf("the connection = %s after %d attempts because %v, want %s after 2, endpoint-gone", o.Target.Endpoint, o.Attempts, o.Reason, moved)
	}
	for range 3 {
		if at := g.visit(t, "127.0.0.2"); at != moved {
			t.Errorf("afterwards the client went to %s, want %s, where it is bound", at, moved)
		}
	}
}

// try connects, says something and returns what becomes of it.
func (g *gateway) try(t *testing.T, from, text string) error {
	t.Helper()
	c, err := g.reach(t, from)
	if err != nil {
		return err
	}
	defer c.Close()
	if _, err := io.WriteString(c, text); errors.Is(err, syscall.EPIPE) {
		return syscall.ECONNRESET // it came before
	} else if err != nil {
		return err
	}
	_, err = c.Read(make([]byte, 1))
	return err
}

// closedPort returns an address at which nobody listens, nor can as long as the test runs: a client's.
func closedPort(t *testing.T) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() }) // and no sooner: that resets the client's, which would give up its port
	c, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c.LocalAddr().String()
}

func TestWhatCannotBeServedIsReset(t *testing.T) {
	tests := []struct {
		name string
		edit func(w *world, l *TCP)
		want Cause
	}{
		{"no service", func(_ *world, l *TCP) { l.Swap(Route{Service: affinity.ServiceName{Name: "mysql"}}) }, CauseNoService},
		{"no endpoint", func(w *world, _ *TCP) { w.publish() }, CauseNoEndpoint},
		{"no endpoint takes it", func(w *world, _ *TCP) {
			w.add("postgres-00001-a", closedPort(t))
			w.add("postgres-00001-b", closedPort(t))
		}, CauseConnect},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			w := newWorld(t, nil)
			if err := w.listen(func(l *TCP) { tt.edit(w, l) }).try(t, "127.0.0.2", ""); !errors.Is(err, syscall.ECONNRESET) {
				t.Errorf("the client read %v, want a reset", err)
			}
			if o := w.seen.end(t, 1); o.Cause != tt.want || o.Ending != "" {
				t.Errorf("the connection was refused because %q, ending %q, want %q and none", o.Cause, o.Ending, tt.want)
			}
		})
	}
}

func TestEndpointThatResetsWithoutAWordIsEjected(t *testing.T) {
	w := newWorld(t, nil)
	w.rule = &endpoint.Ejection{Consecutive: 3, Base: time.Hour}
	w.serve("postgres-00001-a", func(_ *server, c *net.TCPConn) { reset(c) })
	w.serve("postgres-00001-b", echo)
	g := w.listen(func(l *TCP) { l.Swap(Route{Service: postgres}) })
	eventually(t, "the endpoint is ejected", func() bool {
		_ = g.try(t, "127.0.0.2", "") // may be reset
		status, _ := w.table.ServiceStatus(postgres)
		return status.Revisions[0].Endpoints[0].Cause == endpoint.CauseEjected
	})
}

func TestClientsCannotHaveAnEndpointEjected(t *testing.T) {
	w := newWorld(t, nil)
	w.rule = &endpoint.Ejection{Consecutive: 2, Base: time.Hour}
	w.serve("postgres-00001-a", func(_ *server, c *net.TCPConn) {
		_, _ = c.Read(make([]byte, 1))
		reset(c) // what it was sent is nonsense
	})
	w.serve("postgres-00001-b", echo)
	g := w.listen(func(l *TCP) { l.Swap(Route{Service: postgres}) })
	for range 20 {
		c := g.dial(t, "127.0.0.2")
		c.say("nonsense")
		_ = c.CloseWrite()
		_, _ = io.Copy(io.Discard, c)
		c.Close()
	}
	w.seen.end(t, 20)
	status, _ := w.table.ServiceStatus(postgres)
	for _, e := range status.Revisions[0].Endpoints {
		if e.State != affinity.EndpointReady {
			t.Errorf("%s is %v because of %s, want ready", e.Name, e.State, e.Cause)
		}
	}
}

func TestConnectionRenewsItsSessionAsLongAsItLasts(t *testing.T) {
	store := newClockedStore()
	w := newWorld(t, store)
	letters(w, 3)
	policy := byAddress(0)
	policy.Session.Idle = affinity.Duration(time.Second)
	g := w.listen(func(l *TCP) { l.Swap(Route{Service: postgres, Policy: policy}) })
	c := g.dial(t, "127.0.0.2")
	home := c.line()
	for range 4 { // thrice as long as the session would live without renewal
		store.pass(t, 1, time.Second)
	}
	if at := g.visit(t, "127.0.0.2"); at != home {
		t.Errorf("the client is at %s, want %s", at, home)
	}
	if o := w.seen.end(t, 1); o.Reason != affinity.ReasonBound {
		t.Errorf("reason = %v, want bound", o.Reason)
	}
}

func TestConnectionsUnderLoadStayWholeWhateverHappens(t *testing.T) {
	w := newWorld(t, nil)
	for _, name := range []string{"postgres-00001-a", "postgres-00001-b", "postgres-00001-c"} {
		w.serve(name, func(_ *server, c *net.TCPConn) {
			_, _ = io.Copy(struct{ io.Writer }{c}, c)
			_ = c.CloseWrite()
		})
	}
	g := w.listen(func(l *TCP) { l.MaxConnections = 12 })
	var working sync.WaitGroup
	for worker := range 16 {
		rng := rand.New(rand.NewPCG(uint64(worker), 4))
		working.Go(func() {
			for range 30 {
				g.roundTrip(t, fmt.Sprintf("127.0.3.%d", 1+worker), rng.IntN(3*bufferSize)<<rng.IntN(3), rng.IntN(4) == 0)
			}
		})
	}
	for i := range 50 {
		w.edit(w.members[i%3].Name, func(m *endpoint.Member) { m.Draining = i%2 == 0 })
		g.look(time.Now())
	}
	working.Wait()
	if err := g.Shutdown(t.Context()); err != nil {
		t.Errorf("Shutdown() = %v, want nil", err)
	}
	w.seen.mu.Lock()
	defer w.seen.mu.Unlock()
	var in, out int64
	for _, o := range w.seen.ended {
		in, out = in+o.BytesIn, out+o.BytesOut
	}
	if len(w.seen.ended) != 16*30 || in != w.seen.in || out != w.seen.out {
		t.Errorf("%d connections ended with %d and %d bytes, carried %d and %d, want %d of as many", len(w.seen.ended), in, out, w.seen.in, w.seen.out, 16*30)
	}
}

// roundTrip sends bytes and wants them back, or breaks off in the middle.
func (g *gateway) roundTrip(t *testing.T, from string, size int, breaks bool) {
	c, err := g.reach(t, from)
	if err != nil {
		t.Errorf("connecting from %s = %v", from, err)
		return
	}
	defer c.Close()
	sent := make([]byte, size)
	for i := range sent {
		sent[i] = byte(i * 7 / 5)
	}
	var sending sync.WaitGroup
	defer sending.Wait()
	sending.Go(func() {
		_, _ = c.Write(sent) // what is lost is missed below
		_ = c.CloseWrite()
	})
	if breaks {
		_, _ = io.CopyN(io.Discard, c, int64(size/2))
		reset(c.TCPConn)
		return
	}
	if got, err := io.ReadAll(c); err != nil || !bytes.Equal(got, sent) {
		t.Errorf("%d bytes came back as %d, %v", size, len(got), err)
	}
}
