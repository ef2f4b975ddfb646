package ingress

import (
	"cmp"
	"errors"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/limpet-project/limpet/endpoint"
	"github.com/limpet-project/limpet/knative/backend"
	"github.com/limpet-project/limpet/proxy"
	"k8s.io/apimachinery/pkg/types"
)

// Backends is the source of what is known of backends and of their endpoints: a *backend.Source.
type Backends interface {
	Backend(backend.Name) (backend.Backend, bool)
	Use(map[backend.Name]endpoint.RevisionName)
}

// ProgrammerOptions are the data plane that a Programmer programs. Every member but Changed is needed.
type ProgrammerOptions struct {
	Table    *endpoint.Table
	Backends Backends
	// External and Local are the gateways of the two visibilities.
	External, Local *proxy.Gateway
	// Proxy is what the gateways serve by beside the routes.
	Proxy proxy.Config
	// Certificates puts those of a program in force. It is called by one goroutine at a time.
	Certificates func([]Certificate)
	// Changed is told of an Ingress that has lost something to another one, or got it back, and of one that was put in force because it
	// waited long enough. It must not call the Programmer.
	Changed func(types.NamespacedName)
	Log     *slog.Logger
}

// A Programmer puts Ingress objects in force in this process: it keeps the last good program of each, merges them, and publishes
// the result to the table and the gateways so that no request finds a route without its service or a service without its endpoints.
// It is safe for concurrent use. Make one with NewProgrammer and keep Run running.
type Programmer struct {
	o    ProgrammerOptions
	wake chan struct{}

	checking sync.Mutex
	checker  *proxy.Gateway // serves nothing: it says whether routes can be served

	mu      sync.Mutex // guards what follows, but for what is in the objects
	objects map[types.NamespacedName]*programmed
	users   users // of Services
	secrets users
	stale   bool

	publishing sync.Mutex // one publication at a time; guards what follows
	inForce    Program
	lingering  lingering
	retry      time.Time // when a publication that failed is tried again; zero: none did

	answers atomic.Pointer[answers] // nil until the first publication
}

// answers is what probes are answered by. It is immutable.
type answers struct {
	probes   Probes
	backends map[string][]backend.Name // by hash
}

// NewProgrammer returns a programmer that knows of no object.
func NewProgrammer(o ProgrammerOptions) *Programmer {
	if o.Changed == nil {
		o.Changed = func(types.NamespacedName) {}
	}
	return &Programmer{
		o: o, checker: proxy.New(nil, nil), wake: make(chan struct{}, 1),
		objects: make(map[types.NamespacedName]*programmed), users: newUsers(), secrets: newUsers(), lingering: make(lingering),
	}
}

// Set takes over an object as it is now. Its program is put in force soon after. If it cannot be translated or served, the object is
// served as it was before and the error says why; it is a [*NotReadyError] if that may pass. One that was not served before is served
// without the backends that are unknown. Of one that was, a program with a backend that is new to it waits until that could take a
// request, or some seconds.
//
// It is not to be called for one object from several goroutines at once.
func (p *Programmer) Set(o Object) error {
	known, complete := p.know(o)
	next, unready, err := p.version(o, p.o.Backends.Backend)
	if errors.As(err, new(*NotReadyError)) && !complete {
		if part, _, other := p.version(o, orEmpty(p.o.Backends.Backend)); other == nil {
			part.partial = true
			p.takeOver(known, part)
			return err
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if err != nil {
		p.await(known, nil)
		return err
	}
	if w := known.hold(next, unready, time.Now()); w != nil {
		p.await(known, w)
		return w.err()
	}
	known.failed = false
	p.replace(known, next)
	return nil
}

// know returns what is known of an object, and whether it is served in full. From now on the users of its Services and Secrets are told
// of, so that no change is missed of what the translation is about to see.
func (p *Programmer) know(o Object) (known *programmed, complete bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	key := keyOf(o.Ingress)
	if known = p.objects[key]; known == nil {
		known = &programmed{}
		p.objects[key] = known
	}
	p.users.set(key, servicesOf(o.Ingress))
	p.secrets.set(key, secretsOf(o.Ingress))
	known.failed = true
	return known, known.good && !known.partial
}

// takeOver has a version published, without the lock being held.
func (p *Programmer) takeOver(known *programmed, next version) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.replace(known, next)
}

// replace has a version published in the place of the last good one, unless it is the same. The lock must be held.
func (p *Programmer) replace(known *programmed, next version) {
	p.await(known, nil)
	if !known.good || !known.is(next) {
		known.version, known.good = next, true
		p.changed()
	}
}

// await notes what an object waits for, so that the backends are used, of which something is to be heard. The lock must be held.
func (p *Programmer) await(known *programmed, w *waiting) {
	before := known.waiting
	known.waiting = w
	switch {
	case before == nil && w == nil:
	case before != nil && w != nil && before.is(w.version):
		p.nudge() // it may be due at another time
	default:
		p.changed()
	}
}

// check reports whether the gateways could serve a program. One that they refuse would keep all others from being served.
func (p *Programmer) check(program Program) error {
	p.checking.Lock()
	defer p.checking.Unlock()
	return errors.Join(
		p.checker.Swap(proxy.Config{Routes: program.External}),
		p.checker.Swap(proxy.Config{Routes: program.Local}),
	)
}

// Delete forgets an object.
func (p *Programmer) Delete(key types.NamespacedName) {
	p.mu.Lock()
	defer p.mu.Unlock()
	known := p.objects[key]
	if known == nil {
		return
	}
	delete(p.objects, key)
	p.users.set(key, nil)
	p.secrets.set(key, nil)
	if known.good {
		p.changed()
	}
}

// Refresh has everything published again: certificates may have changed.
func (p *Programmer) Refresh() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.changed()
}

