package ingress

import (
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
	"knative.dev/networking/pkg/apis/networking/v1alpha1"
	"knative.dev/networking/pkg/http/header"

	"github.com/limpet-project/limpet/affinity"
	"github.com/limpet-project/limpet/binding"
	"github.com/limpet-project/limpet/endpoint"
	"github.com/limpet-project/limpet/knative/backend"
	"github.com/limpet-project/limpet/proxy"
	"github.com/limpet-project/limpet/router"
)

// A board is backends that a test lists by the names of their Services, and a table that is told of those in use.
type board struct {
	table *endpoint.Table

	mu      sync.Mutex
	members map[string][]endpoint.Member
	used    map[backend.Name]endpoint.RevisionName
	uses    int
}

func (b *board) list(service string, members ...endpoint.Member) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.members[service] = members
	for name, revision := range b.used {
		if name.Service == service {
			b.table.SetMembers(revision, members)
		}
	}
}

// Backend implements Backends.
func (b *board) Backend(n backend.Name) (backend.Backend, bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	members, ok := b.members[n.Service]
	return backend.Backend{Revision: n.Service, Protocol: proxy.ProtocolHTTP1, Ready: len(members) > 0, Members: members}, ok
}

// Use implements Backends.
func (b *board) Use(all map[backend.Name]endpoint.RevisionName) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for name, revision := range all {
		if _, known := b.used[name]; !known {
			b.table.SetMembers(revision, b.members[name.Service])
		}
	}
	for name, revision := range b.used {
		if _, still := all[name]; !still {
			b.table.ForgetMembers(revision)
		}
	}
	b.used, b.uses = all, b.uses+1
}

// published returns how often Use was called.
func (b *board) published() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.uses
}

// inUse reports whether a backend is in use.
func (b *board) inUse(n backend.Name) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	_, used := b.used[n]
	return used
}

// A plane is a data plane with a programmer.
type plane struct {
	*Programmer
	board           *board
	external, local *proxy.Gateway
	table           *endpoint.Table
	changed         chan types.NamespacedName
}

func newPlane(t *testing.T) *plane {
	t.Helper()
	p := &plane{table: endpoint.NewTable(endpoint.Options{}), changed: make(chan types.NamespacedName, 16)}
	p.board = &board{table: p.table, members: map[string][]endpoint.Member{}}
	digester, err := affinity.NewDigester([]byte("0123456789abcdef0123456789abcdef"))
	if err != nil {
		t.Fatal(err)
	}
	r := router.New(router.Options{
		Endpoints: p.table, Store: binding.NewMemory(binding.MemoryOptions{}), Keys: affinity.Keyer{Digester: digester},
	})
	p.external, p.local = proxy.New(proxy.PickWith(r), nil), proxy.New(proxy.PickWith(r), nil)
	t.Cleanup(p.external.Close)
	t.Cleanup(p.local.Close)
	p.Programmer = NewProgrammer(ProgrammerOptions{
		Table: p.table, Backends: p.board, External: p.external, Local: p.local, Certificates: func([]Certificate) {},
		Changed: func(key types.NamespacedName) { p.changed <- key }, Log: slog.New(slog.DiscardHandler),
	})
	p.table.SetSynced()
	return p
}

func (p *plane) set(t *testing.T, i *v1alpha1.Ingress) {
	t.Helper()
	if err := p.Set(Object{Ingress: i}); err != nil {
		t.Fatal(err)
	}
}

// ask sends a request through the external handler and returns the answer.
func (p *plane) ask(host string, headers ...string) *httptest.ResponseRecorder {
	r := httptest.NewRequest(http.MethodGet, "http://"+host+"/", nil)
	for i := 0; i+1 < len(headers); i += 2 {
		r.Header.Set(headers[i], headers[i+1])
	}
	w := httptest.NewRecorder()
	p.Handler(false, p.external).ServeHTTP(w, r)
	return w
}

// upstream starts a process that answers with its name, as an endpoint.
func upstream(t *testing.T, name string) endpoint.Member {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if hash := r.Header.Get(header.HashKey); hash != "" {
			w.Header().Set(header.HashKey, hash)
		}
		fmt.Fprint(w, name)
	}))
	t.Cleanup(server.Close)
	return endpoint.Member{Name: name, Address: server.Listener.Addr().String()}
}

// unreachable is an endpoint for tests that send no request.
var unreachable = endpoint.Member{Name: "demo-00001-a", Address: net.JoinHostPort("192.0.2.1", "8012")}

