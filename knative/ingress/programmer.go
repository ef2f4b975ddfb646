package ingress

import (
	"cmp"
	"context"
	"encoding/hex"
	"errors"
	"log/slog"
	"maps"
	"reflect"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"k8s.io/apimachinery/pkg/types"
	"knative.dev/networking/pkg/ingress"

	"github.com/limpet-project/limpet/endpoint"
	"github.com/limpet-project/limpet/knative/backend"
	"github.com/limpet-project/limpet/proxy"
)

// pace is how often changes are put in force while they come one after the other. The first after a rest is put in force at once.
const pace = 50 * time.Millisecond

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
	// Changed is told of an Ingress that has lost something to another one, or got it back. It must not call the Programmer.
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

	answers atomic.Pointer[answers] // nil until the first publication
}

// A programmed is what the Programmer knows of one Ingress.
type programmed struct {
	created  time.Time
	program  Program
	good     bool // program is one that can be served
	failed   bool // the last Set failed
	hash     string
	conflict error
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
// served as it was before and the error says why; it is a [*NotReadyError] if that may pass.
func (p *Programmer) Set(o Object) error {
	key := types.NamespacedName{Namespace: o.Ingress.Namespace, Name: o.Ingress.Name}
	program, err := Translate(o, p.o.Backends.Backend)
	if err == nil {
		err = p.check(program)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	known := p.objects[key]
	if known == nil {
		known = &programmed{}
		p.objects[key] = known
	}
	p.users.set(key, servicesOf(o.Ingress))
	p.secrets.set(key, secretsOf(o.Ingress))
	if known.failed = err != nil; err != nil {
		return err
	}
	hash, created := hashOf(o), o.Ingress.CreationTimestamp.Time
	if known.good && known.hash == hash && known.created.Equal(created) && reflect.DeepEqual(known.program, program) {
		return nil
	}
	known.program, known.good, known.hash, known.created = program, true, hash, created
	p.changed()
	return nil
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

// Program returns the last good program of an object, and whether it has one.
func (p *Programmer) Program(key types.NamespacedName) (Program, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if known := p.objects[key]; known != nil {
		return known.program, known.good
	}
	return Program{}, false
}

// Run publishes what changes until ctx ends.
func (p *Programmer) Run(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-p.wake:
		}
		began := time.Now()
		p.Publish()
		// Many objects take long to merge: half of a processor is enough for it.
		select {
		case <-ctx.Done():
			return
		case <-time.After(max(pace, time.Since(began))):
		}
	}
}

// Publish puts everything that was set in force, if something changed. It returns when it is.
func (p *Programmer) Publish() {
	p.publishing.Lock()
	defer p.publishing.Unlock()
	programs, backends, stale := p.take()
	if !stale && p.answers.Load() != nil {
		return
	}
	next, conflicts := Merge(programs)
	if err := p.put(next); err != nil {
		p.o.Log.Error("programming the gateways; they go on as before", "error", err)
		return
	}
	p.answers.Store(&answers{probes: next.Probes, backends: backends})
	for _, key := range p.note(conflicts) {
		p.o.Changed(key)
	}
}

// take returns the good programs, oldest object first, and the backends of each hash, and whether something has changed since the
// last call.
func (p *Programmer) take() (programs []Program, backends map[string][]backend.Name, stale bool) {
	p.mu.Lock()
	stale, p.stale = p.stale, false
	all := make([]programmed, 0, len(p.objects))
	for _, o := range p.objects {
		if o.good {
			all = append(all, *o)
		}
	}
	p.mu.Unlock()
	slices.SortFunc(all, func(a, b programmed) int {
		return cmp.Or(a.created.Compare(b.created), cmp.Compare(a.program.Object.Namespace, b.program.Object.Namespace),
			cmp.Compare(a.program.Object.Name, b.program.Object.Name))
	})
	backends = make(map[string][]backend.Name, len(all))
	for _, o := range all {
		programs = append(programs, o.program)
		backends[o.hash] = slices.Collect(maps.Keys(o.program.Backends))
	}
	return programs, backends, stale
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

// hashOf returns the hash by which Knative's prober knows the object's spec.
func hashOf(o Object) string {
	sum, err := ingress.ComputeHash(o.Ingress)
	if err != nil {
		return "" // it was computed for the translation already
	}
	return hex.EncodeToString(sum[:])
}
