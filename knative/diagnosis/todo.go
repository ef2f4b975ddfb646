package diagnosis

import (
	"sync"

	"k8s.io/apimachinery/pkg/types"
)

// A todo is which Routes Run has yet to look at. Make one with newTodo.
type todo struct {
	wake chan struct{} // has something if there is something to do

	mu     sync.Mutex // never held while anything is waited for
	routes map[types.NamespacedName]bool
	all    bool
}

func newTodo() todo {
	return todo{wake: make(chan struct{}, 1), routes: make(map[types.NamespacedName]bool)}
}

// change makes a change and wakes Run.
func (t *todo) change(do func()) {
	t.mu.Lock()
	defer t.mu.Unlock()
	do()
	select {
	case t.wake <- struct{}{}:
	default:
	}
}

func (t *todo) add(route types.NamespacedName) { t.change(func() { t.routes[route] = true }) }

func (t *todo) addAll() { t.change(func() { t.all = true }) }

// take returns what is to be looked at. The map is the caller's.
func (t *todo) take() (routes map[types.NamespacedName]bool, all bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	routes, all = t.routes, t.all
	t.routes, t.all = make(map[types.NamespacedName]bool), false
	return routes, all
}
