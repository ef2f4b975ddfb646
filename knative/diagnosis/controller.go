package diagnosis

import (
	"context"
	"fmt"
	"log/slog"
	"slices"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"
	"k8s.io/client-go/util/flowcontrol"
	autoscalingv1alpha1 "knative.dev/serving/pkg/apis/autoscaling/v1alpha1"
	v1 "knative.dev/serving/pkg/apis/serving/v1"
	autoscalinglisters "knative.dev/serving/pkg/client/listers/autoscaling/v1alpha1"
	servinglisters "knative.dev/serving/pkg/client/listers/serving/v1"

	"github.com/limpet-project/limpet/knative/policy"
	"github.com/limpet-project/limpet/knative/todo"
)

// How many events are told: a cluster has many Services, and one API server.
const (
	eventsPerSecond = 5
	eventsAtOnce    = 25
)

// Options are what a Controller works with. All but Log are needed.
type Options struct {
	// The informers of all namespaces. They are somebody else's to start and stop.
	Routes, Revisions, PodAutoscalers cache.SharedIndexInformer
	Recorder                          record.EventRecorder
	// IngressClass is the class of Limpet's ingress: its Routes need no activator, and it tells of their annotations itself.
	IngressClass string
	Log          *slog.Logger // nil logs nothing
}

// A Controller tells of the problems of all Routes. Make one with New and keep Run running in one process of the cluster.
type Controller struct {
	o           Options
	routes      servinglisters.RouteLister
	revisions   servinglisters.RevisionLister
	autoscalers autoscalinglisters.PodAutoscalerLister
	settings    settings
	todo        *todo.List[types.NamespacedName]
	told        map[types.NamespacedName]told // Run's alone
}

// told is what was said of one Route.
type told struct {
	uid        types.UID
	generation int64
	problems   []Problem
}

// New returns a controller that tells nothing until it runs and knows config-network and config-autoscaler.
func New(o Options) *Controller {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	return &Controller{
		o: o, todo: todo.New[types.NamespacedName](), told: make(map[types.NamespacedName]told),
		routes:      servinglisters.NewRouteLister(o.Routes.GetIndexer()),
		revisions:   servinglisters.NewRevisionLister(o.Revisions.GetIndexer()),
		autoscalers: autoscalinglisters.NewPodAutoscalerLister(o.PodAutoscalers.GetIndexer()),
	}
}

// Run tells of problems until ctx ends. It returns an error if it cannot follow the informers. It may run again afterwards, but not twice
// at a time, and does not repeat what it told.
func (c *Controller) Run(ctx context.Context) error {
	limit := flowcontrol.NewTokenBucketRateLimiter(eventsPerSecond, eventsAtOnce)
	defer limit.Stop()
	var synced []cache.InformerSynced
	for _, f := range []struct {
		informer cache.SharedIndexInformer
		note     func(metav1.Object)
	}{{c.o.Routes, c.routeChanged}, {c.o.Revisions, c.revisionChanged}, {c.o.PodAutoscalers, c.revisionChanged}} {
		registration, err := f.informer.AddEventHandler(todo.FollowLatest(f.note))
		if err != nil {
			return fmt.Errorf("following an informer: %w", err)
		}
		defer func() { _ = f.informer.RemoveEventHandler(registration) }() // it fails for another informer's registration only
		synced = append(synced, registration.HasSynced)
	}
	if !cache.WaitForCacheSync(ctx.Done(), synced...) {
		return nil
	}
	c.todo.AddAll()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-c.todo.Wake():
			c.work(ctx, limit)
		}
	}
}

func (c *Controller) routeChanged(o metav1.Object) { c.todo.Add(todo.KeyOf(o)) }

// revisionChanged has the Routes looked at that list a revision. Its autoscaler has its name.
func (c *Controller) revisionChanged(o metav1.Object) {
	routes, err := c.routes.Routes(o.GetNamespace()).List(labels.Everything())
	if err != nil {
		return // an informer's list has no errors
	}
	for _, r := range routes {
		if slices.Contains(namesOf(r), o.GetName()) {
			c.todo.Add(todo.KeyOf(r))
		}
	}
}

// work looks at what has changed. Before the settings are known there is nothing that it could say.
func (c *Controller) work(ctx context.Context, limit flowcontrol.RateLimiter) {
	v, known := c.settings.load()
	if !known {
		return // they will be heard of, and all is looked at then
	}
	routes, all := c.todo.Take()
	if all {
		c.everything(routes)
	}
	for key := range routes {
		if !c.look(ctx, key, v, limit) {
			c.todo.AddAll() // ctx has ended; whoever runs next looks at the rest
			return
		}
	}
}

