// Package policy reads how a Knative Service sticks: from its annotations, and from the ConfigMap config-limpet for the whole cluster.
//
// It is pure: it talks to no API server, and equal input gives equal policies. What is wrong is refused whole and told at once, with
// the name of the annotation or key, the line and what was expected. It accepts nothing that package config would refuse. The
// ValidatingAdmissionPolicy in deploy/ refuses the same simple annotations when they are applied; what it cannot see of the
// structured one is found here.
//
// Start with [ParseDefaults] and [Defaults.Policy].
package policy

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/limpet-project/limpet/affinity"
	"github.com/limpet-project/limpet/config"
)

// ConfigMap is the name of the ConfigMap with the defaults of the cluster, in the namespace of the ingress.
const ConfigMap = "config-limpet"

// The keys of the ConfigMap. exampleKey holds documentation, as in Knative's own ConfigMaps.
const (
	affinityKey = "affinity"
	policyKey   = "policy"
	drainKey    = "drain-timeout"
	quotaKey    = "max-quota"
	loadKey     = "session-load"
	maxLoadKey  = "session-load-max"
	exampleKey  = "_example"
)

const (
	defaultDrainTimeout = 5 * time.Minute
	maxDrainTimeout     = 24 * time.Hour
	largestMaxQuota     = 1_000_000_000
)

// Defaults are what config-limpet says for the whole cluster. The zero value is affinity by the headers K-Session and K-Revision.
// It may be copied and is safe for concurrent use.
type Defaults struct {
	off    bool             // no affinity at all, whatever annotations say
	asked  bool             // no affinity without an annotation
	policy *affinity.Policy // without annotations; nil is the zero Policy with its defaults
	drain  *time.Duration
	quota  int // the largest that a policy may have; 0 is the quota of a policy that names none
	load   SessionLoad
}

// DrainTimeout returns how long a terminating pod keeps its sessions.
func (d Defaults) DrainTimeout() time.Duration {
	if d.drain == nil {
		return defaultDrainTimeout
	}
	return *d.drain
}

// base returns a policy of the caller's own for an object without annotations, nil if it has no affinity.
func (d Defaults) base() *affinity.Policy {
	switch {
	case d.asked:
		return nil
	case d.policy == nil:
		return affinity.Policy{}.WithDefaults()
	}
	return d.policy.WithDefaults()
}

// ParseDefaults reads the ConfigMap config-limpet; nil or empty is the zero Defaults. The error is of type [config.Problems] and
// tells all that is wrong, with key, line and what was expected; the caller then keeps the defaults that it has.
func ParseDefaults(cm *corev1.ConfigMap) (Defaults, error) {
	if cm == nil {
		return Defaults{}, nil
	}
	var d Defaults
	var problems config.Problems
	for _, key := range slices.Sorted(maps.Keys(cm.Data)) {
		problems = append(problems, d.set(key, cm.Data[key])...)
	}
	for _, key := range slices.Sorted(maps.Keys(cm.BinaryData)) {
		problems = append(problems, problem(place(key), "got binary data, expected text")...)
	}
	if len(problems) > 0 {
		return Defaults{}, problems
	}
	return d, nil
}

// set takes one key of the ConfigMap.
func (d *Defaults) set(key, value string) config.Problems {
	switch key {
	case exampleKey:
		return nil
	case affinityKey:
		return d.setAffinity(strings.TrimSpace(value))
	case policyKey:
		return d.setPolicy(value)
	case drainKey:
		return d.setDrain(strings.TrimSpace(value))
	case quotaKey:
		return d.setQuota(strings.TrimSpace(value))
	case loadKey:
		return setLoad(&d.load.Session, key, strings.TrimSpace(value), maxSessionLoad)
	case maxLoadKey:
		return setLoad(&d.load.Pod, key, strings.TrimSpace(value), maxPodLoad)
	}
	known := []string{affinityKey, drainKey, quotaKey, policyKey, loadKey, maxLoadKey}
	return problem(place(key), "unknown key, expected one of %s", strings.Join(known, ", "))
}

func (d *Defaults) setAffinity(value string) config.Problems {
	if value != "on" && value != off {
		return line1(affinityKey, fmt.Sprintf("got %q, expected on or off", value))
	}
	d.off = value == off
	return nil
}

func (d *Defaults) setPolicy(value string) config.Problems {
	if strings.TrimSpace(value) == off {
		d.asked = true
		return nil
	}
	p, problems := parsePolicy(place(policyKey), value)
	d.policy = p
	return problems
}

func (d *Defaults) setDrain(value string) config.Problems {
	t, err := time.ParseDuration(value)
	if err != nil || t < 0 || t > maxDrainTimeout {
		return line1(drainKey, fmt.Sprintf("got %q, expected a duration from 0s to %s, such as 5m", value, affinity.Duration(maxDrainTimeout)))
	}
	d.drain = &t
	return nil
}

func (d *Defaults) setQuota(value string) config.Problems {
	n, err := strconv.Atoi(value)
	if err != nil || n < 1 || n > largestMaxQuota {
		return line1(quotaKey, fmt.Sprintf("got %q, expected a number of bindings from 1 to %d", value, largestMaxQuota))
	}
	d.quota = n
	return nil
}

// usualQuota is what a policy that names no quota has.
var usualQuota = affinity.Policy{}.WithDefaults().Quota

// limit returns p, which may be nil, with a quota that is no larger than the cluster's: users share its store. A quota that was
// asked for is refused if it is larger; one that was not is made smaller.
func (d Defaults) limit(p *affinity.Policy, at string) (*affinity.Policy, error) {
	most := cmp.Or(d.quota, usualQuota)
	switch {
	case p == nil || p.Quota <= most:
		return p, nil
	case p.Quota != usualQuota:
		return nil, problem(at, "quota: got %d, expected at most %d (%s)", p.Quota, most, place(quotaKey))
	}
	p.Quota = most
	return p, nil
}

// place names a key in a message.
func place(key string) string { return ConfigMap + "/" + key }

func line1(key, reason string) config.Problems {
	return config.Problems{{File: place(key), Line: 1, Reason: reason}}
}
