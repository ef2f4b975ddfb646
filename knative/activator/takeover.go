package activator

import (
	"context"
	"errors"
	"io"
	"net/http"
	"strconv"
	"sync"
	"time"
)

// An asking is how an activator begins to count for a pod: it asks all others how many requests they have there, and they send no more
// unless it gives them a place.
type asking struct {
	done chan struct{}
	by   *peer // who counts and goes on to; nil if nobody else
}

// takeOver begins to count for a pod, once for all who wait for it. It returns who counts and goes on to, nil if this activator may.
func (p *Peers) takeOver(ctx context.Context, a *account, pod string) (*peer, error) {
	q := p.asking(a, pod)
	select {
	case <-q.done:
		return q.by, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// asking returns the asking that is under way, or begins one. It is not bound to the request that comes first.
func (p *Peers) asking(a *account, pod string) *asking {
	q, term, first := p.ledger.asking(a)
	if !first {
		return q
	}
	finish := func() {
		p.ledger.asked(a)
		close(q.done)
	}
	if !p.tasks.start(func(ctx context.Context) { defer finish(); q.by = p.askAll(ctx, a, term, pod) }) {
		p.ledger.take(a, term, 0) // this activator ends: nobody else hears of its last requests
		finish()
	}
	return q
}

// asking returns the asking of an account, the term in which it began, and whether the caller is to do it.
func (l *ledger) asking(a *account) (q *asking, term uint64, first bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if a.asking != nil {
		return a.asking, a.term, false
	}
	a.asking = &asking{done: make(chan struct{})}
	a.users++
	return a.asking, a.term, true
}

// asked ends an asking.
func (l *ledger) asked(a *account) {
	l.mu.Lock()
	defer l.mu.Unlock()
	a.asking = nil
	a.users--
}

// A reply is what another activator says: how many requests it has at the pod, and then each time that one has ended.
type reply struct {
	peer    peer
	err     error
	refuses bool
	n       int
	body    io.ReadCloser // nil if there is nothing to come
	cancel  context.CancelFunc
}

// askAll asks all activators that are listed, ready or not, and begins to count unless one of them goes on to. One that cannot be reached
// has lost its requests too.
//
// It asks twice. What one of them says the first time may be too little: until the one that counted hears the question, it gives places to
// those that have answered already. The second time nobody has counted since before the question came, so that no place is given after it.
func (p *Peers) askAll(ctx context.Context, a *account, term uint64, pod string) *peer {
	c := claim{Ask: askTake, From: p.o.PodName, Pod: pod, Term: term + 1}
	first := p.replies(ctx, *p.known.Load(), c)
	var reached []peer
	for i := range first {
		first[i].end()
		if first[i].err == nil {
			reached = append(reached, first[i].peer)
		}
	}
	if by := best(first, pod); by != nil {
		return by
	}
	replies := p.replies(ctx, reached, c)
	by := best(replies, pod)
	taken, left := false, 0
	for i := range replies {
		left += replies[i].n
	}
	if by == nil {
		term, taken = p.ledger.take(a, term, left)
	}
	for _, r := range replies {
		if !taken || r.n == 0 || !p.tasks.start(func(ctx context.Context) { p.follow(ctx, a, term, r) }) {
			r.end()
		}
	}
	return by
}

// best returns who has the best right to count of those that refuse to let another one, nil if nobody does.
func best(replies []reply, pod string) (by *peer) {
	for i := range replies {
		r := &replies[i]
		if r.refuses && (by == nil || score(r.peer.name, pod) > score(by.name, pod)) {
			by = &r.peer
		}
	}
	return by
}

// replies asks those of the activators that are not this one.
func (p *Peers) replies(ctx context.Context, others []peer, c claim) []reply {
	replies := make([]reply, len(others))
	var asked sync.WaitGroup
	for i, other := range others {
		if other.name != p.o.PodName {
			asked.Go(func() { replies[i] = p.ask(ctx, other, c) })
		}
	}
	asked.Wait()
	return replies
}

// ask asks one activator to let this one count. The reply goes on after the time for it, while there are requests.
func (p *Peers) ask(ctx context.Context, other peer, c claim) reply {
	r := reply{peer: other}
	ctx, r.cancel = context.WithCancel(context.WithoutCancel(ctx))
	timer := time.AfterFunc(p.bounds.answer, r.cancel)
	resp, err := p.send(ctx, other, c, nil)
	if err == nil && !timer.Stop() {
		resp.Body.Close()
		err = context.DeadlineExceeded
	}
	if err != nil {
		r.cancel()
		return reply{peer: other, err: err}
	}
	r.body = resp.Body
	switch said := resp.Header.Get(headerPlace); {
	case said == placeRefused:
		r.refuses = true
	case resp.StatusCode == http.StatusOK:
		r.n, r.err = strconv.Atoi(said)
		r.n = min(max(r.n, 0), maxWaiting)
	}
	if r.n == 0 {
		r.end()
	}
	return r
}

func (r *reply) end() {
	if r.body != nil {
		r.cancel()
		r.body.Close()
		r.body = nil
	}
}

// follow counts down the requests that another activator had. If it breaks off, they have ended with it.
func (p *Peers) follow(ctx context.Context, a *account, term uint64, r reply) {
	defer r.end()
	stop := context.AfterFunc(ctx, r.cancel)
	defer stop()
	var buf [64]byte
	for left := r.n; left > 0; {
		n, err := r.body.Read(buf[:])
		if err != nil {
			n = left
		}
		n = min(n, left)
		left -= n
		p.ledger.ended(a, term, n)
	}
}

// give serves an activator that begins to count for a pod. If this one does, with a better right, it goes on.
func (p *Peers) give(w http.ResponseWriter, r *http.Request, c claim) {
	if best, other := p.owner(c.Pod, nil); !other && best.name == p.o.PodName && score(best.name, c.Pod) > score(c.From, c.Pod) {
		say(w, http.StatusConflict, placeRefused)
		return
	}
	a := p.ledger.open(c.Pod)
	defer p.ledger.close(a)
	n, ends := p.ledger.give(a, heir{c.From, c.Term})
	defer p.ledger.unwatch(a, ends)
	say(w, http.StatusOK, strconv.Itoa(n))
	for range n {
		if flush(w) != nil {
			return
		}
		select {
		case <-ends.ended:
			_, _ = w.Write([]byte{'.'}) // that nobody reads it shows in flush
		case <-r.Context().Done():
			return
		}
	}
}

// tasks are goroutines that do not belong to a request. The zero tasks work.
type tasks struct {
	running sync.WaitGroup

	mu      sync.Mutex
	ended   bool
	next    int
	cancels map[int]context.CancelFunc
}

// start runs do in a goroutine with a context that end cancels. It is false after end.
func (t *tasks) start(do func(context.Context)) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.ended {
		return false
	}
	if t.cancels == nil {
		t.cancels = make(map[int]context.CancelFunc)
	}
	ctx, cancel := context.WithCancel(context.Background())
	id := t.next
	t.next++
	t.cancels[id] = cancel
	t.running.Go(func() {
		defer t.done(id)
		do(ctx)
	})
	return true
}

func (t *tasks) done(id int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.cancels[id]()
	delete(t.cancels, id)
}

// end cancels all and waits for them.
func (t *tasks) end() {
	t.mu.Lock()
	t.ended = true
	for _, cancel := range t.cancels {
		cancel()
	}
	t.mu.Unlock()
	t.running.Wait()
}

// errAway means that an activator cannot be asked.
var errAway = errors.New("the activator that counts for the pod cannot be reached")
