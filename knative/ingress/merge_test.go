package ingress

import (
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/yaml"

	"github.com/limpet-project/limpet/knative/backend"
	"github.com/limpet-project/limpet/proxy"
)

// programOf translates an Ingress in YAML, whose backends are plain Services that speak HTTP/1.1.
func programOf(t *testing.T, namespace, name, spec string) Program {
	t.Helper()
	var s scene
	if err := yaml.UnmarshalStrict([]byte("ingress:\n  spec:\n"+spec), &s); err != nil {
		t.Fatal(err)
	}
	s.Ingress.Namespace, s.Ingress.Name = namespace, name
	p, err := Translate(s.object(), anyService)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func anyService(n backend.Name) (backend.Backend, bool) {
	return backend.Backend{Revision: n.Service + ":" + n.Port, Protocol: proxy.ProtocolHTTP1}, true
}

const (
	shop = `
    tls: [{hosts: [shop.example.com], secretName: shop}]
    rules:
    - hosts: [shop.example.com, www.example.com]
      http: {paths: [{splits: [{serviceName: shop, servicePort: 80}]}]}`
	squatter = `
    tls: [{hosts: [shop.example.com, other.example.com], secretName: squatter}]
    rules:
    - hosts: [shop.example.com, other.example.com]
      http:
        paths:
        - splits: [{serviceName: squatter, servicePort: 80}]
        - {path: /only-here, splits: [{serviceName: here, servicePort: 80}]}
    - hosts: [www.example.com]
      http: {paths: [{splits: [{serviceName: nowhere, servicePort: 80}]}]}`
)

func TestTheOlderObjectKeepsWhatBothClaim(t *testing.T) {
	p, conflicts := Merge([]Program{programOf(t, "prod", "shop", shop), programOf(t, "dev", "squatter", squatter)})
	mustServe(t, p)
	owner, object := types.NamespacedName{Namespace: "prod", Name: "shop"}, types.NamespacedName{Namespace: "dev", Name: "squatter"}
	want := []error{
		&ConflictError{Object: object, Owner: owner, Host: "shop.example.com", Path: "/"},
		&ConflictError{Object: object, Owner: owner, Host: "shop.example.com", Path: "/only-here"},
		&ConflictError{Object: object, Owner: owner, Host: "www.example.com", Path: "/"},
		&ConflictError{Object: object, Owner: owner, Host: "shop.example.com"},
	}
	if diff := cmp.Diff(want, conflicts); diff != "" {
		t.Errorf("Merge() reports (-want +got):\n%s", diff)
	}
	for _, c := range []struct{ host, path, want string }{
		{"shop.example.com", "/", "prod/shop"},
		{"www.example.com", "/", "prod/shop"},
		{"other.example.com", "/", "dev/squatter"},
		{"shop.example.com", "/only-here", ""},
		{"other.example.com", "/only-here", "dev/squatter//only-here"},
	} {
		if got := serviceAt(p.External, c.host, c.path); got != c.want {
			t.Errorf("host %s and path %s are served by %q, want %q", c.host, c.path, got, c.want)
		}
	}
}

// serviceAt returns the service of the route with exactly that host and path.
func serviceAt(routes []proxy.Route, host, path string) string {
	for _, r := range routes {
		if r.Path == path && slices.Contains(r.Hosts, host) {
			return r.Service.String()
		}
	}
	return ""
}

func TestWhatIsLostHasNoServiceNoBackendAndNoCertificate(t *testing.T) {
	p, _ := Merge([]Program{programOf(t, "prod", "shop", shop), programOf(t, "dev", "squatter", squatter)})
	want := view{
		Services: []serviceView{
			{Name: "prod/shop", Revisions: []string{"shop:80 100"}},
			{Name: "dev/squatter", Revisions: []string{"squatter:80 100"}},
			{Name: "dev/squatter//only-here", Revisions: []string{"here:80 100"}},
		},
		Backends: map[string]string{
			"prod/shop:80": "prod/shop:80", "dev/squatter:80": "dev/squatter:80", "dev/here:80": "dev/here:80",
		},
		Certificates: []string{"prod/shop for shop.example.com", "dev/squatter for other.example.com"},
	}
	got := viewOf(p)
	got.External, got.Local, got.Probes = nil, nil, nil
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("Merge() = (-want +got):\n%s", diff)
	}
	hash := programOf(t, "prod", "shop", shop).Probes.External["www.example.com"]
	if got, _ := p.Probes.Hash(false, "www.example.com"); got != hash || hash == "" {
		t.Errorf("a probe of the host that both claim is answered %q, want the owner's %q", got, hash)
	}
}

func TestAHostOfOneGatewayIsNotTheOwnersOnTheOther(t *testing.T) {
	inside := programOf(t, "prod", "shop", `
    rules:
    - hosts: [shop.example.com]
      visibility: ClusterLocal
      http: {paths: [{splits: [{serviceName: shop, servicePort: 80}]}]}`)
	p, conflicts := Merge([]Program{inside, programOf(t, "dev", "squatter", squatter)})
	mustServe(t, p)
	for _, c := range []struct {
		gateway string
		routes  []proxy.Route
		want    string
	}{{"external", p.External, "dev/squatter"}, {"local", p.Local, "prod/shop"}} {
		if got := serviceAt(c.routes, "shop.example.com", "/"); got != c.want {
			t.Errorf("the %s gateway serves shop.example.com by %q, want %q", c.gateway, got, c.want)
		}
	}
	if want := []string{"dev/squatter for other.example.com"}; !slices.Equal(viewOf(p).Certificates, want) || len(conflicts) == 0 {
		t.Errorf("certificates are %q and conflicts %v, want %q and the host's", viewOf(p).Certificates, conflicts, want)
	}
}

