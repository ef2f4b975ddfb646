package activator

import (
	"strings"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/limpet-project/limpet/affinity"
	"github.com/limpet-project/limpet/knative/policy"
	"github.com/limpet-project/limpet/knative/scaledown"
)

// SessionLoad returns how much live sessions count for the autoscaler, as config-limpet says.
func (s *Source) SessionLoad() policy.SessionLoad {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.defaults.SessionLoad()
}

// bound returns the revisions that get requests of Routes whose sessions are remembered. Of other sessions nobody knows how many there are.
func (s *Source) bound() map[types.NamespacedName]bool {
	revisions, seen := make(map[types.NamespacedName]bool), make(map[*table]bool)
	for _, h := range s.index.Load().hosts {
		t := h.table
		if seen[t] || t.policy.Session == nil || t.policy.Session.Mode != affinity.ModeBound {
			continue
		}
		seen[t] = true
		for i := range t.services {
			for _, r := range t.services[i].Revisions {
				revisions[types.NamespacedName{Namespace: t.route.Namespace, Name: r.Name}] = true
			}
		}
	}
	return revisions
}

// listed returns the pods of those revisions, without those that terminate: nothing is to be decided for them. Their names come from
// EndpointSlices, so that nobody has to follow all pods of a cluster.
func (s *Source) listed() []scaledown.Pod {
	revisions, seen := s.bound(), make(map[podKey]bool)
	var pods []scaledown.Pod
	for _, object := range s.o.Slices.GetStore().List() {
		slice, is := object.(*discoveryv1.EndpointSlice)
		if !is {
			continue
		}
		name, private := strings.CutSuffix(slice.Labels[discoveryv1.LabelServiceName], privateSuffix)
		key := types.NamespacedName{Namespace: slice.Namespace, Name: name}
		if !private || !revisions[key] {
			continue
		}
		fixed := s.fixed(key)
		for i := range slice.Endpoints {
			t := podOf(&slice.Endpoints[i])
			if t == nil {
				continue
			}
			if pod := (podKey{key.Namespace, key.Name, string(t.UID)}); !seen[pod] {
				seen[pod] = true
				pods = append(pods, scaledown.Pod{Namespace: key.Namespace, Revision: key.Name, Name: t.Name, UID: t.UID, Fixed: fixed})
			}
		}
	}
	return pods
}

// podOf returns the pod of an endpoint, nil if it is none or terminates.
func podOf(e *discoveryv1.Endpoint) *corev1.ObjectReference {
	terminates := e.Conditions.Terminating != nil && *e.Conditions.Terminating
	if t := e.TargetRef; t != nil && t.Kind == "Pod" && t.UID != "" && t.Name != "" && !terminates {
		return t
	}
	return nil
}

// fixed reports whether the user of a revision says what the end of its pods costs: Serving gives them the revision's annotations.
func (s *Source) fixed(key types.NamespacedName) bool {
	r, err := s.revision(key)
	if err != nil {
		return false
	}
	_, says := r.Annotations[corev1.PodDeletionCost]
	return says
}