// everything adds all Routes that there are, and those that are gone.
func (c *Controller) everything(routes map[types.NamespacedName]bool) {
	list, err := c.routes.List(labels.Everything())
	if err != nil {
		return // an informer's list has no errors
	}
	for _, r := range list {
		routes[todo.KeyOf(r)] = true
	}
	for key := range c.told {
		routes[key] = true
	}
}

// look tells what is new of one Route. It is false if ctx ended before all was told.
func (c *Controller) look(ctx context.Context, key types.NamespacedName, v values, limit flowcontrol.RateLimiter) bool {
	r, err := c.routes.Routes(key.Namespace).Get(key.Name)
	if err != nil || r.DeletionTimestamp != nil {
		delete(c.told, key)
		return true
	}
	problems := Diagnose(c.facts(r, v))
	before := c.told[key]
	if before.uid != r.UID || before.generation != r.Generation {
		before = told{}
	}
	now := told{uid: r.UID, generation: r.Generation}
	for _, p := range problems {
		if !slices.Contains(before.problems, p) {
			if limit.Wait(ctx) != nil {
				return false
			}
			c.tell(r, p)
		}
		now.problems = append(now.problems, p)
		c.told[key] = now
	}
	if len(problems) == 0 {
		delete(c.told, key)
	}
	return true
}

// facts returns what is known of a Route. One of Limpet's ingress is not this package's to tell of.
func (c *Controller) facts(r *v1.Route, v values) Facts {
	if v.ingressClass(r) == c.o.IngressClass {
		return Facts{}
	}
	f := Facts{Asked: policy.Asked(r.Annotations), MeshHidesPods: v.meshHidesPods()}
	f.Policy, f.Wrong = v.defaults.Policy(r.Annotations)
	for _, name := range namesOf(r) {
		revision, err := c.revisions.Revisions(r.Namespace).Get(name)
		if err != nil {
			continue // it will be heard of
		}
		f.Revisions = append(f.Revisions, v.revision(revision, c.autoscaler(r.Namespace, name)))
	}
	return f
}

// autoscaler returns the autoscaler of a revision, nil if there is none yet.
func (c *Controller) autoscaler(namespace, name string) *autoscalingv1alpha1.PodAutoscaler {
	a, err := c.autoscalers.PodAutoscalers(namespace).Get(name)
	if err != nil {
		return nil
	}
	return a
}

// namesOf returns the revisions that get requests of a Route, those of the default traffic first.
func namesOf(r *v1.Route) []string {
	var split, tagged []string
	for i := range r.Status.Traffic {
		e := &r.Status.Traffic[i]
		switch {
		case e.RevisionName == "":
		case e.Percent != nil && *e.Percent > 0:
			split = append(split, e.RevisionName)
		case e.Tag != "":
			tagged = append(tagged, e.RevisionName)
		}
	}
	slices.Sort(split)
	slices.Sort(tagged)
	tagged = slices.DeleteFunc(tagged, func(name string) bool { return slices.Contains(split, name) })
	return append(slices.Compact(split), slices.Compact(tagged)...)
}

// tell records an event on whoever made the Route. What is wrong only because the whole cluster has affinity is no warning.
func (c *Controller) tell(r *v1.Route, p Problem) {
	kind := corev1.EventTypeNormal
	if p.Asked {
		kind = corev1.EventTypeWarning
	}
	c.o.Recorder.Event(concerned(r), kind, p.Reason, p.Message)
	c.o.Log.Info("affinity does not work", "route", todo.KeyOf(r).String(), "reason", p.Reason)
}

// concerned returns the Service of a Route, or the Route if there is none.
func concerned(r *v1.Route) *corev1.ObjectReference {
	if o := metav1.GetControllerOf(r); o != nil && o.Kind == "Service" {
		return &corev1.ObjectReference{APIVersion: o.APIVersion, Kind: o.Kind, Namespace: r.Namespace, Name: o.Name, UID: o.UID}
	}
	version, kind := v1.SchemeGroupVersion.WithKind("Route").ToAPIVersionAndKind()
	return &corev1.ObjectReference{APIVersion: version, Kind: kind, Namespace: r.Namespace, Name: r.Name, UID: r.UID}
}
