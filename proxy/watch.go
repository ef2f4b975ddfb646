package proxy

import (
	"context"
	"errors"
	"net/http"
	"sync"
	"sync/atomic"
	"time"
)

// Why a watch ends an exchange.
var (
	errResponseTimeout = errors.New("the endpoint sent no response header in time")
	errRequestTimeout  = errors.New("the request took too long")
	errIdle            = errors.New("no byte in either direction for too long")
	errReadStall       = errors.New("client sent nothing for too long")
	errWriteStall      = errors.New("client took nothing for too long")
)

// A watch bounds the waits of one exchange with a single timer. The exchange notes when it begins to wait and when bytes move;
// the timer looks at the notes when the nearest limit could be exceeded. Times are nanoseconds since begin.
type watch struct {
	begin   time.Time
	cancel  context.CancelCauseFunc
	control *http.ResponseController
	active  atomic.Int64
	sent    atomic.Int64 // when the request last moved towards the endpoint; 0 before that and once the response header came
	reading atomic.Int64 // since when a read of the client waits, 0 for none
	writing atomic.Int64 // since when a write to the client waits, 0 for none
	stream  atomic.Bool  // not cut by the request timeout
	client  atomic.Bool  // a limit was exceeded while the client was waited for

	mu      sync.Mutex
	limits  waits
	timer   *time.Timer // nil as long as nothing is bounded
	started bool
	ended   bool
	over    bool   // a limit was exceeded: nothing is looked at any longer
	hangUp  func() // closes both connections of an upgraded exchange
}

// waits are the limits of an exchange; 0 is none.
type waits struct {
	response, request, idle, readStall, writeStall time.Duration
}

func (w *watch) now() int64 { return max(int64(time.Since(w.begin)), 1) }

// start begins to watch.
func (w *watch) start() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.active.Store(w.now())
	w.started = true
	w.lookIn(w.nearest())
}

// bound sets other limits, in which counts what has begun before.
func (w *watch) bound(limits waits) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.limits = limits; w.started && !w.over && !w.ended {
		w.check()
	}
}

// lookIn sets the timer, or stops it if nothing is bounded; w.mu is held.
func (w *watch) lookIn(d time.Duration) {
	switch {
	case w.timer == nil && d > 0:
		w.timer = time.AfterFunc(d, w.look)
	case d > 0:
		w.timer.Reset(d)
	case w.timer != nil:
		w.timer.Stop()
	}
}

// nearest is the smallest limit: whatever begins now cannot exceed its own earlier.
func (w *watch) nearest() time.Duration {
	var least time.Duration
	for _, d := range [...]time.Duration{w.limits.response, w.limits.request, w.limits.idle, w.limits.readStall, w.limits.writeStall} {
		if d > 0 && (least == 0 || d < least) {
			least = d
		}
	}
	return least
}

func (w *watch) readBegins() { w.reading.Store(w.now()) }

func (w *watch) readEnds(n int) {
	w.reading.Store(0)
	if n > 0 {
		now := w.now()
		w.active.Store(now)
		if sent := w.sent.Load(); sent > 0 {
			w.sent.CompareAndSwap(sent, now)
		}
	}
}

func (w *watch) writeBegins() { w.writing.Store(w.now()) }

func (w *watch) writeEnds() {
	w.writing.Store(0)
	w.active.Store(w.now())
}

// moved notes that bytes moved in some direction.
func (w *watch) moved() { w.active.Store(w.now()) }

// forwarded notes that the request went to the endpoint: its time to answer runs.
func (w *watch) forwarded() { w.sent.Store(w.now()) }

// answered notes that the response header came.
func (w *watch) answered() {
	w.sent.Store(0)
	w.active.Store(w.now())
}

// exceeded returns the limit that is exceeded as an error, or how long none can be, 0 if there is none.
func (w *watch) exceeded() (next time.Duration, err error) {
	now := w.now()
	next = w.nearest()
	reading := w.reading.Load()
	check := func(since int64, limit time.Duration, applies bool) bool {
		if !applies || limit <= 0 {
			return false
		}
		left := limit - time.Duration(now-since)
		next = min(next, max(left, time.Millisecond))
		return left <= 0
	}
	sent, writing := w.sent.Load(), w.writing.Load()
	switch {
	case check(0, w.limits.request, !w.stream.Load()):
		return 0, errRequestTimeout
	case check(reading, w.limits.readStall, reading > 0):
		return 0, errReadStall
	case check(writing, w.limits.writeStall, writing > 0):
		return 0, errWriteStall
	case check(sent, w.limits.response, sent > 0 && reading == 0):
		return 0, errResponseTimeout
	case check(w.active.Load(), w.limits.idle, true):
		return 0, errIdle
	}
	return next, nil
}

// look runs when the timer fires.
func (w *watch) look() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.over && !w.ended {
		w.check()
	}
}

// check ends the exchange if a limit is exceeded, and otherwise sets the timer; w.mu is held.
func (w *watch) check() {
	next, err := w.exceeded()
	if err == nil {
		w.lookIn(next)
		return
	}
	w.client.Store(w.reading.Load() > 0)
	w.over = true
	w.cancel(err)
	if w.hangUp != nil {
		w.hangUp()
		return
	}
	if w.reading.Load() > 0 {
		w.control.SetReadDeadline(longAgo)
	}
	if w.writing.Load() > 0 {
		w.control.SetWriteDeadline(longAgo)
	}
}

// interruptRead makes a read of the client that is under way return, unless the exchange has ended: then the connection may
// already carry another one.
func (w *watch) interruptRead() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.ended {
		w.control.SetReadDeadline(longAgo)
	}
}

// upgraded makes the watch hang up both connections instead of cutting a response; only the idle limit holds from now on.
func (w *watch) upgraded(hangUp func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.limits = waits{idle: w.limits.idle}
	if w.hangUp = hangUp; w.over { // before there was anything to hang up
		hangUp()
	}
}

// end stops the watch. Nothing is done to the client's connection after that.
func (w *watch) end() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.ended = true
	if w.timer != nil {
		w.timer.Stop()
	}
}
