package ingress

import (
	"errors"
	"flag"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"knative.dev/networking/pkg/apis/networking/v1alpha1"
	"sigs.k8s.io/yaml"

	"github.com/limpet-project/limpet/affinity"
	"github.com/limpet-project/limpet/endpoint"
	"github.com/limpet-project/limpet/knative/backend"
	"github.com/limpet-project/limpet/proxy"
)

var update = flag.Bool("update", false, "write testdata/*.out.yaml anew")

// A scene is what a file testdata/*.in.yaml holds.
type scene struct {
	Ingress  *v1alpha1.Ingress `json:"ingress"`
	Policy   *affinity.Policy  `json:"policy"`
	Tags     map[string]string `json:"tags"`
	RootCAs  string            `json:"rootCAs"`
	Relayed  bool              `json:"relayed"`
	Backends []struct {
		backend.Name
		backend.Backend
	} `json:"backends"`
}

func (s scene) object() Object {
	o := Object{Ingress: s.Ingress, Policy: s.Policy, Tags: s.Tags, Relayed: s.Relayed}
	if s.RootCAs != "" {
		o.RootCAs = []byte(s.RootCAs)
	}
	return o
}

// lookup knows the backends of the scene; one without revision is the public Service of a Knative revision, one without protocol
// speaks HTTP/1.1.
func (s scene) lookup(n backend.Name) (backend.Backend, bool) {
	for _, b := range s.Backends {
		if b.Service == n.Service && b.Port == n.Port {
			if b.Revision == "" {
				b.Revision = b.Service
			}
			if b.Protocol == "" {
				b.Protocol = proxy.ProtocolHTTP1
			}
			return b.Backend, true
		}
	}
	return backend.Backend{}, false
}

func readScene(t *testing.T, name string) scene {
	t.Helper()
	text, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	var s scene
	if err := yaml.UnmarshalStrict(text, &s); err != nil {
		t.Fatalf("reading %s: %v", name, err)
	}
	return s
}

// A view is a program as testdata/*.out.yaml shows it: what is the same everywhere is left out.
type view struct {
	Error        string              `json:"error,omitempty"`
	Services     []serviceView       `json:"services,omitempty"`
	External     []routeView         `json:"external,omitempty"`
	Local        []routeView         `json:"local,omitempty"`
	Backends     map[string]string   `json:"backends,omitempty"`
	Probes       map[string][]string `json:"probes,omitempty"`
	Certificates []string            `json:"certificates,omitempty"`
}

type serviceView struct {
	Name      string   `json:"name"`
	Retain    string   `json:"retain,omitempty"`
	Revisions []string `json:"revisions"`
}

type routeView struct {
	Hosts       []string               `json:"hosts"`
	Path        string                 `json:"path"`
	Headers     map[string]string      `json:"headers,omitempty"`
	Service     string                 `json:"service"`
	Affinity    bool                   `json:"affinity,omitempty"`
	Set         map[string]string      `json:"set,omitempty"`
	RewriteHost string                 `json:"rewriteHost,omitempty"`
	Redirect    bool                   `json:"redirect,omitempty"`
	Upstream    string                 `json:"upstream"`
	Backends    map[string]backendView `json:"backends"`
}

type backendView struct {
	Upstream string            `json:"upstream"`
	Set      map[string]string `json:"set,omitempty"`
}

func viewOf(p Program) view {
	v := view{External: viewRoutes(p.External), Local: viewRoutes(p.Local), Backends: map[string]string{}}
	for _, s := range p.Services {
		w := serviceView{Name: s.Name.String()}
		if s.Retain != 0 {
			w.Retain = s.Retain.String()
		}
		for _, r := range s.Revisions {
			w.Revisions = append(w.Revisions, viewRevision(r))
		}
		v.Services = append(v.Services, w)
	}
	for name, revision := range p.Backends {
		v.Backends[name.String()] = revision.String()
	}
	v.Probes = map[string][]string{
		"external": slices.Sorted(maps.Keys(p.Probes.External)),
		"local":    slices.Sorted(maps.Keys(p.Probes.Local)),
	}
	for _, c := range p.Certificates {
		v.Certificates = append(v.Certificates, fmt.Sprintf("%s/%s for %s", c.Namespace, c.Secret, strings.Join(c.Hosts, ", ")))
	}
	return v
}

func viewRevision(r endpoint.Revision) string {
	text := fmt.Sprintf("%s %d", r.Name, r.Weight)
	if r.Relayed {
		text += " relayed"
	}
	return text
}

func viewRoutes(routes []proxy.Route) []routeView {
	var list []routeView
	for _, r := range routes {
		v := routeView{
			Hosts: r.Hosts, Path: r.Path, Headers: r.Headers, Service: r.Service.String(), Affinity: r.Policy != nil, Set: r.SetHeaders,
			RewriteHost: r.RewriteHost, Redirect: r.RedirectHTTPS, Upstream: viewUpstream(r.Upstream), Backends: map[string]backendView{},
		}
		for revision, b := range r.Backends {
			v.Backends[revision] = backendView{Upstream: viewUpstream(b.Upstream), Set: b.SetHeaders}
		}
		list = append(list, v)
	}
	return list
}

