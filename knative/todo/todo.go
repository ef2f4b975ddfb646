// Package todo keeps what a goroutine that follows informers has yet to look at: names, each once however often it is noted, or everything.
//
// It promises that what is noted while the goroutine works is there when it asks again, and that to note never waits. It does not
// repeat what went wrong, and keeps no order: both are for its users to say.
//
// Start with [New] and [Follow].
package todo

import (
	"sync"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/cache"
)

// A List is what one goroutine has yet to look at. Make one with New. It is safe for concurrent use.
type List[K comparable] struct {
	wake chan struct{} // has something if there is something to do

	mu   sync.Mutex // never held while anything is waited for
	keys map[K]bool
	all  bool
}

// New returns a list of nothing.
func New[K comparable]() *List[K] {
	return &List[K]{wake: make(chan struct{}, 1), keys: make(map[K]bool)}
}

// Add notes one.
func (l *List[K]) Add(k K) { l.change(func() { l.keys[k] = true }) }

// AddAll notes that everything is to be looked at.
func (l *List[K]) AddAll() { l.change(func() { l.all = true }) }

func (l *List[K]) change(do func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	do()
	select {
	case l.wake <- struct{}{}:
	default:
	}
}

// Wake returns a channel that yields when something was noted since it last did. It is for one goroutine, which then calls Take.
func (l *List[K]) Wake() <-chan struct{} { return l.wake }

// Take returns what was noted since it was last called, and whether everything is to be looked at. The map is the caller's.
func (l *List[K]) Take() (keys map[K]bool, all bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	keys, all = l.keys, l.all
	l.keys, l.all = make(map[K]bool), false
	return keys, all
}

// Follow returns what an informer calls: note is called for every object that is new, gone or another version than before, with what it
// was before and what it is, of which one is nil where there is none. A resync calls nothing.
func Follow(note func(before, after metav1.Object)) cache.ResourceEventHandler {
	return cache.ResourceEventHandlerFuncs{
		AddFunc: func(object any) {
			if o, is := object.(metav1.Object); is {
				note(nil, o)
			}
		},
		UpdateFunc: func(before, after any) {
			b, had := before.(metav1.Object)
			a, has := after.(metav1.Object)
			if had && has && (a.GetResourceVersion() == "" || a.GetResourceVersion() != b.GetResourceVersion()) {
				note(b, a)
			}
		},
		DeleteFunc: func(object any) {
			if gone, is := object.(cache.DeletedFinalStateUnknown); is {
				object = gone.Obj
			}
			if o, is := object.(metav1.Object); is {
				note(o, nil)
			}
		},
	}
}

// FollowLatest is Follow for who asks only which object it was: note is called with it as it is, or as it was if it is gone.
func FollowLatest(note func(metav1.Object)) cache.ResourceEventHandler {
	return Follow(func(before, after metav1.Object) {
		if after == nil {
			after = before
		}
		note(after)
	})
}

// KeyOf names an object.
func KeyOf(o metav1.Object) types.NamespacedName {
	return types.NamespacedName{Namespace: o.GetNamespace(), Name: o.GetName()}
}
