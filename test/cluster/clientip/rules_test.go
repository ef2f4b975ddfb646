package clientip

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/limpet-project/limpet/test/cluster"
)

// everywhere runs a test on a node of each mode, with all Services.
func everywhere(t *testing.T, test func(t *testing.T, w *world, all []port)) {
	for _, mode := range slices.Sorted(maps.Keys(modes)) {
		t.Run(mode, func(t *testing.T) {
			e := cluster.Start(t, cluster.Node)
			all := create(t, e)
			w := newWorld(t, e, mode)
			w.waitFor(all)
			test(t, w, all)
		})
	}
}

func TestRulesAreThoseOfKubeProxy(t *testing.T) {
	everywhere(t, func(t *testing.T, w *world, all []port) {
		for _, p := range all {
			if p.local {
				continue // limpet clientip rules knows no traffic policies
			}
			t.Run(p.service+" "+p.protocol, func(t *testing.T) {
				scratch := newNetns(t, w.mode+"-scratch")
				text := w.command(w.flags(p)...)
				want, got := chains{}, chains{}
				if w.mode == "iptables" {
					run(t, text, scratch.enter("iptables-restore", "--noflush")...)
					want = iptablesChains(withoutCounters(w.node.run("iptables-save", "-t", "nat")))
					got = iptablesChains(scratch.run("iptables-save", "-t", "nat"))
				} else {
					run(t, text, scratch.enter("nft", "-f", "-")...)
					want, got = nftChains(t, w.node), nftChains(t, scratch)
				}
				compare(t, p, want, got)
			})
		}
	})
}

// chains are rules by chain, and of nftables also elements by map or set.
type chains map[string][]string

// compare compares all chains that have to do with a port, and those that all ports share as far as they are this one's.
func compare(t *testing.T, p port, want, got chains) {
	t.Helper()
	if len(got) < 5 {
		t.Fatalf("got %d chains, want those of a Service and the frame:\n%v", len(got), got)
	}
	own := want.of(p)
	for _, name := range slices.Sorted(maps.Keys(got)) {
		own[name] = want[name] // of the frame, or one that kube-proxy does not have
	}
	for _, name := range slices.Sorted(maps.Keys(own)) {
		if d := cmp.Diff(own.mine(name, p), got.mine(name, p)); d != "" {
			t.Errorf("%s differs (-kube-proxy +limpet):\n%s", name, d)
		}
	}
}

// of returns the chains and sets that belong to a port: those that its name is in, or in whose rules it is.
func (c chains) of(p port) chains {
	own := chains{}
	for name, rules := range c {
		if shared(name) {
			continue
		}
		if strings.Contains(name, p.nftName()) || slices.ContainsFunc(rules, p.in) {
			own[name] = rules
		}
	}
	return own
}

// in reports whether the comment of a rule of iptables has the port's name. iptables-save quotes comments as it sees fit.
func (p port) in(rule string) bool {
	_, comment, found := strings.Cut(rule, "--comment ")
	if !found {
		return false
	}
	if strings.HasPrefix(comment, `"`) {
		comment, _, _ = strings.Cut(comment[1:], `"`)
	} else {
		comment, _, _ = strings.Cut(comment, " ")
	}
	return slices.Contains(strings.Fields(comment), p.String())
}

// nftName is in the names of all of a port's chains and sets.
func (p port) nftName() string {
	return fmt.Sprintf("-%s/%s/%s/%s", p.namespace, p.service, p.protocol, p.name)
}

// shared reports whether all Services have rules or elements in a chain, a map or a set.
func shared(name string) bool {
	return slices.Contains([]string{
		"KUBE-SERVICES", "KUBE-NODEPORTS", "map service-ips", "map service-nodeports", "set cluster-ips", "set hairpin-connections",
	}, name)
}

// mine returns the rules of a chain, or those that are a port's if all Services share it.
func (c chains) mine(name string, p port) []string {
	if !shared(name) {
		return c[name]
	}
	var all []string
	for _, r := range c[name] {
		if p.in(r) || strings.Contains(r, p.nftName()+`"`) ||
			strings.Contains(r, "service nodeports; NOTE") || name == "set cluster-ips" && strings.Contains(r, p.clusterIP.String()+`"`) ||
			name == "set hairpin-connections" && strings.Contains(r, fmt.Sprintf("%q,%d]", p.protocol, p.target())) && p.localPair(r) {
			all = append(all, r)
		}
	}
	return all
}

// localPair reports whether an element of the set of hairpin connections is of one of a port's endpoints.
func (p port) localPair(element string) bool {
	for n := 1; n <= p.endpoints; n++ {
		if strings.Contains(element, fmt.Sprintf("[%q,%q,", endpoint(n), endpoint(n))) {
			return true
		}
	}
	return false
}

// withoutCounters leaves out the rules by which kube-proxy counts packets to node ports on 127.0.0.0/8, where the kernel has counters. They
// lead to where the rule after them does, and cannot be written without the counter, which kube-proxy makes beside its rules.
func withoutCounters(text string) string {
	var all strings.Builder
	for line := range strings.Lines(text) {
		if !strings.Contains(line, "-d 127.0.0.0/8") || !strings.Contains(line, "-m nfacct --nfacct-name  localhost_nps_accepted_pkts") {
			all.WriteString(line)
		}
	}
	return all.String()
}

// iptablesChains reads what iptables-save printed.
func iptablesChains(text string) chains {
	all := chains{}
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		if rest, ok := strings.CutPrefix(line, "-A "); ok {
			chain, _, _ := strings.Cut(rest, " ")
			all[chain] = append(all[chain], line)
		}
	}
	return all
}

// nftChains reads the table of kube-proxy. Handles, which nftables counts, and counters of clients are left out.
func nftChains(t *testing.T, n netns) chains {
	t.Helper()
	var ruleset struct {
		Objects []map[string]map[string]any `json:"nftables"`
	}
	if err := json.Unmarshal([]byte(n.run("nft", "-j", "list", "table", "ip", "kube-proxy")), &ruleset); err != nil {
		t.Fatal(err)
	}
	all := chains{}
	for _, o := range ruleset.Objects {
		for kind, v := range o {
			delete(v, "handle")
			switch name := fmt.Sprint(v["name"]); kind {
			case "chain":
				all[name] = append([]string{marshal(t, v)}, all[name]...)
			case "rule":
				chain := v["chain"].(string)
				all[chain] = append(all[chain], marshal(t, v["expr"])+" "+fmt.Sprint(v["comment"]))
			case "set", "map":
				elements, _ := v["elem"].([]any)
				delete(v, "elem")
				lines := []string{}
				for _, e := range elements {
					lines = append(lines, marshal(t, e))
				}
				slices.Sort(lines)
				all[kind+" "+name] = append([]string{marshal(t, v)}, lines...)
			}
		}
	}
	return all
}

func marshal(t *testing.T, v any) string {
	t.Helper()
	text, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}
