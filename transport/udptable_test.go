package transport

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"testing/synctest"
	"time"
)

// listedFlow puts a flow that is open, without a socket, into u's table.
func listedFlow(t *testing.T, u *UDP, n int, now time.Duration) *flow {
	t.Helper()
	f := &flow{u: u, key: flowKey{port: uint16(n)}, phase: flowOpen, last: now, place: -1}
	if cause := u.flows.add(f, netip.MustParsePrefix(fmt.Sprintf("192.0.2.%d/32", n)), now+u.pause()); cause != "" {
		t.Fatalf("add() = %s, want none", cause)
	}
	return f
}

// sweeping runs a sweeper in a bubble until the test ends, and returns its clock.
func sweeping(t *testing.T, u *UDP) (now func() time.Duration) {
	u.prepare()
	begin := time.Now()
	now = func() time.Duration { return time.Since(begin) + 1 }
	go u.sweep(t.Context(), now)
	return now
}

func TestFlowsEndWhenTheyAreIdleToTheMillisecond(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		u := &UDP{IdleTimeout: 30 * time.Second}
		now := sweeping(t, u)
		quiet, used := listedFlow(t, u, 1, now()), listedFlow(t, u, 2, now())
		time.Sleep(20 * time.Second)
		used.mu.Lock()
		used.last = now()
		used.mu.Unlock()
		time.Sleep(10*time.Second - time.Millisecond)
		if n := u.Open(); n != 2 {
			t.Errorf("Open() = %d a millisecond before the first is idle for 30 s, want 2", n)
		}
		time.Sleep(2 * time.Millisecond)
		synctest.Wait()
		if all := u.flows.all(); !slices.Equal(all, []*flow{used}) {
			t.Errorf("after 30 s %d flows are open, want the used one alone; the quiet one's phase is %d", len(all), quiet.phase)
		}
		time.Sleep(20 * time.Second)
		synctest.Wait()
		if n := u.Open(); n != 0 {
			t.Errorf("Open() = %d, want 0", n)
		}
	})
}

func TestAnUnansweredDatagramEndsItsFlowWithinTwiceTheTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		u := &UDP{AnswerTimeout: 2 * time.Second}
		now := sweeping(t, u)
		silent, lucky := listedFlow(t, u, 1, now()), listedFlow(t, u, 2, now())
		time.Sleep(time.Second)
		for _, f := range []*flow{silent, lucky} {
			f.mu.Lock()
			f.pulse = &pulse{flows: 1}
			f.ask(now())
			f.mu.Unlock()
		}
		time.Sleep(time.Millisecond)
		lucky.pulse.last.Store(int64(now())) // its endpoint answered somebody else
		time.Sleep(4 * time.Second)
		synctest.Wait()
		if all := u.flows.all(); !slices.Equal(all, []*flow{lucky}) || silent.o.Ending != "" && silent.o.Ending != EndUnanswered {
			t.Errorf("%d flows are open, want the one whose endpoint answers others; the silent one ended by %q", len(all), silent.o.Ending)
		}
	})
}

func TestShutIsEmptyWhenTheLastFlowEnds(t *testing.T) {
	u := &UDP{}
	u.prepare()
	f := listedFlow(t, u, 1, 1)
	empty := u.flows.shut()
	select {
	case <-empty:
		t.Fatal("empty with a flow that is open")
	default:
	}
	if cause := u.flows.add(&flow{u: u, place: -1}, netip.Prefix{}, 1); cause != CauseShutdown {
		t.Errorf("add() after shut = %q, want %s", cause, CauseShutdown)
	}
	u.flows.remove(f)
	u.flows.remove(f) // once more changes nothing
	<-empty
	if len(u.flows.clients) != 0 || len(u.flows.agenda) != 0 {
		t.Errorf("%d clients and %d plans are left, want none", len(u.flows.clients), len(u.flows.agenda))
	}
}

func TestAnotherFlowOfTheSameKeyOutlivesTheOneThatEnds(t *testing.T) {
	u := &UDP{}
	u.prepare()
	old := listedFlow(t, u, 1, 1)
	next := listedFlow(t, u, 1, 1)
	u.flows.remove(old)
	if got := u.flows.find(next.key); got != next {
		t.Errorf("find() = %p, want the flow that came after, %p", got, next)
	}
	u.flows.remove(next)
	if n := u.Open(); n != 0 || len(u.flows.clients) != 0 {
		t.Errorf("%d flows and %d clients are left, want none", n, len(u.flows.clients))
	}
}

func TestBacklogKeepsWhatWaitsAndWhatMayBeRefused(t *testing.T) {
	room := &budget{limit: 1 << 20}
	var b backlog
	for i := range maxWaiting + 2 {
		if got, want := b.wait([]byte{byte(i)}, room), i < maxWaiting; got != want {
			t.Errorf("wait(%d) = %v, want %v", i, got, want)
		}
	}
	for i := range maxWaiting {
		if got := b.next(nil, time.Second); len(got) != 1 || got[0] != byte(i) {
			t.Errorf("next() = %v, want %d", got, i)
		}
	}
	if b.waits() {
		t.Error("waits() = true after all were sent")
	}
	if !b.wait([]byte("late"), room) {
		t.Error("wait() = false while only what was sent fills the backlog, want true")
	}
	b.answered(room)
	if got := string(b.next(nil, 2*time.Second)); got != "late" || b.n != 1 {
		t.Errorf("next() = %q of %d, want what waited to outlive an answer", got, b.n)
	}
	b.answered(room)
	for i := range 6 {
		b.sent([]byte{byte(i)}, time.Duration(i)*400*time.Millisecond, room)
	}
	b.rewind(2200 * time.Millisecond)
	var again []byte
	for b.waits() {
		again = b.next(again, 3*time.Second)
	}
	if want := []byte{3, 4, 5}; !slices.Equal(again, want) {
		t.Errorf("sent again = %v, want %v: those of the last second", again, want)
	}
	b.wait([]byte("lost"), room)
	if lost := b.free(room); lost != 1 || room.used.Load() != 0 {
		t.Errorf("free() = %d with %d bytes kept, want 1 and 0", lost, room.used.Load())
	}
}

func TestBacklogsShareABudget(t *testing.T) {
	room := &budget{limit: 100}
	var a, b backlog
	if !a.sent(make([]byte, 50), 0, room) || b.sent(make([]byte, 1), 0, room) {
		t.Error("copies of what was sent take more than a half, or less")
	}
	if !b.wait(make([]byte, 50), room) || b.wait(make([]byte, 1), room) {
		t.Error("what waits takes more than all, or less")
	}
	a.answered(room)
	if !a.sent(make([]byte, 50), 0, room) {
		t.Error("sent() = false with the buffer of an earlier datagram")
	}
	a.free(room)
	b.free(room)
	if used := room.used.Load(); used != 0 {
		t.Errorf("%d bytes are kept, want 0", used)
	}
}
