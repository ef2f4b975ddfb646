package ingress

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/sets"
	"knative.dev/networking/pkg/apis/networking/v1alpha1"
	"knative.dev/networking/pkg/ingress"
	"pgregory.net/rapid"

	"github.com/limpet-project/limpet/affinity"
	"github.com/limpet-project/limpet/endpoint"
	"github.com/limpet-project/limpet/knative/backend"
	"github.com/limpet-project/limpet/proxy"
)

// drawSplits draws the splits of a path among a few backends, some of them several times.
func drawSplits(t *rapid.T) []v1alpha1.IngressBackendSplit {
	splits := make([]v1alpha1.IngressBackendSplit, rapid.IntRange(1, 4).Draw(t, "splits"))
	rest := 100
	for i := range splits {
		percent := rest
		if i < len(splits)-1 {
			percent = rapid.IntRange(0, rest).Draw(t, "percent")
		}
		rest -= percent
		splits[i] = v1alpha1.IngressBackendSplit{Percent: percent, IngressBackend: v1alpha1.IngressBackend{
			ServiceName: fmt.Sprintf("shop-0000%d", rapid.IntRange(1, 3).Draw(t, "revision")),
			ServicePort: intstr.FromInt32(80),
		}}
	}
	return splits
}

func drawRule(t *rapid.T, hosts, paths *rapid.Generator[string]) v1alpha1.IngressRule {
	r := v1alpha1.IngressRule{
		Hosts:      rapid.SliceOfN(hosts, 1, 3).Draw(t, "hosts"),
		Visibility: rapid.SampledFrom([]v1alpha1.IngressVisibility{"", "ExternalIP", "ClusterLocal"}).Draw(t, "visibility"),
		HTTP:       &v1alpha1.HTTPIngressRuleValue{},
	}
	for range rapid.IntRange(1, 3).Draw(t, "paths") {
		p := v1alpha1.HTTPIngressPath{Path: paths.Draw(t, "path"), Splits: drawSplits(t)}
		if tag := rapid.SampledFrom([]string{"", "blue", "green"}).Draw(t, "tag"); tag != "" {
			name := rapid.SampledFrom([]string{"Knative-Serving-Tag", "knative-serving-tag", "X-Tenant"}).Draw(t, "header")
			p.Headers = map[string]v1alpha1.HeaderMatch{name: {Exact: tag}}
		}
		r.HTTP.Paths = append(r.HTTP.Paths, p)
	}
	return r
}

func drawObject(t *rapid.T, name string, hosts, paths *rapid.Generator[string]) Object {
	i := &v1alpha1.Ingress{}
	i.Namespace, i.Name = "default", name
	for range rapid.IntRange(1, 3).Draw(t, "rules") {
		i.Spec.Rules = append(i.Spec.Rules, drawRule(t, hosts, paths))
	}
	if secret := rapid.SampledFrom([]string{"", "wildcard", name}).Draw(t, "secret"); secret != "" {
		i.Spec.TLS = []v1alpha1.IngressTLS{{SecretName: secret, Hosts: rapid.SliceOfN(hosts, 0, 2).Draw(t, "TLS hosts")}}
	}
	return Object{Ingress: i, Policy: rapid.SampledFrom([]*affinity.Policy{nil, {Retain: 1}}).Draw(t, "policy")}
}

// ordinaryPaths are what tells claims apart and what does not.
var ordinaryPaths = rapid.SampledFrom([]string{"", "/", "/cart", "/cart/", "/cart/api", "/.well-known/acme-challenge/Mx3wQ0"})

// hostsBelow draws hosts of one object, public and of the cluster.
func hostsBelow(name string) *rapid.Generator[string] {
	return rapid.SampledFrom([]string{
		name + ".example.com", "blue-" + name + ".example.com", "*." + name + ".example.com",
		name + ".default.svc.cluster.local", name + ".default.svc",
	})
}

func TestEveryHostOfARuleIsServedAndNoShareIsLost(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		o := drawObject(rt, "shop", hostsBelow("shop"), ordinaryPaths)
		p, err := Translate(o, anyService)
		if err != nil {
			rt.Fatal(err)
		}
		mustServe(rt, p)
		for _, r := range o.Ingress.Spec.Rules {
			for host := range ingress.ExpandedHosts(sets.New(r.Hosts...)) {
				checkServed(rt, p.Local, host)
				if r.Visibility != v1alpha1.IngressVisibilityClusterLocal {
					checkServed(rt, p.External, host)
				}
			}
		}
		for _, s := range p.Services {
			if total := weightOf(s); total != 100 {
				rt.Errorf("the weights of service %s add up to %d, want 100", s.Name, total)
			}
		}
		if again, _ := Translate(o, anyService); !cmp.Equal(p, again) {
			rt.Errorf("Translate() of the same differs:\n%s", cmp.Diff(p, again))
		}
	})
}

