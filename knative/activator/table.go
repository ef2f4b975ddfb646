package activator

import (
	"bytes"
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/sets"
	netconfig "knative.dev/networking/pkg/config"
	netingress "knative.dev/networking/pkg/ingress"
	"knative.dev/pkg/network"
	v1 "knative.dev/serving/pkg/apis/serving/v1"

	"github.com/limpet-project/limpet/affinity"
	"github.com/limpet-project/limpet/endpoint"
	"github.com/limpet-project/limpet/knative/policy"
)

// A table is what follows from one Route: which services it has, and which hosts are whose. It is immutable.
type table struct {
	route    types.NamespacedName
	created  time.Time
	policy   *affinity.Policy
	services []endpoint.Service
	names    map[string]affinity.ServiceName // by tag; "" is the default traffic
	hosts    map[string]string               // tag of each host
}

// rules are the settings that hold for all Routes.
type rules struct {
	network *netconfig.Config
	// failed reports whether a revision can take no requests, as far as is known.
	failed func(types.NamespacedName) bool
}

// newTable makes the table of a Route by its status: what the controller of Routes has programmed. A Route that has none yet has no
// service.
func newTable(r *v1.Route, policy *affinity.Policy, rules rules) (*table, error) {
	t := &table{
		route: types.NamespacedName{Namespace: r.Namespace, Name: r.Name}, created: r.CreationTimestamp.Time, policy: policy,
		names: make(map[string]affinity.ServiceName), hosts: make(map[string]string),
	}
	if policy == nil {
		return t, nil
	}
	t.add("", defaultShares(r), rules)
	for _, tag := range tagsOf(r) {
		t.add(tag, tagShares(r, tag), rules)
	}
	return t, t.addHosts(r, rules.network)
}

// add lists the service of a tag. Revisions without a share are not in it.
func (t *table) add(tag string, shares map[string]int, rules rules) {
	s := endpoint.Service{Name: policy.ServiceName(t.route.Namespace, t.route.Name, tag), Retain: time.Duration(t.policy.Retain)}
	for _, name := range slices.Sorted(maps.Keys(shares)) {
		if shares[name] > 0 {
			failed := rules.failed(types.NamespacedName{Namespace: t.route.Namespace, Name: name})
			s.Revisions = append(s.Revisions, endpoint.Revision{Name: name, Weight: shares[name], Failed: failed})
		}
	}
	if len(s.Revisions) > 0 {
		t.services = append(t.services, s)
		t.names[tag] = s.Name
	}
}

// tagsOf returns the tags of a Route, sorted.
func tagsOf(r *v1.Route) []string {
	tags := sets.New[string]()
	for i := range r.Status.Traffic {
		if tag := r.Status.Traffic[i].Tag; tag != "" {
			tags.Insert(tag)
		}
	}
	return sets.List(tags)
}

// defaultShares returns the percent of each revision in the default traffic, in which all entries are, tagged or not. While the latest
// revision of a tagged entry is rolled out, the status divides 100 percent of the tag there instead of the entry's own.
func defaultShares(r *v1.Route) map[string]int {
	own, listed := make(map[string]int), make(map[string]int)
	for i := range r.Spec.Traffic {
		own[r.Spec.Traffic[i].Tag] += percent(&r.Spec.Traffic[i])
	}
	for i := range r.Status.Traffic {
		listed[r.Status.Traffic[i].Tag] += percent(&r.Status.Traffic[i])
	}
	shares := make(map[string]int)
	for i := range r.Status.Traffic {
		e := &r.Status.Traffic[i]
		share, sum := percent(e), listed[e.Tag]
		if of, known := own[e.Tag]; known && e.Tag != "" && of != sum && sum > 0 {
			share = (share*of + sum/2) / sum
		}
		shares[e.RevisionName] += share
	}
	return shares
}

// tagShares returns the percent of each revision in a tag's own traffic: all of it, if the entry has one revision.
func tagShares(r *v1.Route, tag string) map[string]int {
	shares, sum := make(map[string]int), 0
	for i := range r.Status.Traffic {
		if e := &r.Status.Traffic[i]; e.Tag == tag {
			shares[e.RevisionName] += percent(e)
			sum += percent(e)
		}
	}
	for name := range shares {
		if len(shares) == 1 || sum == 0 {
			shares[name] = 100
		}
	}
	return shares
}

func percent(e *v1.TrafficTarget) int {
	if e.Percent == nil {
		return 0
	}
	return int(*e.Percent)
}

