// Package scaledown has the pods with the most live sessions outlive the others.
//
// It does what a scale-down looks at: it writes on each pod how much its end would cost, from which Kubernetes chooses the pod that ends,
// and, if it is asked to, it tells Knative's autoscaler of sessions as of a little load, from which that decides how many pods there are.
// It is best effort: a cost is as old as the last count, a pod may end before its cost is written, and nothing here keeps a pod that
// Knative wants gone. One process of a cluster is to do it; who counts the sessions is the caller's to say.
//
// Start with [New].
package scaledown

import "k8s.io/apimachinery/pkg/types"

// A Pod is a pod of a revision with session affinity.
type Pod struct {
	Namespace, Revision, Name string
	UID                       types.UID
	// Sessions are the live sessions that were found at the pod. Unknown says that there may be more: not everybody who may know of some
	// was heard.
	Sessions int64
	Unknown  bool
	// Fixed says that its user has said what its end costs, which is left alone.
	Fixed bool
}

// A podKey names a pod among all. What a namespace says of its pods is nothing to those of another, whatever UIDs it names.
type podKey struct {
	namespace string
	uid       types.UID
}

func (p *Pod) key() podKey { return podKey{p.Namespace, p.UID} }

// cost returns what the end of a pod with so many sessions costs. There are few costs, so that they seldom change: whoever writes them
// does it with the API server, and Kubernetes advises against doing that often.
func cost(sessions int64) int64 {
	for _, c := range []int64{1000, 100, 10, 1} {
		if sessions >= c {
			return c
		}
	}
	return 0
}
