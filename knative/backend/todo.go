package backend

import (
	"sync"

	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/client-go/tools/cache"
)

// A todo is what Run has yet to do. Events of one Service that come before Run gets to them are done at once. Make one with newTodo.
type todo struct {
	wake chan struct{} // has something if there is something to do

	mu       sync.Mutex // never held while anything is waited for
	services map[string]bool
	all      bool          // look at all that is used
	news     map[Name]bool // of whom Options.Changed is to be told
}

func newTodo() todo {
	return todo{wake: make(chan struct{}, 1), services: make(map[string]bool), news: make(map[Name]bool)}
}

// add says that something of a Service changed.
func (t *todo) add(key string) { t.change(func() { t.services[key] = true }) }

// addAll says that something changed that counts for all.
func (t *todo) addAll() { t.change(func() { t.all = true }) }

// tell says that a backend changed.
func (t *todo) tell(n Name) { t.change(func() { t.news[n] = true }) }

// change makes a change and wakes whoever waits.
func (t *todo) change(do func()) {
	t.mu.Lock()
	defer t.mu.Unlock()
	do()
	select {
	case t.wake <- struct{}{}:
	default:
	}
}

// takeServices returns the Services that changed, or that all are to be looked at.
func (t *todo) takeServices() (services map[string]bool, all bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	services, all = t.services, t.all
	t.services, t.all = make(map[string]bool), false
	return services, all
}

// takeNews returns the backends that changed.
func (t *todo) takeNews() map[Name]bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	news := t.news
	t.news = make(map[Name]bool)
	return news
}

// handler returns what an informer calls. key names the Service that an object is of.
func (t *todo) handler(key func(any) (string, bool)) cache.ResourceEventHandler {
	note := func(object any) {
		if deleted, is := object.(cache.DeletedFinalStateUnknown); is {
			object = deleted.Obj
		}
		if k, of := key(object); of {
			t.add(k)
		}
	}
	return cache.ResourceEventHandlerFuncs{
		AddFunc:    note,
		DeleteFunc: note,
		UpdateFunc: func(before, after any) {
			if !sameVersion(before, after) {
				note(before) // a slice may have become another Service's
				note(after)
			}
		},
	}
}

// sameVersion reports whether an update says nothing new, as those of a resync do.
func sameVersion(before, after any) bool {
	b, err := meta.Accessor(before)
	if err != nil {
		return false
	}
	a, err := meta.Accessor(after)
	return err == nil && a.GetResourceVersion() != "" && a.GetResourceVersion() == b.GetResourceVersion()
}
