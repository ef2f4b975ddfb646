package ingress

import (
	"cmp"
	"maps"
	"slices"

	"k8s.io/apimachinery/pkg/types"
	"knative.dev/networking/pkg/apis/networking/v1alpha1"
)

// users says which Ingress objects name which things of one kind, both ways.
type users struct {
	things    map[types.NamespacedName][]types.NamespacedName        // by Ingress
	ingresses map[types.NamespacedName]map[types.NamespacedName]bool // by thing
}

func newUsers() users {
	return users{
		things:    make(map[types.NamespacedName][]types.NamespacedName),
		ingresses: make(map[types.NamespacedName]map[types.NamespacedName]bool),
	}
}

// set says which things an Ingress names now.
func (u users) set(key types.NamespacedName, things []types.NamespacedName) {
	for _, s := range u.things[key] {
		delete(u.ingresses[s], key)
		if len(u.ingresses[s]) == 0 {
			delete(u.ingresses, s)
		}
	}
	delete(u.things, key)
	if len(things) > 0 {
		u.things[key] = things
	}
	for _, s := range things {
		if u.ingresses[s] == nil {
			u.ingresses[s] = make(map[types.NamespacedName]bool)
		}
		u.ingresses[s][key] = true
	}
}

// of returns the Ingress objects that name a thing.
func (u users) of(thing types.NamespacedName) []types.NamespacedName {
	return slices.Collect(maps.Keys(u.ingresses[thing]))
}

// servicesOf returns the Services that an Ingress names. One may come twice.
func servicesOf(i *v1alpha1.Ingress) []types.NamespacedName {
	var list []types.NamespacedName
	for _, rule := range i.Spec.Rules {
		if rule.HTTP == nil {
			continue
		}
		for _, path := range rule.HTTP.Paths {
			for _, s := range path.Splits {
				list = append(list, types.NamespacedName{Namespace: cmp.Or(s.ServiceNamespace, i.Namespace), Name: s.ServiceName})
			}
		}
	}
	return list
}
