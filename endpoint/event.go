package endpoint

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"github.com/limpet-project/limpet/affinity"
)

// An Event is one change of an endpoint's state. An endpoint that appears comes from gone; those that were there when this gateway
// began make no event until they change.
type Event struct {
	Revision RevisionName
	Endpoint string
	Address  string
	From, To affinity.EndpointState
	Cause    Cause     // why it is down
	Text     string    // what the last probe said, if that is the cause
	Until    time.Time // the end of the ejection, or the deadline of the drain; the zero time is none
	At       time.Time
}

// An Observer is told of events, one at a time and in their order, by one goroutine of Run. It may take its time: requests do not
// wait for it. If it takes too long the oldest of more than 4096 waiting events are left out and counted in Missed.
type Observer interface {
	EndpointChanged(e Event)
	Missed(events int)
}

// event describes a change of m's state.
func (m *member) event(from affinity.EndpointState, now time.Time) Event {
	e := Event{
		Revision: m.id.revision, Endpoint: m.id.endpoint, Address: m.spec.Address,
		From: from, To: m.state, Cause: m.cause, At: now,
	}
	switch {
	case m.cause == CauseProbe:
		e.Text = m.probeText
	case m.cause == CauseEjected:
		e.Until = m.ejectedUntil
	case m.state == affinity.EndpointDraining:
		_, e.Until = m.draining()
	}
	return e
}

// maxEvents bounds the events that wait to be told.
const maxEvents = 4096

// An eventQueue holds events that were not told yet. Telling them is I/O, which nobody who holds a lock may do.
type eventQueue struct {
	mu     sync.Mutex
	events []Event
	missed int
	wake   chan struct{}
}

// add appends an event, in the place of the oldest half if there are too many.
func (q *eventQueue) add(e Event) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(q.events) >= maxEvents {
		q.missed += maxEvents / 2
		q.events = append(q.events[:0], q.events[maxEvents/2:]...)
	}
	q.events = append(q.events, e)
	wake(q.wake)
}

// take returns all events and empties the queue.
func (q *eventQueue) take() (events []Event, missed int) {
	q.mu.Lock()
	defer q.mu.Unlock()
	events, missed = q.events, q.missed
	q.events, q.missed = nil, 0
	return events, missed
}

// runEvents tells events as they come.
func (t *Table) runEvents(ctx context.Context) {
	for {
		t.deliverEvents()
		if !pause(ctx, idlePause, t.events.wake) {
			return
		}
	}
}

// deliverEvents tells the logger and the observer all events that wait.
func (t *Table) deliverEvents() {
	events, missed := t.events.take()
	if missed > 0 {
		t.logger.Warn("endpoint changes were too many to be told", "missed", missed)
		if t.observer != nil {
			t.observer.Missed(missed)
		}
	}
	for _, e := range events {
		t.logger.LogAttrs(context.Background(), e.level(), "endpoint changed", e.attributes()...)
		if t.observer != nil {
			t.observer.EndpointChanged(e)
		}
	}
}

// level returns how important the event is.
func (e Event) level() slog.Level {
	if e.To == affinity.EndpointDown {
		return slog.LevelWarn
	}
	return slog.LevelInfo
}

// attributes returns the event for a log.
func (e Event) attributes() []slog.Attr {
	list := []slog.Attr{
		slog.String("revision", e.Revision.String()), slog.String("endpoint", e.Endpoint), slog.String("address", e.Address),
		slog.String("from", e.From.String()), slog.String("to", e.To.String()),
	}
	if e.Cause != "" {
		list = append(list, slog.String("cause", string(e.Cause)))
	}
	if e.Text != "" {
		list = append(list, slog.String("text", e.Text))
	}
	if !e.Until.IsZero() {
		list = append(list, slog.Time("until", e.Until))
	}
	return list
}
