package activator

import (
	"sync"
	"sync/atomic"
	"time"
)

// An absence list has the activators that could not be reached lately. The zero list works.
type absence struct {
	some  atomic.Bool // so that requests take no lock as long as all can be reached
	mu    sync.Mutex
	until map[string]time.Time
}

// add notes that an activator could not be reached.
func (l *absence) add(name string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.until == nil {
		l.until = make(map[string]time.Time)
	}
	l.until[name] = time.Now().Add(awayTime)
	l.some.Store(true)
}

// now returns those that are passed over.
func (l *absence) now() []string {
	if !l.some.Load() {
		return nil
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	var names []string
	for name, until := range l.until {
		if time.Now().After(until) {
			delete(l.until, name)
			continue
		}
		names = append(names, name)
	}
	l.some.Store(len(l.until) > 0)
	return names
}