func TestNoRequestIsLostWhileEverythingChanges(t *testing.T) {
	p := newPlane(t)
	const revisions = 40
	one := upstream(t, "one")
	name := func(n int) string { return fmt.Sprintf("demo-%05d", n) }
	for n := range revisions {
		p.board.list(name(n), one)
	}
	p.set(t, demo("demo", "demo.default.example.com", name(0)))
	p.Publish()
	var clients sync.WaitGroup
	var done atomic.Bool
	for range 4 {
		clients.Go(func() {
			for !done.Load() {
				if w := p.ask("demo.default.example.com"); w.Code != http.StatusOK {
					t.Errorf("a request was answered %d %s, want 200", w.Code, w.Header().Get("Limpet-Reason"))
					return
				}
			}
		})
	}
	for n := 1; n < revisions; n++ { // each time another revision, and now and then another service
		i := demo("demo", "demo.default.example.com", name(n))
		i.Labels = map[string]string{"serving.knative.dev/route": "demo-" + strconv.Itoa(n/4)}
		p.set(t, i)
		p.Publish()
	}
	done.Store(true)
	clients.Wait()
	if names := p.table.Services(); len(names) != 1 {
		t.Errorf("the table has the services %v, want one", names)
	}
	if len(p.board.used) != 4 { // those that left services which are not there any longer are forgotten
		t.Errorf("in use are %v, want the backends that the last service had within %s", p.board.used, underWay)
	}
}

func TestAnObjectThatFailsIsServedAsBefore(t *testing.T) {
	p := newPlane(t)
	p.board.list("demo-00001", upstream(t, "demo-00001-a"))
	p.set(t, demo("demo", "demo.default.example.com", "demo-00001"))
	p.Publish()
	for _, tt := range []struct {
		name string
		edit func(*v1alpha1.Ingress)
	}{
		{"a backend that nobody knows", func(i *v1alpha1.Ingress) { i.Spec.Rules[0].HTTP.Paths[0].Splits[0].ServiceName = "demo-00002" }},
		{"a path that cannot be served", func(i *v1alpha1.Ingress) { i.Spec.Rules[0].HTTP.Paths[0].Path = "demo" }},
		{"a host that the gateways refuse", func(i *v1alpha1.Ingress) { i.Spec.Rules[0].HTTP.Paths[0].RewriteHost = "no host" }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			i := demo("demo", "demo.default.example.com", "demo-00001")
			tt.edit(i)
			if err := p.Set(Object{Ingress: i}); err == nil {
				t.Fatal("Set() = nil, want an error")
			}
			p.Publish()
			if w := p.ask("demo.default.example.com"); w.Code != http.StatusOK {
				t.Errorf("a request was answered %d, want 200", w.Code)
			}
		})
	}
}

func TestChangesArePublishedTogether(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPlane(t)
		p.board.list("demo-00001", unreachable)
		go p.Run(t.Context())
		synctest.Wait()
		began := time.Now()
		p.set(t, demo("demo", "demo.default.example.com", "demo-00001"))
		synctest.Wait()
		if p.answers.Load() == nil || time.Since(began) > 0 {
			t.Fatal("the first change after a rest was not published at once")
		}
		before := p.board.published()
		for n := range 500 {
			p.set(t, demo(fmt.Sprintf("demo-%d", n), fmt.Sprintf("demo-%d.default.example.com", n), "demo-00001"))
		}
		synctest.Wait()
		if p.board.published() != before {
			t.Errorf("a change was published %s after the one before, want %s", time.Since(began), pace)
		}
		time.Sleep(pace)
		synctest.Wait()
		if got := p.board.published() - before; got != 2 { // of one publication: with the old backends, and without
			t.Errorf("500 changes were published by %d calls, want 2", got)
		}
		if n := len(p.table.Services()); n != 501 {
			t.Errorf("the table has %d services, want 501", n)
		}
	})
}

func TestWhatHasNotChangedIsNotPublished(t *testing.T) {
	p := newPlane(t)
	p.board.list("demo-00001", unreachable)
	i := demo("demo", "demo.default.example.com", "demo-00001")
	p.set(t, i)
	p.Publish()
	before := p.board.published()
	other := i.DeepCopy()
	other.ResourceVersion = "2"
	p.set(t, other)
	p.Publish()
	if p.board.published() != before {
		t.Error("an object that became the same program was published again, want nothing")
	}
	p.Refresh()
	p.Publish()
	if p.board.published() == before {
		t.Error("nothing was published after Refresh, want everything")
	}
}