func TestObjectsOfOneNamespaceShareAHostButNotItsProbes(t *testing.T) {
	older := programOf(t, "prod", "shop", shop)
	younger := programOf(t, "prod", "cart", `
    rules:
    - hosts: [shop.example.com]
      http: {paths: [{path: /cart, splits: [{serviceName: cart, servicePort: 80}]}]}`)
	p, conflicts := Merge([]Program{older, younger})
	mustServe(t, p)
	for path, want := range map[string]string{"/": "prod/shop", "/cart": "prod/cart//cart"} {
		if got := serviceAt(p.External, "shop.example.com", path); got != want {
			t.Errorf("path %s is served by %q, want %q", path, got, want)
		}
	}
	want := []error{&ConflictError{Object: younger.Object, Owner: older.Object, Host: "shop.example.com", Probe: true}}
	if diff := cmp.Diff(want, conflicts); diff != "" {
		t.Errorf("Merge() reports (-want +got):\n%s", diff)
	}
}

func TestAnObjectShowsCertificatesForItsOwnHostsOnly(t *testing.T) {
	early := programOf(t, "dev", "early", `
    tls: [{hosts: [shop.example.com, "*.example.com"], secretName: early}]
    rules:
    - hosts: [early.example.com, a.early.example.com]
      http: {paths: [{splits: [{serviceName: early, servicePort: 80}]}]}`)
	p, conflicts := Merge([]Program{early, programOf(t, "prod", "shop", shop)})
	want := []string{"dev/early for early.example.com", "prod/shop for shop.example.com"}
	if diff := cmp.Diff(want, viewOf(p).Certificates); diff != "" || len(conflicts) > 0 {
		t.Errorf("Merge() reports %v, and has certificates (-want +got):\n%s", conflicts, diff)
	}
}

func TestObjectsThatNameOneSecretShareIt(t *testing.T) {
	wildcard := func(name string) Program {
		return programOf(t, "default", name, `
    tls: [{hosts: ["*.default.example.com"], secretName: wildcard}]
    rules:
    - hosts: [`+name+`.default.example.com]
      http: {paths: [{splits: [{serviceName: shop, servicePort: 80}]}]}`)
	}
	p, conflicts := Merge([]Program{wildcard("shop"), wildcard("cart")})
	want := []Certificate{{Namespace: "default", Secret: "wildcard", Hosts: []string{"shop.default.example.com", "cart.default.example.com"}}}
	if diff := cmp.Diff(want, p.Certificates); diff != "" || len(conflicts) > 0 {
		t.Errorf("Merge() reports %v, and has certificates (-want +got):\n%s", conflicts, diff)
	}
}

func TestTwoObjectsNeverShareAService(t *testing.T) {
	spec := func(host string) string {
		return `
    rules:
    - hosts: [` + host + `]
      http: {paths: [{splits: [{serviceName: shop, servicePort: 80}]}]}`
	}
	a, b := programOf(t, "default", "shop", spec("a.example.com")), programOf(t, "default", "shop", spec("b.example.com"))
	b.Object.Name = "shop-by-label"
	p, conflicts := Merge([]Program{a, b})
	mustServe(t, p)
	if len(conflicts) > 0 {
		t.Errorf("Merge() reports %v, want nothing", conflicts)
	}
	for host, want := range map[string]string{"a.example.com": "default/shop", "b.example.com": "default/shop~"} {
		if got := serviceAt(p.External, host, "/"); got != want {
			t.Errorf("host %s is served by %q, want %q", host, got, want)
		}
	}
}

func TestErrorsSayWhatIsMissingOrLost(t *testing.T) {
	object, owner := types.NamespacedName{Namespace: "dev", Name: "squatter"}, types.NamespacedName{Namespace: "prod", Name: "shop"}
	for _, c := range []struct {
		err  error
		want string
	}{
		{
			&NotReadyError{Backend: backend.Name{Namespace: "default", Service: "shop-00001", Port: "80"}},
			"nothing is known yet of backend default/shop-00001:80",
		},
		{
			&NotReadyError{Backend: backend.Name{Namespace: "default", Service: "shop-00001", Port: "80"}, Known: true},
			"no endpoint of backend default/shop-00001:80 is ready yet",
		},
		{
			&ConflictError{Object: object, Owner: owner, Host: "shop.example.com", Path: "/", Headers: "Knative-Serving-Tag=blue"},
			"ingress dev/squatter: host shop.example.com and path / with headers Knative-Serving-Tag=blue belongs to ingress prod/shop",
		},
		{
			&ConflictError{Object: object, Owner: owner, Host: "shop.example.com"},
			"ingress dev/squatter: the certificate of host shop.example.com belongs to ingress prod/shop",
		},
		{
			&ConflictError{Object: object, Owner: owner, Host: "shop.example.com", Probe: true},
			"ingress dev/squatter: the probe of host shop.example.com belongs to ingress prod/shop",
		},
	} {
		if got := c.err.Error(); got != c.want {
			t.Errorf("Error() = %q, want %q", got, c.want)
		}
	}
}
