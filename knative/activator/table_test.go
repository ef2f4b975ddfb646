package activator

import (
	"maps"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/types"
	netconfig "knative.dev/networking/pkg/config"
	v1 "knative.dev/serving/pkg/apis/serving/v1"

	"github.com/limpet-project/limpet/affinity"
	"github.com/limpet-project/limpet/endpoint"
)

// tableOf makes a table with affinity, in which demo-00009 has failed.
func tableOf(t *testing.T, r *v1.Route) *table {
	t.Helper()
	network, err := netconfig.NewConfigFromMap(nil)
	if err != nil {
		t.Fatal(err)
	}
	made, err := newTable(r, (&affinity.Policy{Session: &affinity.SessionAffinity{}}).WithDefaults(), rules{
		network: network, failed: func(key types.NamespacedName) bool { return key.Name == "demo-00009" },
	})
	if err != nil {
		t.Fatalf("newTable() = %v", err)
	}
	return made
}

// Protects against prototype defects 26 and 29: percent, and what had failed, were not looked at.
func TestTheSharesOfARoute(t *testing.T) {
	type shares map[string]map[string]int // by service and revision
	for _, tt := range []struct {
		name         string
		spec, status []share
		want         shares
	}{
		{
			name:   "one revision",
			status: []share{{"demo-00001", 100, ""}},
			want:   shares{"demo": {"demo-00001": 100}},
		},
		{
			name:   "several entries of a revision add up",
			status: []share{{"demo-00001", 30, ""}, {"demo-00002", 50, ""}, {"demo-00001", 20, "blue"}},
			spec:   []share{{"demo-00001", 30, ""}, {"demo-00002", 50, ""}, {"demo-00001", 20, "blue"}},
			want:   shares{"demo": {"demo-00001": 50, "demo-00002": 50}, "demo/blue": {"demo-00001": 100}},
		},
		{
			name:   "percent 0 is not in the split",
			status: []share{{"demo-00001", 100, ""}, {"demo-00002", 0, "blue"}, {"demo-00003", 0, ""}},
			want:   shares{"demo": {"demo-00001": 100}, "demo/blue": {"demo-00002": 100}},
		},
		{
			name:   "a tag that is rolled out, of which the status divides 100 percent",
			spec:   []share{{"demo-00001", 70, ""}, {"", 30, "latest"}},
			status: []share{{"demo-00001", 70, ""}, {"demo-00002", 80, "latest"}, {"demo-00003", 20, "latest"}},
			want: shares{
				"demo":        {"demo-00001": 70, "demo-00002": 24, "demo-00003": 6},
				"demo/latest": {"demo-00002": 80, "demo-00003": 20},
			},
		},
		{
			name: "not reconciled yet",
			spec: []share{{"demo-00001", 100, ""}},
			want: shares{},
		},
		{
			name:   "a revision that has failed is listed as such",
			status: []share{{"demo-00001", 90, ""}, {"demo-00009", 10, ""}},
			want:   shares{"demo": {"demo-00001": 90, "demo-00009": -10}},
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := newRoute(nil, tt.status...)
			r.Spec.Traffic = newRoute(nil, tt.spec...).Spec.Traffic
			got := shares{}
			for _, s := range tableOf(t, r).services {
				got[s.Name.Name] = weights(s)
			}
			if d := cmp.Diff(tt.want, got); d != "" {
				t.Errorf("shares (-want +got):\n%s", d)
			}
		})
	}
}

// weights returns those of a service, below 0 for what has failed.
func weights(s endpoint.Service) map[string]int {
	w := make(map[string]int)
	for _, r := range s.Revisions {
		w[r.Name] = r.Weight
		if r.Failed {
			w[r.Name] = -r.Weight
		}
	}
	return w
}

func TestAHostIsOfARouteOrOfOneOfItsTags(t *testing.T) {
	r := newRoute(nil, share{"demo-00001", 100, ""}, share{"demo-00002", 0, "blue"})
	want := map[string]string{
		"demo.shop.example.com": "", "demo.shop.svc.cluster.local": "", "demo.shop.svc": "", "demo.shop": "",
		"blue-demo.shop.example.com": "blue", "blue-demo.shop.svc.cluster.local": "blue", "blue-demo.shop.svc": "blue", "blue-demo.shop": "blue",
	}
	made := tableOf(t, r)
	if d := cmp.Diff(want, made.hosts); d != "" {
		t.Errorf("hosts (-want +got):\n%s", d)
	}
	x := newIndex([]*table{made}, unknownRevision)
	for _, tt := range []struct {
		namespace, host, tag string
		want                 string // "" is none
	}{
		{shop, "demo.shop.example.com", "", "demo"},
		{shop, "Demo.Shop.Example.COM.:8080", "", "demo"},
		{shop, "demo.shop.example.com", "blue", "demo/blue"},
		{shop, "demo.shop.example.com", "green", "demo"},
		{shop, "blue-demo.shop.example.com", "", "demo/blue"},
		{shop, "blue-demo.shop.example.com", "green", "demo/blue"},
		{"cart", "demo.shop.example.com", "", ""},
		{shop, "cart.shop.example.com", "", ""},
		{shop, "", "", ""},
	} {
		got, found := x.find(tt.namespace, tt.host, tt.tag)
		if found != (tt.want != "") || got.service.Name != tt.want {
			t.Errorf("find(%s, %s, %q) = %v, %t, want %q", tt.namespace, tt.host, tt.tag, got.service, found, tt.want)
		}
	}
}

func TestOfTwoRoutesWithOneHostTheOlderHasIt(t *testing.T) {
	older := newRoute(nil, share{"demo-00001", 100, ""})
	newer := newRoute(nil, share{"cart-00001", 100, ""})
	newer.Name, newer.CreationTimestamp.Time = "cart", newer.CreationTimestamp.Add(1)
	tables := []*table{tableOf(t, newer), tableOf(t, older)}
	slices.SortFunc(tables, compareTables)
	x := newIndex(tables, unknownRevision)
	if got, _ := x.find(shop, host, ""); got.service.Name != "demo" {
		t.Errorf("find(%s) = %v, want demo", host, got.service)
	}
	if got := slices.Sorted(maps.Keys(x.hosts)); !slices.Contains(got, "cart.shop.svc") {
		t.Errorf("hosts = %v, want the newer Route's own among them", got)
	}
}

func unknownRevision(types.NamespacedName) *revision { return new(revision) }