func TestConflictsAreToldOnceAndEnd(t *testing.T) {
	p := newPlane(t)
	p.board.list("demo-00001", unreachable)
	older, younger := demo("demo", "demo.default.example.com", "demo-00001"), demo("shop", "demo.default.example.com", "demo-00001")
	younger.CreationTimestamp = metav1.NewTime(older.CreationTimestamp.Add(time.Second))
	p.set(t, younger)
	p.set(t, older)
	p.Publish()
	if got := <-p.changed; got != keyOf(younger) {
		t.Errorf("told of %v, want %v", got, keyOf(younger))
	}
	if p.Conflict(keyOf(younger)) == nil || p.Conflict(keyOf(older)) != nil {
		t.Errorf("conflicts are %v and %v, want the younger one's only", p.Conflict(keyOf(younger)), p.Conflict(keyOf(older)))
	}
	p.Refresh()
	p.Publish()
	if len(p.changed) > 0 {
		t.Error("a conflict that was there already was told again")
	}
	p.Delete(keyOf(older))
	p.Publish()
	if got := <-p.changed; got != keyOf(younger) || p.Conflict(keyOf(younger)) != nil {
		t.Errorf("after the end of the conflict told of %v with %v, want %v and nil", got, p.Conflict(keyOf(younger)), keyOf(younger))
	}
}

func TestARevisionThatLeftIsSpokenToAsBefore(t *testing.T) {
	p := newPlane(t)
	p.board.list("demo-00001", unreachable)
	p.board.list("demo-00002", unreachable)
	with := func(service, revision string) *v1alpha1.Ingress {
		i := demo("demo", "demo.default.example.com", service)
		for _, r := range i.Spec.Rules {
			r.HTTP.Paths[0].Splits[0].AppendHeaders = map[string]string{"Knative-Serving-Revision": revision}
		}
		return i
	}
	p.set(t, with("demo-00001", "demo-00001"))
	p.Publish()
	p.set(t, with("demo-00002", "demo-00002"))
	p.Publish()
	p.set(t, demo("shop", "shop.default.example.com", "demo-00002"))
	p.Publish()
	route, _ := p.external.Match("demo.default.example.com", "/")
	for _, revision := range []string{"demo-00001", "demo-00002"} {
		if got := route.Backends[revision].SetHeaders["Knative-Serving-Revision"]; got != revision {
			t.Errorf("the header for %s is %q, want its name", revision, got)
		}
	}
	if left := p.lingering.after(p.inForce, p.inForce, time.Now().Add(underWay)); len(left) > 0 {
		t.Errorf("after %s there linger %v, want nothing", underWay, left)
	}
}

func TestUsersFollowTheObjects(t *testing.T) {
	p := newPlane(t)
	p.board.list("demo-00001", unreachable)
	service := types.NamespacedName{Namespace: "default", Name: "demo-00002"}
	i := demo("demo", "demo.default.example.com", "demo-00002")
	if err := p.Set(Object{Ingress: i}); err == nil {
		t.Fatal("Set() = nil, want a backend to be unknown")
	}
	if got := p.Users(service); len(got) != 1 || got[0] != keyOf(i) {
		t.Errorf("Users(%v) = %v, want the object that waits for it", service, got)
	}
	p.set(t, demo("demo", "demo.default.example.com", "demo-00001"))
	if got := p.Users(service); len(got) > 0 {
		t.Errorf("Users(%v) = %v, want none", service, got)
	}
	p.Delete(keyOf(i))
	if len(p.users.things)+len(p.users.ingresses)+len(p.secrets.things)+len(p.secrets.ingresses) > 0 {
		t.Errorf("after the last object there are users %v", p.users)
	}
}

func BenchmarkPublish(b *testing.B) {
	for _, objects := range []int{100, 1000, 5000} {
		b.Run(strconv.Itoa(objects), func(b *testing.B) {
			table := endpoint.NewTable(endpoint.Options{})
			gateway := func() *proxy.Gateway { return proxy.New(nil, nil) }
			all := &board{table: table, members: map[string][]endpoint.Member{}}
			p := NewProgrammer(ProgrammerOptions{
				Table: table, Backends: all, External: gateway(), Local: gateway(),
				Certificates: func([]Certificate) {}, Log: slog.New(slog.DiscardHandler),
			})
			for n := range objects {
				service := fmt.Sprintf("demo-%d-00001", n)
				all.list(service, unreachable)
				i := demo(fmt.Sprintf("demo-%d", n), fmt.Sprintf("demo-%d.default.example.com", n), service)
				i.Spec.Rules[0].HTTP.Paths[0].Splits[0].ServicePort = intstr.FromInt32(80)
				if err := p.Set(Object{Ingress: i}); err != nil {
					b.Fatal(err)
				}
			}
			for b.Loop() {
				p.Refresh()
				p.Publish()
			}
		})
	}
}
