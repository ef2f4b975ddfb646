package activator

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"reflect"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/cache"
	netconfig "knative.dev/networking/pkg/config"
	apiconfig "knative.dev/serving/pkg/apis/config"
	v1 "knative.dev/serving/pkg/apis/serving/v1"
	servinglisters "knative.dev/serving/pkg/client/listers/serving/v1"

	"github.com/limpet-project/limpet/endpoint"
	"github.com/limpet-project/limpet/knative/backend"
	"github.com/limpet-project/limpet/knative/policy"
	"github.com/limpet-project/limpet/knative/todo"
)

// SourceOptions are what a Source works with. All but Probing and Log are needed.
type SourceOptions struct {
	Table *endpoint.Table // gets the services of Routes and the members of their revisions
	// The informers of all namespaces. They are somebody else's to start and stop. An index is added to Slices.
	Routes, Revisions, Services, Slices cache.SharedIndexInformer
	// SystemInternalTLS says that pods are spoken to in TLS.
	SystemInternalTLS bool
	Probing           Probing      // of pods that are not Ready; they get nothing without it
	Log               *slog.Logger // nil logs nothing
}

// A Source tells a table of the Routes, their revisions and the pods of these, and requests whose they are. It is safe for concurrent
// use. Make one with NewSource and keep Run running.
type Source struct {
	o         SourceOptions
	revisions servinglisters.RevisionLister
	backends  *backend.Source
	prober    *prober
	todo      *todo.List[subject]
	index     atomic.Pointer[index]
	byHeader  atomic.Bool // tags may be asked for by header

	mu       sync.Mutex // guards the settings
	defaults policy.Defaults
	network  *netconfig.Config
	deleted  map[types.NamespacedName]bool // revisions that were seen to go

	// What follows is Run's alone.
	tables  map[types.NamespacedName]*table
	need    map[types.NamespacedName]bool      // the revisions that a table lists
	members map[types.NamespacedName]*members  // of the revisions that a table lists
	known   map[types.NamespacedName]*revision // of these too: what requests look at
}

// NewSource returns a source that knows nothing yet, with the defaults of all settings.
func NewSource(o SourceOptions) *Source {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	s := &Source{
		o: o, todo: todo.New[subject](), deleted: make(map[types.NamespacedName]bool), tables: make(map[types.NamespacedName]*table),
		members: make(map[types.NamespacedName]*members), known: make(map[types.NamespacedName]*revision),
	}
	s.prober = newProber(o.Probing, o.SystemInternalTLS, s.addPods)
	s.revisions = servinglisters.NewRevisionLister(o.Revisions.GetIndexer())
	s.backends = backend.New(backend.Options{
		Table: o.Table, Services: o.Services, Slices: o.Slices, Log: o.Log,
		DrainTimeout:      s.drainTimeout,
		SystemInternalTLS: func() bool { return o.SystemInternalTLS },
	})
	s.network, _ = netconfig.NewConfigFromMap(nil) // the defaults are not wrong
	s.index.Store(newIndex(nil, nil))
	return s
}

// HandleDefaults takes over the ConfigMap config-limpet; nil is the defaults. One that is wrong changes nothing.
func (s *Source) HandleDefaults(cm *corev1.ConfigMap) {
	defaults, err := policy.ParseDefaults(cm)
	if err != nil {
		s.o.Log.Error("the ConfigMap "+policy.ConfigMap+" is wrong; what it was stays", "error", err)
		return
	}
	s.set(func() { s.defaults = defaults })
}

// HandleNetwork takes over the ConfigMap config-network. One that is wrong changes nothing.
func (s *Source) HandleNetwork(cm *corev1.ConfigMap) {
	network, err := netconfig.NewConfigFromConfigMap(cm)
	if err != nil {
		s.o.Log.Error("the ConfigMap "+netconfig.ConfigMapName+" is wrong; what it was stays", "error", err)
		return
	}
	s.set(func() { s.network = network })
}

// HandleFeatures takes over the ConfigMap config-features. One that is wrong changes nothing.
func (s *Source) HandleFeatures(cm *corev1.ConfigMap) {
	features, err := apiconfig.NewFeaturesConfigFromConfigMap(cm)
	if err != nil {
		s.o.Log.Error("the ConfigMap "+apiconfig.FeaturesConfigName+" is wrong; what it was stays", "error", err)
		return
	}
	s.byHeader.Store(features.TagHeaderBasedRouting == apiconfig.Enabled)
}

// set changes a setting, and has all that follows from it looked at.
func (s *Source) set(change func()) {
	s.mu.Lock()
	change()
	s.mu.Unlock()
	s.todo.AddAll()
}

func (s *Source) drainTimeout() time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.defaults.DrainTimeout()
}

// Run follows the informers until ctx ends. It returns an error if it cannot. It is to run once.
func (s *Source) Run(ctx context.Context) error {
	informers := []cache.SharedIndexInformer{s.o.Routes, s.o.Revisions, s.o.Services, s.o.Slices}
	handlers := s.handlers()
	var synced []cache.InformerSynced
	for i, informer := range informers {
		registration, err := informer.AddEventHandler(handlers[i])
		if err != nil {
			return fmt.Errorf("following an informer: %w", err)
		}
		defer func() { _ = informer.RemoveEventHandler(registration) }() // it fails for another informer's registration only
		synced = append(synced, registration.HasSynced)
	}
	if !cache.WaitForCacheSync(ctx.Done(), synced...) {
		return nil
	}
	var probes sync.WaitGroup
	defer probes.Wait()
	probes.Go(func() { s.prober.run(ctx) })
	s.todo.AddAll()
	s.work()
	s.o.Table.SetSynced()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-s.todo.Wake():
			s.work()
		}
	}
}

