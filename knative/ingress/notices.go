package ingress

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/tools/record"
	"knative.dev/networking/pkg/apis/networking/v1alpha1"
)

// The reasons of the events that concern affinity.
const (
	reasonMisconfigured = "AffinityMisconfigured"
	reasonSessionOff    = "SessionAffinityOff"
)

// notices are what users are told about the affinity of an Ingress, which its status does not say. It is safe for concurrent use.
type notices struct {
	recorder record.EventRecorder
	owners   owners
	// relayedWorks says that Limpet's activators keep sessions for revisions that they stay in the path of.
	relayedWorks bool

	mu    sync.Mutex
	known map[types.NamespacedName]notice
}

// A notice is what there is to tell about one Ingress; "" is nothing.
type notice struct {
	misconfigured, sessionOff         string
	toldMisconfigured, toldSessionOff string // by this replica
}

// set notes what is wrong with an Ingress' annotations, nil for nothing, and the revision for which its sessions are kept by nobody, "" for
// none.
func (n *notices) set(key types.NamespacedName, wrong error, relayed string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	next := n.known[key]
	next.misconfigured, next.sessionOff = text(wrong), ""
	if relayed != "" && !n.relayedWorks {
		next.sessionOff = fmt.Sprintf("All requests for revision %s go by Knative's activator, which keeps no sessions. Set the annotation "+
			"autoscaling.knative.dev/target-burst-capacity of the revision to something else than -1, or run Limpet's activator.", relayed)
	}
	if next == (notice{}) {
		delete(n.known, key)
		return
	}
	n.known[key] = next
}

func (n *notices) forget(key types.NamespacedName) {
	n.mu.Lock()
	defer n.mu.Unlock()
	delete(n.known, key)
}

// tell records an event for what has changed since it told last. Only the leader tells.
func (n *notices) tell(ctx context.Context, i *v1alpha1.Ingress) {
	misconfigured, sessionOff := n.news(keyOf(i))
	if misconfigured == "" && sessionOff == "" {
		return
	}
	concerned := append(n.owners.of(ctx, i), reference(i))
	for _, object := range concerned {
		if misconfigured != "" {
			n.recorder.Event(object, corev1.EventTypeWarning, reasonMisconfigured, misconfigured)
		}
		if sessionOff != "" {
			n.recorder.Event(object, corev1.EventTypeWarning, reasonSessionOff, sessionOff)
		}
	}
}

// news returns what has not been told, which counts as told then.
func (n *notices) news(key types.NamespacedName) (misconfigured, sessionOff string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	known, ok := n.known[key]
	if !ok {
		return "", ""
	}
	if known.misconfigured != known.toldMisconfigured {
		misconfigured, known.toldMisconfigured = known.misconfigured, known.misconfigured
	}
	if known.sessionOff != known.toldSessionOff {
		sessionOff, known.toldSessionOff = known.sessionOff, known.sessionOff
	}
	n.known[key] = known
	return misconfigured, sessionOff
}

// list returns the Ingress objects of which something is to be told, sorted by name.
func (n *notices) list(of func(notice) string) []types.NamespacedName {
	n.mu.Lock()
	defer n.mu.Unlock()
	var list []types.NamespacedName
	for _, key := range slices.SortedFunc(maps.Keys(n.known), compareKeys) {
		if of(n.known[key]) != "" {
			list = append(list, key)
		}
	}
	return list
}

func compareKeys(a, b types.NamespacedName) int { return strings.Compare(a.String(), b.String()) }

// owners finds whose an Ingress is: the Route that made it, and the Service that made the Route.
type owners struct {
	metadata metadata.Interface
	log      *slog.Logger
}

// maxOwners bounds the line of owners: Ingress, Route, Service.
const maxOwners = 3

// of returns the owners of an Ingress, nearest first. One that cannot be read ends the line.
func (o owners) of(ctx context.Context, i *v1alpha1.Ingress) []*corev1.ObjectReference {
	var list []*corev1.ObjectReference
	owner := metav1.GetControllerOf(i)
	for owner != nil && len(list) < maxOwners {
		list = append(list, &corev1.ObjectReference{
			APIVersion: owner.APIVersion, Kind: owner.Kind, Namespace: i.Namespace, Name: owner.Name, UID: owner.UID,
		})
		owner = o.ownerOf(ctx, i.Namespace, owner)
	}
	return list
}

// ownerOf returns the owner of an object that is known by a reference to it, nil if there is none.
func (o owners) ownerOf(ctx context.Context, namespace string, object *metav1.OwnerReference) *metav1.OwnerReference {
	version, err := schema.ParseGroupVersion(object.APIVersion)
	if err != nil || object.Kind == "Service" {
		return nil
	}
	resource := version.WithResource(strings.ToLower(object.Kind) + "s") // as all of Knative's kinds are called
	found, err := o.metadata.Resource(resource).Namespace(namespace).Get(ctx, object.Name, metav1.GetOptions{})
	if err != nil {
		o.log.Debug("reading the owner of an Ingress; it is told of no event", "kind", object.Kind, "name", object.Name, "error", err)
		return nil
	}
	return metav1.GetControllerOf(found)
}

func reference(i *v1alpha1.Ingress) *corev1.ObjectReference {
	version, kind := v1alpha1.SchemeGroupVersion.WithKind("Ingress").ToAPIVersionAndKind()
	return &corev1.ObjectReference{APIVersion: version, Kind: kind, Namespace: i.Namespace, Name: i.Name, UID: i.UID}
}
