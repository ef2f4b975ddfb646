package activator

import (
	"container/list"
	"context"
	"errors"
	"sync"
	"time"

	"github.com/limpet-project/limpet/endpoint"
)

// A ledger counts the requests at pods with a limit: all of them at those pods that this activator counts for, and its own at all others.
// It is safe for concurrent use. The zero ledger works.
type ledger struct {
	mu       sync.Mutex // guards all accounts; nothing is waited for while it is held
	accounts map[string]*account
}

// An account is what is known of one pod. The ledger's lock guards it.
type account struct {
	users int // who has it at hand, so that it is not forgotten
	used  time.Time

	term   uint64  // grows when it changes who counts
	holds  bool    // this activator counts
	asking *asking // by which it begins to; nil for none
	heir   heir    // to whom this activator last left the count
	own    int     // requests of this activator, whoever counts
	lent   int     // places of other activators, in this term
	left   int     // requests that others had when this term began, and have still

	queue    list.List // of *waiting, in the order in which they came
	watchers map[*watcher]bool
}

// An heir is an activator that counts, in a term of its own.
type heir struct {
	name string
	term uint64
}

// A seat is the place of one request in an account. The zero seat is one that nobody counts; so is nil.
type seat struct {
	ledger  *ledger
	account *account
	term    uint64
	lent    bool
	release func() // gives the place back where another activator counts; nil for none
}

// A waiting request gets one answer.
type waiting struct {
	seat  *seat
	limit int
	ready chan error
	at    *list.Element // nil once it is answered
}

// A watcher is told of the end of each request that this activator had when another one began to count.
type watcher struct {
	term  uint64
	ended chan struct{} // has room for all
}

// errMoved means that this activator does not count for the pod, or that it changed meanwhile who does.
var errMoved = errors.New("another activator counts for the pod")

// open returns the account of a pod. Whoever opens it closes it.
func (l *ledger) open(pod string) *account {
	l.mu.Lock()
	defer l.mu.Unlock()
	a := l.accounts[pod]
	if a == nil {
		if l.accounts == nil {
			l.accounts = make(map[string]*account)
		}
		a = &account{watchers: make(map[*watcher]bool)}
		l.accounts[pod] = a
	}
	a.users++
	return a
}

func (l *ledger) close(a *account) {
	l.mu.Lock()
	defer l.mu.Unlock()
	a.users--
	a.used = time.Now()
}

// forget drops accounts that nobody has used since then. That loses nothing: who comes next asks again who counts.
func (l *ledger) forget(since time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for pod, a := range l.accounts {
		if a.users == 0 && a.own+a.lent+a.left == 0 && a.used.Before(since) {
			delete(l.accounts, pod)
		}
	}
}

// enter takes a place in an account that this activator holds, waiting for it up to wait. It returns errMoved, endpoint.ErrBusy or the
// error of ctx.
func (l *ledger) enter(ctx context.Context, a *account, limit int, wait time.Duration, lent bool) (*seat, error) {
	w := &waiting{seat: &seat{ledger: l, account: a, lent: lent}, limit: limit, ready: make(chan error, 1)}
	if waits, err := l.join(a, w, wait > 0); err != nil {
		return nil, err
	} else if !waits {
		return w.seat, nil
	}
	timer := time.NewTimer(wait)
	defer timer.Stop()
	var err error
	select {
	case err = <-w.ready:
	case <-timer.C:
		err = l.abandon(a, w, endpoint.ErrBusy)
	case <-ctx.Done():
		err = l.abandon(a, w, ctx.Err())
	}
	if err != nil {
		return nil, err
	}
	return w.seat, nil
}

// join gives w a place at once, or one in the queue, and reports which.
func (l *ledger) join(a *account, w *waiting, mayWait bool) (waits bool, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case !a.holds:
		return false, errMoved
	case a.queue.Len() == 0 && a.free(w.limit):
		a.count(w.seat)
		return false, nil
	case !mayWait, a.queue.Len() >= maxWaiting:
		return false, endpoint.ErrBusy
	}
	w.at = a.queue.PushBack(w)
	return true, nil
}

// abandon ends the wait of w with cause. An answer that came at the same moment counts, but nobody keeps a place for a request whose
// context has ended.
func (l *ledger) abandon(a *account, w *waiting, cause error) error {
	l.mu.Lock()
	waits := w.at != nil
	if waits {
		a.queue.Remove(w.at)
		a.grant() // those behind may have a higher limit
	}
	l.mu.Unlock()
	if waits {
		return cause
	}
	err := <-w.ready
	if err == nil && !errors.Is(cause, endpoint.ErrBusy) {
		w.seat.leave()
		return cause
	}
	return err
}

func (a *account) free(limit int) bool { return a.own+a.lent+a.left < limit }

func (a *account) count(s *seat) {
	s.term = a.term
	if s.lent {
		a.lent++
	} else {
		a.own++
	}
}

// grant gives free places to those who wait, or sends them away if another activator counts.
func (a *account) grant() {
	for at := a.queue.Front(); at != nil; at = a.queue.Front() {
		w, _ := at.Value.(*waiting)
		var err error
		switch {
		case !a.holds:
			err = errMoved
		case a.free(w.limit):
			a.count(w.seat)
		default:
			return
		}
		a.queue.Remove(at)
		w.at = nil
		w.ready <- err
	}
}

// now returns the term.
func (l *ledger) now(a *account) uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return a.term
}

// adopt counts a place that another activator has given, unless it has changed since that term who counts. It has not if who gave the
// place is the last one that began to.
func (l *ledger) adopt(a *account, term uint64, by heir, release func()) (*seat, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if a.holds || a.term != term && a.heir != by {
		return nil, false
	}
	s := &seat{ledger: l, account: a, release: release}
	a.count(s)
	return s, true
}

// leave gives the place back, once.
func (s *seat) leave() {
	if s == nil || s.account == nil {
		return
	}
	if s.release != nil {
		s.release()
	}
	a := s.account
	s.ledger.mu.Lock()
	defer s.ledger.mu.Unlock()
	s.account = nil
	switch {
	case !s.lent:
		a.own--
		for w := range a.watchers {
			if s.term < w.term {
				w.ended <- struct{}{}
			}
		}
	case s.term == a.term:
		a.lent--
	}
	a.grant()
}

// give lets another activator count from now on. It returns how many requests this one has at the pod, and who is told of their ends.
func (l *ledger) give(a *account, to heir) (int, *watcher) {
	l.mu.Lock()
	defer l.mu.Unlock()
	a.term++
	a.heir = to
	a.holds, a.lent, a.left = false, 0, 0
	a.grant()
	w := &watcher{term: a.term, ended: make(chan struct{}, a.own)}
	a.watchers[w] = true
	return a.own, w
}

func (l *ledger) unwatch(a *account, w *watcher) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(a.watchers, w)
}

// take lets this activator count from now on, unless it has changed since that term who does. Others have so many requests at the pod.
func (l *ledger) take(a *account, term uint64, left int) (uint64, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if a.term != term {
		return 0, false
	}
	a.term++
	a.holds, a.lent, a.left = true, 0, left
	return a.term, true
}

// ended notes the end of requests that others had when that term began.
func (l *ledger) ended(a *account, term uint64, n int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if a.term == term {
		a.left -= n
		a.grant()
	}
}
