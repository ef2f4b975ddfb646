package activator

import (
	"strings"

	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/cache"
	"knative.dev/serving/pkg/reconciler/serverlessservice/resources/names"

	"github.com/limpet-project/limpet/knative/todo"
)

// A subject is what Run of a Source has yet to look at.
type subject struct {
	kind subjectKind
	key  types.NamespacedName // of the Route or the revision
}

type subjectKind uint8

const (
	theRoute subjectKind = iota
	theRevision
	thePods // of the revision
)

// take returns what is to be looked at: Routes, revisions, and those of which only the pods are, by false.
func (s *Source) take() (routes, revisions map[types.NamespacedName]bool, all bool) {
	subjects, all := s.todo.Take()
	routes, revisions = make(map[types.NamespacedName]bool), make(map[types.NamespacedName]bool)
	for subject := range subjects {
		if subject.kind == theRoute {
			routes[subject.key] = true
		} else {
			revisions[subject.key] = revisions[subject.key] || subject.kind == theRevision
		}
	}
	return routes, revisions, all
}

// handlers returns what the informers of Routes, revisions, Services and EndpointSlices call.
func (s *Source) handlers() [4]cache.ResourceEventHandler {
	return [...]cache.ResourceEventHandler{
		todo.FollowLatest(func(o metav1.Object) { s.todo.Add(subject{theRoute, todo.KeyOf(o)}) }),
		todo.Follow(s.revisionChanged),
		todo.FollowLatest(func(o metav1.Object) { s.addService(o.GetNamespace(), o.GetName()) }),
		todo.FollowLatest(func(o metav1.Object) { s.addService(o.GetNamespace(), o.GetLabels()[discoveryv1.LabelServiceName]) }),
	}
}

func (s *Source) revisionChanged(before, after metav1.Object) {
	now := after
	if now == nil {
		now = before
	}
	key := todo.KeyOf(now)
	s.mu.Lock()
	if after == nil {
		s.deleted[key] = true
	} else {
		delete(s.deleted, key)
	}
	s.mu.Unlock()
	s.todo.Add(subject{theRevision, key})
}

// privateSuffix is what the name of a revision's private Service ends with.
var privateSuffix = names.PrivateService("")

// addService has the pods looked at of the revision of a Service, be it its public or its private one.
func (s *Source) addService(namespace, name string) {
	s.addPods(types.NamespacedName{Namespace: namespace, Name: strings.TrimSuffix(name, privateSuffix)})
}

// addPods says that the pods of a revision are to be looked at.
func (s *Source) addPods(revision types.NamespacedName) { s.todo.Add(subject{thePods, revision}) }
