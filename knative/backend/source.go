package backend

import (
	"cmp"
	"errors"
	"log/slog"
	"slices"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/tools/cache"

	"knative.dev/serving/pkg/reconciler/serverlessservice/resources/names"

	"github.com/limpet-project/limpet/endpoint"
	"github.com/limpet-project/limpet/knative/todo"
)

// Options configure a Source. None of the functions may block, and only Changed may call the source.
type Options struct {
	Table *endpoint.Table // gets the members of the backends in use; needed
	// Services and Slices are the informers of the two kinds, of all namespaces; needed. They are somebody else's to start and stop.
	// An index is added to Slices.
	Services cache.SharedIndexInformer
	Slices   cache.SharedIndexInformer
	// DrainTimeout is how long a pod that terminates keeps its sessions, counted from when that is first seen; nil is as long as
	// it is listed.
	DrainTimeout func() time.Duration
	// SystemInternalTLS says that revisions are spoken to in TLS; nil is never. Who changes the answer calls Refresh.
	SystemInternalTLS func() bool
	// Changed is told of a backend in use of which something other than the members is not as Backend said last; nil tells nobody.
	// It is called by Run.
	Changed func(Name)
	Log     *slog.Logger // nil logs nothing
}

// A Source knows the backends and publishes the members of those in use. It is safe for concurrent use. Make one with [New], keep
// [Source.Run] running.
//
// What its informers know counts at once for [Source.Backend] and [Source.Use], what they come to know later when Run gets to it.
// Nothing is published before both informers have synchronised, for the table would take what is not known yet for gone.
type Source struct {
	options Options
	faulty  error // why Run cannot go on
	// Services of which something changed, and backends of whose change Options.Changed is to be told.
	todo *todo.List[string]
	news *todo.List[Name]

	mu         sync.Mutex // guards what follows; held while members are published
	begun      bool       // the informers have synchronised, and what they knew then was published
	autoscaler autoscaler
	used       map[Name]*user
	watchers   map[string][]*user // by the Services whose state counts for them
	pools      map[endpoint.RevisionName]*pool
	// asked is what was said of backends that were not in use, since the last call of Use and between that and the one before.
	asked [2]map[Name]answer
}

// A user is a backend in use.
type user struct {
	name   Name
	pool   *pool
	memory memory
	answer answer
}

// A pool is a revision of the table and the backends in use that stand there under its name, sorted by name. The first of them that
// exists is the one that counts; there is rarely another.
type pool struct {
	name      endpoint.RevisionName
	users     []*user
	published bool
	members   []endpoint.Member // as published
}

// New returns a source that no backend is used of yet. What is wrong with its informers is said by Run.
func New(o Options) *Source {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Changed == nil {
		o.Changed = func(Name) {}
	}
	s := &Source{
		options: o, faulty: addIndex(o.Slices), todo: todo.New[string](), news: todo.New[Name](),
		used:     make(map[Name]*user),
		watchers: make(map[string][]*user),
		pools:    make(map[endpoint.RevisionName]*pool),
	}
	settings, err := parseAutoscaler(nil)
	s.autoscaler, s.faulty = settings, errors.Join(s.faulty, err)
	return s
}

// Backend returns what is known now of a backend, in use or not; false if its Service or the port of it does not exist.
func (s *Source) Backend(n Name) (Backend, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.begin()
	if u := s.used[n]; u != nil {
		return u.answer.backend.clone(), u.answer.exists
	}
	a := derive(n, s.objects(n), s.rules(), &memory{})
	if s.asked[0] == nil {
		s.asked[0] = make(map[Name]answer)
	}
	said := a
	said.backend.Members = nil
	s.asked[0][n] = said
	return a.backend, a.exists
}

// Use says which backends are used, the whole set, and under which name each stands in the table. Members of those that are new are
// published when it returns, if the informers have synchronised; those that are used no longer are forgotten. Changed is told of a
// new one unless Backend said the same of it shortly before.
func (s *Source) Use(backends map[Name]endpoint.RevisionName) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.begin()
	touched := make(map[*pool]bool)
	for n, u := range s.used {
		r, still := backends[n]
		if !still {
			s.remove(u)
		}
		if !still || r != u.pool.name {
			touched[u.pool] = true
			u.leave()
		}
	}
	for n, r := range backends {
		u := s.used[n]
		if u == nil {
			u = s.add(n)
		}
		if u.pool == nil {
			touched[s.join(u, r)] = true
		}
	}
	for p := range touched {
		s.publish(p)
	}
	s.asked = [2]map[Name]answer{nil, s.asked[0]}
}

