package ingress

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/cache"
	"knative.dev/networking/pkg/apis/networking/v1alpha1"
	ingressreconciler "knative.dev/networking/pkg/client/injection/reconciler/networking/v1alpha1/ingress"
	networkinglisters "knative.dev/networking/pkg/client/listers/networking/v1alpha1"
	"knative.dev/networking/pkg/status"
	"knative.dev/pkg/controller"
	"knative.dev/pkg/reconciler"

	"github.com/limpet-project/limpet/affinity"
	"github.com/limpet-project/limpet/knative/policy"
)

// Class is the class of the Ingress objects that are Limpet's.
const Class = "limpet.ingress.networking.knative.dev"

// retryAfter is when an Ingress that waits for something is looked at again although nothing was heard of it.
const retryAfter = 5 * time.Second

// A kind reconciles Ingress objects: every replica programs its own data plane with them, and the leader writes their status.
type kind struct {
	programmer   *Programmer
	settings     *settings
	certificates *certificates
	prober       prober
	notices      *notices
	balancers    balancers
	plain        bool // without affinity, which is the activators'
}

// prober is what is asked of a *status.Prober.
type prober interface {
	status.Manager
	CancelIngressProbingByKey(key types.NamespacedName)
}

var (
	_ ingressreconciler.Interface         = (*kind)(nil)
	_ ingressreconciler.ReadOnlyInterface = (*kind)(nil)
	_ reconciler.OnDeletionInterface      = (*kind)(nil)
)

// generated is what Knative's generator makes of a kind.
type generated interface {
	controller.Reconciler
	reconciler.LeaderAware
}

// classed is the generated reconciler, which passes over Ingress objects of other classes: they are forgotten, for they may have been of
// this one.
type classed struct {
	generated
	lister networkinglisters.IngressLister
	kind   *kind
}

// Reconcile implements controller.Reconciler.
func (c classed) Reconcile(ctx context.Context, key string) error {
	namespace, name, err := cache.SplitMetaNamespaceKey(key)
	if err != nil {
		return controller.NewPermanentError(fmt.Errorf("reconciling Ingress %q: %w", key, err))
	}
	if i, err := c.lister.Ingresses(namespace).Get(name); err == nil && !ours(i) {
		c.kind.forget(keyOf(i))
		return nil
	}
	return c.generated.Reconcile(ctx, key)
}

// ReconcileKind implements ingressreconciler.Interface: the leader's part.
func (k *kind) ReconcileKind(ctx context.Context, i *v1alpha1.Ingress) reconciler.Event {
	err := k.program(i)
	k.notices.tell(ctx, i)
	return k.report(ctx, i, err)
}

// ObserveKind implements ingressreconciler.ReadOnlyInterface: the part of the other replicas.
func (k *kind) ObserveKind(_ context.Context, i *v1alpha1.Ingress) reconciler.Event {
	k.prober.CancelIngressProbingByKey(keyOf(i)) // it may have been the leader
	return again(k.program(i))
}

// ObserveDeletion implements reconciler.OnDeletionInterface.
func (k *kind) ObserveDeletion(_ context.Context, key types.NamespacedName) error {
	k.forget(key)
	return nil
}

func (k *kind) forget(key types.NamespacedName) {
	k.programmer.Delete(key)
	k.prober.CancelIngressProbingByKey(key)
	k.notices.forget(key)
}

// program has an Ingress put in force in this replica. Annotations that are wrong are told of, and the Ingress is served without
// affinity.
func (k *kind) program(i *v1alpha1.Ingress) error {
	defaults, authorities := k.settings.forObjects()
	wanted, wrong := k.policy(i, defaults)
	tags, err := tagsOf(i)
	if err != nil {
		return err
	}
	err = k.programmer.Set(Object{Ingress: i, Policy: wanted, Tags: tags, RootCAs: authorities, Relayed: k.plain})
	var relayed string
	if program, good := k.programmer.Program(keyOf(i)); good && wanted != nil && wanted.Session != nil {
		relayed = relayedRevision(program)
	}
	k.notices.set(keyOf(i), wrong, relayed)
	return err
}

