package activator

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/limpet-project/limpet/endpoint"
)

// state returns how many requests a ledger counts at a pod, and how many wait.
func (l *ledger) state(pod string) (counted, waiting int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	a := l.accounts[pod]
	if a == nil {
		return 0, 0
	}
	return a.own + a.lent + a.left, a.queue.Len()
}

// held returns an account that this activator holds, at whose pod others have so many requests.
func held(t *testing.T, l *ledger, left int) *account {
	t.Helper()
	a := l.open("pod-a")
	if _, taken := l.take(a, l.now(a), left); !taken {
		t.Fatal("take() = false, want true")
	}
	return a
}

// seated enters and must not wait.
func seated(t *testing.T, l *ledger, a *account, limit int, lent bool) *seat {
	t.Helper()
	s, err := l.enter(t.Context(), a, limit, 0, lent)
	if err != nil {
		t.Fatalf("enter() = %v, want a place", err)
	}
	return s
}

func TestALedgerCountsItsOwnThoseOfOthersAndThoseFromBefore(t *testing.T) {
	var l ledger
	a := held(t, &l, 1)
	own, lent := seated(t, &l, a, 3, false), seated(t, &l, a, 3, true)
	full := func(step string) {
		t.Helper()
		if _, err := l.enter(t.Context(), a, 3, 0, false); !errors.Is(err, endpoint.ErrBusy) {
			t.Errorf("enter() %s = %v, want %v", step, err, endpoint.ErrBusy)
		}
	}
	full("of a full pod")
	own.leave()
	own.leave() // once more is not another one
	own = seated(t, &l, a, 3, false)
	full("when one left and another came")
	l.ended(a, a.term, 1)
	third := seated(t, &l, a, 3, true)
	full("when one from before ended and another came")
	for _, s := range []*seat{own, lent, third} {
		s.leave()
	}
	if n, _ := l.state("pod-a"); n != 0 {
		t.Errorf("counted in the end = %d, want 0", n)
	}
}

func TestPlacesAreGivenInTheOrderOfArrival(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var l ledger
		a := held(t, &l, 0)
		first := seated(t, &l, a, 1, false)
		order := make(chan int, 3)
		for i := range 3 {
			go func() {
				s, err := l.enter(t.Context(), a, 1, time.Minute, i%2 == 0)
				if err != nil {
					t.Errorf("enter() of %d = %v, want a place", i, err)
				}
				order <- i
				s.leave()
			}()
			synctest.Wait()
		}
		first.leave()
		for want := range 3 {
			if got := <-order; got != want {
				t.Errorf("the place went to %d, want %d", got, want)
			}
		}
	})
}

func TestAWaitForAPlaceEnds(t *testing.T) {
	for _, tt := range []struct {
		name string
		end  func(l *ledger, a *account, cancel func())
		want error
	}{
		{"at its time", func(*ledger, *account, func()) { time.Sleep(10 * time.Second) }, endpoint.ErrBusy},
		{"with its context", func(_ *ledger, _ *account, cancel func()) { cancel() }, context.Canceled},
		{"when another activator counts", func(l *ledger, a *account, _ func()) { l.give(a, heir{"activator-2", 1}) }, errMoved},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var l ledger
				a := held(t, &l, 1)
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				answer := make(chan error, 1)
				go func() {
					_, err := l.enter(ctx, a, 1, 10*time.Second, false)
					answer <- err
				}()
				synctest.Wait()
				tt.end(&l, a, cancel)
				if err := <-answer; !errors.Is(err, tt.want) {
					t.Errorf("enter() = %v, want %v", err, tt.want)
				}
				if _, n := l.state("pod-a"); n != 0 {
					t.Errorf("%d wait afterwards, want none", n)
				}
			})
		})
	}
}

func TestWhoGivesTellsOfItsOwnRequestsOnly(t *testing.T) {
	var l ledger
	a := held(t, &l, 2)
	own, lent := seated(t, &l, a, 10, false), seated(t, &l, a, 10, true)
	n, ends := l.give(a, heir{"activator-2", 1})
	if n != 1 {
		t.Errorf("give() = %d requests, want its own: 1", n)
	}
	later, stands := l.adopt(a, a.term, heir{"activator-2", 1}, nil)
	if !stands {
		t.Fatal("adopt() in the same term = false, want true")
	}
	lent.leave()
	later.leave()
	select {
	case <-ends.ended:
		t.Error("the other activator was told of a request that began later, or was not its own")
	default:
	}
	own.leave()
	select {
	case <-ends.ended:
	default:
		t.Error("the other activator was not told of the end of a request")
	}
}

func TestAPlaceOfAnEarlierTermIsNotTaken(t *testing.T) {
	var l ledger
	a := l.open("pod-a")
	before := l.now(a)
	l.give(a, heir{"activator-2", 5})
	for by, want := range map[heir]bool{{"activator-2", 5}: true, {"activator-2", 4}: false, {"activator-3", 5}: false} {
		s, stands := l.adopt(a, before, by, nil)
		if stands != want {
			t.Errorf("adopt() by %v after activator-2 began to count in term 5 = %t, want %t", by, stands, want)
		}
		s.leave()
	}
	if _, taken := l.take(a, before, 0); taken {
		t.Error("take() after another activator began to count = true, want false")
	}
	term, _ := l.take(a, l.now(a), 3)
	l.ended(a, term-1, 2)
	if n, _ := l.state("pod-a"); n != 3 {
		t.Errorf("counted when requests of an earlier term end = %d, want 3", n)
	}
}

func TestALedgerForgetsWhatIsNotUsed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var l ledger
		a := held(t, &l, 0)
		s := seated(t, &l, a, 1, false)
		l.close(a)
		time.Sleep(time.Hour)
		l.forget(time.Now().Add(-forgetAfter))
		if len(l.accounts) != 1 {
			t.Error("a pod with a request was forgotten")
		}
		s.leave()
		l.forget(time.Now().Add(-forgetAfter))
		if len(l.accounts) != 0 {
			t.Error("a pod without requests was not forgotten")
		}
	})
}