// work takes over what has changed.
func (s *Source) work() {
	routes, revisions, all := s.take()
	if all {
		for _, object := range s.o.Routes.GetStore().List() {
			if r, is := object.(*v1.Route); is {
				routes[types.NamespacedName{Namespace: r.Namespace, Name: r.Name}] = true
			}
		}
		for key := range s.tables {
			routes[key] = true
		}
	}
	changed := false
	for key := range routes {
		changed = s.takeRoute(key) || changed
	}
	for key, itself := range revisions {
		if itself {
			s.refresh(key)
			changed = s.takeRevision(key) || changed
		}
	}
	if changed {
		s.need = s.needed()
	}
	s.lookAll(revisions, all || changed)
	if changed {
		s.publish()
		s.forget()
	}
}

// lookAll looks at the pods of those revisions, or of all, that a table lists.
func (s *Source) lookAll(changed map[types.NamespacedName]bool, all bool) {
	if all {
		changed = s.need
	}
	for key := range changed {
		if s.need[key] {
			s.look(key)
		}
	}
	s.backends.Use(nil) // forgets what was said of backends, all of which were looked at
}

// takeRoute makes the table of a Route anew and reports whether it changed.
func (s *Source) takeRoute(key types.NamespacedName) bool {
	object, exists, _ := s.o.Routes.GetStore().GetByKey(key.String())
	r, is := object.(*v1.Route)
	if !exists || !is || r.DeletionTimestamp != nil {
		_, known := s.tables[key]
		delete(s.tables, key)
		return known
	}
	s.mu.Lock()
	defaults, rules := s.defaults, rules{network: s.network, failed: s.failed}
	s.mu.Unlock()
	p, err := defaults.Policy(r.Annotations)
	if err != nil {
		s.o.Log.Warn("a Route has no affinity: its annotations are wrong", "route", key.String(), "error", err)
	}
	t, err := newTable(r, p, rules)
	if err != nil {
		s.o.Log.Error("some hosts of a Route have no affinity", "route", key.String(), "error", err)
	}
	if reflect.DeepEqual(s.tables[key], t) {
		return false
	}
	s.tables[key] = t
	return true
}

// takeRevision looks at the Routes that list a revision, for it may have failed, and reports whether something changed.
func (s *Source) takeRevision(key types.NamespacedName) bool {
	changed := false
	for name, t := range s.tables {
		if t.route.Namespace == key.Namespace && t.lists(key.Name) {
			changed = s.takeRoute(name) || changed
		}
	}
	return changed
}

// lists reports whether a service of the Route has the revision.
func (t *table) lists(revision string) bool {
	return slices.ContainsFunc(t.services, func(s endpoint.Service) bool {
		return slices.ContainsFunc(s.Revisions, func(r endpoint.Revision) bool { return r.Name == revision })
	})
}

// failed reports whether a revision can take no requests: it has failed, or it was seen to be deleted. One that was never seen may be
// one of which its informer has not heard yet.
func (s *Source) failed(key types.NamespacedName) bool {
	r, err := s.revisions.Revisions(key.Namespace).Get(key.Name)
	if err != nil {
		s.mu.Lock()
		defer s.mu.Unlock()
		return s.deleted[key]
	}
	ready := r.Status.GetCondition(v1.RevisionConditionReady)
	return r.DeletionTimestamp != nil || ready != nil && ready.IsFalse()
}

// needed returns the revisions that a table lists.
func (s *Source) needed() map[types.NamespacedName]bool {
	needed := make(map[types.NamespacedName]bool)
	for _, t := range s.tables {
		for i := range t.services {
			for _, r := range t.services[i].Revisions {
				needed[types.NamespacedName{Namespace: t.route.Namespace, Name: r.Name}] = true
			}
		}
	}
	return needed
}

// publish tells the table and requests of all Routes.
func (s *Source) publish() {
	tables := make([]*table, 0, len(s.tables))
	for _, t := range s.tables {
		tables = append(tables, t)
	}
	slices.SortFunc(tables, compareTables)
	var services []endpoint.Service
	for _, t := range tables {
		services = append(services, t.services...)
	}
	s.o.Table.SetServices(services)
	s.index.Store(newIndex(tables, s.atHand))
}

// atHand returns a revision as it is kept for requests.
func (s *Source) atHand(key types.NamespacedName) *revision {
	r := s.known[key]
	if r == nil {
		r = new(revision)
		s.known[key] = r
	}
	s.refresh(key)
	return r
}

// refresh takes over how the informer knows a revision, if it is kept for requests.
func (s *Source) refresh(key types.NamespacedName) {
	if r := s.known[key]; r != nil {
		now, _ := s.revision(key)
		r.Store(now)
	}
}

// errUnknownRevision means that the informer has not heard of a revision, or that it is gone.
var errUnknownRevision = errors.New("the revision is not known")

// at returns a revision for a request: as it is at hand, else as the informer knows it. It is nil if that has not heard of it.
func (s *Source) at(x *index, key types.NamespacedName) *v1.Revision {
	if l, listed := x.revisions[key]; listed {
		if r := l.now.Load(); r != nil {
			return r
		}
	}
	r, _ := s.revision(key)
	return r
}

// revision returns a revision as the informer knows it.
func (s *Source) revision(key types.NamespacedName) (*v1.Revision, error) {
	r, err := s.revisions.Revisions(key.Namespace).Get(key.Name)
	if err != nil {
		return nil, errUnknownRevision
	}
	return r, nil
}