func checkServed(t *rapid.T, routes []proxy.Route, host string) {
	if !slices.ContainsFunc(routes, func(r proxy.Route) bool { return slices.Contains(r.Hosts, host) }) {
		t.Errorf("no route has host %s", host)
	}
}

func weightOf(s endpoint.Service) int {
	total := 0
	for _, r := range s.Revisions {
		total += r.Weight
	}
	return total
}

func TestTheOrderOfDisjointObjectsDoesNotMatter(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		var programs []Program
		for _, name := range []string{"shop", "cart", "blog"}[:rapid.IntRange(1, 3).Draw(rt, "objects")] {
			p, err := Translate(drawObject(rt, name, hostsBelow(name), ordinaryPaths), anyService)
			if err != nil {
				rt.Fatal(err)
			}
			programs = append(programs, p)
		}
		want, conflicts := Merge(programs)
		got, more := Merge(rapid.Permutation(programs).Draw(rt, "order"))
		if len(conflicts)+len(more) > 0 {
			rt.Fatalf("Merge() reports %v and %v, want nothing: the objects have no host in common", conflicts, more)
		}
		if diff := cmp.Diff(want, got, asSet); diff != "" {
			rt.Errorf("Merge() in another order differs:\n%s", diff)
		}
		mustServe(rt, got)
	})
}

// asSet compares programs without their order.
var asSet = cmp.Options{
	cmpopts.SortSlices(func(a, b endpoint.Service) bool { return a.Name.String() < b.Name.String() }),
	cmpopts.SortSlices(func(a, b proxy.Route) bool {
		return fmt.Sprint(a.Hosts, a.Path, a.Headers) < fmt.Sprint(b.Hosts, b.Path, b.Headers)
	}),
	cmpopts.SortSlices(func(a, b Certificate) bool { return a.Secret < b.Secret }),
	cmpopts.SortSlices(func(a, b string) bool { return a < b }),
}

// oddHosts and oddPaths are spellings by which one object could claim another's host unseen.
var (
	oddHosts = rapid.SampledFrom([]string{
		"shop.example.com", "Shop.Example.com", "shop.example.com.", "shop.example.com..", "shop.example.com:80", "shop.example.com.:80",
		"*.example.com", "*.example.com.", "*.", "*", "shop.default.svc.cluster.local", "SHOP.default.svc.Cluster.Local", "\u212Aart.example.com",
	})
	oddPaths = rapid.SampledFrom([]string{"", "/", "//", "///", "/cart", "/cart/", "/cart//", "/cart///x", "/Cart", "/%63art"})
)

func TestNoObjectKeepsOthersFromBeingServed(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		var programs []Program
		for _, name := range []string{"shop", "shop~", "cart", "shop//cart"} {
			p, err := Translate(drawObject(rt, name, oddHosts, oddPaths), anyService)
			if err == nil && servable(p) {
				programs = append(programs, p)
			}
		}
		p, conflicts := Merge(programs)
		mustServe(rt, p)
		for _, err := range conflicts {
			if strings.Count(err.Error(), "ingress default/") != 2 {
				rt.Errorf("Merge() reports %q, want both objects named", err)
			}
		}
	})
}

// servable reports whether the gateways would take the program alone.
func servable(p Program) bool {
	g := proxy.New(nil, nil)
	defer g.Close()
	return g.Swap(proxy.Config{Routes: p.External}) == nil && g.Swap(proxy.Config{Routes: p.Local}) == nil
}

func FuzzTranslate(f *testing.F) {
	f.Add("shop", "shop.example.com", "/cart", "X-Tenant", "acme", "demo-00001", 50)
	f.Add("shop", "*.Example.com.", "//", "knative-serving-tag", "a/b", "demo-00001", -1)
	f.Fuzz(func(t *testing.T, name, host, path, header, value, service string, percent int) {
		rule := v1alpha1.IngressRule{Hosts: []string{host, "shop.example.com"}, HTTP: &v1alpha1.HTTPIngressRuleValue{
			Paths: []v1alpha1.HTTPIngressPath{{
				Path:    path,
				Headers: map[string]v1alpha1.HeaderMatch{header: {Exact: value}},
				Splits:  []v1alpha1.IngressBackendSplit{{Percent: percent, IngressBackend: v1alpha1.IngressBackend{ServiceName: service}}},
			}},
		}}
		i := &v1alpha1.Ingress{Spec: v1alpha1.IngressSpec{Rules: []v1alpha1.IngressRule{rule}}}
		i.Name = name
		p, err := Translate(Object{Ingress: i}, func(n backend.Name) (backend.Backend, bool) {
			return backend.Backend{Revision: n.Service, Protocol: proxy.ProtocolHTTP1}, true
		})
		if err != nil || !servable(p) {
			return
		}
		safe := programOf(t, "prod", "shop", shop)
		merged, _ := Merge([]Program{safe, p})
		mustServe(t, merged)
		if got := serviceAt(merged.External, "shop.example.com", "/"); got != "prod/shop" {
			t.Errorf("after a younger object, host shop.example.com is served by %q, want prod/shop", got)
		}
	})
}
