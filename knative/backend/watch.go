package backend

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/cache"

	"knative.dev/serving/pkg/reconciler/serverlessservice/resources/names"

	"github.com/limpet-project/limpet/knative/todo"
)

// byService is the index of slices by the Service that they are of.
const byService = "limpet.service"

// addIndex gives the slices their index by Service, unless they have it.
func addIndex(informer cache.SharedIndexInformer) error {
	if _, there := informer.GetIndexer().GetIndexers()[byService]; there {
		return nil
	}
	index := func(object any) ([]string, error) {
		if key, of := sliceKey(object); of {
			return []string{key}, nil
		}
		return nil, nil
	}
	if err := informer.AddIndexers(cache.Indexers{byService: index}); err != nil {
		return fmt.Errorf("indexing EndpointSlices by Service: %w", err)
	}
	return nil
}

// sliceKey returns the Service that a slice is of, and whether it is of one.
func sliceKey(object any) (string, bool) {
	slice, is := object.(*discoveryv1.EndpointSlice)
	if !is || slice.Labels[discoveryv1.LabelServiceName] == "" {
		return "", false
	}
	return slice.Namespace + "/" + slice.Labels[discoveryv1.LabelServiceName], true
}

// serviceKey returns the name of a Service.
func serviceKey(object any) (string, bool) {
	service, is := object.(*corev1.Service)
	if !is {
		return "", false
	}
	return service.Namespace + "/" + service.Name, true
}

// objects returns what the informers know that concerns a backend.
func (s *Source) objects(n Name) objects {
	var o objects
	if object, exists, err := s.options.Services.GetIndexer().GetByKey(n.key()); err == nil && exists {
		o.service, _ = object.(*corev1.Service)
	}
	if o.service != nil {
		o.slices = s.slicesOf(n.key())
		o.private = s.slicesOf(n.Namespace + "/" + names.PrivateService(n.Service))
	}
	return o
}

// slicesOf returns the slices of a Service. Without the index there are none, and Run says why.
func (s *Source) slicesOf(key string) []*discoveryv1.EndpointSlice {
	found, err := s.options.Slices.GetIndexer().ByIndex(byService, key)
	if err != nil {
		return nil
	}
	list := make([]*discoveryv1.EndpointSlice, 0, len(found))
	for _, object := range found {
		if slice, is := object.(*discoveryv1.EndpointSlice); is {
			list = append(list, slice)
		}
	}
	return list
}

// Run follows the informers until ctx ends, and calls Options.Changed. It returns an error if it cannot. It is to run once.
func (s *Source) Run(ctx context.Context) error {
	if s.faulty != nil {
		return s.faulty
	}
	for _, w := range []struct {
		informer cache.SharedIndexInformer
		key      func(any) (string, bool)
	}{{s.options.Services, serviceKey}, {s.options.Slices, sliceKey}} {
		registration, err := w.informer.AddEventHandler(todo.Follow(s.note(w.key)))
		if err != nil {
			return fmt.Errorf("following an informer: %w", err)
		}
		defer func() { _ = w.informer.RemoveEventHandler(registration) }() // it fails for another informer's registration only
	}
	if !cache.WaitForCacheSync(ctx.Done(), s.options.Services.HasSynced, s.options.Slices.HasSynced) {
		return nil
	}
	s.Refresh() // what was deleted before the handlers were there is no event
	for {
		s.work()
		select {
		case <-ctx.Done():
			return nil
		case <-s.todo.Wake():
		case <-s.news.Wake():
		}
	}
}

// note returns what notes a change of an object for the Services that it is of: a slice may have become another Service's.
func (s *Source) note(key func(any) (string, bool)) func(before, after metav1.Object) {
	return func(before, after metav1.Object) {
		for _, object := range []metav1.Object{before, after} {
			if k, of := key(object); of {
				s.todo.Add(k)
			}
		}
	}
}

// work does what there is to do. Others get their turn after each Service.
func (s *Source) work() {
	services, all := s.todo.Take()
	if all {
		services = s.usedServices()
	}
	for key := range services {
		s.revisit(key)
	}
	news, _ := s.news.Take()
	for n := range news {
		s.options.Changed(n)
	}
}

// usedServices returns the Services of all backends in use.
func (s *Source) usedServices() map[string]bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	services := make(map[string]bool, len(s.used))
	for n := range s.used {
		services[n.key()] = true
	}
	return services
}

// revisit looks at the backends that a Service counts for.
func (s *Source) revisit(key string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.begin()
	for _, u := range s.watchers[key] {
		s.look(u)
	}
}
