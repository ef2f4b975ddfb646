package activator

import (
	"strings"
	"sync"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/cache"
	"knative.dev/serving/pkg/reconciler/serverlessservice/resources/names"
)

// A todo is what Run has yet to look at. Make one with newTodo.
type todo struct {
	wake chan struct{} // has something if there is something to do

	mu        sync.Mutex // never held while anything is waited for
	routes    map[types.NamespacedName]bool
	revisions map[types.NamespacedName]bool // true if it has changed itself, and not only its pods
	all       bool
}

func newTodo() todo {
	return todo{wake: make(chan struct{}, 1), routes: make(map[types.NamespacedName]bool), revisions: make(map[types.NamespacedName]bool)}
}

// change makes a change and wakes Run.
func (t *todo) change(do func()) {
	t.mu.Lock()
	defer t.mu.Unlock()
	do()
	wake(t.wake)
}

// wake puts something into a channel that has room for one, unless it is there already.
func wake(c chan<- struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// addAll says that everything is to be looked at.
func (t *todo) addAll() { t.change(func() { t.all = true }) }

// take returns what is to be looked at. The maps are the caller's.
func (t *todo) take() (routes, revisions map[types.NamespacedName]bool, all bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	routes, revisions, all = t.routes, t.revisions, t.all
	t.routes, t.revisions, t.all = make(map[types.NamespacedName]bool), make(map[types.NamespacedName]bool), false
	return routes, revisions, all
}

// follow returns what an informer calls.
func follow(note func(object any, deleted bool)) cache.ResourceEventHandler {
	return cache.ResourceEventHandlerFuncs{
		AddFunc: func(object any) { note(object, false) },
		UpdateFunc: func(before, after any) {
			b, a := before.(metav1.Object), after.(metav1.Object)
			if a.GetResourceVersion() == "" || a.GetResourceVersion() != b.GetResourceVersion() {
				note(after, false)
			}
		},
		DeleteFunc: func(object any) {
			if gone, is := object.(cache.DeletedFinalStateUnknown); is {
				object = gone.Obj
			}
			note(object, true)
		},
	}
}

// keyOf names an object.
func keyOf(o metav1.Object) types.NamespacedName {
	return types.NamespacedName{Namespace: o.GetNamespace(), Name: o.GetName()}
}

func (s *Source) routeChanged(object any, _ bool) {
	if o, is := object.(metav1.Object); is {
		s.todo.change(func() { s.todo.routes[keyOf(o)] = true })
	}
}

func (s *Source) revisionChanged(object any, deleted bool) {
	o, is := object.(metav1.Object)
	if !is {
		return
	}
	s.mu.Lock()
	if deleted {
		s.deleted[keyOf(o)] = true
	} else {
		delete(s.deleted, keyOf(o))
	}
	s.mu.Unlock()
	s.todo.change(func() { s.todo.revisions[keyOf(o)] = true })
}

func (s *Source) serviceChanged(object any, _ bool) {
	if o, is := object.(*corev1.Service); is {
		s.addService(o.Namespace, o.Name)
	}
}

func (s *Source) sliceChanged(object any, _ bool) {
	if o, is := object.(*discoveryv1.EndpointSlice); is {
		s.addService(o.Namespace, o.Labels[discoveryv1.LabelServiceName])
	}
}

// privateSuffix is what the name of a revision's private Service ends with.
var privateSuffix = names.PrivateService("")

// addService has the revision of a Service looked at, be it its public or its private one.
func (s *Source) addService(namespace, name string) {
	s.todo.addRevision(types.NamespacedName{Namespace: namespace, Name: strings.TrimSuffix(name, privateSuffix)})
}

// addRevision says that the pods of a revision are to be looked at.
func (t *todo) addRevision(key types.NamespacedName) {
	t.change(func() {
		if _, noted := t.revisions[key]; !noted {
			t.revisions[key] = false
		}
	})
}
