package testbed

import (
	"bytes"
	"context"
	"fmt"
	"net/netip"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/limpet-project/limpet/lab/clientip"
)

// A KubeProxy keeps kube-proxy's rules on the node of a testbed.
type KubeProxy struct {
	bed     *Testbed
	mode    clientip.Mode
	timeout time.Duration // of the affinity, 0 is none
	serving []int
	written string // the rules of the Service, without the frame
}

// KubeProxy replaces what the node has by kube-proxy's rules for these endpoints, in one of its modes. A timeout of 0 is no affinity. Nothing
// of what was before is remembered.
func (b *Testbed) KubeProxy(ctx context.Context, mode clientip.Mode, timeout time.Duration, endpoints ...int) (*KubeProxy, error) {
	if err := b.Clear(ctx); err != nil {
		return nil, err
	}
	k := &KubeProxy{bed: b, mode: mode, timeout: timeout, serving: endpoints}
	rules, err := k.rules(endpoints, true)
	if err != nil {
		return nil, err
	}
	if k.written, err = k.rules(endpoints, false); err != nil {
		return nil, err
	}
	return k, k.load(ctx, rules)
}

// Clear removes rules, the lists of client addresses that they kept, and tracked flows.
func (b *Testbed) Clear(ctx context.Context) error {
	if _, err := b.node.run(ctx, "flush ruleset", "nft", "-f", "-"); err != nil {
		return err
	}
	_, err := b.node.run(ctx, "", "conntrack", "-F")
	return err
}

// Sync brings the rules to other endpoints as kube-proxy does: lists of endpoints that stay keep their clients, those of others end. It then
// forgets the flows to endpoints that are gone, unless it is told to leave them, as a kube-proxy does that hangs there.
func (k *KubeProxy) Sync(ctx context.Context, leaveFlows bool, endpoints ...int) error {
	rules, err := k.rules(endpoints, false)
	if err != nil {
		return err
	}
	update := updateIPTables
	if k.mode == clientip.NFTables {
		update = updateNFTables
	}
	if err := k.load(ctx, update(k.written, rules)); err != nil {
		return err
	}
	gone := slices.DeleteFunc(slices.Clone(k.serving), func(e int) bool { return slices.Contains(endpoints, e) })
	k.written, k.serving = rules, endpoints
	for _, e := range gone {
		if !leaveFlows {
			k.bed.forgetFlows(ctx, k.bed.Endpoint(e).Addr())
		}
	}
	return ctx.Err()
}

// forgetFlows ends the flows to an endpoint.
func (b *Testbed) forgetFlows(ctx context.Context, endpoint netip.Addr) {
	// conntrack reports an error when there is none.
	_, _ = b.node.run(ctx, "", "conntrack", "-D", "-p", "udp", "--orig-dst", clusterIP.String(), "--reply-src", endpoint.String())
}

// rules returns the rules of the Service.
func (k *KubeProxy) rules(endpoints []int, frame bool) (string, error) {
	var b bytes.Buffer
	spec := k.bed.spec(endpoints, k.timeout)
	write := spec.WriteIPTables
	if k.mode == clientip.NFTables {
		write = spec.WriteNFTables
	}
	if err := write(&b, frame); err != nil {
		return "", fmt.Errorf("writing rules: %w", err)
	}
	return b.String(), nil
}

func (k *KubeProxy) load(ctx context.Context, rules string) error {
	name, args := "iptables-restore", []string{"--noflush"}
	if k.mode == clientip.NFTables {
		name, args = "nft", []string{"-f", "-"}
	}
	_, err := k.bed.node.run(ctx, rules, name, args...)
	return err
}

var (
	iptablesChain = regexp.MustCompile(`(?m)^:(\S+) `)
	iptablesFront = regexp.MustCompile(`(?m)^-A (KUBE-SERVICES|KUBE-NODEPORTS) .*\n`)
	nftChain      = regexp.MustCompile(`(?m)^add chain (ip\S* kube-proxy \S+)`)
	nftSet        = regexp.MustCompile(`(?m)^add set (ip\S* kube-proxy \S+)`)
)

// updateIPTables returns what brings one set of rules to another: chains that are named are flushed, those that nothing leads to are deleted,
// and the rules that lead to the Service, in a chain that is not flushed, are there already.
func updateIPTables(before, after string) string {
	var gone strings.Builder
	for _, m := range without(iptablesChain, before, after) {
		fmt.Fprintf(&gone, ":%s - [0:0]\n-X %s\n", m, m)
	}
	after = iptablesFront.ReplaceAllString(after, "")
	return strings.Replace(after, "COMMIT\n", gone.String()+"COMMIT\n", 1)
}

// updateNFTables returns what brings one set of rules to another, in one transaction.
func updateNFTables(before, after string) string {
	var b strings.Builder
	for _, name := range names(nftChain, after) {
		fmt.Fprintf(&b, "add chain %s\nflush chain %s\n", name, name)
	}
	b.WriteString(after)
	for _, name := range without(nftChain, before, after) {
		fmt.Fprintf(&b, "flush chain %s\ndelete chain %s\n", name, name)
	}
	for _, name := range without(nftSet, before, after) {
		fmt.Fprintf(&b, "delete set %s\n", name)
	}
	return b.String()
}

// names returns what a pattern finds in rules.
func names(pattern *regexp.Regexp, rules string) []string {
	var list []string
	for _, m := range pattern.FindAllStringSubmatch(rules, -1) {
		list = append(list, m[1])
	}
	return list
}

// without returns the names that are in one set of rules and not in another.
func without(pattern *regexp.Regexp, before, after string) []string {
	kept := names(pattern, after)
	return slices.DeleteFunc(names(pattern, before), func(name string) bool { return slices.Contains(kept, name) })
}
