package ingress

import (
	"maps"
	"strings"
)

// Probes has the hash that answers a probe of a host, for each visibility. The zero value answers none.
type Probes struct {
	External, Local map[string]string
	// Wildcards says that some host begins with "*.": otherwise none is looked for.
	Wildcards bool
}

// longestHost is more bytes than a name can have (RFC 1035, 2.3.4). A probe comes in front of what bounds requests, from anybody.
const longestHost = 255

// Hash returns the hash that answers a probe of the host, as its gateway matches hosts: exact names before wildcards before any. The
// host may be written in any case and carry a port. One that is too long to be a name has none.
func (p Probes) Hash(local bool, host string) (string, bool) {
	hashes := p.External
	if local {
		hashes = p.Local
	}
	if host, _, _ = strings.Cut(host, ":"); len(host) > longestHost {
		return "", false
	}
	host = canonicalHost(host)
	if hash, ok := hashes[host]; ok {
		return hash, true
	}
	for _, rest, more := strings.Cut(host, "."); more && p.Wildcards; _, rest, more = strings.Cut(rest, ".") {
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
	p.Wildcards = p.Wildcards || q.Wildcards
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
