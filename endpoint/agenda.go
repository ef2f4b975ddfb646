package endpoint

import (
	"container/heap"
	"time"
)

// An agenda orders things by when they are due. It is not safe for concurrent use; the zero agenda is empty.
type agenda[T any] struct{ queue dueQueue[T] }

// An entry is a thing's place in one agenda. The zero entry is in none.
type entry[T any] struct {
	thing T
	due   time.Time
	place int // in the queue, counted from 1; 0 is not there
}

// set puts e into the agenda, or moves it to another time.
func (a *agenda[T]) set(e *entry[T], due time.Time) {
	e.due = due
	if e.place == 0 {
		heap.Push(&a.queue, e)
		return
	}
	heap.Fix(&a.queue, e.place-1)
}

// remove takes e out, if it is there.
func (a *agenda[T]) remove(e *entry[T]) {
	if e.place != 0 {
		heap.Remove(&a.queue, e.place-1)
	}
}

// first returns the entry that is due first, nil if there is none.
func (a *agenda[T]) first() *entry[T] {
	if len(a.queue) == 0 {
		return nil
	}
	return a.queue[0]
}

// takeDue takes out and returns the first entry if it is due; else it returns nil and when the first one will be due.
func (a *agenda[T]) takeDue(now time.Time) (*entry[T], time.Time) {
	e := a.first()
	switch {
	case e == nil:
		return nil, now.Add(idlePause)
	case e.due.After(now):
		return nil, e.due
	}
	a.remove(e)
	return e, time.Time{}
}

// idlePause is how long a loop sleeps that has nothing to do; it is woken when that changes.
const idlePause = time.Hour

// A dueQueue is a heap.Interface whose first element is due first.
type dueQueue[T any] []*entry[T]

func (q dueQueue[T]) Len() int           { return len(q) }
func (q dueQueue[T]) Less(i, j int) bool { return q[i].due.Before(q[j].due) }

func (q dueQueue[T]) Swap(i, j int) {
	q[i], q[j] = q[j], q[i]
	q[i].place, q[j].place = i+1, j+1
}

func (q *dueQueue[T]) Push(x any) {
	e := x.(*entry[T])
	*q = append(*q, e)
	e.place = len(*q)
}

func (q *dueQueue[T]) Pop() any {
	last := len(*q) - 1
	e := (*q)[last]
	(*q)[last] = nil
	*q = (*q)[:last]
	e.place = 0
	return e
}