// changed has Run publish. The lock must be held.
func (p *Programmer) changed() {
	p.stale = true
	p.nudge()
}

// nudge has Run look what there is to do.
func (p *Programmer) nudge() {
	select {
	case p.wake <- struct{}{}:
	default:
	}
}

// Users returns the objects that name a Service as a backend.
func (p *Programmer) Users(service types.NamespacedName) []types.NamespacedName {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.users.of(service)
}

// SecretUsers returns the objects that name a Secret.
func (p *Programmer) SecretUsers(secret types.NamespacedName) []types.NamespacedName {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.secrets.of(secret)
}

// Conflict returns what the object has lost to another one, nil for nothing. It follows from what was published last.
func (p *Programmer) Conflict(key types.NamespacedName) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if known := p.objects[key]; known != nil {
		return known.conflict
	}
	return nil
}

// Failed reports whether the object could not be taken over when it was last Set.
func (p *Programmer) Failed(key types.NamespacedName) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	known := p.objects[key]
	return known != nil && known.failed
}

// Program returns the last good program of an object, and whether it has one that is served in full.
func (p *Programmer) Program(key types.NamespacedName) (Program, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if known := p.objects[key]; known != nil {
		return known.program, known.good && !known.partial
	}
	return Program{}, false
}

// A taken is what there is to be published.
type taken struct {
	programs []Program                 // the good ones, oldest object first
	backends map[string][]backend.Name // by hash
	awaited  map[backend.Name]endpoint.RevisionName
	late     []types.NamespacedName // objects that waited long enough
}

// take returns what there is to be published at that time, and whether something has changed since the last call.
func (p *Programmer) take(now time.Time) (t taken, stale bool) {
	t.awaited = make(map[backend.Name]endpoint.RevisionName)
	p.mu.Lock()
	stale, p.stale = p.stale, false
	all := make([]programmed, 0, len(p.objects))
	for key, o := range p.objects {
		if w := o.waiting; w != nil && !now.Before(w.until()) {
			o.version, o.waiting = w.version, nil
			t.late = append(t.late, key)
		}
		if o.good {
			all = append(all, *o)
		}
		if o.waiting != nil {
			maps.Copy(t.awaited, o.waiting.program.Backends)
		}
	}
	p.mu.Unlock()
	slices.SortFunc(all, func(a, b programmed) int {
		return cmp.Or(a.created.Compare(b.created), cmp.Compare(a.program.Object.Namespace, b.program.Object.Namespace),
			cmp.Compare(a.program.Object.Name, b.program.Object.Name))
	})
	t.backends = make(map[string][]backend.Name, len(all))
	for _, o := range all {
		t.programs = append(t.programs, o.program)
		t.backends[o.hash] = slices.Collect(maps.Keys(o.program.Backends))
	}
	return t, stale || len(t.late) > 0
}

// note takes over what objects have lost and returns those for which that is new.
func (p *Programmer) note(conflicts []error) []types.NamespacedName {
	first := make(map[types.NamespacedName]error)
	for _, err := range conflicts {
		var c *ConflictError
		if errors.As(err, &c) && first[c.Object] == nil {
			first[c.Object] = err
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	var news []types.NamespacedName
	for key, o := range p.objects {
		if text(o.conflict) != text(first[key]) {
			o.conflict = first[key]
			news = append(news, key)
		}
	}
	return news
}

func text(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}