// policy returns the policy of an Ingress, nil for no affinity, and what is wrong with its annotations: also those that are for the
// activators.
func (k *kind) policy(i *v1alpha1.Ingress, defaults policy.Defaults) (*affinity.Policy, error) {
	wanted, wrong := defaults.Policy(i.Annotations)
	if k.plain {
		return nil, wrong
	}
	return wanted, wrong
}

// relayedRevision returns the name of a revision of the program to which requests go by the activator, "" if there is none.
func relayedRevision(p Program) string {
	for _, s := range p.Services {
		for _, r := range s.Revisions {
			if r.Relayed {
				return r.Name
			}
		}
	}
	return ""
}

// report writes the status of an Ingress, after what came of programming it.
func (k *kind) report(ctx context.Context, i *v1alpha1.Ingress, err error) reconciler.Event {
	ready := i.IsReady() && k.balancers.in(&i.Status) // not as another ingress left it
	i.Status.InitializeConditions()
	if wait := new(NotReadyError); errors.As(err, &wait) {
		// What was ready goes on as it was, unless this replica does not know how.
		if _, good := k.programmer.Program(keyOf(i)); !ready || !good {
			markWaiting(i, "BackendNotReady", wait.Error())
		}
		return again(err)
	}
	if err != nil {
		i.Status.MarkLoadBalancerFailed("Misconfigured", err.Error())
		return reconciler.NewEvent(corev1.EventTypeWarning, "Misconfigured", "%s", err)
	}
	i.Status.MarkNetworkConfigured()
	if conflict := k.programmer.Conflict(keyOf(i)); conflict != nil {
		markWaiting(i, "DomainConflict", conflict.Error())
		return reconciler.NewEvent(corev1.EventTypeWarning, "DomainConflict", "%s", conflict)
	}
	if err := k.certificates.check(i); err != nil {
		markWaiting(i, "CertificateMissing", err.Error())
		return nil // the Secret will be heard of
	}
	return k.reportReady(ctx, i, ready)
}

// reportReady writes whether all replicas serve the Ingress. One that was ready with this spec stays so: a new replica is not
// ready itself before it serves everything.
func (k *kind) reportReady(ctx context.Context, i *v1alpha1.Ingress, ready bool) reconciler.Event {
	if !ready {
		var err error
		if ready, err = k.prober.IsReady(ctx, i); err != nil {
			markWaiting(i, "ReplicasNotReady", err.Error())
			return controller.NewRequeueAfter(retryAfter)
		}
	}
	if !ready {
		i.Status.MarkLoadBalancerNotReady()
		return nil // the prober calls when it is
	}
	i.Status.MarkLoadBalancerReady(k.balancers.public, k.balancers.private)
	return nil
}

// markWaiting says that an Ingress is not ready, and may become so by itself.
func markWaiting(i *v1alpha1.Ingress, reason, message string) {
	i.Status.MarkLoadBalancerNotReady()
	i.Status.MarkIngressNotReady(reason, message)
}

// again makes an error one that is not reported and tried again. What else is wrong waits for a change of the object.
func again(err error) error {
	if errors.As(err, new(*NotReadyError)) {
		return controller.NewRequeueAfter(retryAfter)
	}
	return nil
}

// balancers are the addresses of the ingress in the status of an Ingress.
type balancers struct {
	public, private []v1alpha1.LoadBalancerIngressStatus
}

// in reports whether a status names them.
func (b balancers) in(s *v1alpha1.IngressStatus) bool {
	public, private := s.PublicLoadBalancer, s.PrivateLoadBalancer
	return public != nil && private != nil && slices.Equal(public.Ingress, b.public) && slices.Equal(private.Ingress, b.private)
}

func keyOf(i *v1alpha1.Ingress) types.NamespacedName {
	return types.NamespacedName{Namespace: i.Namespace, Name: i.Name}
}