// addHosts lists the hosts of the Route: those that its status names, and those of the cluster, which it has in any case.
func (t *table) addHosts(r *v1.Route, config *netconfig.Config) error {
	for _, tag := range append([]string{""}, tagsOf(r)...) {
		local, err := localHost(r, tag, config)
		if err != nil {
			return fmt.Errorf("hosts of route %s: %w", t.route, err)
		}
		t.addHost(local, tag)
	}
	if u := r.Status.URL; u != nil {
		t.addHost(u.Host, "")
	}
	if a := r.Status.Address; a != nil && a.URL != nil {
		t.addHost(a.URL.Host, "")
	}
	for i := range r.Status.Traffic {
		if e := &r.Status.Traffic[i]; e.Tag != "" && e.URL != nil {
			t.addHost(e.URL.Host, e.Tag)
		}
	}
	return nil
}

// addHost lists a host, with the short forms of one of the cluster. If it is listed already it stays whose it was.
func (t *table) addHost(host, tag string) {
	for h := range netingress.ExpandedHosts(sets.New(canonicalHost(host))) {
		if _, listed := t.hosts[h]; !listed && h != "" {
			t.hosts[h] = tag
		}
	}
}

// localHost returns the name inside the cluster of a Route, or of a tag of it.
func localHost(r *v1.Route, tag string, config *netconfig.Config) (string, error) {
	name := r.Name
	if tag != "" {
		var text bytes.Buffer
		if err := config.GetTagTemplate().Execute(&text, netconfig.TagTemplateValues{Name: r.Name, Tag: tag}); err != nil {
			return "", fmt.Errorf("name of tag %s: %w", tag, err)
		}
		name = text.String()
	}
	return network.GetServiceHostname(name, r.Namespace), nil
}

// canonicalHost returns the form in which hosts are compared: lower case, without port and trailing dots.
func canonicalHost(host string) string {
	host, _, _ = strings.Cut(host, ":")
	return strings.ToLower(strings.TrimRight(host, "."))
}

// compareTables orders Routes by age, then by name: of two that have one host the first counts.
func compareTables(a, b *table) int {
	return cmp.Or(a.created.Compare(b.created), cmp.Compare(a.route.Namespace, b.route.Namespace), cmp.Compare(a.route.Name, b.route.Name))
}

// An index finds what concerns a request among all tables. It is immutable, but for what it points to.
type index struct {
	hosts     map[string]hosted
	revisions map[types.NamespacedName]listing
}

// A hosted is what a host leads to.
type hosted struct {
	table *table
	tag   string
	scope // of requests that ask for no tag by header
}

// A listing is a revision that gets requests of some Route.
type listing struct {
	service affinity.ServiceName // one that lists it
	now     *revision
}

// A revision is what requests need to know of one, kept at hand for them. It is brought up to date as the informer hears of changes.
type revision struct {
	atomic.Pointer[v1.Revision]              // nil if it is not known
	waiting                     atomic.Int64 // requests that may have to wait
}

// limit returns what a pod of the revision may have at once, 0 for no limit, and whether the revision is known.
func (r *revision) limit() (int, bool) {
	known := r.Load()
	if known == nil {
		return 0, false
	}
	return int(known.Spec.GetContainerConcurrency()), true
}

// newIndex makes the index of tables, which are sorted. Revisions are those that now returns.
func newIndex(tables []*table, now func(types.NamespacedName) *revision) *index {
	x := &index{hosts: make(map[string]hosted), revisions: make(map[types.NamespacedName]listing)}
	for _, t := range tables {
		if len(t.services) == 0 {
			continue
		}
		for host, tag := range t.hosts {
			if _, taken := x.hosts[host]; !taken {
				x.hosts[host] = hosted{t, tag, scope{t.names[tag], t.policy}}
			}
		}
		for i := range t.services {
			for _, r := range t.services[i].Revisions {
				key := types.NamespacedName{Namespace: t.route.Namespace, Name: r.Name}
				if _, listed := x.revisions[key]; !listed {
					x.revisions[key] = listing{t.services[i].Name, now(key)}
				}
			}
		}
	}
	return x
}

// limit returns what a pod of a revision may have at once, 0 for no limit, and whether a Route has the revision and it is known.
func (x *index) limit(key types.NamespacedName) (int, bool) {
	l, listed := x.revisions[key]
	if !listed {
		return 0, false
	}
	return l.now.limit()
}

// A scope is the traffic of a Route that a request is of. The zero scope is that of a host which leads to no traffic.
type scope struct {
	service affinity.ServiceName
	policy  *affinity.Policy
}

// find returns the scope of a request by its host and, if tags may be asked for by header, by that. It is false for a host that no Route
// of the namespace has.
func (x *index) find(namespace, host, tagHeader string) (scope, bool) {
	h := x.hosts[canonicalHost(host)]
	if h.table == nil || h.table.route.Namespace != namespace {
		return scope{}, false
	}
	if tagHeader != "" && h.tag == "" {
		if name, is := h.table.names[tagHeader]; is {
			return scope{name, h.table.policy}, true
		}
	}
	return h.scope, h.service.Name != ""
}