func viewUpstream(u proxy.Upstream) string {
	text := string(u.Protocol)
	if len(u.ServerNames) > 0 {
		text += " to " + strings.Join(u.ServerNames, " or ")
	}
	if u.RootCAs != nil {
		text += " by own authorities"
	}
	if u.NoLocal {
		text += ", elsewhere"
	}
	return text
}

func TestScenesAreTranslatedAsWritten(t *testing.T) {
	files, err := filepath.Glob("testdata/*.in.yaml")
	if err != nil || len(files) == 0 {
		t.Fatalf("Glob(testdata/*.in.yaml) = %v, %v, want files", files, err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".in.yaml"), func(t *testing.T) {
			s := readScene(t, file)
			p, err := Translate(s.object(), s.lookup)
			v := viewOf(p)
			if err != nil {
				v = view{Error: err.Error()}
			}
			got, err := yaml.Marshal(v)
			if err != nil {
				t.Fatal(err)
			}
			compare(t, strings.Replace(file, ".in.", ".out.", 1), string(got))
			mustServe(t, p)
		})
	}
}

// compare compares got with what the file says, or writes it there.
func compare(t *testing.T, file, got string) {
	t.Helper()
	if *update {
		if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("the program differs from %s (-want +got):\n%s", file, diff)
	}
}

// A failer is a *testing.T or a *rapid.T.
type failer interface {
	Helper()
	Errorf(format string, args ...any)
}

// mustServe checks what holds for every program: the gateways take it, each route has a service and each revision of it a backend,
// and nothing that Knative did not ask for bounds a request.
func mustServe(t failer, p Program) {
	t.Helper()
	services := make(map[affinity.ServiceName]endpoint.Service)
	for _, s := range p.Services {
		if _, twice := services[s.Name]; twice {
			t.Errorf("service %s is listed twice", s.Name)
		}
		services[s.Name] = s
	}
	pools := make(map[endpoint.RevisionName]bool)
	for _, r := range p.Backends {
		pools[r] = true
	}
	for _, routes := range [][]proxy.Route{p.External, p.Local} {
		g := proxy.New(nil, nil)
		defer g.Close()
		if err := g.Swap(proxy.Config{Routes: routes}); err != nil {
			t.Errorf("Swap() = %v, want nil", err)
		}
		for _, r := range routes {
			mustReach(t, r, services[r.Service], pools)
		}
	}
}

func mustReach(t failer, r proxy.Route, s endpoint.Service, pools map[endpoint.RevisionName]bool) {
	t.Helper()
	if len(s.Revisions) == 0 {
		t.Errorf("route %v%s: service %s = %v, want a service with revisions", r.Hosts, r.Path, r.Service, s)
	}
	for _, revision := range s.Revisions {
		if !pools[endpoint.RevisionName{Namespace: r.Service.Namespace, Name: revision.Name}] {
			t.Errorf("route %v%s: no backend is revision %s", r.Hosts, r.Path, revision.Name)
		}
		b, named := r.Backends[revision.Name]
		if u := b.Upstream; !named || u.ConnectTimeout != 5*time.Second || u.IdleTimeout >= 0 || u.RequestTimeout != 0 || u.ResponseTimeout != 0 {
			t.Errorf("route %v%s: revision %s is spoken to by %+v, want 5s to connect and no other timeout", r.Hosts, r.Path, revision.Name, u)
		}
	}
	if r.RetryIdempotent || r.MaxBodyBytes != 0 || r.Tag != "" || r.TagHeader != "" || r.PreserveHost == (r.RewriteHost != "") {
		t.Errorf("route %v%s = %+v, want no retry, no limit, no tag, and the client's host unless it is rewritten", r.Hosts, r.Path, r)
	}
}

func TestABackendOfWhichNothingIsKnownIsNamed(t *testing.T) {
	s := readScene(t, "testdata/gradual-rollout.in.yaml")
	_, err := Translate(s.object(), func(n backend.Name) (backend.Backend, bool) {
		b, known := s.lookup(n)
		return b, known && n.Service != "shop-00003"
	})
	var unready *NotReadyError
	want := backend.Name{Namespace: "default", Service: "shop-00003", Port: "80"}
	if !errors.As(err, &unready) || unready.Backend != want {
		t.Errorf("Translate() = %v, want a NotReadyError of %v", err, want)
	}
}

func TestATranslationLeavesTheObjectAsItWas(t *testing.T) {
	s := readScene(t, "testdata/tag-header.in.yaml")
	before := s.Ingress.DeepCopy()
	p, err := Translate(s.object(), s.lookup)
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range p.Local {
		clear(r.Headers)
		clear(r.SetHeaders)
		for _, b := range r.Backends {
			clear(b.SetHeaders)
		}
	}
	if diff := cmp.Diff(before, s.Ingress); diff != "" {
		t.Errorf("Translate() changed the Ingress, or shares headers with it (-before +after):\n%s", diff)
	}
}
