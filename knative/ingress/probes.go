package ingress

import (
	"maps"
	"strings"
)

// Probes has the hash that answers a probe of a host, for each visibility. The zero value answers none.
type Probes struct {
	External, Local map[string]string
}

// Hash returns the hash that answers a probe of the host, as its gateway matches hosts: exact names before wildcards before any. The
// host may be written in any case and carry a port.
func (p Probes) Hash(local bool, host string) (string, bool) {
	hashes := p.External
	if local {
		hashes = p.Local
	}
	host = canonicalHost(host)
	if hash, ok := hashes[host]; ok {
		return hash, true
	}
	for _, rest, more := strings.Cut(host, "."); more; _, rest, more = strings.Cut(rest, ".") {
		if hash, ok := hashes["*."+rest]; ok {
			return hash, true
		}
	}
	hash, ok := hashes["*"]
	return hash, ok
}

// add takes over what p does not have yet.
func (p *Probes) add(q Probes) {
	p.External = with(p.External, q.External)
	p.Local = with(p.Local, q.Local)
}

// with returns m with the entries of n whose keys m does not have. It changes m.
func with[K comparable, V any](m, n map[K]V) map[K]V {
	if m == nil {
		return maps.Clone(n)
	}
	for k, v := range n {
		if _, taken := m[k]; !taken {
			m[k] = v
		}
	}
	return m
}