// HandleConfig takes over the autoscaler's ConfigMap, config-autoscaler; nil is the defaults. If it is wrong, the settings stay.
func (s *Source) HandleConfig(cm *corev1.ConfigMap) {
	settings, err := parseAutoscaler(cm)
	if err != nil {
		s.options.Log.Warn("autoscaler settings stay as they are", "error", err)
		return
	}
	s.mu.Lock()
	changed := settings != s.autoscaler
	s.autoscaler = settings
	s.mu.Unlock()
	if changed {
		s.Refresh()
	}
}

// Refresh has Run look at all backends in use anew.
func (s *Source) Refresh() { s.todo.AddAll() }

// add returns a new user of a backend, which has no pool yet.
func (s *Source) add(n Name) *user {
	u := &user{name: n}
	s.used[n] = u
	for _, key := range u.watches() {
		s.watchers[key] = append(s.watchers[key], u)
	}
	u.answer = derive(n, s.objects(n), s.rules(), &u.memory)
	said, known := s.asked[0][n]
	if !known {
		said, known = s.asked[1][n]
	}
	if !known || !said.alike(u.answer) {
		s.news.Add(n)
	}
	return u
}

// remove forgets a user but for its place in a pool.
func (s *Source) remove(u *user) {
	delete(s.used, u.name)
	for _, key := range u.watches() {
		s.watchers[key] = slices.DeleteFunc(s.watchers[key], func(w *user) bool { return w == u })
		if len(s.watchers[key]) == 0 {
			delete(s.watchers, key)
		}
	}
}

// watches returns the Services whose state counts for the backend: its own, and the private one if it is a revision's.
func (u *user) watches() [2]string {
	return [2]string{u.name.key(), u.name.Namespace + "/" + names.PrivateService(u.name.Service)}
}

// join gives a user its place in a pool.
func (s *Source) join(u *user, r endpoint.RevisionName) *pool {
	p := s.pools[r]
	if p == nil {
		p = &pool{name: r}
		s.pools[r] = p
	}
	u.pool = p
	p.users = append(p.users, u)
	slices.SortFunc(p.users, func(a, b *user) int { return compareNames(a.name, b.name) })
	return p
}

// leave takes a user out of its pool.
func (u *user) leave() {
	u.pool.users = slices.DeleteFunc(u.pool.users, func(w *user) bool { return w == u })
	u.pool = nil
}

// begin publishes what the informers know, once they have synchronised.
func (s *Source) begin() {
	if s.begun || !s.options.Services.HasSynced() || !s.options.Slices.HasSynced() {
		return
	}
	s.begun = true
	for _, u := range s.used {
		s.look(u)
	}
}

// look takes over what the cluster says of a backend in use now. Its members are published, others are told of the rest.
func (s *Source) look(u *user) {
	a := derive(u.name, s.objects(u.name), s.rules(), &u.memory)
	if !a.alike(u.answer) {
		s.news.Add(u.name)
	}
	u.answer = a
	s.publish(u.pool)
}

// publish tells the table of a pool what it has not been told yet.
func (s *Source) publish(p *pool) {
	if len(p.users) == 0 {
		delete(s.pools, p.name)
		if p.published {
			s.options.Table.ForgetMembers(p.name)
		}
		return
	}
	members := p.current()
	if !s.begun || p.published && slices.Equal(members, p.members) {
		return
	}
	p.published, p.members = true, members
	s.options.Table.SetMembers(p.name, members)
}

// current returns the members that the pool should have: none if its backend does not exist.
func (p *pool) current() []endpoint.Member {
	for _, u := range p.users {
		if u.answer.exists {
			return u.answer.backend.Members
		}
	}
	return nil
}

// rules returns the settings that hold now.
func (s *Source) rules() rules {
	return rules{
		autoscaler:  s.autoscaler,
		internalTLS: s.options.SystemInternalTLS != nil && s.options.SystemInternalTLS(),
		drain: func() (time.Duration, bool) {
			if s.options.DrainTimeout == nil {
				return 0, false
			}
			return s.options.DrainTimeout(), true
		},
	}
}

// compareNames orders backends by namespace, Service and port.
func compareNames(a, b Name) int {
	return cmp.Or(cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Service, b.Service), cmp.Compare(a.Port, b.Port))
}
